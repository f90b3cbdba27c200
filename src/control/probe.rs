//! The health check: one request to one replica, on a connection of its own, answered in time or not. It judges one
//! answer; the registry decides what follows.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use http_body_util::{BodyExt, Collected, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::handshake;
use hyper::header::{CONNECTION, HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use memchr::memmem;
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout_at};

use super::registry::{ProbeFailure, ProbeFault};
use super::secure::secure;
use crate::core::proxy::{self, Version};
use crate::core::snapshot::Endpoint;
use crate::core::tls::upstream::UpstreamPolicy;

/// A longer body is not read to look for a text in it.
const BODY_LIMIT: usize = 64 * 1024;

/// A replica names itself with this, so that an answer of another server at its address is noticed.
pub const SERVER_ID_HEADER: &str = "x-server-id";

/// What a probe sends, and which answer is a healthy one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Heartbeat {
    /// A connection that is accepted is the answer.
    #[default]
    Connect,
    Http(Box<HttpHeartbeat>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpHeartbeat {
    pub method: Method,
    pub path: String,
    /// The replica's address, if it is not given.
    pub host: Option<HeaderValue>,
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Of a healthy answer.
    pub status: Vec<RangeInclusive<u16>>,
    /// Its body contains this.
    pub body: Option<String>,
    /// Connections to replicas begin with a PROXY header; a probe's is LOCAL, which names no client.
    pub send_proxy: Option<Version>,
    /// Replicas speak TLS, and so does a probe.
    pub tls: Option<UpstreamPolicy>,
}

/// Why there was no heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeError {
    /// The replica did not answer, or not as it should.
    Failed(ProbeFailure),
    /// No probe was sent, for lack of a descriptor or a local port. It says nothing about the replica. For the operator.
    Skipped(String),
}

/// Probes once. `name` is the server that has to answer, where that is known: a foreign server may call itself what it
/// likes.
pub async fn probe(
    heartbeat: &Heartbeat,
    timeout_ms: u64,
    name: Option<&str>,
    endpoint: &Endpoint,
) -> Result<(), ProbeError> {
    let deadline = Deadline { at: Instant::now() + Duration::from_millis(timeout_ms), timeout_ms };
    match endpoint {
        Endpoint::Tcp(address) => {
            let stream = deadline.connect(TcpStream::connect(address), unanswered_connect(address)).await?;
            deadline.answer(ask(stream, heartbeat, endpoint, &address.to_string(), name)).await
        }
        Endpoint::Unix(path) => {
            let stream = deadline.connect(UnixStream::connect(path), ProbeFault::Silent).await?;
            deadline.answer(ask(stream, heartbeat, endpoint, "localhost", name)).await
        }
    }
}

/// This host is not gone: where a connection attempt to it gets no answer, the server's queue of connections is full.
fn unanswered_connect(address: &SocketAddr) -> ProbeFault {
    if address.ip().is_loopback() { ProbeFault::Silent } else { ProbeFault::ConnectTimedOut }
}

struct Deadline {
    at: Instant,
    timeout_ms: u64,
}

impl Deadline {
    async fn connect<S>(
        &self,
        connect: impl Future<Output = io::Result<S>>,
        unanswered: ProbeFault,
    ) -> Result<S, ProbeError> {
        match timeout_at(self.at, connect).await {
            Ok(stream) => stream.map_err(|error| unconnected(&error)),
            Err(_) => Err(failed(unanswered, format!("no connection within {} ms", self.timeout_ms))),
        }
    }

    async fn answer(&self, answer: impl Future<Output = Result<(), ProbeError>>) -> Result<(), ProbeError> {
        let silent = |_| Err(failed(ProbeFault::Silent, format!("no answer within {} ms", self.timeout_ms)));
        timeout_at(self.at, answer).await.unwrap_or_else(silent)
    }
}

fn failed(fault: ProbeFault, why: String) -> ProbeError {
    ProbeError::Failed(ProbeFailure { fault, why })
}

fn unconnected(error: &io::Error) -> ProbeError {
    let why = format!("cannot connect: {error}");
    match Errno::from_io_error(error) {
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ADDRNOTAVAIL) => {
            ProbeError::Skipped(why)
        }
        // A unix socket's queue of connections is full.
        Some(Errno::AGAIN) => failed(ProbeFault::Silent, why),
        _ => failed(ProbeFault::Dead, why),
    }
}

/// A connection that breaks is reset by a process that ends, or closed by one that refuses to answer.
fn broken(error: &(dyn Error + 'static)) -> ProbeError {
    let fault = if was_reset(error) { ProbeFault::Dead } else { ProbeFault::Unhealthy };
    failed(fault, format!("no HTTP answer: {error}"))
}

fn was_reset(error: &(dyn Error + 'static)) -> bool {
    let is_reset = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionReset;
    error.downcast_ref().is_some_and(is_reset) || error.source().is_some_and(was_reset)
}

async fn ask<S>(
    mut stream: S,
    heartbeat: &Heartbeat,
    endpoint: &Endpoint,
    address: &str,
    name: Option<&str>,
) -> Result<(), ProbeError>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let Heartbeat::Http(heartbeat) = heartbeat else { return Ok(()) };
    let header = heartbeat.send_proxy.map(proxy::local).unwrap_or_default();
    stream.write_all(header).await.map_err(|error| broken(&error))?;
    match &heartbeat.tls {
        None => heartbeat.exchange(stream, address, name).await,
        // On the heap: what TLS needs would be moved with each probe in plain text.
        Some(policy) => {
            let secured = async {
                let stream = secure(stream, policy, endpoint).await.map_err(|error| insecure(&error))?;
                heartbeat.exchange(stream, address, name).await
            };
            Box::pin(secured).await
        }
    }
}

fn insecure(error: &io::Error) -> ProbeError {
    if was_reset(error) {
        broken(error)
    } else {
        failed(ProbeFault::Unhealthy, format!("TLS handshake failed: {error}"))
    }
}

impl HttpHeartbeat {
    /// Asks on a connection that stands, and judges the answer.
    async fn exchange<S>(&self, stream: S, address: &str, name: Option<&str>) -> Result<(), ProbeError>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let request = self.request(address)?;
        let broken = |error: hyper::Error| broken(&error);
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let verdict = async {
            let answer = sender.send_request(request).await.map_err(broken)?;
            self.judge(&answer, name)?;
            self.judge_body(answer.into_body()).await
        };
        tokio::pin!(verdict);
        tokio::select! {
            verdict = &mut verdict => verdict,
            end = connection => match end {
                Err(error) => Err(broken(error)),
                Ok(()) => verdict.await,
            },
        }
    }

    /// Reads no further than the limit.
    async fn judge_body(&self, body: Incoming) -> Result<(), ProbeError> {
        let Some(expected) = &self.body else { return Ok(()) };
        let read = Limited::new(body, BODY_LIMIT).collect().await.map(Collected::to_bytes);
        let unhealthy = |why: String| Err(failed(ProbeFault::Unhealthy, why));
        match read {
            Ok(body) if memmem::find(&body, expected.as_bytes()).is_some() => Ok(()),
            Ok(_) => unhealthy(format!("its answer does not contain {expected:?}")),
            Err(error) => unhealthy(format!("the body of its answer cannot be read: {error}")),
        }
    }

    fn request(&self, address: &str) -> Result<Request<Empty<Bytes>>, ProbeError> {
        let mut request = Request::builder().method(&self.method).uri(&self.path);
        request = match &self.host {
            Some(host) => request.header(HOST, host),
            None => request.header(HOST, address),
        };
        request = request.header(USER_AGENT, "ringway-heartbeat").header(CONNECTION, "close");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let wrong = |error| ProbeError::Skipped(format!("no heartbeat can be requested at {:?}: {error}", self.path));
        request.body(Empty::new()).map_err(wrong)
    }

    fn judge<B>(&self, answer: &Response<B>, name: Option<&str>) -> Result<(), ProbeError> {
        match (answer.headers().get(SERVER_ID_HEADER), name) {
            (Some(id), Some(name)) if id.as_bytes() != name.as_bytes() => {
                return Err(failed(ProbeFault::Dead, format!("another server answers there: {id:?}")));
            }
            _ => {}
        }
        let status = answer.status();
        if self.status.iter().any(|range| range.contains(&status.as_u16())) {
            return Ok(());
        }
        Err(failed(ProbeFault::Unhealthy, format!("it answered {}", status.as_u16())))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    fn probed(answer: &'static str, name: Option<&str>) -> Result<(), ProbeError> {
        probed_with(&Heartbeat::Http(heartbeat().into()), answer, name).0
    }

    /// Also the request.
    fn probed_with(
        heartbeat: &Heartbeat,
        answer: &'static str,
        name: Option<&str>,
    ) -> (Result<(), ProbeError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint::Tcp(listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = [0; 1024];
            let n = stream.read(&mut head).unwrap_or(0);
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8_lossy(&head[..n]).into_owned()
        });
        let verdict = run(probe(heartbeat, 10_000, name, &endpoint));
        (verdict, server.join().unwrap())
    }

    fn heartbeat() -> HttpHeartbeat {
        HttpHeartbeat {
            method: Method::GET,
            path: "/heartbeat".into(),
            host: None,
            headers: Vec::new(),
            status: vec![200..=299],
            body: None,
            send_proxy: None,
            tls: None,
        }
    }

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn any_accepted_status_is_a_heartbeat() {
        assert_eq!(probed("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Some("a")), Ok(()));
        assert_eq!(probed("HTTP/1.1 204 No Content\r\n\r\n", Some("a")), Ok(()));
        assert_eq!(probed("HTTP/1.0 200 OK\r\nX-Server-ID: server1\r\n\r\nhello", Some("server1")), Ok(()));
        assert_eq!(probed("HTTP/1.1 200 OK\r\nX-Server-ID: its-own-name\r\n\r\n", None), Ok(()), "foreign");
    }

    #[test]
    fn method_host_headers_and_status_are_configured() {
        let configured = HttpHeartbeat {
            method: Method::HEAD,
            path: "/healthz?full=1".into(),
            host: Some(HeaderValue::from_static("shop.example")),
            headers: vec![(HeaderName::from_static("x-probe"), HeaderValue::from_static("yes"))],
            status: vec![200..=200, 401..=401],
            body: None,
            send_proxy: None,
            tls: None,
        };
        let unauthorized = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
        let (verdict, request) = probed_with(&Heartbeat::Http(configured.into()), unauthorized, None);
        assert_eq!(verdict, Ok(()));
        assert!(request.starts_with("HEAD /healthz?full=1 HTTP/1.1\r\n"), "{request}");
        let request = request.to_ascii_lowercase();
        assert!(
            request.contains("\r\nhost: shop.example\r\n") && request.contains("\r\nx-probe: yes\r\n"),
            "{request}"
        );
    }

    #[test]
    fn a_healthy_answer_contains_the_text_that_is_asked_for() {
        let ready = Heartbeat::Http(HttpHeartbeat { body: Some("status\":\"up".into()), ..heartbeat() }.into());
        let verdict = |answer| probed_with(&ready, answer, None).0;
        let up = "HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n{\"status\":\"up\"}\n";
        assert_eq!(verdict(up), Ok(()));
        let down = "HTTP/1.1 200 OK\r\n\r\n{\"status\":\"down\"}";
        let (fault, why) = fault_of(verdict(down));
        assert!(fault == ProbeFault::Unhealthy && why.contains("does not contain"), "{why}");
        let (fault, why) = fault_of(verdict("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"));
        assert!(fault == ProbeFault::Unhealthy && why.contains("cannot be read"), "{why}");
    }

    fn fault_of(verdict: Result<(), ProbeError>) -> (ProbeFault, String) {
        match verdict {
            Err(ProbeError::Failed(failure)) => (failure.fault, failure.why),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn any_other_answer_fails_with_a_reason() {
        let failed = |answer, fault: ProbeFault, part: &str| {
            let (found, why) = fault_of(probed(answer, Some("server1")));
            assert!(found == fault && why.contains(part), "{found:?} {why}");
        };
        let no_http = "no HTTP answer";
        failed("HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", ProbeFault::Unhealthy, "it answered 500");
        failed(
            "HTTP/1.1 200 OK\r\nX-Server-ID: server2\r\n\r\n",
            ProbeFault::Dead,
            "another server answers there: \"server2\"",
        );
        failed("no http\r\n\r\n", ProbeFault::Unhealthy, no_http);
        failed("", ProbeFault::Unhealthy, no_http);
    }

    #[test]
    fn a_reset_is_evidence_of_death() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint::Tcp(listener.local_addr().unwrap());
        // A close that leaves bytes unread resets.
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut [0]).unwrap();
        });
        let (fault, why) = fault_of(run(probe(&Heartbeat::Http(heartbeat().into()), 10_000, None, &endpoint)));
        server.join().unwrap();
        assert_eq!(fault, ProbeFault::Dead, "{why}");
    }

    #[test]
    fn no_answer_within_the_timeout_is_silence() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint::Tcp(listener.local_addr().unwrap());
        let silent = fault_of(run(probe(&Heartbeat::Http(heartbeat().into()), 20, Some("a"), &endpoint)));
        assert_eq!(silent, (ProbeFault::Silent, "no answer within 20 ms".into()));
        assert_eq!(run(probe(&Heartbeat::Connect, 10_000, Some("a"), &endpoint)), Ok(()), "it accepts");
    }

    #[test]
    fn a_full_queue_of_connections_on_this_host_is_silence() {
        assert_eq!(unanswered_connect(&"127.0.0.1:1".parse().unwrap()), ProbeFault::Silent);
        assert_eq!(unanswered_connect(&"[::1]:1".parse().unwrap()), ProbeFault::Silent);
        assert_eq!(unanswered_connect(&"172.17.0.2:1".parse().unwrap()), ProbeFault::ConnectTimedOut);
    }

    #[test]
    fn a_refused_connection_is_evidence_of_death() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint::Tcp(listener.local_addr().unwrap());
        drop(listener);
        let (fault, why) = fault_of(run(probe(&Heartbeat::Connect, 10_000, Some("a"), &endpoint)));
        assert!(fault == ProbeFault::Dead && why.starts_with("cannot connect: Connection refused"), "{why}");
    }

    #[test]
    fn a_lack_of_local_resources_skips_the_probe() {
        let fault = |errno: Errno| unconnected(&errno.into());
        assert!(matches!(fault(Errno::MFILE), ProbeError::Skipped(_)));
        assert!(matches!(fault(Errno::ADDRNOTAVAIL), ProbeError::Skipped(_)));
        assert!(matches!(fault(Errno::CONNREFUSED), ProbeError::Failed(_)));
        assert!(matches!(fault(Errno::HOSTUNREACH), ProbeError::Failed(_)));
    }
}
