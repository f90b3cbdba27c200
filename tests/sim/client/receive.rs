//! What a client receives, and the oracles of responses: each is the one that a replica gave to this very request, byte
//! by byte, or a local reply that is justified.

use std::io::ErrorKind;

use super::super::http::{self, Body, Framing, Head};
use super::super::net::{Closing, Event, Net, SocketId};
use super::super::pattern;
use super::super::request::Malformed;
use super::super::tunnel::ClientTunnel;
use super::{Behavior, Client, IncomingResponse};

/// Bytes read at a time.
const READ_MAX: u64 = 32 * 1024;
/// What a record begins with that says why a handshake failed.
const TLS_ALERT: u8 = 21;

impl Client {
    pub(super) fn receive(&mut self, net: &mut Net, socket: SocketId) {
        if self.read.next_us > net.now_us {
            return;
        }
        let mut buffer = vec![0; self.read.max.min(READ_MAX) as usize];
        match self.stream.read(net, socket, &mut buffer) {
            Ok(0) if self.write_failed || self.misspeaks => self.on_reset(net, socket),
            Ok(0) => self.on_fin(net, socket),
            Ok(n) => {
                net.note("c.hears", self.me as u64, socket as u64, n as u64);
                self.bytes_moved += n as u64;
                self.read.next_us = net.now_us + self.read.gap_us;
                net.after(self.read.gap_us.max(1), Event::Wake(self.me));
                if self.misspeaks && self.response.is_none() && buffer[0] == TLS_ALERT {
                    self.closing = true;
                    return;
                }
                if self.misspeaks && self.tunnel.is_some() {
                    // In the place of a tunnel: 400 in plain text.
                    return;
                }
                self.received.extend_from_slice(&buffer[..n]);
                let result = self.parse(net);
                self.expect_ok(result);
            }
            Err(ErrorKind::WouldBlock) => {}
            Err(_) => self.on_reset(net, socket),
        }
    }

    fn expect_ok(&self, result: Result<(), String>) {
        if let Err(why) = result {
            panic!("client {} (requests {:?}): {why}", self.me, self.outstanding);
        }
    }

    fn parse(&mut self, net: &mut Net) -> Result<(), String> {
        while !self.done {
            if let Some(tunnel) = &mut self.tunnel {
                let bytes = std::mem::take(&mut self.received);
                return tunnel.on_received(net, &bytes);
            }
            if let Some(response) = &mut self.response {
                let number = response.number;
                let mut check =
                    |from: u64, bytes: &[u8]| number.map_or(Ok(()), |number| pattern::check(number, from, bytes));
                let used = response.body.feed(&self.received, &mut check)?;
                self.received.drain(..used);
                if !response.body.is_done() {
                    return Ok(());
                }
                self.on_response_end(net)?;
            } else if self.received.is_empty() {
                return Ok(());
            } else {
                let Some((head, len)) = http::parse_head(&self.received)? else { return Ok(()) };
                self.received.drain(..len);
                self.on_head(net, &head)?;
            }
        }
        Ok(())
    }

    /// Oracle: a response is that of the oldest outstanding request, which was begun, and follows no last response. It
    /// has a Date and no hop-by-hop field but Connection.
    fn on_head(&mut self, net: &mut Net, head: &Head) -> Result<(), String> {
        net.log(|| format!("client {}: got {head:?}", self.me));
        let status = status_of(head)?;
        let number = head.number("x-serve")?;
        let id = *self.outstanding.front().ok_or(format!("a response without a request: {head:?}"))?;
        let request = &net.history.requests[id as usize];
        // A local reply may come before all of a request is sent; 408 even before its first byte.
        if request.sent_at_us.is_none() && !(number.is_none() && status == 408) {
            return Err(format!("a response before its request {id}: {head:?}"));
        }
        if self.closing {
            return Err(format!("a response after the last one: {head:?}"));
        }
        if let Some(other) = head.number("x-id")?.filter(|other| *other != id) {
            return Err(format!("the response to request {other} instead of {id}"));
        }
        if (100..200).contains(&status) && status != 101 {
            return self.on_interim(request.minor, status);
        }
        for name in ["keep-alive", "proxy-connection"] {
            if head.single(name)?.is_some() {
                return Err(format!("{name} was forwarded: {head:?}"));
            }
        }
        if head.single("date")?.is_none() && status != 101 {
            return Err(format!("no Date in {head:?}"));
        }
        let connection = head.single("connection")?.unwrap_or_default().to_ascii_lowercase();
        self.closing = connection == "close" || (request.minor == 0 && connection != "keep-alive");
        match number {
            Some(number) => self.check_replica_response(net, id, number, status, head),
            None => self.check_local_reply(net, id, status, head),
        }
    }

    /// Oracle: a client of HTTP/1.0 gets no interim response (RFC 9110 section 15.2).
    fn on_interim(&mut self, request_minor: u8, status: u16) -> Result<(), String> {
        if request_minor == 0 {
            return Err(format!("{status} to a client of HTTP/1.0"));
        }
        if status == 100 && self.held_body.is_some() {
            self.send_held_body();
        }
        Ok(())
    }

    /// Oracle: a replica gave this response to this request, its head is valid, and it is framed for its client as the
    /// replica framed it.
    fn check_replica_response(
        &mut self,
        net: &mut Net,
        id: u64,
        number: u64,
        status: u16,
        head: &Head,
    ) -> Result<(), String> {
        let response = net.history.responses.get(number as usize).ok_or("a response that no replica gave")?.clone();
        let request = &net.history.requests[id as usize];
        if response.request != id || response.status != status {
            return Err(format!("response {response:?} to request {id} as {head:?}"));
        }
        if response.invalid {
            return Err(format!("a response that should have been refused: {head:?}"));
        }
        let fields = Framing::of(head)?;
        if status == 101 {
            self.tunnel = Some(ClientTunnel::after_upgrade(id, net));
            self.closing = false;
            return Ok(());
        }
        let bodyless = request.method == "HEAD" || status == 204 || status == 304;
        let framing = if bodyless { Framing::None } else { fields.unwrap_or(Framing::UntilClose) };
        let until_close =
            response.framing == Framing::UntilClose || (response.framing == Framing::Chunked && request.minor == 0);
        let expected = match response.framing {
            _ if bodyless => Framing::None,
            _ if until_close => Framing::UntilClose,
            framing => framing,
        };
        if framing != expected {
            return Err(format!("framing {framing:?} instead of {expected:?} in {head:?}"));
        }
        if framing == Framing::UntilClose && !self.closing {
            return Err(format!("a body that only a close ends, on a persistent connection: {head:?}"));
        }
        if self.closing && !until_close && !self.may_close(net, id) {
            self.check_may_fail(net, id, "got Connection: close without a reason");
        }
        self.response = Some(IncomingResponse { request: id, number: Some(number), body: Body::new(framing) });
        Ok(())
    }

    /// Another reason than its framing makes this response the connection's last.
    fn may_close(&self, net: &Net, id: u64) -> bool {
        let request = &net.history.requests[id as usize];
        let asked = request.minor == 0 || (self.script.is_empty() && self.outstanding.len() == 1);
        let is_ending = net.history.is_ending(self.process(net));
        asked || is_ending || !request.sent_whole || request.plan.early || self.half_closed
    }

    /// Oracle: only a malformed or truncated request is refused, other local replies need a fault, and each closes the
    /// connection.
    fn check_local_reply(&mut self, net: &mut Net, id: u64, status: u16, head: &Head) -> Result<(), String> {
        let request = &net.history.requests[id as usize];
        let refusal = matches!(status, 400 | 405 | 413 | 414 | 417 | 431 | 501 | 505);
        let broken = request.malformed != Malformed::No || self.half_closed && !request.sent_whole;
        match status {
            _ if refusal && !broken => return Err(format!("request {id} was refused: {head:?}")),
            408 | 502 | 503 | 504 => self.check_may_fail(net, id, &format!("got {status}")),
            _ if refusal => {}
            _ => return Err(format!("neither a replica's response nor a local reply: {head:?}")),
        }
        if !self.closing {
            return Err(format!("a local reply without Connection: close: {head:?}"));
        }
        net.history.totals.refused += 1;
        let framing = if request.method == "HEAD" && request.malformed != Malformed::Head {
            Framing::None
        } else {
            Framing::of(head)?.ok_or("a local reply without a length")?
        };
        self.response = Some(IncomingResponse { request: id, number: None, body: Body::new(framing) });
        Ok(())
    }

    /// Oracle: a response that ends is complete.
    fn on_response_end(&mut self, net: &mut Net) -> Result<(), String> {
        let Some(response) = self.response.take() else { return Ok(()) };
        let (id, len) = (response.request, response.body.len);
        net.note("c.answered", self.me as u64, id, len);
        self.outstanding.pop_front();
        if let Some(record) = response.number.map(|number| &net.history.responses[number as usize]) {
            if len != record.len {
                return Err(format!("the response to {id} ended after {len} of {} bytes", record.len));
            }
            net.history.totals.answered += 1;
        }
        Ok(())
    }

    fn on_fin(&mut self, net: &mut Net, socket: SocketId) {
        net.note("c.ended", self.me as u64, socket as u64, 0);
        if let Some(tunnel) = &mut self.tunnel {
            let result = tunnel.on_fin(net);
            self.expect_ok(result);
        } else if self.response.as_ref().is_some_and(|response| response.body.is_until_close()) {
            let result = self.on_response_end(net);
            self.expect_ok(result);
            return self.close(net, socket, Closing::Fin);
        }
        self.on_connection_end(net, socket);
    }

    /// Oracle: in a calm world the handshake of a correct client ends well.
    pub(super) fn on_handshake_end(&mut self, net: &mut Net, socket: SocketId) {
        let tunnel = self.tunnel.as_ref().map(|tunnel| tunnel.id);
        if let Some(id) = tunnel.or(self.script.front().map(|request| request.id)) {
            self.check_may_fail(net, id, "has no handshake");
        }
        net.note("c.ended", self.me as u64, socket as u64, 2);
        self.close(net, socket, Closing::Fin);
    }

    fn on_reset(&mut self, net: &mut Net, socket: SocketId) {
        net.note("c.ended", self.me as u64, socket as u64, 1);
        self.on_connection_end(net, socket);
    }

    /// What is missing now will not come.
    fn on_connection_end(&mut self, net: &mut Net, socket: SocketId) {
        if let Some(tunnel) = &self.tunnel {
            if tunnel.is_short() && self.behavior == Behavior::Correct {
                self.check_may_fail(net, tunnel.id, "has a broken tunnel");
            }
        } else if let Some(response) = &self.response {
            net.history.totals.cut += 1;
            self.check_may_fail(net, response.request, "got half a response");
        } else if let Some(id) = self.outstanding.front().copied().filter(|_| !self.closing) {
            net.history.totals.cut += 1;
            self.check_may_fail(net, id, "got no response");
        }
        self.close(net, socket, Closing::Fin);
    }
}

fn status_of(head: &Head) -> Result<u16, String> {
    let start = &head.start;
    let rest = start.strip_prefix("HTTP/1.1 ").ok_or(format!("status line {start:?}"))?;
    let digits = rest.get(..3).filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
    digits.and_then(|d| d.parse().ok()).ok_or(format!("status line {start:?}"))
}
