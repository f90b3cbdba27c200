//! The admin listener: bound before anything else starts, served on the admin thread, bounded in connections and time.

use std::io;
use std::net::TcpListener as StdTcpListener;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use super::admin::AdminListen;
use crate::core::snapshot::Endpoint;

/// Connections served at once; the next waits in the listener's queue.
const CONNECTION_LIMIT: usize = 256;
/// A head that takes longer, or a connection that is idle for longer, is closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// After a failed accept (no descriptor left, say).
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// A bound admin listener. A Unix socket's file goes with it.
#[derive(Debug)]
pub struct AdminListener {
    listener: Listener,
    endpoint: Endpoint,
}

#[derive(Debug)]
enum Listener {
    Tcp(StdTcpListener),
    Unix(StdUnixListener, SocketFile),
}

#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl AdminListener {
    /// None where there is to be none. `Err` says what could not be bound and why, in one line.
    pub fn bind(listen: &AdminListen) -> Result<Option<AdminListener>, String> {
        match listen {
            AdminListen::Tcp(address) => {
                let listener = StdTcpListener::bind(address)
                    .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
                    .map_err(|error| format!("cannot listen on {address} for the admin API: {error}"))?;
                let bound = listener.local_addr().map_err(|error| error.to_string())?;
                Ok(Some(AdminListener { listener: Listener::Tcp(listener), endpoint: Endpoint::Tcp(bound) }))
            }
            AdminListen::Unix(path) => {
                let listener = bind_unix(path)
                    .map_err(|error| format!("cannot listen on {} for the admin API: {error}", path.display()))?;
                let listener = Listener::Unix(listener, SocketFile(path.clone()));
                Ok(Some(AdminListener { listener, endpoint: Endpoint::Unix(Arc::from(path.as_path())) }))
            }
            AdminListen::Off => Ok(None),
        }
    }

    /// Where it listens, port 0 made real.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Serves until it is dropped. Inside a tokio runtime only.
    pub async fn serve(self, router: Router) -> io::Result<()> {
        match self.listener {
            Listener::Tcp(listener) => {
                let listener = TcpListener::from_std(listener)?;
                accept(router, async || {
                    let (stream, _) = listener.accept().await?;
                    stream.set_nodelay(true)?;
                    Ok(stream)
                })
                .await
            }
            Listener::Unix(listener, _file) => {
                let listener = UnixListener::from_std(listener)?;
                accept(router, async || Ok(listener.accept().await?.0)).await
            }
        }
    }
}

/// A file that is left from a dead process is taken over; one that somebody listens on is not.
fn bind_unix(path: &Path) -> io::Result<StdUnixListener> {
    let listener = match StdUnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(error);
            }
            std::fs::remove_file(path)?;
            StdUnixListener::bind(path)?
        }
        bound => bound?,
    };
    // Whoever may write to it may start containers: its owner alone.
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

async fn accept<S>(router: Router, next: impl AsyncFn() -> io::Result<S>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let room = Arc::new(Semaphore::new(CONNECTION_LIMIT));
    while let Ok(reader) = room.clone().acquire_owned().await {
        match next().await {
            Ok(stream) => {
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router.clone()));
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        log::debug!("admin connection: {error}");
                    }
                    drop(reader);
                });
            }
            Err(error) => {
                log::warn!("admin listener: cannot accept: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_one_line() {
        let taken = StdTcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = AdminListener::bind(&AdminListen::Tcp(address)).unwrap_err();
        assert!(error.starts_with(&format!("cannot listen on {address} for the admin API: ")), "{error}");
    }

    #[test]
    fn a_dead_socket_file_is_taken_over_and_a_living_one_is_not() {
        let path = std::env::temp_dir().join(format!("ringway-door-{}.sock", std::process::id()));
        let listen = AdminListen::Unix(path.clone());
        drop(StdUnixListener::bind(&path).unwrap());
        let door = AdminListener::bind(&listen).unwrap();
        assert!(AdminListener::bind(&listen).unwrap_err().contains(path.to_str().unwrap()));
        drop(door);
        assert!(!path.exists());
    }
}
