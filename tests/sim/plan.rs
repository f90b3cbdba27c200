//! The response that a replica is to give to a request, drawn before the world begins: status, framing, timing and
//! fault. How it is written does not enter here.

use super::faults::Faults;
use super::http::Framing;
use super::random::Random;

#[derive(Clone, Debug)]
pub struct ResponsePlan {
    pub status: u16,
    pub framing: Framing,
    pub len: u64,
    pub minor: u8,
    pub close: bool,
    /// How many 103 responses come first.
    pub interims: u8,
    /// Between the request's end (or its head, if `early`) and the response.
    pub delay_us: u64,
    /// It begins before the request's body was read.
    pub early: bool,
    /// At most so many bytes are written at a time, with this gap between two writes.
    pub write_max: usize,
    pub write_gap_us: u64,
    pub fault: ResponseFault,
    /// The first so many attempts have the fault.
    pub faulty_attempts: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseFault {
    None,
    /// The connection is closed or reset before the end of the response.
    Cut {
        at: CutPoint,
        reset: bool,
    },
    /// The response stops, the connection stays open.
    Stall {
        at: CutPoint,
    },
    /// A head that must be refused; the number says which.
    InvalidHead(u8),
    /// Bytes after the response's end.
    ExcessBytes,
    /// Content-Length beside Transfer-Encoding.
    BothFramings,
    /// 101 to a request without Upgrade.
    UnaskedUpgrade,
    /// A flood of interim responses and no final one.
    InterimFlood,
    /// An invalid chunk size after the data.
    InvalidChunk,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CutPoint {
    BeforeHead,
    Head,
    Body,
}

impl ResponsePlan {
    pub fn draw(c: &mut Random, faults: &Faults, method: &str) -> ResponsePlan {
        let status = c.pick(&[200, 200, 200, 200, 201, 404, 500, 204, 304]);
        let len = body_len(c);
        let minor = u8::from(!c.one_in(10));
        let bodyless = method == "HEAD" || status == 204 || status == 304;
        let framing = match c.below(8) {
            _ if bodyless => Framing::None,
            0 => Framing::UntilClose,
            1..=3 if minor == 1 => Framing::Chunked,
            _ => Framing::Length(len),
        };
        let fault = if c.per_mille(faults.response) { draw_fault(c) } else { ResponseFault::None };
        ResponsePlan {
            status,
            framing,
            len: if bodyless { 0 } else { len },
            minor,
            close: framing == Framing::UntilClose || c.one_in(8),
            interims: if c.one_in(6) { c.range(1, 3) as u8 } else { 0 },
            delay_us: if c.one_in(10) { c.range(0, 600_000) } else { c.size(20_000) },
            early: !faults.calm && c.one_in(6),
            write_max: 1 + c.size(100_000) as usize,
            write_gap_us: c.size(3_000),
            fault,
            faulty_attempts: if c.one_in(3) { u32::MAX } else { 1 },
        }
    }

    /// Its body has no other end than that of the connection, and no fault yet.
    pub fn is_until_close(&self) -> bool {
        self.framing == Framing::UntilClose && self.len > 0 && self.fault == ResponseFault::None
    }
}

fn draw_fault(c: &mut Random) -> ResponseFault {
    let at = c.pick(&[CutPoint::BeforeHead, CutPoint::Head, CutPoint::Body, CutPoint::Body]);
    match c.below(12) {
        0..=4 => ResponseFault::Cut { at, reset: c.one_in(2) },
        5 => ResponseFault::Stall { at },
        6 => ResponseFault::InvalidHead(c.below(6) as u8),
        7 => ResponseFault::ExcessBytes,
        8 => ResponseFault::BothFramings,
        9 => ResponseFault::UnaskedUpgrade,
        10 => ResponseFault::InterimFlood,
        _ => ResponseFault::InvalidChunk,
    }
}

/// Mostly small; one in 24 is large enough to be spliced.
pub fn body_len(c: &mut Random) -> u64 {
    match c.below(24) {
        0 => c.range(60_000, 300_000),
        1 | 2 => 0,
        3..=8 => c.size(40_000),
        _ => c.size(2_000),
    }
}
