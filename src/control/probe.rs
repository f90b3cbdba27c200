//! The health check: one request to one replica, on a connection of its own, answered in time or not. It judges one
//! answer; the registry decides what follows.

use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::core::proxy::{self, Version};
use crate::core::snapshot::{Endpoint, Mode};

/// A replica names itself with this, so that an answer of another server at its address is noticed.
pub const SERVER_ID_HEADER: &str = "x-server-id";

/// What a probe sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Any 2xx answer to `GET path` is a heartbeat.
    pub path: String,
    /// Connections to replicas begin with a PROXY header; a probe's is LOCAL, which names no client.
    pub send_proxy: Option<Version>,
}

/// Why there was no heartbeat, for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeError {
    /// The replica did not answer, or not as it should.
    Failed(String),
    /// No probe was sent, for lack of a descriptor or a local port. It says nothing about the replica.
    Skipped(String),
}

/// Probes once. A replica of a tcp service is alive when it accepts. `name` is who has to answer, where that is known: a
/// foreign server may call itself what it likes.
pub async fn probe(
    heartbeat: &Heartbeat,
    timeout_ms: u64,
    mode: Mode,
    name: Option<&str>,
    endpoint: &Endpoint,
) -> Result<(), ProbeError> {
    let request = async {
        match (endpoint, mode) {
            (Endpoint::Tcp(address), Mode::Tcp) => TcpStream::connect(address).await.map(drop).map_err(refused),
            (Endpoint::Unix(path), Mode::Tcp) => UnixStream::connect(path).await.map(drop).map_err(refused),
            (Endpoint::Tcp(address), Mode::Http) => {
                let mut stream = TcpStream::connect(address).await.map_err(refused)?;
                let header = heartbeat.send_proxy.map(proxy::local).unwrap_or_default();
                stream.write_all(header).await.map_err(refused)?;
                judge(exchange(stream, &heartbeat.path, &address.to_string()).await?, name)
            }
            (Endpoint::Unix(path), Mode::Http) => {
                let stream = UnixStream::connect(path).await.map_err(refused)?;
                judge(exchange(stream, &heartbeat.path, "localhost").await?, name)
            }
        }
    };
    let answer = timeout(Duration::from_millis(timeout_ms), request).await;
    answer.unwrap_or_else(|_| Err(ProbeError::Failed(format!("no answer within {timeout_ms} ms"))))
}

fn refused(error: std::io::Error) -> ProbeError {
    let why = format!("cannot connect: {error}");
    match Errno::from_io_error(&error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ADDRNOTAVAIL) => {
            ProbeError::Skipped(why)
        }
        _ => ProbeError::Failed(why),
    }
}

async fn exchange<S>(stream: S, path: &str, host: &str) -> Result<Response<hyper::body::Incoming>, ProbeError>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let broken = |error: hyper::Error| ProbeError::Failed(format!("no HTTP answer: {error}"));
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let request = Request::get(path)
        .header(HOST, host)
        .header(USER_AGENT, "ringway-heartbeat")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| ProbeError::Failed(format!("no heartbeat can be requested at {path:?}: {error}")))?;
    let answer = sender.send_request(request);
    tokio::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer.map_err(broken),
        end = connection => match end {
            Err(error) => Err(broken(error)),
            Ok(()) => answer.await.map_err(broken),
        },
    }
}

fn judge<B>(answer: Response<B>, name: Option<&str>) -> Result<(), ProbeError> {
    let status = answer.status();
    if !status.is_success() {
        return Err(ProbeError::Failed(format!("it answered {}", status.as_u16())));
    }
    match (answer.headers().get(SERVER_ID_HEADER), name) {
        (Some(id), Some(name)) if id.as_bytes() != name.as_bytes() => {
            Err(ProbeError::Failed(format!("another server answers there: {id:?}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    fn probed(answer: &'static str, name: Option<&str>) -> Result<(), ProbeError> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint::Tcp(listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 1024];
            let _ = stream.read(&mut head);
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let verdict = run(probe(&heartbeat(), 10_000, Mode::Http, name, &endpoint));
        server.join().unwrap();
        verdict
    }

    fn heartbeat() -> Heartbeat {
        Heartbeat { path: "/heartbeat".into(), send_proxy: None }
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn any_2xx_is_a_heartbeat() {
        assert_eq!(probed("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Some("a")), Ok(()));
        assert_eq!(probed("HTTP/1.1 204 No Content\r\n\r\n", Some("a")), Ok(()));
        assert_eq!(probed("HTTP/1.0 200 OK\r\nX-Server-ID: server1\r\n\r\nhello", Some("server1")), Ok(()));
        assert_eq!(probed("HTTP/1.1 200 OK\r\nX-Server-ID: its-own-name\r\n\r\n", None), Ok(()), "foreign");
    }

    #[test]
    fn any_other_answer_fails_with_a_reason() {
        let failed = |answer, why: &str| {
            let Err(ProbeError::Failed(verdict)) = probed(answer, Some("server1")) else { panic!("{answer}") };
            assert!(verdict.contains(why), "{verdict}");
        };
        failed("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", "it answered 500");
        failed("HTTP/1.1 200 OK\r\nX-Server-ID: server2\r\n\r\n", "another server answers there: \"server2\"");
        failed("no http\r\n\r\n", "no HTTP answer");
        failed("", "no HTTP answer");
    }

    #[test]
    fn no_answer_within_the_timeout_is_a_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint::Tcp(listener.local_addr().unwrap());
        assert_eq!(
            run(probe(&heartbeat(), 20, Mode::Http, Some("a"), &endpoint)),
            Err(ProbeError::Failed("no answer within 20 ms".into()))
        );
        assert_eq!(
            run(probe(&heartbeat(), 20, Mode::Tcp, Some("a"), &endpoint)),
            Ok(()),
            "a tcp replica is alive when it accepts"
        );
    }

    #[test]
    fn a_refused_connection_is_a_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint::Tcp(listener.local_addr().unwrap());
        drop(listener);
        let verdict = run(probe(&heartbeat(), 500, Mode::Tcp, Some("a"), &endpoint));
        assert!(matches!(verdict, Err(ProbeError::Failed(why)) if why.starts_with("cannot connect")));
    }

    #[test]
    fn a_lack_of_local_resources_skips_the_probe() {
        let fault = |errno: Errno| refused(errno.into());
        assert!(matches!(fault(Errno::MFILE), ProbeError::Skipped(_)));
        assert!(matches!(fault(Errno::ADDRNOTAVAIL), ProbeError::Skipped(_)));
        assert!(matches!(fault(Errno::CONNREFUSED), ProbeError::Failed(_)));
        assert!(matches!(fault(Errno::HOSTUNREACH), ProbeError::Failed(_)));
    }
}
