//! The admin listener: bound before anything else starts, served on the admin thread, bounded in connections and time.

use std::io;
use std::net::TcpListener as StdTcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::time::sleep;

use super::admin_seats::{AdminSeats, Seat};
use super::socket_file::{self, SocketFile};
use super::write_deadline::WriteDeadline;
use crate::core::snapshot::Endpoint;
use crate::kernel::inherited::{self, Inherited};
use crate::settings::AdminListen;

/// Connections served at once.
const CONNECTION_LIMIT: usize = 256;
/// A head that takes longer, or a connection that is idle for longer, is closed. It bounds what comes before a token.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// A client that takes none of its response for longer is disconnected.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// After a failed accept (no descriptor left, say).
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// A bound admin listener. A Unix socket's file is removed when it is dropped, unless another process bound it.
#[derive(Debug)]
pub struct AdminListener {
    listener: BoundSocket,
    endpoint: Endpoint,
    file: Option<SocketFile>,
    /// As which a process that replaces this one gets the socket.
    name: String,
}

#[derive(Debug)]
enum BoundSocket {
    Tcp(StdTcpListener),
    Unix(StdUnixListener),
}

/// What a process that replaces this one gets of the admin listener. The socket is open as long as this.
#[derive(Debug)]
pub struct AdminSocket {
    pub name: String,
    pub descriptor: OwnedFd,
    pub file: Option<SocketFile>,
}

impl AdminListener {
    /// `None` for `--admin off`. `Err` is one line: what could not be bound, why, and what to do.
    pub fn bind(listen: &AdminListen, inherited: &mut Inherited) -> Result<Option<AdminListener>, String> {
        match listen {
            AdminListen::Tcp(address) => {
                let listener = match inherited.listeners(*address, inherited::ADMIN).pop() {
                    Some(socket) => Ok(StdTcpListener::from(socket)),
                    None => StdTcpListener::bind(address),
                };
                let listener = listener
                    .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
                    .map_err(|error| format!("cannot listen on {address} for the admin API: {error}"))?;
                let bound = listener.local_addr().map_err(|error| error.to_string())?;
                let (listener, endpoint) = (BoundSocket::Tcp(listener), Endpoint::Tcp(bound));
                Ok(Some(AdminListener { listener, endpoint, file: None, name: inherited::ADMIN.into() }))
            }
            AdminListen::Unix(path) => {
                let (listener, file, name) = unix_listener(path, inherited)
                    .map_err(|why| format!("cannot listen on {} for the admin API: {why}", path.display()))?;
                let endpoint = Endpoint::Unix(Arc::from(path.as_path()));
                Ok(Some(AdminListener { listener: BoundSocket::Unix(listener), endpoint, file, name }))
            }
            AdminListen::Off => Ok(None),
        }
    }

    /// Where it listens; a port 0 that was asked for is the port that was bound.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// For a process that replaces this one. The file goes with it.
    pub fn share(&mut self) -> io::Result<AdminSocket> {
        let descriptor = match &self.listener {
            BoundSocket::Tcp(listener) => listener.as_fd().try_clone_to_owned()?,
            BoundSocket::Unix(listener) => listener.as_fd().try_clone_to_owned()?,
        };
        Ok(AdminSocket { name: self.name.clone(), descriptor, file: self.file.take() })
    }

    /// Serves until it is dropped. Inside a tokio runtime only.
    pub async fn serve(self, router: Router) -> io::Result<()> {
        match self.listener {
            BoundSocket::Tcp(listener) => {
                let listener = TcpListener::from_std(listener)?;
                accept(router, async || {
                    let (stream, _) = listener.accept().await?;
                    stream.set_nodelay(true)?;
                    Ok(stream)
                })
                .await
            }
            BoundSocket::Unix(listener) => {
                let listener = UnixListener::from_std(listener)?;
                accept(router, async || Ok(listener.accept().await?.0)).await
            }
        }
    }
}

/// Where systemd bound it, or any process but a Ringway, the file is not ours to remove.
fn unix_listener(
    path: &Path,
    inherited: &mut Inherited,
) -> Result<(StdUnixListener, Option<SocketFile>, String), String> {
    let Some((listener, name)) = inherited.unix_listener(path) else {
        let (listener, file) = socket_file::bind(path)?;
        return Ok((listener, Some(file), inherited::ADMIN.into()));
    };
    listener.set_nonblocking(true).map_err(|error| error.to_string())?;
    let is_ours = name == inherited::ADMIN;
    let file = is_ours.then(|| SocketFile::adopt(path)).transpose().map_err(|error| error.to_string())?;
    Ok((listener, file, name))
}

async fn accept<S>(router: Router, next: impl AsyncFn() -> io::Result<S>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let seats = AdminSeats::new(CONNECTION_LIMIT);
    loop {
        match next().await {
            Ok(stream) => {
                let Some(seat) = seats.take().await else { return Ok(()) };
                let task = tokio::spawn(serve_connection(stream, router.clone(), seat.clone()));
                seat.serve(task.abort_handle());
            }
            Err(error) => {
                log::warn!("admin listener: cannot accept: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Each request carries the seat of its connection.
async fn serve_connection<S>(stream: S, router: Router, seat: Arc<Seat>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(seat.clone());
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(WriteDeadline::new(stream, WRITE_TIMEOUT)), service);
    if let Err(error) = connection.await {
        log::debug!("admin connection: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_one_line() {
        let taken = StdTcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = AdminListener::bind(&AdminListen::Tcp(address), &mut Inherited::default()).unwrap_err();
        assert!(error.starts_with(&format!("cannot listen on {address} for the admin API: ")), "{error}");
    }
}
