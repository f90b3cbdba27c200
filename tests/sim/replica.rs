//! A scripted replica: it reads requests with a strict parser of its own, holds them against what clients meant, and
//! answers as each request's plan says, flaws included.

use std::io::ErrorKind;
use std::net::SocketAddr;

use super::ledger::{Request, Serve};
use super::net::{Actor, Bound, End, Event, Net};
use super::script::{Bad, Flaw, Place, Plan, Upload};
use super::tunnel::{Echo, LABEL};
use super::wire::{self, Body, Framing, Head};

/// How long a replica that closes politely goes on reading.
const LINGER_US: u64 = 300_000;
/// The least that a tunnel's echo writes at a time.
const TUNNEL_PIECE: usize = 4 * 1024;

pub struct Replica {
    pub me: Actor,
    pub name: String,
    pub instance: u64,
    pub address: SocketAddr,
    pub alive: bool,
    pub hung: bool,
    tcp: bool,
    conns: Vec<Conn>,
    leaving: bool,
}

struct Conn {
    end: End,
    input: Vec<u8>,
    request: Option<Asked>,
    out: Vec<u8>,
    out_at: usize,
    /// Nothing is written before.
    next_us: u64,
    /// Woken then.
    alarm_us: u64,
    piece: usize,
    gap_us: u64,
    then: Then,
    answer: Option<Answer>,
    echo: Option<Echo>,
    idle_until: Option<u64>,
    /// Reads at most so much at a time.
    mouthful: usize,
    heard_end: bool,
    finished: bool,
    /// Bytes that belong to no answer follow the last one.
    excess: bool,
    over: bool,
}

/// A request whose head was read.
struct Asked {
    id: u64,
    body: Body,
}

struct Answer {
    id: u64,
    starts_us: u64,
    /// It waits for the request's last byte.
    waits: bool,
}

/// What follows when everything was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Next,
    Close,
    Abort,
    Nothing,
}

impl Replica {
    pub fn new(me: Actor, name: String, instance: u64, address: SocketAddr, tcp: bool, net: &mut Net) -> Replica {
        net.bound.insert(address, Bound::Replica { actor: me, hung: false });
        Replica { me, name, instance, address, alive: true, hung: false, tcp, conns: Vec::new(), leaving: false }
    }

    /// The process ends at once: what was open is closed or reset.
    pub fn die(&mut self, net: &mut Net) {
        if !std::mem::replace(&mut self.alive, false) {
            return;
        }
        net.note("r.dies", self.instance, 0, 0);
        self.unbind(net);
        net.ledger.trouble(self.address, net.now_us);
        for end in net.arrived.remove(&self.me).into_iter().flatten() {
            net.abort(end);
        }
        for conn in std::mem::take(&mut self.conns) {
            if !conn.over {
                // A FIN is the end of a body or tunnel that only a close can end: a crash is a reset there.
                if conn.is_at_rest() { net.close(conn.end) } else { net.abort(conn.end) }
            }
        }
    }

    /// It accepts, and never says a word again.
    pub fn hang(&mut self, net: &mut Net) {
        self.hung = true;
        net.note("r.hangs", self.instance, 0, 0);
        net.ledger.trouble(self.address, net.now_us);
        if let Some(Bound::Replica { actor, hung }) = net.bound.get_mut(&self.address)
            && *actor == self.me
        {
            *hung = true;
        }
    }

    /// Asked to stop: no new connections, and those at rest end.
    pub fn leave(&mut self, net: &mut Net) {
        self.leaving = true;
        self.unbind(net);
        net.ledger.trouble(self.address, net.now_us);
        net.after(1, Event::Wake(self.me));
    }

    fn unbind(&mut self, net: &mut Net) {
        if matches!(net.bound.get(&self.address), Some(Bound::Replica { actor, .. }) if *actor == self.me) {
            net.bound.remove(&self.address);
        }
    }

    pub fn has_work(&self) -> bool {
        self.conns.iter().any(|conn| !conn.over && !conn.is_at_rest())
    }

    pub fn step(&mut self, net: &mut Net) {
        if !self.alive || self.hung {
            return;
        }
        for end in net.arrived.remove(&self.me).into_iter().flatten() {
            let mouthful = if net.random.replicas().one_in(4) {
                net.random.replicas().range(500, 8_000) as usize
            } else {
                1 << 20
            };
            if mouthful < 1 << 20 {
                net.narrow(end, mouthful);
            }
            self.conns.push(Conn::new(end, mouthful));
        }
        for conn in &mut self.conns {
            if let Err(why) = conn.step(net, self.me, self.address, self.tcp) {
                panic!("replica {} ({}) on #{}: {why}", self.name, self.instance, conn.end);
            }
            if self.leaving && conn.is_at_rest() && !conn.over {
                conn.close(net, false);
            }
        }
        self.conns.retain(|conn| !conn.over);
    }
}

impl Conn {
    fn new(end: End, mouthful: usize) -> Conn {
        Conn {
            end,
            input: Vec::new(),
            request: None,
            out: Vec::new(),
            out_at: 0,
            next_us: 0,
            alarm_us: 0,
            piece: 1 << 20,
            gap_us: 0,
            then: Then::Next,
            answer: None,
            echo: None,
            idle_until: None,
            mouthful,
            heard_end: false,
            finished: false,
            excess: false,
            over: false,
        }
    }

    fn is_answering(&self) -> bool {
        self.answer.is_some() || self.out_at < self.out.len()
    }

    /// Between two requests.
    fn is_at_rest(&self) -> bool {
        let quiet = self.request.is_none() && self.answer.is_none() && self.out_at == self.out.len();
        quiet && self.echo.is_none() && self.input.is_empty() && self.then == Then::Next
    }

    fn close(&mut self, net: &mut Net, reset: bool) {
        self.over = true;
        if reset { net.abort(self.end) } else { net.close(self.end) }
    }

    fn step(&mut self, net: &mut Net, me: Actor, address: SocketAddr, tcp: bool) -> Result<(), String> {
        if self.over {
            return Ok(());
        }
        self.hear(net, me);
        if !self.over {
            self.understand(net, me, address, tcp)?;
        }
        if self.heard_end && !self.over {
            self.ended(net)?;
        }
        if !self.over {
            let busy = self.is_answering();
            self.say(net, me);
            if busy && !self.is_answering() && !self.input.is_empty() {
                // The next in line.
                net.after(1, Event::Wake(me));
            }
        }
        if self.is_at_rest() && !self.over && !tcp {
            self.rest(net, me, address);
        } else {
            self.idle_until = None;
        }
        Ok(())
    }

    fn rest(&mut self, net: &mut Net, me: Actor, address: SocketAddr) {
        match self.idle_until {
            None => {
                let soon = net.random.replicas().per_mille(net.faults.idle_close);
                let us = if soon { net.random.replicas().range(0, 200_000) } else { 60_000_000 };
                self.idle_until = Some(net.now_us + us);
                net.after(us, Event::Wake(me));
            }
            Some(until) if until <= net.now_us => {
                net.note("r.closes idle", self.end as u64, 0, 0);
                net.ledger.trouble(address, net.now_us);
                let reset = net.random.replicas().one_in(4);
                self.close(net, reset);
            }
            Some(_) => {}
        }
    }

    fn hear(&mut self, net: &mut Net, me: Actor) {
        let mut space = [0; 16 * 1024];
        let mut left = self.mouthful;
        while left > 0 && !self.heard_end {
            let most = left.min(space.len());
            match net.read(self.end, &mut space[..most]) {
                Ok(0) => self.heard_end = true,
                Ok(n) => {
                    left -= n;
                    self.input.extend_from_slice(&space[..n]);
                }
                Err(ErrorKind::WouldBlock) => return,
                Err(_) => return self.close(net, false),
            }
        }
        if left == 0 {
            net.after(2_000, Event::Wake(me));
        }
    }

    fn ended(&mut self, net: &mut Net) -> Result<(), String> {
        if let Some(echo) = &mut self.echo {
            if !echo.over {
                if !net.is_dead(self.end) {
                    echo.ended(net)?;
                }
                self.then = Then::Close;
            }
            if net.is_dead(self.end) {
                self.close(net, false);
            }
            return Ok(());
        }
        // The balancer is done with this connection, whatever was under way.
        self.close(net, false);
        Ok(())
    }

    fn understand(&mut self, net: &mut Net, me: Actor, address: SocketAddr, tcp: bool) -> Result<(), String> {
        loop {
            if let Some(echo) = &mut self.echo {
                let input = std::mem::take(&mut self.input);
                if !input.is_empty() && !echo.over {
                    echo.got(&input)?;
                    self.out.extend(input);
                }
                return Ok(());
            }
            if let Some(asked) = &mut self.request {
                let id = asked.id;
                // A body that was drawn broken has no pattern; that it never ends is told by `body_is_whole`.
                let broken = net.ledger.requests[id as usize].bad == Bad::Body;
                let mut check = |from: u64, bytes: &[u8]| if broken { Ok(()) } else { wire::same(id, from, bytes) };
                let used = asked.body.feed(&self.input, &mut check)?;
                self.input.drain(..used);
                if !asked.body.is_done() {
                    return Ok(());
                }
                self.body_is_whole(net, me)?;
                continue;
            }
            if self.input.is_empty() || (tcp && self.input.len() < LABEL) {
                return Ok(());
            }
            if tcp {
                self.open_tunnel(net, address)?;
                continue;
            }
            if self.excess && self.out_at < self.out.len() {
                // The next request came between an answer and what does not belong behind it.
                self.close(net, true);
                return Ok(());
            }
            let busy = self.is_answering();
            if busy || self.then != Then::Next {
                // Those that stand in line wait; where nobody does, this is a fault of the balancer.
                let why = if busy {
                    "a request while another is answered"
                } else {
                    "a request after the connection was called over"
                };
                return if net.upstream_pipelining { Ok(()) } else { Err(why.into()) };
            }
            let Some((head, len)) = wire::head(&self.input)? else { return Ok(()) };
            self.input.drain(..len);
            self.asked(net, me, address, &head)?;
        }
    }

    fn open_tunnel(&mut self, net: &mut Net, address: SocketAddr) -> Result<(), String> {
        let label: Vec<u8> = self.input.drain(..LABEL).collect();
        let id = std::str::from_utf8(&label[1..LABEL - 1]).ok().and_then(|id| id.parse().ok());
        let id: u64 = id.filter(|_| label[0] == b'T').ok_or(format!("label {label:?}"))?;
        net.ledger.head_came(id, address, net.now_us)?;
        net.ledger.tunnel(id).dials += 1;
        if net.ledger.tunnel(id).dials > 1 {
            return Err(format!("tunnel {id} was opened twice"));
        }
        self.echo = Some(Echo::new(id, LABEL as u64, 0));
        Ok(())
    }

    fn asked(&mut self, net: &mut Net, me: Actor, address: SocketAddr, head: &Head) -> Result<(), String> {
        net.say(|| format!("replica #{}: {head:?}", self.end));
        let id = head.number("x-id")?.ok_or(format!("no X-Id in {head:?}"))?;
        net.note("r.asked", self.end as u64, id, u64::from(address.port()));
        net.ledger.head_came(id, address, net.now_us)?;
        let request = net.ledger.requests[id as usize].clone();
        let body = as_meant(&request, head)?;
        if request.flaw() != Flaw::None {
            net.ledger.trouble(address, net.now_us);
        }
        let waits = !request.plan.early;
        let starts_us = net.now_us + request.plan.delay_us;
        self.request = Some(Asked { id, body: Body::new(body) });
        self.answer = Some(Answer { id, starts_us, waits });
        if request.expect && net.random.replicas().one_in(2) {
            self.out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        if !waits {
            net.at(starts_us, Event::Wake(me));
        }
        Ok(())
    }

    /// Oracle: a body is whole here only if its client sent it whole.
    fn body_is_whole(&mut self, net: &mut Net, me: Actor) -> Result<(), String> {
        let Some(asked) = self.request.take() else { return Ok(()) };
        let request = &net.ledger.requests[asked.id as usize];
        let len = request.upload.len();
        if asked.body.got != len || request.bad == Bad::Body || (len > 0 && !request.sent_whole) {
            return Err(format!("the body of {} came as whole: {} of {len} bytes", asked.id, asked.body.got));
        }
        net.ledger.requests[asked.id as usize].heard_whole_at = Some(net.now_us);
        let request = &net.ledger.requests[asked.id as usize];
        if let Some(answer) = &mut self.answer {
            if std::mem::replace(&mut answer.waits, false) {
                answer.starts_us = net.now_us + request.plan.delay_us;
            }
            net.at(answer.starts_us, Event::Wake(me));
        }
        Ok(())
    }

    fn say(&mut self, net: &mut Net, me: Actor) {
        if self.answer.as_ref().is_some_and(|answer| !answer.waits && answer.starts_us <= net.now_us)
            && let Some(answer) = self.answer.take()
        {
            self.compose(net, answer.id);
        }
        while self.out_at < self.out.len() && self.next_us <= net.now_us {
            let most = (self.out.len() - self.out_at).min(self.piece);
            match net.write(self.end, &self.out[self.out_at..self.out_at + most]) {
                Ok(n) => {
                    self.out_at += n;
                    if let Some(echo) = &mut self.echo {
                        echo.sent(net, n);
                    }
                    self.next_us = net.now_us + self.gap_us;
                }
                Err(ErrorKind::WouldBlock) => return,
                Err(_) => return self.close(net, false),
            }
        }
        if self.out_at == self.out.len() {
            self.out.clear();
            self.out_at = 0;
            self.all_said(net, me);
        } else if self.next_us > net.now_us && self.next_us != self.alarm_us {
            // What came while it paused is no edge when the pause is over.
            self.alarm_us = self.next_us;
            net.at(self.next_us, Event::Wake(me));
        }
    }

    fn all_said(&mut self, net: &mut Net, me: Actor) {
        match self.then {
            _ if self.answer.is_some() => {}
            Then::Next | Then::Nothing => {}
            Then::Abort => self.close(net, true),
            Then::Close if self.finished => {
                if self.next_us <= net.now_us {
                    self.close(net, false);
                }
            }
            // First the FIN; the rest of what the peer sends is still read for a while, lest it be answered by RST.
            Then::Close => {
                self.finished = true;
                if let Some(echo) = &self.echo {
                    echo.finished(net);
                }
                net.finish(self.end);
                self.next_us = net.now_us + LINGER_US;
                net.at(self.next_us, Event::Wake(me));
            }
        }
    }

    /// Lays the whole answer out, as its plan says and with its flaw.
    fn compose(&mut self, net: &mut Net, id: u64) {
        let request = net.ledger.requests[id as usize].clone();
        let plan = &request.plan;
        let flaw = request.flaw();
        self.next_us = 0;
        (self.piece, self.gap_us) = (plan.piece.max(1), plan.gap_us);
        if plan.len > 0 && plan.len / self.piece as u64 * self.gap_us > 1_500_000 {
            self.gap_us = 0;
        }
        self.then = if plan.close { Then::Close } else { Then::Next };
        if request.upgrade && !matches!(flaw, Flaw::Cut { .. } | Flaw::Stall { .. } | Flaw::Garbage(_)) {
            return self.switch(net, id);
        }
        let poisoned = matches!(flaw, Flaw::Garbage(_) | Flaw::Unasked101);
        let serve = Serve { id, status: plan.status, framing: plan.framing, len: plan.len, poisoned };
        let number = net.ledger.serve(serve);
        net.note("r.answers", self.end as u64, id, number);
        for _ in 0..plan.interims {
            self.out
                .extend_from_slice(format!("HTTP/1.1 103 Early Hints\r\nX-Id: {id}\r\nLink: </a>\r\n\r\n").as_bytes());
        }
        let start = self.out.len();
        self.out.extend_from_slice(head_text(&request, number, flaw, net).as_bytes());
        let head_len = self.out.len() - start;
        let body = body_text(plan, number, flaw, net);
        self.out.extend_from_slice(&body);
        self.spoil(flaw, start, head_len, body.len(), plan.framing, net);
    }

    fn switch(&mut self, net: &mut Net, id: u64) {
        let serve = Serve { id, status: 101, framing: Framing::None, len: 0, poisoned: false };
        let number = net.ledger.serve(serve);
        net.note("r.switches", self.end as u64, id, number);
        let text = format!(
            "HTTP/1.1 101 Switching Protocols\r\nX-Id: {id}\r\nX-Serve: {number}\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"
        );
        net.ledger.tunnel(id).dials += 1;
        // Crumbs with pauses between them are for answers: a long tunnel would outlast the world.
        self.piece = self.piece.max(TUNNEL_PIECE);
        self.out.extend_from_slice(text.as_bytes());
        self.then = Then::Next;
        self.echo = Some(Echo::new(id, 0, self.out.len() - self.out_at));
    }

    /// Cuts the answer, or puts after it what does not belong there.
    fn spoil(&mut self, flaw: Flaw, start: usize, head_len: usize, body_len: usize, framing: Framing, net: &mut Net) {
        let c = net.random.replicas();
        let mut cut = |place: Place| match place {
            Place::Start => start,
            Place::Body if body_len > 0 => start + head_len + c.below(body_len as u64) as usize,
            _ => start + c.below(head_len as u64) as usize,
        };
        match flaw {
            Flaw::Cut { place, reset } => {
                self.out.truncate(cut(place));
                // A FIN would be the true end of a body that only a close ends.
                let reset = reset || (place == Place::Body && framing == Framing::UntilClose);
                self.then = if reset { Then::Abort } else { Then::Close };
            }
            Flaw::Stall { place } => {
                self.out.truncate(cut(place));
                self.then = Then::Nothing;
            }
            Flaw::Extra if framing != Framing::UntilClose => {
                self.excess = true;
                self.out.extend_from_slice(b"AND ONE MORE THING\r\n");
            }
            Flaw::Odd | Flaw::BadChunk if framing != Framing::Chunked => {}
            Flaw::Odd | Flaw::BadChunk | Flaw::Unasked101 | Flaw::Flood => self.then = Then::Nothing,
            Flaw::Garbage(_) => self.then = Then::Close,
            Flaw::Extra | Flaw::None => {}
        }
    }
}

/// Oracle: the head is the one that the client meant, with one reading only, and nothing in it that is between the
/// client and the balancer.
fn as_meant(request: &Request, head: &Head) -> Result<Framing, String> {
    let want = format!("{} {} HTTP/1.1", request.method, request.target);
    if head.start != want {
        return Err(format!("{:?} instead of {want:?}", head.start));
    }
    if head.one("host")? != Some(&request.host) {
        return Err(format!("not for {}: {head:?}", request.host));
    }
    for name in ["keep-alive", "te", "x-hop", "proxy-connection"] {
        if head.one(name)?.is_some() {
            return Err(format!("{name} went through: {head:?}"));
        }
    }
    let connection = head.one("connection")?;
    if connection.is_some() && !(request.upgrade && connection == Some("upgrade")) {
        return Err(format!("Connection went through: {head:?}"));
    }
    let client = super::kernel::client_ip(request.client).to_string();
    let forwarded = head.one("x-forwarded-for")?.unwrap_or_default();
    if forwarded.rsplit(", ").next() != Some(&client) || head.one("via")?.is_none() {
        return Err(format!("not told of {client}: {head:?}"));
    }
    let framing = Framing::of(head)?;
    match (framing, request.upload, request.bad) {
        (Some(Framing::Chunked), Upload::Chunked(_), _) | (Some(Framing::Chunked), _, Bad::Body) => {}
        (Some(Framing::Length(got)), Upload::Length(len), _) if got == len => {}
        (None, Upload::None, _) => {}
        _ => return Err(format!("framing {framing:?} for {:?}: {head:?}", request.upload)),
    }
    Ok(framing.unwrap_or(Framing::None))
}

fn head_text(request: &Request, number: u64, flaw: Flaw, net: &mut Net) -> String {
    let plan = &request.plan;
    let id = request.id;
    let tag = format!("X-Id: {id}\r\nX-Serve: {number}\r\n");
    match flaw {
        Flaw::Garbage(which) => {
            return [
                "GET / HTTP/1.1\r\nHost: me\r\n\r\n".to_string(),
                format!("HTTP/1.1 99 Low\r\n{tag}\r\n"),
                format!("HTTP/1.1 200 OK\r\n{tag}Content-Length: 1\r\nContent-Length: 2\r\n\r\n"),
                format!("HTTP/1.1 200 OK\n{tag}\n"),
                format!("HTTP/1.1 200 OK\r\n{tag}Bad Name: x\r\n\r\n"),
                format!("HTTP/1.1 200 OK\r\n{tag}Transfer-Encoding: gzip, chunked\r\n\r\n"),
            ][usize::from(which)]
            .clone();
        }
        Flaw::Unasked101 => {
            return format!("HTTP/1.1 101 Switching Protocols\r\n{tag}Connection: upgrade\r\nUpgrade: echo\r\n\r\n");
        }
        Flaw::Flood => return format!("HTTP/1.1 103 Early Hints\r\nX-Id: {id}\r\n\r\n").repeat(100),
        _ => {}
    }
    let mut text = format!("HTTP/1.{} {} Fine\r\n{tag}", plan.minor, plan.status);
    match plan.framing {
        Framing::Length(len) => text += &format!("Content-Length: {len}\r\n"),
        Framing::Chunked => text += "Transfer-Encoding: chunked\r\n",
        // What a body would be, if there were one.
        Framing::None if plan.status != 204 && net.random.replicas().one_in(2) => text += "Content-Length: 77\r\n",
        Framing::None | Framing::UntilClose => {}
    }
    if flaw == Flaw::Odd && plan.framing == Framing::Chunked {
        text += "Content-Length: 3\r\n";
    }
    if plan.close {
        text += "Connection: close\r\n";
    } else if plan.minor == 0 {
        text += "Connection: keep-alive\r\n";
    } else if net.random.replicas().one_in(4) {
        text += "Keep-Alive: timeout=5\r\nConnection: keep-alive\r\n";
    }
    if net.random.replicas().one_in(2) {
        text += "Date: Sun, 22 Nov 2026 12:00:00 GMT\r\n";
    }
    text + "\r\n"
}

fn body_text(plan: &Plan, number: u64, flaw: Flaw, net: &mut Net) -> Vec<u8> {
    if matches!(flaw, Flaw::Garbage(_) | Flaw::Unasked101 | Flaw::Flood) {
        return Vec::new();
    }
    let data = wire::data(number, 0, plan.len as usize);
    if plan.framing != Framing::Chunked {
        return data;
    }
    let largest = 1 + net.random.replicas().size(100_000) as usize;
    let mut text = Vec::with_capacity(data.len() + 64);
    for piece in data.chunks(largest.max(data.len() / 200)) {
        let extension = if net.random.replicas().one_in(8) { ";x" } else { "" };
        text.extend_from_slice(format!("{:x}{extension}\r\n", piece.len()).as_bytes());
        text.extend_from_slice(piece);
        text.extend_from_slice(b"\r\n");
    }
    let end = if net.random.replicas().one_in(4) { "0\r\nX-Sum: 1\r\nHost: no\r\n\r\n" } else { "0\r\n\r\n" };
    text.extend_from_slice(if flaw == Flaw::BadChunk { b"zz\r\n" } else { end.as_bytes() });
    text
}
