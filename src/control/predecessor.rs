//! The process that this one replaces: what it passes on, the word that it accepts no more, and its end. See `successor`.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::net::{UnixDatagram, UnixStream as StdUnixStream};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::registry::Predecessor;
use super::successor::{GO, READY};
use crate::kernel::inherited::Inherited;

/// It was written before this process began.
const READ_LIMIT: Duration = Duration::from_secs(10);
/// Some hundred bytes for each replica.
const SIZE_LIMIT: u64 = 16 << 20;

/// What a process tells its successor. Fields that one of the two does not know are left out.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Introduction {
    pub process: u32,
    pub replicas: Predecessor,
    /// Of the Docker runtimes, by service: their containers and locks carry it.
    pub docker_run_ids: BTreeMap<String, String>,
    /// Of sticky cookies.
    pub sticky_key: String,
}

/// The process that this one replaces.
#[derive(Debug)]
pub struct PredecessorLink {
    pub introduction: Introduction,
    /// By service.
    pub locks: Vec<(String, UnixDatagram)>,
    stream: StdUnixStream,
}

/// The process that this one has replaced: it finishes its requests. `None`: it is gone.
#[derive(Debug)]
pub struct DrainingPredecessor(Option<UnixStream>);

impl PredecessorLink {
    /// `None`: this process replaces no other. `Err`: what the other said cannot be read, in one line.
    pub fn read(inherited: &mut Inherited) -> Result<Option<PredecessorLink>, String> {
        let Some(stream) = inherited.handshake() else { return Ok(None) };
        let introduction =
            read(&stream).map_err(|error| format!("the process to be replaced says nothing: {error}"))?;
        Ok(Some(PredecessorLink { introduction, locks: inherited.locks(), stream }))
    }

    /// Says that this process is ready, and waits until it is to accept: it is told so, or the other is gone.
    pub async fn take_over(self) -> DrainingPredecessor {
        let exchanged = async {
            self.stream.set_nonblocking(true)?;
            let mut stream = UnixStream::from_std(self.stream)?;
            stream.write_all(READY.as_bytes()).await?;
            let n = stream.read(&mut [0; GO.len()]).await?;
            Ok((n > 0).then_some(stream))
        };
        let exchanged: io::Result<Option<UnixStream>> = exchanged.await;
        log::debug!("the process to be replaced is through: {exchanged:?}");
        DrainingPredecessor(exchanged.ok().flatten())
    }
}

impl DrainingPredecessor {
    /// It says no more: its end of the connection is closed when it has ended.
    pub async fn ended(self) {
        if let Some(mut stream) = self.0 {
            let mut rest = [0; GO.len()];
            while matches!(stream.read(&mut rest).await, Ok(1..)) {}
        }
    }
}

fn read(stream: &StdUnixStream) -> io::Result<Introduction> {
    stream.set_read_timeout(Some(READ_LIMIT))?;
    let mut line = String::new();
    BufReader::new(stream.take(SIZE_LIMIT)).read_line(&mut line)?;
    serde_json::from_str(&line).map_err(io::Error::from)
}
