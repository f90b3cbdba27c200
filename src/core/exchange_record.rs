//! What one exchange was, for the access log and for metrics: who asked for what, which replica served it, how long its
//! phases took, how many bytes passed and how it ended. A session fills it; its worker takes it when the exchange has
//! ended. Where exchanges are not recorded there is none. How it is written or counted never enters.

use std::net::{IpAddr, Ipv4Addr};

use super::exchange::ExchangeKind;
use super::head::{self, Request};
use super::limits::Limits;
use super::request_text::{RequestText, TextPart};
use super::snapshot::{ReplicaId, ServiceId};
use super::tick::Stamp;

/// What is recorded of exchanges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recording {
    /// Nothing.
    #[default]
    Off,
    /// Times, counts and how they ended.
    Numbers,
    /// The text of requests too.
    All,
}

#[derive(Debug)]
pub struct ExchangeRecord {
    pub kind: ExchangeKind,
    pub client: IpAddr,
    /// The minor version of the client's HTTP/1.
    pub minor: u8,
    pub service: ServiceId,
    /// The replica that was tried last.
    pub replica: Option<ReplicaId>,
    /// Connections to replicas that were begun or taken from the pool.
    pub attempts: u32,
    pub retries: Retries,
    /// Of the final response, if its head was sent or was to be sent.
    pub status: Option<u16>,
    /// Bytes that were read of the request, its head included; of a tunnel, bytes from the client. Until the end, all that
    /// were read since the head began.
    pub bytes_in: u64,
    /// Bytes that were sent to the client, heads included.
    pub bytes_out: u64,
    /// Bytes of response heads, those of interim responses included.
    pub heads_out: u64,
    /// The number of the snapshot that the request was routed by.
    pub epoch: u64,
    pub times: Times,
    /// `None`: it goes on, or ended as it should.
    pub fault: Option<Fault>,
    pub text: RequestText,
}

/// When an exchange reached each phase. `None`: not yet, or never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// The first byte of the head, or the tunnel's begin.
    pub begun: Stamp,
    /// The head was read whole.
    pub head: Stamp,
    /// The last connection to a replica was begun, or taken from the pool.
    pub attempted: Option<Stamp>,
    /// That connection was established. `None` for one from the pool.
    pub established: Option<Stamp>,
    /// The request was sent whole.
    pub sent: Option<Stamp>,
    /// The first byte from the replica, an interim response included.
    pub first_byte: Option<Stamp>,
    pub ended: Stamp,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeEnd {
    /// The whole response was sent; of a tunnel, both sides ended.
    Complete,
    /// The client reset or closed its connection.
    ClientAbort,
    /// No replica could be reached, or it broke off, or what it sent is no response.
    UpstreamError,
    /// The response broke off behind its head.
    Truncated,
    /// A deadline of the client or of a replica passed.
    Timeout,
    /// The balancer did not forward the request.
    Refused,
    /// The balancer stopped and did not wait any longer.
    Stopped,
}

/// Why an exchange did not end as it should. The first reason stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub end: ExchangeEnd,
    pub why: &'static str,
}

/// Why a request was sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryReason {
    ConnectFailed,
    ConnectTimedOut,
    /// A connection from the pool was closed already.
    StaleConnection,
    /// A new connection was closed before the response.
    ConnectionClosed,
    /// The control plane took the replica down.
    ReplicaDown,
}

/// How often a request was sent again, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retries([u8; RetryReason::ALL.len()]);

/// What is known of a request when its head was read.
#[derive(Clone, Copy)]
pub struct RecordedHead<'a> {
    pub client: IpAddr,
    pub begun: Stamp,
    /// Bytes that were read so far: the head, and what is behind it.
    pub read: usize,
    pub epoch: u64,
    pub service: ServiceId,
    /// `None`: it is not known, or there is none.
    pub service_name: Option<&'a str>,
    /// As it is sent to the replica.
    pub request_id: Option<&'a [u8]>,
}

impl ExchangeEnd {
    pub fn name(self) -> &'static str {
        match self {
            ExchangeEnd::Complete => "complete",
            ExchangeEnd::ClientAbort => "client_abort",
            ExchangeEnd::UpstreamError => "upstream_error",
            ExchangeEnd::Truncated => "truncated",
            ExchangeEnd::Timeout => "timeout",
            ExchangeEnd::Refused => "refused",
            ExchangeEnd::Stopped => "stopped",
        }
    }

    /// What a local reply with this status says of the exchange.
    pub fn of_status(status: u16) -> ExchangeEnd {
        match status {
            408 | 504 => ExchangeEnd::Timeout,
            502 => ExchangeEnd::UpstreamError,
            _ => ExchangeEnd::Refused,
        }
    }
}

impl RetryReason {
    pub const ALL: [RetryReason; 5] = [
        RetryReason::ConnectFailed,
        RetryReason::ConnectTimedOut,
        RetryReason::StaleConnection,
        RetryReason::ConnectionClosed,
        RetryReason::ReplicaDown,
    ];

    pub fn name(self) -> &'static str {
        match self {
            RetryReason::ConnectFailed => "connect_failed",
            RetryReason::ConnectTimedOut => "connect_timeout",
            RetryReason::StaleConnection => "stale_connection",
            RetryReason::ConnectionClosed => "connection_closed",
            RetryReason::ReplicaDown => "replica_down",
        }
    }
}

impl Retries {
    pub fn add(&mut self, reason: RetryReason) {
        if let Some(count) = self.0.get_mut(reason as usize) {
            *count = count.saturating_add(1);
        }
    }

    pub fn count(&self) -> u32 {
        self.0.iter().map(|count| u32::from(*count)).sum()
    }

    /// Each retry by its reason, those of one reason together.
    pub fn reasons(&self) -> impl Iterator<Item = RetryReason> {
        let counted = RetryReason::ALL.into_iter().zip(self.0);
        counted.flat_map(|(reason, count)| std::iter::repeat_n(reason, count.into()))
    }
}

impl Default for ExchangeRecord {
    fn default() -> Self {
        ExchangeRecord::with_text(RequestText::default())
    }
}

impl ExchangeRecord {
    fn with_text(text: RequestText) -> ExchangeRecord {
        ExchangeRecord {
            kind: ExchangeKind::Http,
            client: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            minor: 1,
            service: ServiceId::default(),
            replica: None,
            attempts: 0,
            retries: Retries::default(),
            status: None,
            bytes_in: 0,
            bytes_out: 0,
            heads_out: 0,
            epoch: 0,
            times: Times::default(),
            fault: None,
            text,
        }
    }

    /// As new; the memory of the text is kept.
    fn reset(&mut self) {
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        *self = ExchangeRecord::with_text(text);
    }

    pub fn end(&self) -> ExchangeEnd {
        self.fault.map_or(ExchangeEnd::Complete, |fault| fault.end)
    }

    pub fn fail(&mut self, end: ExchangeEnd, why: &'static str) {
        self.fault.get_or_insert(Fault { end, why });
    }

    /// Something went wrong on our side or at a replica, or the exchange did not end as it should. A replica's own answer
    /// below 500 is none, whatever it says.
    pub fn is_error(&self) -> bool {
        self.fault.is_some() || self.retries.count() > 0 || self.status.is_some_and(|status| status >= 500)
    }

    /// A connection to this replica was begun or taken from the pool.
    pub fn attempt(&mut self, replica: ReplicaId, at: Stamp) {
        self.replica = Some(replica);
        self.attempts += 1;
        self.times.attempted = Some(at);
        (self.times.established, self.times.sent, self.times.first_byte) = (None, None, None);
    }

    /// From the first byte of the request to the last of the response, in microseconds.
    pub fn total_us(&self) -> u64 {
        self.times.ended.us_since(self.times.begun)
    }

    /// From the first byte of the head to its end.
    pub fn head_us(&self) -> u64 {
        self.times.head.us_since(self.times.begun)
    }

    /// From the end of the head to the last attempt: what earlier attempts and waits for resources took.
    pub fn queue_us(&self) -> Option<u64> {
        self.times.attempted.map(|attempted| attempted.us_since(self.times.head))
    }

    /// What it took to establish a new connection. `None` for one from the pool.
    pub fn connect_us(&self) -> Option<u64> {
        Some(self.times.established?.us_since(self.times.attempted?))
    }

    /// From the end of the request to the replica's first byte. A replica that began to answer before that took no time.
    pub fn first_byte_us(&self) -> Option<u64> {
        let first_byte = self.times.first_byte?;
        Some(self.times.sent.map_or(0, |sent| first_byte.us_since(sent)))
    }
}

/// Records that were not sent to anyone stay allocated, at most this many.
const SPARE_MAX: usize = 64;

/// The records of one worker: those of exchanges that have ended, and spare ones.
#[derive(Debug, Default)]
#[expect(clippy::vec_box, reason = "the boxes move into sessions and to other threads")]
pub struct Records {
    pub recording: Recording,
    /// The time, as of the last step. It stands still where exchanges are not recorded.
    pub now: Stamp,
    ended: Vec<Box<ExchangeRecord>>,
    spare: Vec<Box<ExchangeRecord>>,
}

impl Records {
    pub fn is_on(&self) -> bool {
        self.recording != Recording::Off
    }

    /// The record of an exchange that begins with this head. `None`: exchanges are not recorded.
    #[inline]
    pub fn begin(&mut self, request: &Request, head: RecordedHead) -> Option<Box<ExchangeRecord>> {
        if self.is_on() { Some(self.begin_request(request, head)) } else { None }
    }

    fn begin_request(&mut self, request: &Request, head: RecordedHead) -> Box<ExchangeRecord> {
        let mut record = self.begin_with(head, |text| text.keep_request(request));
        record.minor = request.minor;
        record
    }

    /// The record of a tunnel: there is no request, at most a host that a TLS client asks for.
    pub fn begin_tunnel(&mut self, host: Option<&[u8]>, head: RecordedHead) -> Option<Box<ExchangeRecord>> {
        let keep = |text: &mut RequestText| host.into_iter().for_each(|host| text.keep(TextPart::Host, host));
        let mut record = self.is_on().then(|| self.begin_with(head, keep))?;
        record.kind = ExchangeKind::Tunnel;
        Some(record)
    }

    /// The record of a head that is refused, whatever can be read of it.
    #[cold]
    pub fn begin_refused(&mut self, bytes: &[u8], head: RecordedHead) -> Option<Box<ExchangeRecord>> {
        match self.recording {
            Recording::Off => return None,
            Recording::Numbers => return Some(self.begin_with(head, |_| {})),
            Recording::All => {}
        }
        let len = memchr::memmem::find(bytes, b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
        let mut fields = head::field_storage();
        match head::parse_request(bytes.get(..len).unwrap_or_default(), &mut fields, &Limits::DEFAULT) {
            Ok(request) => Some(self.begin_request(&request, head)),
            Err(_) => Some(self.begin_with(head, |text| text.keep_request_line(bytes))),
        }
    }

    fn begin_with(&mut self, head: RecordedHead, keep: impl FnOnce(&mut RequestText)) -> Box<ExchangeRecord> {
        let mut record = self.spare.pop().unwrap_or_default();
        record.client = head.client;
        record.service = head.service;
        record.epoch = head.epoch;
        record.bytes_in = head.read as u64;
        record.times.begun = head.begun;
        record.times.head = self.now;
        if self.recording == Recording::All {
            keep(&mut record.text);
            if let Some(id) = head.request_id {
                record.text.keep(TextPart::RequestId, id);
            }
            if let Some(name) = head.service_name {
                record.text.keep(TextPart::Service, name.as_bytes());
            }
        }
        record
    }

    /// The exchange has ended: the worker takes its record at the end of the turn.
    pub fn end(&mut self, mut record: Box<ExchangeRecord>) {
        record.times.ended = self.now;
        self.ended.push(record);
    }

    pub fn has_ended(&self) -> bool {
        !self.ended.is_empty()
    }

    /// Exchanges that have ended since, in that order. The list is given back with [`Records::give_back_list`].
    pub fn take_ended(&mut self) -> Vec<Box<ExchangeRecord>> {
        std::mem::take(&mut self.ended)
    }

    pub fn give_back_list(&mut self, list: Vec<Box<ExchangeRecord>>) {
        if self.ended.is_empty() {
            self.ended = list;
        }
    }

    /// Takes a record back for another exchange.
    pub fn give_back(&mut self, mut record: Box<ExchangeRecord>) {
        if self.spare.len() < SPARE_MAX {
            record.reset();
            self.spare.push(record);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_are_differences_of_stamps() {
        let mut record = ExchangeRecord::default();
        record.times.begun = Stamp(100);
        record.times.head = Stamp(110);
        assert_eq!((record.queue_us(), record.connect_us(), record.first_byte_us()), (None, None, None));
        record.attempt(ReplicaId(1), Stamp(120));
        record.times.established = Some(Stamp(150));
        assert_eq!((record.head_us(), record.queue_us(), record.connect_us()), (10, Some(10), Some(30)));
        record.attempt(ReplicaId(2), Stamp(200));
        assert_eq!((record.queue_us(), record.connect_us(), record.attempts), (Some(90), None, 2), "another attempt");
        record.times.first_byte = Some(Stamp(260));
        assert_eq!(record.first_byte_us(), Some(0), "before the request was sent whole");
        record.times.sent = Some(Stamp(210));
        record.times.ended = Stamp(300);
        assert_eq!((record.first_byte_us(), record.total_us()), (Some(50), 200));
    }

    #[test]
    fn the_first_fault_says_how_an_exchange_ended() {
        let mut record = ExchangeRecord { status: Some(404), ..Default::default() };
        assert_eq!((record.end(), record.is_error()), (ExchangeEnd::Complete, false), "a replica's own answer");
        record.status = Some(500);
        assert!(record.is_error());
        record.fail(ExchangeEnd::of_status(504), "first");
        record.fail(ExchangeEnd::ClientAbort, "second");
        assert_eq!(record.end(), ExchangeEnd::Timeout);
    }

    #[test]
    fn retries_are_counted_by_reason() {
        let mut retries = Retries::default();
        for reason in [RetryReason::ReplicaDown, RetryReason::ConnectFailed, RetryReason::ReplicaDown] {
            retries.add(reason);
        }
        let names: Vec<&str> = retries.reasons().map(RetryReason::name).collect();
        assert_eq!((retries.count(), names), (3, vec!["connect_failed", "replica_down", "replica_down"]));
    }

    #[test]
    fn a_record_that_is_used_again_is_as_new() {
        let mut records = Records { recording: Recording::All, ..Records::default() };
        let head = RecordedHead {
            client: Ipv4Addr::LOCALHOST.into(),
            begun: Stamp(1),
            read: 10,
            epoch: 2,
            service: ServiceId(0),
            service_name: Some("shop"),
            request_id: None,
        };
        let mut record = records.begin_refused(b"GET /a HTTP/1.1\r\nHost: b\r\n\r\nmore", head).unwrap();
        assert_eq!(record.text.part(TextPart::Host), Some(&b"b"[..]));
        record.fail(ExchangeEnd::Refused, "why");
        records.end(record);
        let ended = records.take_ended();
        assert_eq!(ended.iter().map(|record| record.end()).collect::<Vec<_>>(), [ExchangeEnd::Refused]);
        assert!(!records.has_ended() && records.take_ended().is_empty(), "each is taken once");
        ended.into_iter().for_each(|record| records.give_back(record));
        let record = records.begin_tunnel(None, head).unwrap();
        assert_eq!((record.end(), record.kind), (ExchangeEnd::Complete, ExchangeKind::Tunnel));
        assert_eq!(
            [TextPart::Target, TextPart::Host, TextPart::Service].map(|part| record.text.part(part)),
            [None, None, Some(&b"shop"[..])]
        );
        let garbage = records.begin_refused(b"\x16\x03 x\r\n\r\n", head).unwrap();
        assert_eq!(garbage.text.part(TextPart::Method), Some(&b"\x16\x03"[..]));
        assert!(Records::default().begin_tunnel(None, head).is_none(), "nothing is recorded by default");
    }
}
