//! The HTTP client of the sources that are asked over HTTP: one connection for each question, in plain text, over TLS or over
//! a Unix socket, whole answers and answers line by line. What is asked is not known here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::handshake;
use hyper::header::{ACCEPT, AUTHORIZATION, HOST, HeaderName, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::timeout;

use crate::control::runtime::{Failure, FailureKind};
use crate::control::secure::secure;
use crate::core::snapshot::Endpoint;
use crate::core::tls::roots::Roots;
use crate::core::tls::upstream::{PeerName, UpstreamPolicy, UpstreamPolicySettings};
use crate::settings::SourceApi;

/// Until a connection is made, and until an answer begins that is not waited for on purpose.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// A longer answer, or a longer line of one, is none that was asked for.
const SIZE_LIMIT: usize = 64 << 20;

/// Where questions go.
pub struct ApiClient {
    server: ApiServer,
    /// What stands before each path.
    base: String,
    token: Option<ApiToken>,
}

enum ApiServer {
    Tcp { host: String, port: u16, tls: Option<UpstreamPolicy> },
    Unix(PathBuf),
}

/// Sent with each question, from a file that is read each time: tokens expire, and are replaced there.
pub struct ApiToken {
    pub file: PathBuf,
    pub header: HeaderName,
    /// Before the token.
    pub scheme: &'static str,
}

/// An answer whose head was read. Its connection ends with it.
pub struct HttpAnswer {
    response: Response<Incoming>,
    _connection: OpenConnection,
}

struct OpenConnection(AbortHandle);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The lines of an answer, as they come.
pub struct AnswerLines {
    answer: HttpAnswer,
    buffer: BytesMut,
}

/// Why there is no answer with what was asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum HttpFault {
    Status(StatusCode, String),
    /// For the operator.
    Other(String),
}

impl HttpFault {
    pub fn text(self) -> String {
        match self {
            HttpFault::Status(status, said) if said.is_empty() => format!("it answered {status}"),
            HttpFault::Status(status, said) => format!("it answered {status}: {said}"),
            HttpFault::Other(why) => why,
        }
    }
}

impl ApiClient {
    /// `ca`: the file of the authorities of a server with TLS; `None`: those of this machine.
    pub fn open(api: &SourceApi, ca: Option<&Path>, token: Option<ApiToken>) -> Result<ApiClient, Failure> {
        let (server, base) = match api {
            SourceApi::Unix(path) => (ApiServer::Unix(path.clone()), String::new()),
            SourceApi::Http { host, port, base } => {
                (ApiServer::Tcp { host: host.clone(), port: *port, tls: None }, base.clone())
            }
            SourceApi::Https { host, port, base } => {
                let tls = Some(policy(host, ca).map_err(refused)?);
                (ApiServer::Tcp { host: host.clone(), port: *port, tls }, base.clone())
            }
        };
        Ok(ApiClient { server, base, token })
    }

    /// Asks once. `limit` is how long the head of the answer may take.
    pub async fn get(&self, path: &str, limit: Duration) -> Result<HttpAnswer, HttpFault> {
        let request = self.request(path)?;
        let late = |_| HttpFault::Other(format!("no answer within {} s", limit.as_secs()));
        let answer = timeout(limit, self.send(request)).await.map_err(late)??;
        let status = answer.response.status();
        if status == StatusCode::OK {
            return Ok(answer);
        }
        let said = timeout(CALL_TIMEOUT, answer.body()).await.ok().and_then(Result::ok).unwrap_or_default();
        Err(HttpFault::Status(status, summary(&said)))
    }

    fn request(&self, path: &str) -> Result<Request<Empty<Bytes>>, HttpFault> {
        let host = match &self.server {
            ApiServer::Tcp { host, port, .. } => format!("{host}:{port}"),
            ApiServer::Unix(_) => "localhost".into(),
        };
        let mut request = Request::get(format!("{}{path}", self.base)).header(HOST, host);
        request = request.header(USER_AGENT, "ringway").header(ACCEPT, "application/json");
        if let Some(ApiToken { file, header, scheme }) = &self.token {
            let token = token(file).map_err(HttpFault::Other)?;
            request = request.header(header, format!("{scheme}{token}"));
        }
        request.body(Empty::new()).map_err(|error| HttpFault::Other(format!("{path} cannot be asked for: {error}")))
    }

    async fn send(&self, request: Request<Empty<Bytes>>) -> Result<HttpAnswer, HttpFault> {
        let unreachable = |error: std::io::Error| HttpFault::Other(format!("it cannot be reached: {error}"));
        match &self.server {
            ApiServer::Unix(path) => exchange(UnixStream::connect(path).await.map_err(unreachable)?, request).await,
            ApiServer::Tcp { host, port, tls } => {
                let bare = host.trim_matches(['[', ']']);
                let connect = timeout(CALL_TIMEOUT, TcpStream::connect((bare, *port))).await;
                let late = |_| HttpFault::Other(format!("no connection within {} s", CALL_TIMEOUT.as_secs()));
                let stream = connect.map_err(late)?.map_err(unreachable)?;
                match tls {
                    None => exchange(stream, request).await,
                    Some(policy) => {
                        let insecure = |error| HttpFault::Other(format!("TLS handshake failed: {error}"));
                        let peer = Endpoint::Tcp(stream.peer_addr().map_err(insecure)?);
                        exchange(secure(stream, policy, &peer).await.map_err(insecure)?, request).await
                    }
                }
            }
        }
    }
}

impl HttpAnswer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    pub async fn body(self) -> Result<Bytes, HttpFault> {
        let HttpAnswer { response, _connection } = self;
        let body = Limited::new(response.into_body(), SIZE_LIMIT).collect().await;
        body.map(|body| body.to_bytes()).map_err(|error| HttpFault::Other(format!("its answer broke off: {error}")))
    }

    /// The whole answer, which may take this long.
    pub async fn json<T: serde::de::DeserializeOwned>(self, limit: Duration) -> Result<T, HttpFault> {
        let late = |_| HttpFault::Other(format!("its answer did not end within {} s", limit.as_secs()));
        let body = timeout(limit, self.body()).await.map_err(late)??;
        serde_json::from_slice(&body)
            .map_err(|error| HttpFault::Other(format!("its answer is not what was asked for: {error}")))
    }

    pub fn lines(self) -> AnswerLines {
        AnswerLines { answer: self, buffer: BytesMut::new() }
    }
}

impl AnswerLines {
    /// `None`: the answer has ended.
    pub async fn next(&mut self) -> Result<Option<Bytes>, HttpFault> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.buffer) {
                return Ok(Some(self.buffer.split_to(end + 1).freeze()));
            }
            if self.buffer.len() > SIZE_LIMIT {
                return Err(HttpFault::Other("its answer has a line without an end".into()));
            }
            match self.answer.response.body_mut().frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(HttpFault::Other(format!("its answer broke off: {error}"))),
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
            }
        }
    }
}

impl ApiToken {
    /// As OAuth has it.
    pub fn bearer(file: PathBuf) -> ApiToken {
        ApiToken { file, header: AUTHORIZATION, scheme: "Bearer " }
    }
}

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<HttpAnswer, HttpFault>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let broken = |error: hyper::Error| HttpFault::Other(format!("no HTTP answer: {error}"));
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let driven = spawn_local(async move {
        let _ = connection.await;
    });
    let connection = OpenConnection(driven.abort_handle());
    let response = sender.send_request(request).await.map_err(broken)?;
    Ok(HttpAnswer { response, _connection: connection })
}

fn policy(host: &str, ca: Option<&Path>) -> Result<UpstreamPolicy, String> {
    let bare = host.trim_matches(['[', ']']);
    let name: PeerName = bare.parse().map_err(|()| format!("{host} is no name that a certificate can have"))?;
    let ca = ca.ok_or("https needs --source-ca FILE: the authorities that issued its certificate")?;
    let roots = roots(ca)?;
    let settings = UpstreamPolicySettings { name: Some(name), roots: Some(roots), own: None, alpn: &[], checksum: 0 };
    UpstreamPolicy::new(settings).map_err(|fault| fault.to_string())
}

/// `Err`: the file, and what is wrong with it.
fn roots(ca: &Path) -> Result<Roots, String> {
    let pem = std::fs::read(ca).map_err(|error| format!("{} cannot be read: {error}", ca.display()))?;
    Roots::from_pem(&pem).map_err(|why| format!("{}: {why}", ca.display()))
}

/// Judges the files that a client would read. `Err`: the first that is wrong, and what is wrong with it.
pub fn check_files(ca: Option<&Path>, token_file: Option<&Path>) -> Result<(), String> {
    ca.map(roots).transpose()?;
    token_file.map(token).transpose().map(drop)
}

fn token(file: &Path) -> Result<String, String> {
    let shown = file.display();
    let text =
        std::fs::read_to_string(file).map_err(|error| format!("the token in {shown} cannot be read: {error}"))?;
    let token = text.trim();
    match !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(token.into()),
        false => Err(format!("the token in {shown} is not one line of visible characters")),
    }
}

/// What an error's body says, in short: the `message` of a JSON object, or its first line.
fn summary(body: &[u8]) -> String {
    const LIMIT: usize = 200;
    let message = serde_json::from_slice::<serde_json::Value>(body).ok();
    let message = message.as_ref().and_then(|value| value["message"].as_str());
    let text = String::from_utf8_lossy(body);
    let line = message.or_else(|| text.lines().next()).unwrap_or_default();
    line.chars().filter(|c| !c.is_control()).take(LIMIT).collect()
}

fn refused(message: String) -> Failure {
    Failure { kind: FailureKind::Refused, message }
}
