//! The access log: one line for each exchange, written by a thread of its own. Workers pass records to it through a ring
//! for each worker; where it is full, because the disk or the reader of stdout is slow, records are dropped and counted.
//! No worker waits, and none makes a system call for a record. Which exchanges there are is not known here.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | [`AccessLog`]: the thread's owner (start, reopen, finish), `AccessLogSender` of each worker (`rtrb` ring, which records are drawn, dropped when full) |
//! | `format` | `LineWriter`: a record as a line, JSON, common or combined; the text of a second kept for the next line; `WallClock`, the time of day from a worker's clock |
//! | `json` | `JsonObject`: names, numbers, milliseconds, addresses and texts of one object appended; control characters escaped |
//! | `writer` | the thread: polls the rings, batches lines, writes to the file or stdout; SIGUSR1 reopens the file; the static count of lines that could not be written, and its report, a torn line ended |
//!
//! A line of the format `json` is an object with these members. What is not known is null.
//!
//! | member | meaning |
//! |---|---|
//! | `time` | when the request began: RFC 3339, UTC, milliseconds |
//! | `client` | the client's address, as a PROXY header named it where one did |
//! | `method`, `target`, `host`, `user_agent`, `referer` | as the client sent them; what is longer than its limit ([`TextPart::LIMITS`](crate::core::request_text::TextPart::LIMITS)) is cut and ends in `...` |
//! | `proto` | `HTTP/1.1`, `HTTP/1.0`, or `TCP` for a connection that was not parsed |
//! | `status` | of the final response |
//! | `bytes_in` | bytes read from the client, the head of the request included |
//! | `bytes_out` | bytes sent to the client, heads included |
//! | `duration_ms` | from the first byte of the request to the last of the response |
//! | `head_ms` | from the first byte of the request head to its end |
//! | `queue_ms` | from the end of the head to the last attempt: earlier attempts, and waits for resources |
//! | `connect_ms` | what it took to establish a new connection to the replica; null for one from the pool |
//! | `first_byte_ms` | from the end of the request to the first byte from the replica |
//! | `service`, `replica` | their names; the replica that was tried last |
//! | `attempts` | connections to replicas that were begun or taken from the pool |
//! | `retries` | why it was sent again, each time: `connect_failed`, `connect_timeout`, `stale_connection`, `connection_closed`, `replica_down` |
//! | `epoch` | the number of the snapshot that it was routed by |
//! | `request_id` | `X-Request-Id` |
//! | `end` | `complete`, `client_abort`, `upstream_error`, `truncated`, `timeout`, `refused`, `stopped` |
//! | `why` | what an end other than `complete` is due to |

pub mod format;
mod json;
mod writer;

use std::io;
use std::sync::Arc;
use std::thread::Thread;
use std::time::Duration;

use rtrb::{Consumer, Producer, RingBuffer};

use crate::core::context::Prng;
use crate::core::exchange_record::ExchangeRecord;
use crate::settings::{AccessLogSettings, AccessLogTarget, LoggedShare};
use writer::{Output, WriterState};

pub use writer::unwritten_lines;

/// Records of one worker that may wait to be written.
const RING_CAPACITY: usize = 4096;
/// The thread is woken when so many records wait: few enough that they are still in the processor's cache, and enough that
/// the system call costs each next to nothing.
const WAKE_AT: usize = 256;

/// The log's thread, for those who start and stop it. Clones are of the same thread.
#[derive(Clone)]
pub struct AccessLog {
    state: Arc<WriterState>,
    thread: Thread,
}

/// A worker's end of the log.
pub struct AccessLogSender {
    records: Producer<Box<ExchangeRecord>>,
    /// Records that were written come back, so that none is allocated for each exchange.
    written: Consumer<Box<ExchangeRecord>>,
    thread: Thread,
    share: LoggedShare,
    prng: Prng,
}

/// What became of a record.
pub enum Sent {
    /// It will be written; one that was written may be used again.
    Queued(Option<Box<ExchangeRecord>>),
    /// Only a share of exchanges is written.
    Skipped(Box<ExchangeRecord>),
    /// The ring is full.
    Dropped(Box<ExchangeRecord>),
}

/// The thread's ends of the rings of one worker.
struct WorkerRings {
    records: Consumer<Box<ExchangeRecord>>,
    written: Producer<Box<ExchangeRecord>>,
}

/// Starts the thread, with a sender for each worker. `None`: there is no access log. `Err`: the file cannot be opened.
pub fn start(
    settings: &AccessLogSettings,
    workers: usize,
) -> Result<Option<(AccessLog, Vec<AccessLogSender>)>, String> {
    if settings.target == AccessLogTarget::Off {
        return Ok(None);
    }
    let output = Output::open(&settings.target)?;
    let started = start_with(output, settings, workers);
    started.map(Some).map_err(|error| format!("the access log cannot start: {error}"))
}

fn start_with(
    output: Output,
    settings: &AccessLogSettings,
    workers: usize,
) -> io::Result<(AccessLog, Vec<AccessLogSender>)> {
    let (ends, rings): (Vec<_>, Vec<_>) = (0..workers).map(|_| rings()).unzip();
    let (log, format) = (Arc::new(WriterState::default()), settings.format);
    let state = log.clone();
    let thread = std::thread::Builder::new().name("access-log".into());
    let thread = thread.spawn(move || writer::run(&state, rings, output, format))?.thread().clone();
    let sender = |(records, written)| AccessLogSender {
        records,
        written,
        thread: thread.clone(),
        share: settings.sample,
        prng: Prng::new(fastrand::u64(..)),
    };
    let senders = ends.into_iter().map(sender).collect();
    Ok((AccessLog { state: log, thread }, senders))
}

type WorkerEnds = (Producer<Box<ExchangeRecord>>, Consumer<Box<ExchangeRecord>>);

fn rings() -> (WorkerEnds, WorkerRings) {
    let (to_log, records) = RingBuffer::new(RING_CAPACITY);
    let (written, back) = RingBuffer::new(RING_CAPACITY);
    ((to_log, back), WorkerRings { records, written })
}

impl AccessLog {
    /// Opens the file again once what waits was written to the old one.
    pub fn reopen(&self) {
        self.state.ask_to_reopen();
        self.thread.unpark();
    }

    /// Writes what waits, and ends. Waits for that within `limit`: a reader of stdout may have stopped reading.
    pub fn finish(&self, limit: Duration) {
        self.state.ask_to_stop();
        self.thread.unpark();
        self.state.await_end(limit);
    }
}

impl AccessLogSender {
    pub fn send(&mut self, record: Box<ExchangeRecord>) -> Sent {
        if !record.is_error() && !self.is_drawn() {
            return Sent::Skipped(record);
        }
        match self.records.push(record) {
            Ok(()) => Sent::Queued(self.written.pop().ok()),
            Err(rtrb::PushError::Full(record)) => Sent::Dropped(record),
        }
    }

    /// The thread looks at the rings from time to time: it is woken only where many records wait.
    pub fn flush(&self) {
        if self.records.slots() < RING_CAPACITY - WAKE_AT {
            self.thread.unpark();
        }
    }

    fn is_drawn(&mut self) -> bool {
        let LoggedShare(share) = self.share;
        share >= 1.0 || f64::from(self.prng.next_u32()) < share * f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;
    use crate::settings::AccessLogFormat;

    const LIMIT: Duration = Duration::from_secs(30);

    fn settings(share: f64) -> AccessLogSettings {
        let (target, format) = (AccessLogTarget::Stdout, AccessLogFormat::Common);
        AccessLogSettings { target, format, sample: LoggedShare(share) }
    }

    #[test]
    fn a_full_ring_drops_and_every_record_is_written_or_dropped() {
        let (reader, pipe) = io::pipe().unwrap();
        let output = Output::to_pipe(pipe);
        let (log, mut senders) = start_with(output, &settings(1.0), 1).unwrap();
        let mut sender = senders.pop().unwrap();
        let mut queued = 0;
        loop {
            match sender.send(Box::default()) {
                Sent::Queued(_) => queued += 1,
                Sent::Dropped(_) => break,
                Sent::Skipped(_) => panic!("all are logged"),
            }
            sender.flush();
        }
        assert!(queued >= RING_CAPACITY);
        let lines = std::thread::spawn(move || BufReader::new(reader).lines().count());
        log.finish(LIMIT);
        drop((log, sender));
        assert_eq!(lines.join().unwrap(), queued);
    }

    #[test]
    fn errors_are_sent_whatever_the_share() {
        let (reader, pipe) = io::pipe().unwrap();
        let (log, mut senders) = start_with(Output::to_pipe(pipe), &settings(0.0), 1).unwrap();
        let mut sender = senders.pop().unwrap();
        let error = ExchangeRecord { status: Some(503), ..Default::default() };
        assert!(matches!(sender.send(Box::default()), Sent::Skipped(_)));
        assert!(matches!(sender.send(Box::new(error)), Sent::Queued(None)));
        drop(sender);
        log.finish(LIMIT);
        assert_eq!(BufReader::new(reader).lines().count(), 1);
    }

    #[test]
    fn a_share_is_drawn_at_random() {
        let (_reader, pipe) = io::pipe().unwrap();
        let (log, mut senders) = start_with(Output::to_pipe(pipe), &settings(0.25), 1).unwrap();
        let mut sender = senders.pop().unwrap();
        let drawn = (0..10_000).filter(|_| sender.is_drawn()).count();
        assert!((2_000..3_000).contains(&drawn), "{drawn} of 10,000");
        log.finish(LIMIT);
    }
}
