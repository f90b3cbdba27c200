//! What a session sends over one upstream connection, read again: one request and nothing behind it, and the same one
//! wherever it is sent again.

use super::{SOURCE, widest};
use crate::core::body::Body;
use crate::core::head::{self, HeadScan};
use crate::core::proxy;
use crate::core::request;
use crate::core::rewrite::Edits;

/// One upstream connection.
#[derive(Default)]
pub struct Sent {
    bytes: Vec<u8>,
    /// A PROXY header comes first.
    introduced: bool,
    /// Read so far.
    read: usize,
    body: Option<Body>,
    idempotent: bool,
    /// Bytes that an earlier connection got of the same request.
    before: Option<Vec<u8>>,
}

impl Sent {
    pub fn new(introduced: bool) -> Sent {
        Sent { introduced, ..Sent::default() }
    }

    /// The same request, begun again on another connection.
    pub fn again(self, introduced: bool) -> Sent {
        let own = if self.introduced { Vec::new() } else { self.bytes };
        let longest = self.before.into_iter().chain([own]).max_by_key(Vec::len);
        Sent { before: longest.filter(|bytes| !bytes.is_empty()), ..Sent::new(introduced) }
    }

    pub fn send(&mut self, bytes: &[u8], tunnel: bool) {
        self.bytes.extend_from_slice(bytes);
        if tunnel {
            return;
        }
        if self.introduced {
            let Some((len, _)) = proxy::read(&self.bytes).unwrap_or_else(|why| panic!("{why}: {self}")) else { return };
            self.bytes.drain(..len);
            self.introduced = false;
        }
        self.read_head();
        self.read_body();
        if let Some(before) = &self.before {
            let common = before.len().min(self.bytes.len());
            assert_eq!(before[..common], self.bytes[..common], "sent again, and another request");
            assert!(self.body.is_none() || self.idempotent, "done twice: {self}");
        }
    }

    fn read_head(&mut self) {
        if self.body.is_some() {
            return;
        }
        let limits = widest();
        let found = HeadScan::default().find(&self.bytes, &limits);
        let Some(len) = found.unwrap_or_else(|refusal| panic!("{}: {self}", refusal.why)) else { return };
        let mut room = head::field_storage();
        let head = head::parse_request(&self.bytes[..len], &mut room, &limits);
        let head = head.unwrap_or_else(|refusal| panic!("{}: {self}", refusal.why));
        let plan = request::analyze(&self.bytes[..len], &head, &limits, SOURCE, &mut Edits::default());
        let plan = plan.unwrap_or_else(|refusal| panic!("{}: {self}", refusal.why));
        self.idempotent = plan.idempotent;
        self.body = Some(plan.body);
        self.read = len;
    }

    fn read_body(&mut self) {
        let Some(mut body) = self.body.take() else { return };
        while self.read < self.bytes.len() {
            assert!(!body.is_done(), "bytes behind the request's last: {self}");
            let here = &self.bytes[self.read..];
            let credit = body.credit().min(here.len() as u64);
            if credit > 0 {
                body.pass(credit);
                self.read += credit as usize;
                continue;
            }
            let scan = body.scan(here).unwrap_or_else(|fault| panic!("{}: {self}", fault.0));
            self.read += scan.read;
            if scan.read == 0 {
                break;
            }
        }
        self.body = Some(body);
    }
}

impl std::fmt::Display for Sent {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.bytes))
    }
}
