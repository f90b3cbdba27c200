//! Bytes both ways, after an upgrade or from the first one on: the client sends, the replica echoes. Each side knows
//! what the other sent, so a tunnel that was cut can never pass for one that ended.

use std::collections::VecDeque;

use super::net::{End, Net};
use super::wire;

/// Data of tunnels is never that of a request's or an answer's body.
const SEEDS: u64 = 1 << 40;
/// `T` and seven digits and LF: which tunnel this is, where no head says so.
pub const LABEL: usize = 9;

pub fn label(id: u64) -> String {
    format!("T{id:07}\n")
}

/// The client's side.
#[derive(Debug)]
pub struct Tunnel {
    pub id: u64,
    label: Vec<u8>,
    total: u64,
    /// Handed to the socket or waiting for it.
    queued: u64,
    sent: u64,
    got: u64,
    over: bool,
}

impl Tunnel {
    pub fn client(id: u64, labelled: bool, net: &mut Net) -> Tunnel {
        let total = if net.random.clients().one_in(4) {
            net.random.clients().size(400_000)
        } else {
            net.random.clients().size(4_000)
        };
        let label = if labelled { label(id).into_bytes() } else { Vec::new() };
        Tunnel { id, label, total, queued: 0, sent: 0, got: 0, over: false }
    }

    pub fn refill(&mut self, net: &Net, out: &mut VecDeque<u8>) {
        let _ = net;
        out.extend(self.label.drain(..));
        if out.len() < 64 * 1024 && self.queued < self.total {
            let n = (self.total - self.queued).min(64 * 1024);
            out.extend(wire::data(SEEDS + self.id, self.queued, n as usize));
            self.queued += n;
        }
    }

    /// `n` bytes of what `refill` gave left.
    pub fn sent(&mut self, net: &mut Net, n: usize) {
        self.sent += n as u64;
        let request = &mut net.ledger.requests[self.id as usize];
        request.sent_at.get_or_insert(net.now_us);
        request.sent_whole = true;
        request.sent_whole_at = net.now_us;
        net.ledger.tunnel(self.id).up = self.sent;
    }

    pub fn all_sent(&self) -> bool {
        self.queued == self.total && self.label.is_empty()
    }

    /// The client says that it will send no more.
    pub fn over(&mut self, net: &mut Net) {
        self.over = true;
        net.ledger.tunnel(self.id).up_over = true;
    }

    pub fn left(&mut self, net: &mut Net, end: End, reset: bool) {
        if !reset && net.is_empty(end) {
            self.over(net);
        }
    }

    pub fn got(&mut self, net: &mut Net, bytes: &[u8]) -> Result<(), String> {
        wire::same(SEEDS + self.id, self.got, bytes).map_err(|why| format!("tunnel {}: {why}", self.id))?;
        self.got += bytes.len() as u64;
        let down = net.ledger.tunnel(self.id).down;
        if self.got > down { Err(format!("tunnel {}: {} bytes of {down}", self.id, self.got)) } else { Ok(()) }
    }

    /// Oracle: the end of a tunnel is the end that its other side meant.
    pub fn ended(&mut self, net: &mut Net, reset: bool) -> Result<(), String> {
        let id = self.id;
        let side = *net.ledger.tunnel(id);
        net.ledger.tally.tunnels += u64::from(!reset);
        let whole = side.down_over && self.got == side.down;
        if !reset && !whole {
            return Err(format!("tunnel {id} ended cleanly after {} bytes: {side:?}", self.got));
        }
        Ok(())
    }

    pub fn is_short(&self, net: &Net) -> bool {
        let _ = net;
        self.got < self.total
    }
}

/// The replica's side: what it got is what it sends.
#[derive(Debug)]
pub struct Echo {
    id: u64,
    got: u64,
    /// A labelled tunnel's label counts as sent, not as data.
    label: u64,
    /// Bytes to be written first that are no data: a 101.
    preface: usize,
    pub over: bool,
}

impl Echo {
    pub fn new(id: u64, label: u64, preface: usize) -> Echo {
        Echo { id, got: 0, label, preface, over: false }
    }

    pub fn got(&mut self, bytes: &[u8]) -> Result<(), String> {
        wire::same(SEEDS + self.id, self.got, bytes).map_err(|why| format!("tunnel {} upwards: {why}", self.id))?;
        self.got += bytes.len() as u64;
        Ok(())
    }

    pub fn sent(&mut self, net: &mut Net, n: usize) {
        let data = n.saturating_sub(self.preface);
        self.preface -= n - data;
        net.ledger.tunnel(self.id).down += data as u64;
    }

    /// Oracle, the same as for the client.
    pub fn ended(&mut self, net: &mut Net) -> Result<(), String> {
        self.over = true;
        let side = *net.ledger.tunnel(self.id);
        if !(side.up_over && self.got + self.label == side.up) {
            return Err(format!("tunnel {} ended cleanly upwards after {} bytes: {side:?}", self.id, self.got));
        }
        Ok(())
    }

    pub fn finished(&self, net: &mut Net) {
        net.ledger.tunnel(self.id).down_over = true;
    }
}
