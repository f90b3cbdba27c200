//! What a client sends: requests in order, pipelined up to its depth, bodies that wait for 100 (Continue), tunnel data.

use std::io::ErrorKind;

use super::super::net::{Event, Net, SocketId};
use super::super::pattern;
use super::super::request::{Request, RequestBody};
use super::{Client, Ending, HeldBody};

impl Client {
    pub(super) fn send(&mut self, net: &mut Net, socket: SocketId) {
        self.refill(net);
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.refill(&mut self.send_buffer);
        }
        if self.write.next_us > net.now_us {
            return;
        }
        let max = self.send_buffer.len().min(self.write.max as usize);
        if max == 0 {
            return;
        }
        let bytes: Vec<u8> = self.send_buffer.iter().take(max).copied().collect();
        let n = match self.stream.write(net, socket, &bytes) {
            Ok(n) => n,
            Err(kind) => {
                self.write_failed |= !matches!(kind, ErrorKind::WouldBlock | ErrorKind::BrokenPipe);
                return;
            }
        };
        self.send_buffer.drain(..n);
        self.bytes_moved += n as u64;
        self.on_sent(net, n);
        if !self.send_buffer.is_empty() && n == max {
            self.write.next_us = net.now_us + self.write.gap_us;
        }
        if !self.send_buffer.is_empty() || self.tunnel.is_some() {
            net.after(self.write.gap_us.max(1), Event::Wake(self.me));
        }
        if self.half_closes_now(net) {
            net.note("c.half-closes", self.me as u64, socket as u64, 0);
            self.half_closed = true;
            self.stream.shutdown_write(net, socket);
        }
    }

    /// Nothing is left to send.
    pub(super) fn all_sent(&self) -> bool {
        self.send_buffer.is_empty() && self.script.is_empty() && self.held_body.is_none()
    }

    fn half_closes_now(&self, net: &Net) -> bool {
        let upgrade = self.outstanding.iter().any(|id| net.history.requests[*id as usize].upgrade);
        let http = self.tunnel.is_none() && !upgrade;
        self.ending == Ending::HalfClose && self.all_sent() && http && !self.half_closed
    }

    fn on_sent(&mut self, net: &mut Net, mut n: usize) {
        if let Some(tunnel) = &mut self.tunnel {
            return tunnel.on_sent(net, n);
        }
        while n > 0 {
            let Some((id, remaining)) = self.send_parts.front_mut() else { return };
            let request = &mut net.history.requests[*id as usize];
            request.sent_at_us.get_or_insert(net.now_us);
            let part = n.min(*remaining);
            *remaining -= part;
            n -= part;
            if *remaining == 0 {
                request.sent_whole = self.held_body.as_ref().is_none_or(|held| held.request != *id);
                request.sent_whole_at_us = net.now_us;
                self.send_parts.pop_front();
            }
        }
    }

    fn refill(&mut self, net: &mut Net) {
        if let Some(held) = &self.held_body {
            let answered = !self.outstanding.contains(&held.request);
            if answered {
                // A final response instead of 100: the body is not sent, and nothing after it.
                self.held_body = None;
                self.closing = true;
            } else if held.until_us <= net.now_us {
                self.send_held_body();
            }
            return;
        }
        while !self.closing
            && self.outstanding.len() < self.pipeline_depth
            && self.held_body.is_none()
            && let Some(next) = self.script.front_mut()
        {
            if next.think_us > 0 {
                self.think_until_us = net.now_us + std::mem::take(&mut next.think_us);
                net.at(self.think_until_us, Event::Wake(self.me));
            }
            if self.think_until_us > net.now_us {
                return;
            }
            let id = next.id;
            self.script.pop_front();
            self.begin(net, id);
        }
    }

    fn begin(&mut self, net: &mut Net, id: u64) {
        let request = net.history.requests[id as usize].clone();
        net.log(|| {
            format!("client {}: request {id}: {}", self.me, String::from_utf8_lossy(&request.head).escape_debug())
        });
        net.log(|| format!("    to get {:?}, sending {:?}", request.plan, request.body));
        self.outstanding.push_back(id);
        let body = encode_body(net, &request);
        self.send_parts.push_back((id, request.head.len()));
        self.send_buffer.extend(&request.head);
        if request.expect {
            let until_us = net.now_us + net.random.clients().range(1_000, 700_000);
            self.held_body = Some(HeldBody { request: id, bytes: body, until_us });
            net.at(until_us, Event::Wake(self.me));
        } else if !body.is_empty() {
            if let Some((_, len)) = self.send_parts.back_mut() {
                *len += body.len();
            }
            self.send_buffer.extend(body);
        }
    }

    pub(super) fn send_held_body(&mut self) {
        if let Some(held) = self.held_body.take() {
            self.send_parts.push_back((held.request, held.bytes.len()));
            self.send_buffer.extend(held.bytes);
        }
    }
}

/// A body as it is sent, in chunks of random sizes with extensions and trailers that replicas must not receive.
fn encode_body(net: &mut Net, request: &Request) -> Vec<u8> {
    let data = pattern::bytes(request.id, 0, request.body.len() as usize);
    let RequestBody::Chunked(_) = request.body else { return data };
    let c = net.random.clients();
    let mut text = Vec::with_capacity(data.len() + 64);
    let mut rest = &data[..];
    let chunk_max = 1 + c.size(100_000);
    while !rest.is_empty() {
        let n = (1 + c.size(chunk_max - 1) as usize).min(rest.len());
        let extension = if c.one_in(8) { ";a=\"b\"" } else { "" };
        text.extend_from_slice(format!("{n:x}{extension}\r\n").as_bytes());
        text.extend_from_slice(&rest[..n]);
        text.extend_from_slice(b"\r\n");
        rest = &rest[n..];
        // A long body is not sent in tiny chunks only.
        if n < 8 && rest.len() > 2_000 {
            let n = rest.len() / 2;
            text.extend_from_slice(format!("{n:X}\r\n").as_bytes());
            text.extend_from_slice(&rest[..n]);
            text.extend_from_slice(b"\r\n");
            rest = &rest[n..];
        }
    }
    text.extend_from_slice(b"0\r\n");
    if c.one_in(4) {
        text.extend_from_slice(b"X-Trailer: kept\r\nContent-Length: 3\r\n");
    }
    text.extend_from_slice(b"\r\n");
    text
}
