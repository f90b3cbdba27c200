//! A scripted client: it writes what its requests say, at its own pace, and holds every byte it gets against the
//! answer that one replica gave to that very request.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::SocketAddr;

use super::ledger::Request;
use super::net::{Actor, End, Event, Net, Owner};
use super::script::{Bad, Maker, Upload};
use super::tunnel::Tunnel;
use super::wire::{self, Body, Framing, Head};

/// How it behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// As a client should; in a calm world it gets every answer.
    Polite,
    /// Goes away after so many bytes, one way or the other.
    Leaves { after: u64, reset: bool },
    /// Says and reads nothing any more after so many bytes, and stays.
    FallsSilent { after: u64 },
}

/// What it does when all is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Close,
    /// Says at once that it will send no more.
    HalfClose,
    /// Waits to be closed.
    Stay,
}

pub struct Pace {
    pub piece: u64,
    pub gap_us: u64,
    pub next_us: u64,
}

pub struct Client {
    pub me: Actor,
    pub manner: Manner,
    pub done: bool,
    target: SocketAddr,
    end: Option<End>,
    ending: Ending,
    /// Requests that were not begun, with the time to think before each.
    script: VecDeque<(u64, u64)>,
    depth: usize,
    think_until: u64,
    out: VecDeque<u8>,
    /// How much of `out` belongs to which request.
    parts: VecDeque<(u64, usize)>,
    /// A body that waits for 100, and until when.
    held: Option<(u64, Vec<u8>, u64)>,
    write: Pace,
    read: Pace,
    narrow: Option<usize>,
    moved: u64,
    half_closed: bool,
    input: Vec<u8>,
    awaiting: VecDeque<u64>,
    reading: Option<Reading>,
    /// The last answer said that it is the last.
    closing: bool,
    /// A write met a reset; reading will not tell.
    broken: bool,
    tunnel: Option<Tunnel>,
}

/// An answer whose head was read.
struct Reading {
    id: u64,
    /// `None`: the balancer's own.
    serve: Option<u64>,
    body: Body,
}

impl Client {
    pub fn draw(me: Actor, target: SocketAddr, tcp: bool, net: &mut Net) -> Client {
        let manner = match net.random.clients().below(8) {
            0 => Manner::Leaves { after: net.random.clients().size(60_000), reset: net.random.clients().one_in(2) },
            1 => Manner::FallsSilent { after: net.random.clients().size(20_000) },
            _ => Manner::Polite,
        };
        let slow = net.random.clients().one_in(4);
        let pace = |net: &mut Net| Pace {
            piece: if slow { net.random.clients().range(1_000, 20_000) } else { 1 << 20 },
            gap_us: if slow { net.random.clients().range(0, 10_000) } else { 0 },
            next_us: 0,
        };
        let (write, read) = (pace(net), pace(net));
        let narrow = slow.then(|| net.random.clients().range(500, 30_000) as usize);
        let mut client = Client {
            me,
            manner,
            done: false,
            target,
            end: None,
            ending: net.random.clients().pick(&[Ending::Close, Ending::Close, Ending::HalfClose, Ending::Stay]),
            script: VecDeque::new(),
            depth: if net.random.clients().one_in(3) { net.random.clients().range(2, 6) as usize } else { 1 },
            think_until: 0,
            out: VecDeque::new(),
            parts: VecDeque::new(),
            held: None,
            write,
            read,
            narrow,
            moved: 0,
            half_closed: false,
            input: Vec::new(),
            awaiting: VecDeque::new(),
            reading: None,
            closing: false,
            broken: false,
            tunnel: None,
        };
        if tcp {
            let id = client.note_request(net, 1, |maker, id| maker.request(id, false));
            client.tunnel = Some(Tunnel::client(id, true, net));
        } else {
            client.draw_script(net);
        }
        // Once the first replicas answer.
        let start_us = net.random.clients().range(600_000, 5_000_000);
        net.after(start_us, Event::Wake(me));
        client
    }

    fn draw_script(&mut self, net: &mut Net) {
        let count = if net.random.clients().one_in(3) { 1 } else { net.random.clients().range(1, 8) };
        for number in 0..count {
            let id = self.note_request(net, 0, |maker, id| maker.request(id, number + 1 == count));
            let think_us = if net.random.clients().one_in(4) { net.random.clients().range(0, 900_000) } else { 0 };
            self.script.push_back((id, think_us));
            let request = &net.ledger.requests[id as usize];
            if request.upgrade || request.expect {
                self.depth = 1;
            }
        }
        if net.random.clients().one_in(8) {
            let id = self.note_request(net, 0, |maker, id| maker.bad(id));
            self.script.push_back((id, 0));
            if self.manner == Manner::Polite {
                self.manner = Manner::Leaves { after: u64::MAX, reset: false };
            }
        }
    }

    fn note_request(&self, net: &mut Net, service: usize, make: impl FnOnce(&mut Maker, u64) -> Request) -> u64 {
        let id = net.ledger.requests.len() as u64;
        let mut maker = Maker { random: net.random.clients(), faults: &net.faults, client: self.me, service };
        let request = make(&mut maker, id);
        net.ledger.requests.push(request);
        id
    }

    /// Nothing more is to be expected of it.
    pub fn is_over(&self, net: &Net) -> bool {
        let silent = matches!(self.manner, Manner::FallsSilent { .. });
        self.done || (silent && self.end.is_some_and(|end| net.is_connected(end) && !net.peer_is_open(end)))
    }

    pub fn describe(&self, net: &Net) -> String {
        let end = self.end.map(|end| net.describe(end));
        let peer = self.end.and_then(|end| net.peer(end)).map(|end| net.describe(end));
        format!(
            "client {} {:?} {:?}: awaits {:?}, script {:?}, out {}, tunnel {:?}, {end:?}, {peer:?}",
            self.me,
            self.manner,
            self.ending,
            self.awaiting,
            self.script,
            self.out.len(),
            self.tunnel
        )
    }

    pub fn step(&mut self, net: &mut Net) {
        if self.done {
            return;
        }
        let Some(end) = self.end else {
            let end = net.connect(Owner::Actor(self.me), self.target);
            if let Some(tunnel) = &self.tunnel {
                // Its replica is chosen as soon as it is accepted.
                net.ledger.requests[tunnel.id as usize].sent_at = Some(net.now_us);
            }
            if let Some(room) = self.narrow {
                net.narrow(end, room);
            }
            self.end = Some(end);
            return;
        };
        if !net.is_connected(end) {
            if net.is_dead(end) {
                self.leave(net, end, false);
            }
            return;
        }
        match self.manner {
            Manner::Leaves { after, reset } if self.moved >= after => return self.leave(net, end, reset),
            Manner::FallsSilent { after } if self.moved >= after => return,
            _ => {}
        }
        self.say(net, end);
        self.hear(net, end);
        if !self.done {
            self.end_if_all_is_said(net, end);
        }
    }

    fn leave(&mut self, net: &mut Net, end: End, reset: bool) {
        self.done = true;
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.left(net, end, reset);
        } else if !reset && net.is_empty(end) {
            // What it asked for may be a tunnel by now: to the replica, this is its end.
            for id in self.awaiting.iter().filter(|id| net.ledger.requests[**id as usize].upgrade) {
                net.ledger.tunnels.entry(*id).or_default().up_over = true;
            }
        }
        net.note("c.leaves", self.me as u64, end as u64, u64::from(reset));
        if reset { net.abort(end) } else { net.close(end) }
    }

    // What it says.

    fn say(&mut self, net: &mut Net, end: End) {
        self.refill(net);
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.refill(net, &mut self.out);
        }
        if self.write.next_us > net.now_us {
            return;
        }
        let most = self.out.len().min(self.write.piece as usize);
        if most == 0 {
            return;
        }
        let bytes: Vec<u8> = self.out.iter().take(most).copied().collect();
        let n = match net.write(end, &bytes) {
            Ok(n) => n,
            Err(kind) => {
                self.broken |= !matches!(kind, ErrorKind::WouldBlock | ErrorKind::BrokenPipe);
                return;
            }
        };
        self.out.drain(..n);
        self.moved += n as u64;
        self.mark_sent(net, n);
        if !self.out.is_empty() && n == most {
            self.write.next_us = net.now_us + self.write.gap_us;
        }
        if !self.out.is_empty() || self.tunnel.is_some() {
            let us = self.write.gap_us.max(1);
            net.after(us, Event::Wake(self.me));
        }
        if self.half_closes_now(net) {
            net.note("c.half-closes", self.me as u64, end as u64, 0);
            self.half_closed = true;
            net.finish(end);
        }
    }

    fn half_closes_now(&self, net: &Net) -> bool {
        let all_said = self.out.is_empty() && self.script.is_empty() && self.held.is_none();
        let upgrade = self.awaiting.iter().any(|id| net.ledger.requests[*id as usize].upgrade);
        self.ending == Ending::HalfClose && all_said && self.tunnel.is_none() && !self.half_closed && !upgrade
    }

    fn mark_sent(&mut self, net: &mut Net, mut n: usize) {
        if let Some(tunnel) = &mut self.tunnel {
            return tunnel.sent(net, n);
        }
        while n > 0 {
            let Some((id, left)) = self.parts.front_mut() else { return };
            let request = &mut net.ledger.requests[*id as usize];
            request.sent_at.get_or_insert(net.now_us);
            let part = n.min(*left);
            *left -= part;
            n -= part;
            if *left == 0 {
                request.sent_whole = self.held.as_ref().is_none_or(|(held, ..)| held != id);
                request.sent_whole_at = net.now_us;
                self.parts.pop_front();
            }
        }
    }

    fn refill(&mut self, net: &mut Net) {
        if let Some((id, _, until)) = &self.held {
            let answered = !self.awaiting.contains(id);
            if answered {
                self.held = None;
                self.closing = true;
            } else if *until <= net.now_us {
                self.release();
            }
            return;
        }
        while !self.closing
            && self.awaiting.len() < self.depth
            && self.held.is_none()
            && let Some((id, think_us)) = self.script.front_mut()
        {
            if *think_us > 0 {
                self.think_until = net.now_us + std::mem::take(think_us);
                let (at, me) = (self.think_until, self.me);
                net.at(at, Event::Wake(me));
            }
            if self.think_until > net.now_us {
                return;
            }
            let id = *id;
            self.script.pop_front();
            self.begin(net, id);
        }
    }

    fn begin(&mut self, net: &mut Net, id: u64) {
        let request = net.ledger.requests[id as usize].clone();
        net.say(|| {
            format!("client {}: request {id}: {}", self.me, String::from_utf8_lossy(&request.text).escape_debug())
        });
        net.say(|| format!("    to get {:?}, sending {:?}", request.plan, request.upload));
        self.awaiting.push_back(id);
        let body = encode(net, id, request.upload);
        self.parts.push_back((id, request.text.len()));
        self.out.extend(&request.text);
        if request.expect {
            let until = net.now_us + net.random.clients().range(1_000, 700_000);
            self.held = Some((id, body, until));
            net.at(until, Event::Wake(self.me));
        } else if !body.is_empty() {
            if let Some((_, len)) = self.parts.back_mut() {
                *len += body.len();
            }
            self.out.extend(body);
        }
    }

    fn release(&mut self) {
        if let Some((id, body, _)) = self.held.take() {
            self.parts.push_back((id, body.len()));
            self.out.extend(body);
        }
    }

    // What it hears.

    fn hear(&mut self, net: &mut Net, end: End) {
        if self.read.next_us > net.now_us {
            return;
        }
        let mut space = vec![0; self.read.piece.min(32 * 1024) as usize];
        match net.read(end, &mut space) {
            Ok(0) => self.ended(net, end, self.broken),
            Ok(n) => {
                net.note("c.hears", self.me as u64, end as u64, n as u64);
                self.moved += n as u64;
                self.read.next_us = net.now_us + self.read.gap_us;
                let us = self.read.gap_us.max(1);
                net.after(us, Event::Wake(self.me));
                self.input.extend_from_slice(&space[..n]);
                if let Err(why) = self.understand(net, end) {
                    panic!("client {} (requests {:?}): {why}", self.me, self.awaiting);
                }
            }
            Err(ErrorKind::WouldBlock) => {}
            Err(_) => self.ended(net, end, true),
        }
    }

    fn understand(&mut self, net: &mut Net, end: End) -> Result<(), String> {
        while !self.done {
            if let Some(tunnel) = &mut self.tunnel {
                let bytes = std::mem::take(&mut self.input);
                return tunnel.got(net, &bytes);
            }
            if let Some(reading) = &mut self.reading {
                let serve = reading.serve;
                let mut check = |from: u64, bytes: &[u8]| serve.map_or(Ok(()), |serve| wire::same(serve, from, bytes));
                let used = reading.body.feed(&self.input, &mut check)?;
                self.input.drain(..used);
                if !reading.body.is_done() {
                    return Ok(());
                }
                self.answered(net)?;
            } else if self.input.is_empty() {
                return Ok(());
            } else {
                let Some((head, len)) = wire::head(&self.input)? else { return Ok(()) };
                self.input.drain(..len);
                self.head(net, end, &head)?;
            }
        }
        Ok(())
    }

    fn head(&mut self, net: &mut Net, end: End, head: &Head) -> Result<(), String> {
        net.say(|| format!("client {}: got {head:?}", self.me));
        let status = status_of(head)?;
        let serve = head.number("x-serve")?;
        // A bad request may be answered before it was sent whole, but never before it was begun.
        let id = *self.awaiting.front().ok_or(format!("an answer to nothing: {head:?}"))?;
        let request = &net.ledger.requests[id as usize];
        if request.sent_at.is_none() && !(serve.is_none() && status == 408) {
            return Err(format!("an answer before its request {id}: {head:?}"));
        }
        if self.closing {
            return Err(format!("an answer after the last one: {head:?}"));
        }
        if let Some(other) = head.number("x-id")?.filter(|other| *other != id) {
            return Err(format!("the answer to request {other}, not to {id}"));
        }
        if (100..200).contains(&status) && status != 101 {
            if request.minor == 0 {
                return Err(format!("{status} to a client of HTTP/1.0"));
            }
            if status == 100 && self.held.is_some() {
                self.release();
            }
            return Ok(());
        }
        for name in ["keep-alive", "proxy-connection"] {
            if head.one(name)?.is_some() {
                return Err(format!("{name} went through: {head:?}"));
            }
        }
        if head.one("date")?.is_none() && status != 101 {
            return Err(format!("no Date in {head:?}"));
        }
        let connection = head.one("connection")?.unwrap_or_default().to_ascii_lowercase();
        self.closing = connection == "close" || (request.minor == 0 && connection != "keep-alive");
        match serve {
            Some(serve) => self.replica_answers(net, end, id, serve, status, head),
            None => self.balancer_answers(net, id, status, head),
        }
    }

    fn replica_answers(
        &mut self,
        net: &mut Net,
        end: End,
        id: u64,
        number: u64,
        status: u16,
        head: &Head,
    ) -> Result<(), String> {
        let serve = net.ledger.serves.get(number as usize).ok_or("an answer that no replica gave")?.clone();
        let request = &net.ledger.requests[id as usize];
        if serve.id != id || serve.status != status {
            return Err(format!("answer {serve:?} to request {id} as {head:?}"));
        }
        if serve.poisoned {
            return Err(format!("an answer that no client may see: {head:?}"));
        }
        let own = Framing::of(head)?;
        if status == 101 {
            self.tunnel = Some(Tunnel::client(id, false, net));
            self.closing = false;
            let _ = end;
            return Ok(());
        }
        let bodyless = request.method == "HEAD" || status == 204 || status == 304;
        let framing = if bodyless { Framing::None } else { own.unwrap_or(Framing::UntilClose) };
        let unframed =
            serve.framing == Framing::UntilClose || (serve.framing == Framing::Chunked && request.minor == 0);
        let want = match serve.framing {
            _ if bodyless => Framing::None,
            _ if unframed => Framing::UntilClose,
            framing => framing,
        };
        if framing != want {
            return Err(format!("framing {framing:?} instead of {want:?} in {head:?}"));
        }
        if framing == Framing::UntilClose && !self.closing {
            return Err(format!("a body that only a close can end, on a connection that stays: {head:?}"));
        }
        let reason = unframed || self.may_close(net, id);
        if self.closing && !reason {
            self.let_down(net, id, "was told to close for no reason");
        }
        self.reading = Some(Reading { id, serve: Some(number), body: Body::new(framing) });
        Ok(())
    }

    /// Does anything but the answer's framing make it the connection's last?
    fn may_close(&self, net: &Net, id: u64) -> bool {
        let request = &net.ledger.requests[id as usize];
        let asked = request.minor == 0 || (self.script.is_empty() && self.awaiting.len() == 1);
        asked || net.ledger.stopping.is_some() || !request.sent_whole || request.plan.early || self.half_closed
    }

    fn balancer_answers(&mut self, net: &mut Net, id: u64, status: u16, head: &Head) -> Result<(), String> {
        let request = &net.ledger.requests[id as usize];
        let refusal = matches!(status, 400 | 405 | 413 | 414 | 417 | 431 | 501 | 505);
        let broken = request.bad != Bad::No || self.half_closed && !request.sent_whole;
        match status {
            _ if refusal && !broken => return Err(format!("request {id} was refused: {head:?}")),
            408 | 502 | 503 | 504 => self.let_down(net, id, &format!("got {status}")),
            _ if refusal => {}
            _ => return Err(format!("an answer of nobody's: {head:?}")),
        }
        if !self.closing {
            return Err(format!("the balancer's own answer is not the last: {head:?}"));
        }
        net.ledger.tally.refused += 1;
        let framing = if request.method == "HEAD" && request.bad != Bad::Head {
            Framing::None
        } else {
            Framing::of(head)?.ok_or("an own answer without length")?
        };
        self.reading = Some(Reading { id, serve: None, body: Body::new(framing) });
        Ok(())
    }

    fn answered(&mut self, net: &mut Net) -> Result<(), String> {
        let Some(reading) = self.reading.take() else { return Ok(()) };
        let (id, got) = (reading.id, reading.body.got);
        net.note("c.answered", self.me as u64, id, got);
        self.awaiting.pop_front();
        if let Some(serve) = reading.serve.map(|serve| &net.ledger.serves[serve as usize]) {
            if got != serve.len {
                return Err(format!("answer to {id} of {got} bytes taken for whole: it has {}", serve.len));
            }
            net.ledger.tally.answered += 1;
        }
        Ok(())
    }

    fn ended(&mut self, net: &mut Net, end: End, reset: bool) {
        net.note("c.ended", self.me as u64, end as u64, u64::from(reset));
        if let Some(tunnel) = &mut self.tunnel {
            if let Err(why) = tunnel.ended(net, reset) {
                panic!("client {}: {why}", self.me);
            }
            if tunnel.is_short(net) && self.manner == Manner::Polite {
                let id = tunnel.id;
                self.let_down(net, id, "has a tunnel that broke");
            }
            return self.leave(net, end, false);
        }
        if !reset && self.reading.as_ref().is_some_and(|reading| reading.body.is_until_close()) {
            if let Err(why) = self.answered(net) {
                panic!("client {}: {why}", self.me);
            }
        } else if let Some(reading) = &self.reading {
            let id = reading.id;
            net.ledger.tally.cut += 1;
            self.let_down(net, id, "got half an answer");
        } else if let Some(id) = self.awaiting.front().copied().filter(|_| !self.closing) {
            net.ledger.tally.cut += 1;
            self.let_down(net, id, "got no answer");
        }
        self.leave(net, end, false);
    }

    /// Oracle: in a calm world a polite client gets the answer to everything it asks.
    fn let_down(&self, net: &Net, id: u64, why: &str) {
        let request = &net.ledger.requests[id as usize];
        let stopped = net.ledger.stopping.is_some_and(|(at, drain_ms)| {
            let begun_late = !request.sent_whole || request.sent_whole_at + 300_000 > at;
            // Nobody promises anything to what still waits, unread, behind an answer that was begun before.
            let queued = self.depth > 1 && request.heads == 0;
            begun_late || queued || net.now_us + 1_000_000 > at + drain_ms * 1000
        });
        // The wait for an answer begins with the last byte that the kernel took: a network that needs longer for the
        // request than it leaves a replica for its answer ends in 504.
        let answer_due = request.heard_whole_at.map(|at| at + request.plan.delay_us + 4 * net.faults.latency_us);
        let slow_network = why == "got 504" && answer_due.is_none_or(|due| net.now_us < due);
        if slow_network {
            return;
        }
        // Through a slow network the last answer may take longer than the balancer waits for the next request.
        let let_go = net.ledger.let_go.get(&self.me).is_some_and(|at| request.sent_at.is_none_or(|sent| *at <= sent));
        if let_go {
            return;
        }
        // A replica that is removed does not wait for what takes longer than the drain timeout.
        let may_be_removed = net.faults.calls > 0;
        if may_be_removed && request.sent_at.is_some_and(|at| net.now_us >= at + net.ledger.drain_ms * 1000) {
            return;
        }
        if net.faults.calm && self.manner == Manner::Polite && !stopped {
            panic!("a calm world, and client {} (request {id}) {why}", self.me);
        }
    }

    fn end_if_all_is_said(&mut self, net: &mut Net, end: End) {
        if let Some(tunnel) = &mut self.tunnel {
            if self.out.is_empty() && tunnel.all_sent() && !self.half_closed {
                self.half_closed = true;
                tunnel.over(net);
                net.finish(end);
            }
            return;
        }
        let nothing_left = self.script.is_empty() && self.out.is_empty() && self.held.is_none();
        let answered = self.awaiting.is_empty() || self.closing && self.reading.is_none();
        if (nothing_left || self.closing) && answered && self.ending == Ending::Close {
            self.leave(net, end, false);
        }
    }
}

fn status_of(head: &Head) -> Result<u16, String> {
    let start = &head.start;
    let rest = start.strip_prefix("HTTP/1.1 ").ok_or(format!("status line {start:?}"))?;
    let digits = rest.get(..3).filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
    digits.and_then(|d| d.parse().ok()).ok_or(format!("status line {start:?}"))
}

/// A request's body as it goes over the wire: chunks of any size, with extensions and trailers that must not matter.
fn encode(net: &mut Net, id: u64, upload: Upload) -> Vec<u8> {
    let data = wire::data(id, 0, upload.len() as usize);
    let Upload::Chunked(_) = upload else { return data };
    let mut text = Vec::with_capacity(data.len() + 64);
    let mut rest = &data[..];
    let largest = 1 + net.random.clients().size(100_000);
    while !rest.is_empty() {
        let n = (1 + net.random.clients().size(largest - 1) as usize).min(rest.len());
        let extension = if net.random.clients().one_in(8) { ";a=\"b\"" } else { "" };
        text.extend_from_slice(format!("{n:x}{extension}\r\n").as_bytes());
        text.extend_from_slice(&rest[..n]);
        text.extend_from_slice(b"\r\n");
        rest = &rest[n..];
        if n < 8 && rest.len() > 2_000 {
            let n = rest.len() / 2;
            text.extend_from_slice(format!("{n:X}\r\n").as_bytes());
            text.extend_from_slice(&rest[..n]);
            text.extend_from_slice(b"\r\n");
            rest = &rest[n..];
        }
    }
    text.extend_from_slice(b"0\r\n");
    if net.random.clients().one_in(4) {
        text.extend_from_slice(b"X-Trailer: kept\r\nContent-Length: 3\r\n");
    }
    text.extend_from_slice(b"\r\n");
    text
}
