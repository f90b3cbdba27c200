//! The thread of the access log: takes records from the workers' rings, formats them, and writes them in batches to the
//! file or to stdout. An error costs lines, which are counted, and one line in the log; nothing waits for it.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::format::{LineWriter, WallClock};
use super::{RING_CAPACITY, WorkerRings};
use crate::kernel::linux;
use crate::settings::{AccessLogFormat, AccessLogTarget};

/// How often the rings are looked at.
const POLL: Duration = Duration::from_millis(100);
/// How soon a write is tried again that found no room.
const RETRY: Duration = Duration::from_millis(10);
/// After so many records in one pass the next one begins at once.
const MANY: usize = RING_CAPACITY / 4;
/// Bytes of lines that are written at once.
const BATCH: usize = 64 * 1024;
/// Others than the owner's group see no requests of clients.
const FILE_MODE: u32 = 0o640;

/// For the metrics page: lines that could not be written, since the start.
static UNWRITTEN: AtomicU64 = AtomicU64::new(0);

pub fn unwritten_lines() -> u64 {
    UNWRITTEN.load(Ordering::Relaxed)
}

/// What the thread is asked, and whether it has ended.
#[derive(Default)]
pub struct WriterState {
    reopen: AtomicBool,
    stop: AtomicBool,
    has_ended: Mutex<bool>,
    ended: Condvar,
}

impl WriterState {
    pub fn ask_to_reopen(&self) {
        self.reopen.store(true, Ordering::Release);
    }

    pub fn ask_to_stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    pub fn await_end(&self, limit: Duration) {
        let has_ended = self.has_ended.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.ended.wait_timeout_while(has_ended, limit, |has_ended| !*has_ended);
    }

    fn end(&self) {
        *self.has_ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.ended.notify_all();
    }

    fn is_to_stop(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// Runs until it is asked to stop, or every worker has ended, and all records are written.
pub fn run(state: &WriterState, mut rings: Vec<WorkerRings>, mut output: Output, format: AccessLogFormat) {
    let (mut lines, mut batch) = (LineWriter::new(format), Vec::new());
    loop {
        // Before the rings are read: what came before is written.
        let reopens = state.reopen.swap(false, Ordering::AcqRel);
        let stops = state.is_to_stop() || rings.iter().all(|ring| ring.records.is_abandoned());
        let taken = drain(state, &mut rings, &mut output, &mut lines, &mut batch);
        if reopens {
            output.reopen();
        }
        match (stops, taken) {
            (true, 0) => return state.end(),
            (false, 0..MANY) => std::thread::park_timeout(POLL),
            _ => {}
        }
    }
}

/// Writes what waits in the rings, of each at most what it can hold. How many records it were. `batch` is empty before and
/// after.
fn drain(
    state: &WriterState,
    rings: &mut [WorkerRings],
    output: &mut Output,
    lines: &mut LineWriter,
    batch: &mut Vec<u8>,
) -> usize {
    let clock = WallClock::new(SystemTime::now(), linux::stamp());
    let mut taken = 0;
    for WorkerRings { records, written } in rings {
        for _ in 0..RING_CAPACITY {
            let Ok(record) = records.pop() else { break };
            taken += 1;
            lines.write_line(batch, &record, clock);
            // A full ring of them: the record is freed.
            let _ = written.push(record);
            if batch.len() >= BATCH {
                output.write(batch, state);
                batch.clear();
            }
        }
    }
    output.write(batch, state);
    batch.clear();
    taken
}

/// Where lines are written to.
pub struct Output {
    /// `None`: stdout.
    path: Option<PathBuf>,
    file: File,
    /// The last write failed.
    fails: bool,
    /// The last line was written in part.
    is_torn: bool,
}

impl Output {
    pub fn open(target: &AccessLogTarget) -> Result<Output, String> {
        let (path, file) = match target {
            AccessLogTarget::File(path) => {
                let opened = open_file(path);
                let why = |error| format!("--access-log {}: it cannot be opened: {error}", path.display());
                (Some(path.clone()), opened.map_err(why)?)
            }
            AccessLogTarget::Stdout | AccessLogTarget::Off => {
                let stdout = io::stdout().as_fd().try_clone_to_owned();
                (None, stdout.map_err(|error| format!("--access-log stdout: {error}"))?.into())
            }
        };
        Ok(Output { path, file, fails: false, is_torn: false })
    }

    /// For tests.
    #[cfg(test)]
    pub fn to_pipe(pipe: io::PipeWriter) -> Output {
        let file = std::os::fd::OwnedFd::from(pipe).into();
        Output { path: None, file, fails: false, is_torn: false }
    }

    /// The file may have been renamed or removed. Where it cannot be opened, the old one is kept.
    fn reopen(&mut self) {
        let Some(path) = &self.path else { return };
        match open_file(path) {
            Ok(file) => {
                (self.file, self.is_torn) = (file, false);
                log::info!(target: "ringway", "access log: {} is opened again", path.display());
            }
            Err(error) => {
                log::error!(target: "ringway", "access log: {} cannot be opened again: {error}; the file that was open \
                    is written to", path.display());
            }
        }
    }

    /// Writes whole lines.
    fn write(&mut self, lines: &[u8], state: &WriterState) {
        if lines.is_empty() {
            return;
        }
        let result = if self.is_torn { self.write_all(b"\n", state).1 } else { Ok(()) };
        let (written, result) = result.map_or_else(|error| (0, Err(error)), |()| self.write_all(lines, state));
        if let Some(last) = written.checked_sub(1).and_then(|at| lines.get(at)) {
            self.is_torn = *last != b'\n';
        }
        let unwritten = lines.get(written..).unwrap_or_default();
        UNWRITTEN.fetch_add(memchr::memchr_iter(b'\n', unwritten).count() as u64, Ordering::Relaxed);
        self.report(result);
    }

    /// How many bytes were written.
    fn write_all(&mut self, bytes: &[u8], state: &WriterState) -> (usize, io::Result<()>) {
        let mut written = 0;
        while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
            match self.file.write(rest) {
                Ok(0) => return (written, Err(ErrorKind::WriteZero.into())),
                Ok(n) => written += n,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Another process may have made the pipe non-blocking.
                Err(error) if error.kind() == ErrorKind::WouldBlock && !state.is_to_stop() => {
                    std::thread::park_timeout(RETRY);
                }
                Err(error) => return (written, Err(error)),
            }
        }
        (written, Ok(()))
    }

    /// One line when writing begins to fail, and one when it succeeds again.
    fn report(&mut self, result: io::Result<()>) {
        let name = self.path.as_deref().unwrap_or(Path::new("stdout")).display();
        match (std::mem::replace(&mut self.fails, result.is_err()), result) {
            (false, Err(error)) => {
                log::error!(target: "ringway", "access log: {name} cannot be written to: {error}; its lines are dropped \
                    and counted until it can");
            }
            (true, Ok(())) => log::info!(target: "ringway", "access log: {name} is written to again"),
            (true, Err(_)) | (false, Ok(())) => {}
        }
    }
}

fn open_file(path: &Path) -> io::Result<File> {
    // Opening a pipe would wait for its reader.
    if path.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo()) {
        return Err(io::Error::other("it is a named pipe: write to stdout instead"));
    }
    OpenOptions::new().append(true).create(true).mode(FILE_MODE).open(path)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::fd::OwnedFd;

    use super::*;

    /// A reader that is gone, and then another one: what was torn ends before the next line begins.
    #[test]
    fn what_cannot_be_written_is_counted_and_a_torn_line_is_ended() {
        let state = WriterState::default();
        let (reader, pipe) = io::pipe().unwrap();
        drop(reader);
        let mut output = Output::to_pipe(pipe);
        let before = unwritten_lines();
        output.write(b"one\ntwo\n", &state);
        assert!(output.fails && unwritten_lines() >= before + 2);
        let (reader, pipe) = io::pipe().unwrap();
        (output.file, output.is_torn) = (OwnedFd::from(pipe).into(), true);
        output.write(b"three\n", &state);
        assert!(!output.fails && !output.is_torn);
        drop(output);
        let lines: Vec<String> = BufReader::new(reader).lines().map(Result::unwrap).collect();
        assert_eq!(lines, ["", "three"]);
    }

    #[test]
    fn what_cannot_be_opened_is_refused_at_the_start() {
        let folder = AccessLogTarget::File("/".into());
        assert!(Output::open(&folder).is_err_and(|why| why.starts_with("--access-log /: ")));
        let missing = AccessLogTarget::File("/nonexistent/access.log".into());
        assert!(Output::open(&missing).is_err());
    }
}
