//! A scripted client: it sends its requests at its own pace and checks every byte that it receives. How the balancer
//! picks replicas does not enter here.
//!
//! - `mod.rs`: how a client is drawn, and the life of its connection
//! - [`send`]: requests and tunnel data
//! - [`receive`]: responses, byte by byte, and the oracles of their heads
//! - [`failure`]: the oracle of unanswered requests

mod failure;
mod receive;
mod send;

use std::collections::VecDeque;
use std::net::SocketAddr;

use ringway::core::snapshot::Mode;

use super::http::Body;
use super::net::{Actor, Closing, Event, Net, Owner, ProcessId, SocketId};
use super::plan::{CutPoint, ResponseFault};
use super::request::{Malformed, Position, Request, RequestBuilder};
use super::stream::{Handshake, Stream};
use super::tls::ClientTls;
use super::tunnel::ClientTunnel;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behavior {
    /// In a calm world it gets every response.
    Correct,
    /// Closes its connection after so many bytes sent and received.
    ClosesAfter { bytes: u64, closing: Closing },
    /// Neither writes nor reads after so many bytes sent and received. The connection stays open.
    StallsAfter { bytes: u64 },
}

/// What it does after its last request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Closes once it has all responses.
    Close,
    /// Sends a FIN at once.
    HalfClose,
    /// Waits for the balancer to close.
    WaitForClose,
}

struct Pace {
    /// Bytes moved at a time.
    max: u64,
    gap_us: u64,
    next_us: u64,
}

pub struct Client {
    me: Actor,
    behavior: Behavior,
    ending: Ending,
    done: bool,
    target: SocketAddr,
    socket: Option<SocketId>,
    stream: Stream,
    /// Its listener speaks TLS, and it does not.
    misspeaks: bool,
    /// Its request leads nowhere.
    is_refused: bool,
    /// Requests that were not begun.
    script: VecDeque<ScriptedRequest>,
    pipeline_depth: usize,
    think_until_us: u64,
    send_buffer: VecDeque<u8>,
    /// Which request the bytes of `send_buffer` belong to, and how many.
    send_parts: VecDeque<(u64, usize)>,
    held_body: Option<HeldBody>,
    write: Pace,
    read: Pace,
    receive_window: Option<usize>,
    bytes_moved: u64,
    half_closed: bool,
    received: Vec<u8>,
    /// Requests begun and not answered, in order.
    outstanding: VecDeque<u64>,
    response: Option<IncomingResponse>,
    /// The current or last response says that no other follows.
    closing: bool,
    /// A write took the socket's error, so that a read will not report it.
    write_failed: bool,
    tunnel: Option<ClientTunnel>,
}

struct ScriptedRequest {
    id: u64,
    /// The pause before it.
    think_us: u64,
}

/// A body that waits for 100 (Continue), or until a time.
struct HeldBody {
    request: u64,
    bytes: Vec<u8>,
    until_us: u64,
}

/// A response whose head was read.
struct IncomingResponse {
    request: u64,
    /// The number of a replica's response. `None`: the balancer's local reply.
    number: Option<u64>,
    body: Body,
}

impl Client {
    pub fn draw(me: Actor, target: SocketAddr, mode: Mode, tls: Option<ClientTls>, net: &mut Net) -> Client {
        let behavior = draw_behavior(net);
        let slow = net.random.clients().one_in(4);
        let pace = |net: &mut Net| Pace {
            max: if slow { net.random.clients().range(1_000, 20_000) } else { 1 << 20 },
            gap_us: if slow { net.random.clients().range(0, 10_000) } else { 0 },
            next_us: 0,
        };
        let (write, read) = (pace(net), pace(net));
        let receive_window = slow.then(|| net.random.clients().range(500, 30_000) as usize);
        let mut client = Client {
            me,
            behavior,
            ending: net.random.clients().pick(&[Ending::Close, Ending::Close, Ending::HalfClose, Ending::WaitForClose]),
            done: false,
            target,
            socket: None,
            stream: Stream::Plain,
            misspeaks: false,
            is_refused: false,
            script: VecDeque::new(),
            pipeline_depth: if net.random.clients().one_in(3) { net.random.clients().range(2, 6) as usize } else { 1 },
            think_until_us: 0,
            send_buffer: VecDeque::new(),
            send_parts: VecDeque::new(),
            held_body: None,
            write,
            read,
            receive_window,
            bytes_moved: 0,
            half_closed: false,
            received: Vec::new(),
            outstanding: VecDeque::new(),
            response: None,
            closing: false,
            write_failed: false,
            tunnel: None,
        };
        client.draw_stream(tls);
        match mode {
            Mode::Tcp | Mode::TlsPassthrough => {
                let id = client.draw_request(net, 1, |builder, id| builder.request(id, Position::Earlier));
                client.tunnel = Some(ClientTunnel::labelled(id, net));
            }
            Mode::Http => client.draw_script(net),
        }
        // Replicas need some time to start.
        let start_us = net.random.clients().range(600_000, 5_000_000);
        net.after(start_us, Event::Wake(me));
        client
    }

    fn draw_stream(&mut self, tls: Option<ClientTls>) {
        match tls {
            None => {}
            Some(ClientTls::PlainText) => {
                (self.misspeaks, self.is_refused) = (true, true);
                self.behavior.need_not_be_answered();
            }
            Some(ClientTls::Speaks(speech)) => {
                if !speech.has_route() {
                    self.is_refused = true;
                    self.behavior.need_not_be_answered();
                }
                let limit = match self.behavior {
                    Behavior::Correct => u64::MAX,
                    Behavior::ClosesAfter { bytes, .. } | Behavior::StallsAfter { bytes } => bytes,
                };
                self.stream = speech.stream(limit);
            }
        }
    }

    fn draw_script(&mut self, net: &mut Net) {
        let count = if net.random.clients().one_in(3) { 1 } else { net.random.clients().range(1, 8) };
        for number in 1..=count {
            let position = if number == count { Position::Last } else { Position::Earlier };
            let id = self.draw_request(net, 0, |builder, id| builder.request(id, position));
            let think_us = if net.random.clients().one_in(4) { net.random.clients().range(0, 900_000) } else { 0 };
            self.script.push_back(ScriptedRequest { id, think_us });
            let request = &net.history.requests[id as usize];
            if request.upgrade || request.expect {
                self.pipeline_depth = 1;
            }
        }
        if net.random.clients().one_in(8) {
            let id = self.draw_request(net, 0, |builder, id| builder.malformed(id));
            self.script.push_back(ScriptedRequest { id, think_us: 0 });
            self.behavior.need_not_be_answered();
        }
    }

    fn draw_request(
        &self,
        net: &mut Net,
        service: usize,
        build: impl FnOnce(&mut RequestBuilder, u64) -> Request,
    ) -> u64 {
        let id = net.history.requests.len() as u64;
        let scheme = if self.stream.is_secure() { "https" } else { "http" };
        let mut builder =
            RequestBuilder { random: net.random.clients(), faults: &net.faults, client: self.me, scheme, service };
        let mut request = build(&mut builder, id);
        if net.cuts_bodies && request.plan.is_until_close() && net.random.replica_tls().one_in(3) {
            request.plan.fault = ResponseFault::Cut { at: CutPoint::Body, reset: false };
        }
        if self.is_refused {
            request.malformed = Malformed::Head;
        }
        net.history.requests.push(request);
        id
    }

    /// It will do nothing more.
    pub fn is_over(&self, net: &Net) -> bool {
        let stalls = matches!(self.behavior, Behavior::StallsAfter { .. });
        self.done || (stalls && self.socket.is_some_and(|id| net.is_connected(id) && !net.peer_is_open(id)))
    }

    /// The balancer's process that accepted its connection.
    fn process(&self, net: &Net) -> Option<ProcessId> {
        net.peer(self.socket?).and_then(|peer| net.process(peer))
    }

    pub fn describe(&self, net: &Net) -> String {
        let socket = self.socket.map(|id| net.describe(id));
        let peer = self.socket.and_then(|id| net.peer(id)).map(|id| net.describe(id));
        format!(
            "client {} {:?} {:?}: outstanding {:?}, not begun {}, to send {}, tunnel {:?}, {socket:?}, {peer:?}",
            self.me,
            self.behavior,
            self.ending,
            self.outstanding,
            self.script.len(),
            self.send_buffer.len(),
            self.tunnel
        )
    }

    pub fn step(&mut self, net: &mut Net) {
        if self.done {
            return;
        }
        let Some(socket) = self.socket else { return self.connect(net) };
        if !net.is_connected(socket) {
            if net.is_dead(socket) {
                self.close(net, socket, Closing::Fin);
            }
            return;
        }
        match self.behavior {
            Behavior::ClosesAfter { bytes, closing } if self.has_moved(bytes) => {
                return self.close(net, socket, closing);
            }
            Behavior::StallsAfter { bytes } if self.has_moved(bytes) => return,
            _ => {}
        }
        match self.stream.advance(net, socket) {
            Handshake::Done => {
                self.send(net, socket);
                self.receive(net, socket);
                if !self.done {
                    self.finish_if_complete(net, socket);
                }
            }
            Handshake::UnderWay => {}
            Handshake::Ended => self.on_handshake_end(net, socket),
        }
        if self.stream.is_spent() {
            net.after(1, Event::Wake(self.me));
        }
    }

    /// Under TLS it is ciphertext that counts, so that a connection is cut in the middle of a handshake or record.
    fn has_moved(&self, bytes: u64) -> bool {
        self.stream.is_spent() || self.bytes_moved >= bytes
    }

    fn connect(&mut self, net: &mut Net) {
        let socket = net.connect(Owner::Actor(self.me), self.target);
        if let Some(tunnel) = &self.tunnel {
            // Its replica is chosen at accept, before the first byte.
            net.history.requests[tunnel.id as usize].sent_at_us = Some(net.now_us);
        }
        if let Some(len) = self.receive_window {
            net.set_receive_window(socket, len);
        }
        self.socket = Some(socket);
    }

    fn close(&mut self, net: &mut Net, socket: SocketId, closing: Closing) {
        self.done = true;
        if let Some(tunnel) = &self.tunnel {
            tunnel.on_client_close(net, socket, closing);
        } else if closing == Closing::Fin && net.is_empty(socket) {
            // A 101 may be on its way: for the replica, this FIN ends the tunnel.
            for id in self.outstanding.iter().filter(|id| net.history.requests[**id as usize].upgrade) {
                net.history.tunnels.entry(*id).or_default().up_ended = true;
            }
        }
        if closing == Closing::Fin {
            self.stream.end(net, socket);
        }
        net.note("c.leaves", self.me as u64, socket as u64, u64::from(closing == Closing::Reset));
        net.close_by(socket, closing);
    }

    fn finish_if_complete(&mut self, net: &mut Net, socket: SocketId) {
        if let Some(tunnel) = &self.tunnel {
            if self.send_buffer.is_empty() && tunnel.all_queued() && !self.half_closed {
                self.half_closed = true;
                tunnel.end_up(net);
                self.stream.shutdown_write(net, socket);
            }
            return;
        }
        let answered = self.outstanding.is_empty() || self.closing && self.response.is_none();
        if (self.all_sent() || self.closing) && answered && self.ending == Ending::Close {
            self.close(net, socket, Closing::Fin);
        }
    }
}

impl Behavior {
    /// It closes for its own reasons.
    fn need_not_be_answered(&mut self) {
        if *self == Behavior::Correct {
            *self = Behavior::ClosesAfter { bytes: u64::MAX, closing: Closing::Fin };
        }
    }
}

fn draw_behavior(net: &mut Net) -> Behavior {
    let c = net.random.clients();
    match c.below(8) {
        0 => {
            let bytes = c.size(60_000);
            let closing = if c.one_in(2) { Closing::Reset } else { Closing::Fin };
            Behavior::ClosesAfter { bytes, closing }
        }
        1 => Behavior::StallsAfter { bytes: c.size(20_000) },
        _ => Behavior::Correct,
    }
}
