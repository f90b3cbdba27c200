//! One connection of a scripted replica: reads requests, sends the planned responses at their pace, echoes tunnels, and
//! closes. The bytes of a response are composed elsewhere.

use std::io::ErrorKind;
use std::net::SocketAddr;

use ringway::core::snapshot::Mode;

use super::super::http::{self, Body, Framing, Head};
use super::super::net::{Actor, Closing, Event, Net, SocketId};
use super::super::pattern;
use super::super::plan::ResponseFault;
use super::super::request::{Malformed, Request};
use super::super::stream::{Handshake, Stream};
use super::super::tunnel::{Echo, LABEL_LEN};
use super::request_check::check_head;
use super::response::{self, AfterResponse, EXCESS};

/// After its FIN, a replica goes on reading for so long: bytes that arrive after a close would be answered with a
/// reset.
const LINGER_US: u64 = 300_000;
/// A tunnel's echo writes at least so many bytes at a time.
const TUNNEL_WRITE_MIN: usize = 4 * 1024;
/// A body is written without gaps if they would take longer in total.
const WRITE_GAPS_MAX_US: u64 = 1_500_000;
const IDLE_CLOSE_EARLY_MAX_US: u64 = 200_000;
const IDLE_CLOSE_US: u64 = 60_000_000;
/// Between two reads of a replica that reads slowly.
const READ_GAP_US: u64 = 2_000;

pub struct Connection {
    pub socket: SocketId,
    pub closed: bool,
    stream: Stream,
    is_handshaking: bool,
    actor: Actor,
    address: SocketAddr,
    mode: Mode,
    received: Vec<u8>,
    request: Option<IncomingRequest>,
    send_buffer: Vec<u8>,
    sent: usize,
    /// Nothing is written before.
    write_at_us: u64,
    /// A wake-up is scheduled for then.
    wake_at_us: u64,
    write_max: usize,
    write_gap_us: u64,
    after: AfterResponse,
    response: Option<PendingResponse>,
    echo: Option<Echo>,
    idle_until_us: Option<u64>,
    /// Bytes read at a time.
    read_max: usize,
    fin_received: bool,
    fin_sent: bool,
    /// Bytes that belong to no response follow the last one.
    excess: bool,
    /// They follow then, when the balancer uses the connection no more.
    excess_at_us: Option<u64>,
}

/// A request whose head was read.
struct IncomingRequest {
    id: u64,
    body: Body,
}

struct PendingResponse {
    request: u64,
    starts_us: u64,
    /// It waits for the request's last byte.
    waits_for_body: bool,
}

impl Connection {
    pub fn new(
        socket: SocketId,
        stream: Stream,
        actor: Actor,
        address: SocketAddr,
        mode: Mode,
        read_max: usize,
    ) -> Connection {
        Connection {
            socket,
            closed: false,
            is_handshaking: stream.is_secure(),
            stream,
            actor,
            address,
            mode,
            received: Vec::new(),
            request: None,
            send_buffer: Vec::new(),
            sent: 0,
            write_at_us: 0,
            wake_at_us: 0,
            write_max: 1 << 20,
            write_gap_us: 0,
            after: AfterResponse::NextRequest,
            response: None,
            echo: None,
            idle_until_us: None,
            read_max,
            fin_received: false,
            fin_sent: false,
            excess: false,
            excess_at_us: None,
        }
    }

    fn is_responding(&self) -> bool {
        self.response.is_some() || !self.all_sent()
    }

    fn all_sent(&self) -> bool {
        self.sent == self.send_buffer.len()
    }

    /// Between two requests.
    pub fn is_idle(&self) -> bool {
        let quiet = self.request.is_none() && !self.is_responding();
        quiet && self.echo.is_none() && self.received.is_empty() && self.after == AfterResponse::NextRequest
    }

    pub fn close(&mut self, net: &mut Net, closing: Closing) {
        self.closed = true;
        if closing == Closing::Fin && !net.is_dead(self.socket) {
            self.stream.end(net, self.socket);
        }
        net.close_by(self.socket, closing);
    }

    /// The process ended. A FIN in a body or tunnel would be its regular end: it is reset.
    pub fn die(&self, net: &mut Net) {
        net.close_by(self.socket, if self.is_idle() { Closing::Fin } else { Closing::Reset });
    }

    pub fn step(&mut self, net: &mut Net) -> Result<(), String> {
        if self.closed {
            return Ok(());
        }
        match self.stream.advance(net, self.socket) {
            Handshake::Done => {
                net.history.totals.handshakes += u64::from(std::mem::take(&mut self.is_handshaking));
                self.receive(net);
            }
            Handshake::Ended => self.close(net, Closing::Fin),
            Handshake::UnderWay => {
                self.cut_if_spent(net);
                return Ok(());
            }
        }
        if !self.closed {
            self.parse(net)?;
        }
        if self.fin_received && !self.closed {
            self.on_fin(net)?;
        }
        if !self.closed {
            self.send_late_excess(net);
            let responding = self.is_responding();
            self.send(net);
            let has_responded = responding && !self.is_responding();
            if has_responded && !self.received.is_empty() {
                // The next pipelined request.
                net.after(1, Event::Wake(self.actor));
            }
            if has_responded && !self.closed && self.after == AfterResponse::NextRequest {
                self.stream.rest(net, self.socket);
            }
        }
        self.cut_if_spent(net);
        if self.is_idle() && !self.closed && self.mode == Mode::Http {
            self.check_idle_time(net);
        } else {
            self.idle_until_us = None;
        }
        Ok(())
    }

    fn check_idle_time(&mut self, net: &mut Net) {
        match self.idle_until_us {
            None => {
                let early = net.random.replicas().per_mille(net.faults.idle_close);
                let us = if early { net.random.replicas().range(0, IDLE_CLOSE_EARLY_MAX_US) } else { IDLE_CLOSE_US };
                self.idle_until_us = Some(net.now_us + us);
                net.after(us, Event::Wake(self.actor));
            }
            Some(until) if until <= net.now_us => {
                net.note("r.closes idle", self.socket as u64, 0, 0);
                net.history.replica_fault(self.address, net.now_us);
                let reset = net.random.replicas().one_in(4);
                self.close(net, if reset { Closing::Reset } else { Closing::Fin });
            }
            Some(_) => {}
        }
    }

    /// A fault of the replica. A FIN in a tunnel would be its regular end.
    fn cut_if_spent(&mut self, net: &mut Net) {
        if self.stream.is_spent() && !self.closed {
            net.note("r.cuts", self.socket as u64, 0, 0);
            net.history.replica_fault(self.address, net.now_us);
            let resets = self.echo.is_some() || self.mode == Mode::Tcp || net.random.replica_tls().one_in(2);
            self.close(net, if resets { Closing::Reset } else { Closing::Fin });
        }
    }

    // Receiving.

    fn receive(&mut self, net: &mut Net) {
        let mut buffer = [0; 16 * 1024];
        let mut remaining = self.read_max;
        while remaining > 0 && !self.fin_received {
            let max = remaining.min(buffer.len());
            match self.stream.read(net, self.socket, &mut buffer[..max]) {
                Ok(0) => self.fin_received = true,
                Ok(n) => {
                    remaining -= n;
                    self.received.extend_from_slice(&buffer[..n]);
                }
                Err(ErrorKind::WouldBlock) => return,
                // Without close_notify a tunnel has not ended in order, and does not at the other end.
                Err(ErrorKind::UnexpectedEof) if self.echo.is_some() => return self.close(net, Closing::Reset),
                Err(_) => return self.close(net, Closing::Fin),
            }
        }
        if remaining == 0 {
            net.after(READ_GAP_US, Event::Wake(self.actor));
        }
    }

    fn on_fin(&mut self, net: &mut Net) -> Result<(), String> {
        let Some(echo) = &mut self.echo else {
            // The balancer needs this connection no more, even within a response.
            self.close(net, Closing::Fin);
            return Ok(());
        };
        if !echo.ended {
            if !net.is_dead(self.socket) {
                echo.on_fin(net)?;
            }
            self.after = AfterResponse::Close;
        }
        if net.is_dead(self.socket) {
            self.close(net, Closing::Fin);
        }
        Ok(())
    }

    fn parse(&mut self, net: &mut Net) -> Result<(), String> {
        loop {
            if self.echo.is_some() {
                return self.receive_tunnel();
            }
            if self.request.is_some() {
                if !self.receive_body(net)? {
                    return Ok(());
                }
                continue;
            }
            if self.received.is_empty() {
                return Ok(());
            }
            if self.mode == Mode::Tcp {
                if self.received.len() < LABEL_LEN {
                    return Ok(());
                }
                self.open_tunnel(net)?;
                continue;
            }
            if self.excess && !self.all_sent() {
                // The next request arrived between a response and the excess bytes behind it.
                self.close(net, Closing::Reset);
                return Ok(());
            }
            if !self.may_begin(net)? {
                return Ok(());
            }
            let Some((head, len)) = http::parse_head(&self.received)? else { return Ok(()) };
            self.received.drain(..len);
            self.on_head(net, &head)?;
        }
    }

    /// Oracle: without pipelining, a request comes only after the response to the one before, and none after the last
    /// response of a connection.
    fn may_begin(&self, net: &Net) -> Result<bool, String> {
        match (self.is_responding(), self.after) {
            (false, AfterResponse::NextRequest) => Ok(true),
            _ if net.upstream_pipelining => Ok(false),
            (true, _) => Err("a request before the response to the one before".into()),
            (false, _) => Err("a request after the last response of the connection".into()),
        }
    }

    fn receive_tunnel(&mut self) -> Result<(), String> {
        let Some(echo) = &mut self.echo else { return Ok(()) };
        let bytes = std::mem::take(&mut self.received);
        if !bytes.is_empty() && !echo.ended {
            echo.on_received(&bytes)?;
            self.send_buffer.extend(bytes);
        }
        Ok(())
    }

    /// Oracle: a request's body is its pattern. Returns whether it is complete.
    fn receive_body(&mut self, net: &mut Net) -> Result<bool, String> {
        let Some(request) = &mut self.request else { return Ok(true) };
        let id = request.id;
        // A malformed body has no pattern; `on_body_end` checks that it never becomes complete.
        let malformed = net.history.requests[id as usize].malformed == Malformed::Body;
        let mut check = |from: u64, bytes: &[u8]| if malformed { Ok(()) } else { pattern::check(id, from, bytes) };
        let used = request.body.feed(&self.received, &mut check)?;
        self.received.drain(..used);
        if !request.body.is_done() {
            return Ok(false);
        }
        self.on_body_end(net)?;
        Ok(true)
    }

    /// Oracle: a TCP connection carries one tunnel, which is opened once.
    fn open_tunnel(&mut self, net: &mut Net) -> Result<(), String> {
        let label: Vec<u8> = self.received.drain(..LABEL_LEN).collect();
        let id = std::str::from_utf8(&label[1..LABEL_LEN - 1]).ok().and_then(|id| id.parse().ok());
        let id: u64 = id.filter(|_| label[0] == b'T').ok_or(format!("label {label:?}"))?;
        self.head_arrived(net, id)?;
        net.history.tunnel(id).opened += 1;
        if net.history.tunnel(id).opened > 1 {
            return Err(format!("tunnel {id} was opened twice"));
        }
        self.echo = Some(Echo::after_label(id));
        Ok(())
    }

    fn head_arrived(&self, net: &mut Net, id: u64) -> Result<(), String> {
        let process = net.peer(self.socket).and_then(|peer| net.process(peer));
        let process = process.ok_or("a connection that no process of the balancer opened")?;
        net.history.head_arrived(process, id, self.address, net.now_us)
    }

    fn on_head(&mut self, net: &mut Net, head: &Head) -> Result<(), String> {
        net.log(|| format!("replica #{}: {head:?}", self.socket));
        let id = head.number("x-id")?.ok_or(format!("no X-Id in {head:?}"))?;
        net.note("r.asked", self.socket as u64, id, u64::from(self.address.port()));
        self.head_arrived(net, id)?;
        let request = net.history.requests[id as usize].clone();
        self.check_excess(net, &request)?;
        let framing = check_head(&request, head)?;
        if request.fault() != ResponseFault::None {
            net.history.replica_fault(self.address, net.now_us);
        }
        // A server switches behind the whole request (RFC 9110 section 7.8).
        let waits_for_body = !request.plan.early || request.upgrade;
        let starts_us = if waits_for_body { u64::MAX } else { net.response_time(self.address, request.plan.delay_us) };
        self.request = Some(IncomingRequest { id, body: Body::new(framing) });
        self.response = Some(PendingResponse { request: id, starts_us, waits_for_body });
        if request.expect && net.random.replicas().one_in(2) {
            self.send_buffer.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        if !waits_for_body {
            net.at(starts_us, Event::Wake(self.actor));
        }
        Ok(())
    }

    /// Oracle: a connection on which the balancer has read bytes of no response gets no request that comes later.
    fn check_excess(&self, net: &Net, request: &Request) -> Result<(), String> {
        let read_us = net.read_whole_since_us(self.socket).filter(|_| self.excess);
        if read_us.is_some_and(|read_us| request.sent_at_us > Some(read_us)) {
            return Err(format!("request {} on a connection that carried bytes of no response", request.id));
        }
        Ok(())
    }

    /// Oracle: a body is complete at the replica only if it is well-formed and its client sent all of it.
    fn on_body_end(&mut self, net: &mut Net) -> Result<(), String> {
        let Some(IncomingRequest { id, body }) = self.request.take() else { return Ok(()) };
        let request = &mut net.history.requests[id as usize];
        let len = request.body.len();
        if body.len != len || request.malformed == Malformed::Body || (len > 0 && !request.sent_whole) {
            return Err(format!("the body of {id} is complete after {} of {len} bytes", body.len));
        }
        request.received_whole_at_us = Some(net.now_us);
        let delay_us = request.plan.delay_us;
        if let Some(response) = &mut self.response {
            if std::mem::replace(&mut response.waits_for_body, false) {
                response.starts_us = net.response_time(self.address, delay_us);
            }
            net.at(response.starts_us, Event::Wake(self.actor));
        }
        Ok(())
    }

    // Sending.

    fn send(&mut self, net: &mut Net) {
        let due = |response: &mut PendingResponse| !response.waits_for_body && response.starts_us <= net.now_us;
        if let Some(response) = self.response.take_if(due) {
            self.compose(net, response.request);
        }
        while !self.all_sent() && self.write_at_us <= net.now_us {
            let end = self.send_buffer.len().min(self.sent + self.write_max);
            match self.stream.write(net, self.socket, &self.send_buffer[self.sent..end]) {
                Ok(n) => {
                    self.sent += n;
                    if let Some(echo) = &mut self.echo {
                        echo.on_sent(net, n);
                    }
                    self.write_at_us = net.now_us + self.write_gap_us;
                }
                Err(ErrorKind::WouldBlock) => return,
                Err(_) => return self.close(net, Closing::Fin),
            }
        }
        if self.all_sent() {
            self.send_buffer.clear();
            self.sent = 0;
            self.on_all_sent(net);
        } else if self.write_at_us > net.now_us && self.write_at_us != self.wake_at_us {
            // Tunnel bytes that arrive during the gap cause no edge after it.
            self.wake_at_us = self.write_at_us;
            net.at(self.write_at_us, Event::Wake(self.actor));
        }
    }

    fn on_all_sent(&mut self, net: &mut Net) {
        match self.after {
            _ if self.response.is_some() => {}
            AfterResponse::NextRequest | AfterResponse::Stall => {}
            AfterResponse::Reset => self.close(net, Closing::Reset),
            AfterResponse::Close if self.fin_sent => {
                if self.write_at_us <= net.now_us && self.stream.is_flushed() {
                    self.close(net, Closing::Fin);
                }
            }
            AfterResponse::Close => self.begin_close(net),
        }
    }

    /// Sends a FIN and lingers.
    fn begin_close(&mut self, net: &mut Net) {
        self.fin_sent = true;
        if let Some(echo) = &self.echo {
            echo.end_down(net);
        }
        self.stream.shutdown_write(net, self.socket);
        self.write_at_us = net.now_us + LINGER_US;
        net.at(self.write_at_us, Event::Wake(self.actor));
    }

    fn send_late_excess(&mut self, net: &mut Net) {
        if self.excess_at_us.take_if(|at_us| *at_us <= net.now_us).is_some() && self.is_idle() {
            net.note("r.exceeds", self.socket as u64, 0, 0);
            net.history.replica_fault(self.address, net.now_us);
            self.excess = true;
            self.send_buffer.extend_from_slice(EXCESS);
        }
    }

    fn compose(&mut self, net: &mut Net, id: u64) {
        let request = net.history.requests[id as usize].clone();
        let plan = &request.plan;
        self.write_at_us = 0;
        (self.write_max, self.write_gap_us) = (plan.write_max.max(1), plan.write_gap_us);
        if plan.len > 0 && plan.len / self.write_max as u64 * self.write_gap_us > WRITE_GAPS_MAX_US {
            self.write_gap_us = 0;
        }
        if request.upgrade && !prevents_upgrade(request.fault()) {
            return self.upgrade(net, &request);
        }
        let secure = self.stream.is_secure();
        let mut composed = response::compose(&request, self.socket as u64, secure, net);
        if composed.excess && secure && net.random.replica_tls().one_in(2) {
            // In records of their own, for an idle connection.
            composed.bytes.truncate(composed.bytes.len() - EXCESS.len());
            composed.excess = false;
            let at_us = net.now_us + net.random.replica_tls().range(1_000, 200_000);
            self.excess_at_us = Some(at_us);
            net.at(at_us, Event::Wake(self.actor));
        }
        if request.plan.framing == Framing::UntilClose {
            // Its end, or what tells that it was cut.
            self.stream.set_close_notify(!matches!(request.fault(), ResponseFault::Cut { .. }));
        }
        self.send_buffer.extend_from_slice(&composed.bytes);
        self.after = composed.after;
        self.excess |= composed.excess;
    }

    fn upgrade(&mut self, net: &mut Net, request: &Request) {
        let head = response::compose_upgrade(request, self.socket as u64, net);
        net.history.tunnel(request.id).opened += 1;
        // Gaps between small writes are for responses: a long tunnel would take longer than the world lasts.
        self.write_max = self.write_max.max(TUNNEL_WRITE_MIN);
        self.send_buffer.extend_from_slice(&head);
        self.after = AfterResponse::NextRequest;
        self.echo = Some(Echo::after_upgrade(request.id, self.send_buffer.len() - self.sent));
    }
}

fn prevents_upgrade(fault: ResponseFault) -> bool {
    matches!(fault, ResponseFault::Cut { .. } | ResponseFault::Stall { .. } | ResponseFault::InvalidHead(_))
}
