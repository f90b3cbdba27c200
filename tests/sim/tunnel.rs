//! Both ends of a tunnel, after an upgrade or from the first byte on: the client sends, the replica echoes. Each end
//! checks bytes and end of stream against the history. Sockets do not enter here.

use std::collections::VecDeque;

use super::history::TunnelRecord;
use super::net::{Closing, Net, SocketId};
use super::pattern;

/// Added to a tunnel's id, so that its pattern is not that of a body.
const PATTERN_OFFSET: u64 = 1 << 40;
/// The first bytes of a TCP connection name its tunnel: `T`, seven digits, LF.
pub const LABEL_LEN: usize = 9;
/// The client's buffer is filled up to so many bytes.
const CHUNK: u64 = 64 * 1024;

fn label(id: u64) -> String {
    format!("T{id:07}\n")
}

#[derive(Debug)]
pub struct ClientTunnel {
    pub id: u64,
    label: Vec<u8>,
    total: u64,
    /// Data bytes moved to the client's send buffer.
    queued: u64,
    /// Bytes written, the label included.
    sent: u64,
    received: u64,
}

impl ClientTunnel {
    /// A tunnel that begins after a 101.
    pub fn after_upgrade(id: u64, net: &mut Net) -> ClientTunnel {
        ClientTunnel::new(id, Vec::new(), net)
    }

    /// A tunnel that begins with the connection.
    pub fn labelled(id: u64, net: &mut Net) -> ClientTunnel {
        ClientTunnel::new(id, label(id).into_bytes(), net)
    }

    fn new(id: u64, label: Vec<u8>, net: &mut Net) -> ClientTunnel {
        let total = if net.random.clients().one_in(4) {
            net.random.clients().size(400_000)
        } else {
            net.random.clients().size(4_000)
        };
        ClientTunnel { id, label, total, queued: 0, sent: 0, received: 0 }
    }

    pub fn refill(&mut self, send_buffer: &mut VecDeque<u8>) {
        send_buffer.extend(self.label.drain(..));
        if (send_buffer.len() as u64) < CHUNK && self.queued < self.total {
            let n = (self.total - self.queued).min(CHUNK);
            send_buffer.extend(pattern::bytes(PATTERN_OFFSET + self.id, self.queued, n as usize));
            self.queued += n;
        }
    }

    /// `n` bytes that `refill` gave were written.
    pub fn on_sent(&mut self, net: &mut Net, n: usize) {
        self.sent += n as u64;
        let request = &mut net.history.requests[self.id as usize];
        request.sent_at_us.get_or_insert(net.now_us);
        request.sent_whole = true;
        request.sent_whole_at_us = net.now_us;
        net.history.tunnel(self.id).sent_up = self.sent;
    }

    /// Everything was passed to the client's send buffer.
    pub fn all_queued(&self) -> bool {
        self.queued == self.total && self.label.is_empty()
    }

    /// The client shuts down its direction.
    pub fn end_up(&self, net: &mut Net) {
        net.history.tunnel(self.id).up_ended = true;
    }

    /// The client closes its socket. That is an orderly end unless it is, or becomes, a reset.
    pub fn on_client_close(&self, net: &mut Net, socket: SocketId, closing: Closing) {
        if closing == Closing::Fin && net.is_empty(socket) {
            self.end_up(net);
        }
    }

    /// Oracle: bytes are those that the client sent, in order, and no more than the replica echoed.
    pub fn on_received(&mut self, net: &mut Net, bytes: &[u8]) -> Result<(), String> {
        pattern::check(PATTERN_OFFSET + self.id, self.received, bytes)
            .map_err(|why| format!("tunnel {}: {why}", self.id))?;
        self.received += bytes.len() as u64;
        let sent = net.history.tunnel(self.id).sent_down;
        if self.received > sent {
            return Err(format!("tunnel {}: {} bytes received, {sent} sent", self.id, self.received));
        }
        Ok(())
    }

    /// Oracle: a FIN comes only after all bytes and the end of a direction that the replica ended.
    pub fn on_fin(&mut self, net: &mut Net) -> Result<(), String> {
        let record = *net.history.tunnel(self.id);
        net.history.totals.tunnels += 1;
        if record.down_ended && self.received == record.sent_down {
            return Ok(());
        }
        Err(format!("tunnel {} ended in order after {} bytes: {record:?}", self.id, self.received))
    }

    /// Bytes that were to be echoed are missing.
    pub fn is_short(&self) -> bool {
        self.received < self.total
    }
}

/// The replica's end: it sends what it receives.
#[derive(Debug)]
pub struct Echo {
    id: u64,
    received: u64,
    /// Bytes of the label, which count as sent but are not echoed.
    label_len: u64,
    /// Bytes that are written before the data: a 101 response.
    preface_len: usize,
    /// The client's direction has ended.
    pub ended: bool,
}

impl Echo {
    pub fn after_label(id: u64) -> Echo {
        Echo { id, received: 0, label_len: LABEL_LEN as u64, preface_len: 0, ended: false }
    }

    pub fn after_upgrade(id: u64, preface_len: usize) -> Echo {
        Echo { id, received: 0, label_len: 0, preface_len, ended: false }
    }

    /// Oracle: bytes are those that the client sent, in order.
    pub fn on_received(&mut self, bytes: &[u8]) -> Result<(), String> {
        pattern::check(PATTERN_OFFSET + self.id, self.received, bytes)
            .map_err(|why| format!("tunnel {} at the replica: {why}", self.id))?;
        self.received += bytes.len() as u64;
        Ok(())
    }

    pub fn on_sent(&mut self, net: &mut Net, n: usize) {
        let data = n.saturating_sub(self.preface_len);
        self.preface_len -= n - data;
        net.history.tunnel(self.id).sent_down += data as u64;
    }

    /// Oracle: a FIN comes only after all bytes and the end of a direction that the client ended.
    pub fn on_fin(&mut self, net: &mut Net) -> Result<(), String> {
        self.ended = true;
        let record: TunnelRecord = *net.history.tunnel(self.id);
        if record.up_ended && self.received + self.label_len == record.sent_up {
            return Ok(());
        }
        Err(format!("tunnel {} ended in order at the replica after {} bytes: {record:?}", self.id, self.received))
    }

    /// The replica shuts down its direction.
    pub fn end_down(&self, net: &mut Net) {
        net.history.tunnel(self.id).down_ended = true;
    }
}
