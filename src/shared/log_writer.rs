//! The log's way to its reader: a bounded queue, and a thread of its own that writes. A thread that logs never waits for
//! a reader that has stopped reading; lines beyond the queue are dropped and counted. It does not know what a line says.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// What may wait to be written.
const QUEUE_BYTES: usize = 1 << 20;

/// For the metrics page: lines dropped since the start, by every writer.
static DROPPED: AtomicU64 = AtomicU64::new(0);

pub fn dropped_lines() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Each `write` is one whole line. Clones write to the same queue.
#[derive(Clone)]
pub struct LogWriter(Arc<LogQueue>);

#[derive(Default)]
struct LogQueue {
    state: Mutex<LogState>,
    changed: Condvar,
}

#[derive(Default)]
struct LogState {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Lines that came since the queue was full.
    dropped: u64,
    /// The thread has lines that are not written yet.
    writing: bool,
}

impl LogWriter {
    pub fn start(out: impl Write + Send + 'static) -> io::Result<LogWriter> {
        let queue = Arc::new(LogQueue::default());
        let writer = LogWriter(queue.clone());
        std::thread::Builder::new().name("log".into()).spawn(move || write_lines(&queue, out))?;
        Ok(writer)
    }

    /// Waits, within `limit`, until all lines are written.
    pub fn finish(&self, limit: Duration) {
        let state = self.0.lock();
        let pending = |state: &mut LogState| state.writing || !state.lines.is_empty();
        let _ = self.0.changed.wait_timeout_while(state, limit, pending);
    }
}

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl LogQueue {
    fn lock(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// After a line that was dropped the next ones are too, until the thread has taken what is queued: it says how many
    /// are missing, and where.
    fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.dropped > 0 || state.bytes + line.len() > QUEUE_BYTES {
            state.dropped += 1;
            DROPPED.fetch_add(1, Ordering::Relaxed);
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line.into());
        self.changed.notify_all();
    }

    /// Waits for lines, and takes all of them, with the number that was dropped behind them.
    fn take(&self) -> (VecDeque<Vec<u8>>, u64) {
        let mut state = self.lock();
        state.writing = false;
        self.changed.notify_all();
        let waited = self.changed.wait_while(state, |state| state.lines.is_empty());
        let mut state = waited.unwrap_or_else(|poisoned| poisoned.into_inner());
        state.writing = true;
        state.bytes = 0;
        (std::mem::take(&mut state.lines), std::mem::take(&mut state.dropped))
    }
}

/// Runs for the life of the process. A line that cannot be written (EPIPE, ENOSPC) counts as dropped.
fn write_lines(queue: &LogQueue, mut out: impl Write) {
    let mut missing = 0;
    loop {
        let (lines, dropped) = queue.take();
        for line in lines {
            missing = note_missing(&mut out, missing);
            if out.write_all(&line).is_err() {
                missing += 1;
                DROPPED.fetch_add(1, Ordering::Relaxed);
            }
        }
        missing = note_missing(&mut out, missing + dropped);
    }
}

/// What is left to be noted.
fn note_missing(out: &mut impl Write, missing: u64) -> u64 {
    if missing == 0 {
        return 0;
    }
    let line = format!("ringway: {missing} log lines dropped: stderr did not take them in time\n");
    if out.write_all(line.as_bytes()).is_ok() { 0 } else { missing }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    /// Numbered: 3 MB, more than the queue, the lines that the thread has taken and the pipe hold together.
    const LINES: usize = 30_000;

    fn line(number: usize) -> String {
        format!("{number:0100}")
    }

    #[test]
    fn a_reader_that_stops_costs_lines_which_are_counted_and_no_wait() {
        let (reader, pipe) = io::pipe().unwrap();
        let mut writer = LogWriter::start(pipe).unwrap();
        for number in 0..LINES {
            writeln_at_once(&mut writer, &line(number));
        }
        let mut lines = BufReader::new(reader).lines().map(Result::unwrap);
        let (mut next, mut missing) = (0, 0);
        // The thread may take lines more than once before the pipe is full: each time it says what is missing behind them.
        while next < LINES {
            let read = lines.next().unwrap();
            if let Some(note) = read.strip_prefix("ringway: ") {
                let dropped: usize = note.split_once(" log lines dropped").unwrap().0.parse().unwrap();
                missing += dropped;
                next += dropped;
            } else {
                assert_eq!(read, line(next), "each line is written, or counted where it is missing");
                next += 1;
            }
        }
        assert_eq!(next, LINES);
        assert!(missing > 0 && dropped_lines() >= missing as u64);
        writeln_at_once(&mut writer, "after");
        assert_eq!(lines.next().unwrap(), "after", "there is room again");
        writer.finish(LIMIT);
    }

    #[test]
    fn a_reader_that_is_gone_stops_nothing() {
        let (reader, pipe) = io::pipe().unwrap();
        drop(reader);
        let mut writer = LogWriter::start(pipe).unwrap();
        let before = dropped_lines();
        writeln_at_once(&mut writer, "lost");
        writer.finish(LIMIT);
        assert!(dropped_lines() > before);
    }

    #[test]
    fn the_end_waits_for_a_stuck_reader_within_its_limit() {
        let (_reader, pipe) = io::pipe().unwrap();
        let mut writer = LogWriter::start(pipe).unwrap();
        (0..LINES).for_each(|number| writeln_at_once(&mut writer, &line(number)));
        writer.finish(Duration::from_millis(1));
    }

    fn writeln_at_once(writer: &mut LogWriter, line: &str) {
        writer.write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}
