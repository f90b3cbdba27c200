//! The way to the engine: which socket, which version, and what its refusals mean. Nothing here knows what a replica is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::errors::Error;
use bollard::{API_DEFAULT_VERSION, Docker};

use crate::control::runtime::{Failure, FailureKind};

/// One call to the engine. Starting a container on a busy disk is the slowest of them.
const CALL_TIMEOUT_S: u64 = 60;
/// The engine answers a ping in milliseconds; a socket whose owner hangs must not hold up the start.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// A connected, version-negotiated engine.
#[derive(Clone)]
pub struct Engine {
    pub client: Docker,
    /// As the user would write it: `unix:///var/run/docker.sock`.
    pub host: String,
}

impl Engine {
    /// Connects to `host`, or to what `DOCKER_HOST` names, or to the first socket found where engines listen.
    pub async fn connect(host: Option<&str>) -> Result<Engine, Failure> {
        let host = match host {
            Some(host) => host.to_owned(),
            None => named_by_environment().unwrap_or_else(usual_socket),
        };
        let client = client(&host).map_err(|error| unreachable(&host, &error))?;
        let engine = Engine { client, host };
        let client = tokio::time::timeout(PING_TIMEOUT, engine.client.clone().negotiate_version()).await;
        let client = client.map_err(|_| engine.silent())?.map_err(|error| engine.failure("talk to it", &error))?;
        let engine = Engine { client, ..engine };
        engine.ping().await?;
        Ok(engine)
    }

    /// A socket may connect and yet have nobody behind it.
    pub async fn ping(&self) -> Result<(), Failure> {
        match tokio::time::timeout(PING_TIMEOUT, self.client.ping()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.failure("ping it", &error)),
            Err(_) => Err(self.silent()),
        }
    }

    /// What tells it from every other engine, however it is reached.
    pub async fn id(&self) -> Result<String, Failure> {
        let told = self.client.info().await.map_err(|error| self.failure("tell its id", &error))?;
        Ok(told.id.unwrap_or_else(|| self.host.clone()))
    }

    /// A client whose patience is longer than `grace`: the engine answers a stop when the stop is over.
    pub fn patient(&self, grace: Duration) -> Docker {
        self.client.clone().with_timeout(grace + Duration::from_secs(CALL_TIMEOUT_S))
    }

    /// The host to dial for a published port: this machine, unless the engine is another one.
    pub fn published_host(&self) -> Option<&str> {
        let (scheme, rest) = self.host.split_once("://")?;
        match scheme {
            "tcp" | "http" | "https" => Some(rest.rsplit_once(':').map_or(rest, |(host, _)| host)),
            _ => None,
        }
    }

    /// What an error of the engine means, as one line: what was tried, where, what to do.
    pub fn failure(&self, tried: &str, error: &Error) -> Failure {
        match error {
            Error::DockerResponseServerError { status_code: 503.., message } => Failure {
                kind: FailureKind::Unavailable,
                message: format!("the Docker engine at {} is not ready to {tried}: {}", self.host, one_line(message)),
            },
            Error::DockerResponseServerError { message, .. } => Failure {
                kind: FailureKind::Refused,
                message: format!("the Docker engine at {} would not {tried}: {}", self.host, one_line(message)),
            },
            other => unreachable(&self.host, other),
        }
    }

    fn silent(&self) -> Failure {
        Failure {
            kind: FailureKind::Unavailable,
            message: format!("the Docker engine at {} does not answer: is dockerd running?", self.host),
        }
    }
}

/// What to do about an image that is not there.
pub fn no_image(engine: &Engine, image: &str) -> Failure {
    let message = format!(
        "the image {image} is not on the Docker engine at {}: build it (docker build -t {image} .) or pull it (docker pull {image})",
        engine.host
    );
    Failure { kind: FailureKind::Refused, message }
}

/// The status with which the engine refused, if it answered at all.
pub fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

fn client(host: &str) -> Result<Docker, Error> {
    let unsupported = || Error::UnsupportedURISchemeError { uri: host.to_owned() };
    match host.split_once("://") {
        Some(("unix", _)) => Docker::connect_with_unix(host, CALL_TIMEOUT_S, API_DEFAULT_VERSION),
        Some(("tcp", _)) if wants_tls() => over_tls(host),
        Some(("https", _)) => over_tls(host),
        Some(("tcp" | "http", _)) => Docker::connect_with_http(host, CALL_TIMEOUT_S, API_DEFAULT_VERSION),
        _ => Err(unsupported()),
    }
}

#[cfg(feature = "docker-tls")]
fn over_tls(host: &str) -> Result<Docker, Error> {
    let folder = certificates();
    let file = |name: &str| folder.join(name);
    let (key, cert, ca) = (file("key.pem"), file("cert.pem"), file("ca.pem"));
    for path in [&key, &cert, &ca] {
        if !path.exists() {
            return Err(Error::CertPathError { path: path.clone() });
        }
    }
    Docker::connect_with_ssl(host, &key, &cert, &ca, CALL_TIMEOUT_S, API_DEFAULT_VERSION)
}

#[cfg(not(feature = "docker-tls"))]
fn over_tls(host: &str) -> Result<Docker, Error> {
    Err(Error::UnsupportedURISchemeError { uri: format!("{host} (built without the feature docker-tls)") })
}

/// As the docker command has it: a folder with `key.pem`, `cert.pem` and `ca.pem`.
#[cfg_attr(not(feature = "docker-tls"), allow(dead_code))]
fn certificates() -> PathBuf {
    let home = || Path::new(&set("HOME").unwrap_or_default()).join(".docker");
    set("DOCKER_CERT_PATH").map_or_else(home, PathBuf::from)
}

fn wants_tls() -> bool {
    set("DOCKER_TLS_VERIFY").is_some()
}

fn named_by_environment() -> Option<String> {
    set("DOCKER_HOST")
}

/// The system's engine, then a rootless one, then Docker Desktop's.
fn usual_socket() -> String {
    let system = "/var/run/docker.sock".to_owned();
    let rootless = set("XDG_RUNTIME_DIR").map(|folder| format!("{folder}/docker.sock"));
    let desktop = set("HOME").map(|home| format!("{home}/.docker/run/docker.sock"));
    let mut places = [Some(system.clone()), rootless, desktop].into_iter().flatten();
    format!("unix://{}", places.find(|path| Path::new(path).exists()).unwrap_or(system))
}

fn set(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn unreachable(host: &str, error: &Error) -> Failure {
    let message = match error {
        Error::SocketNotFoundError(path) => {
            format!(
                "no Docker engine at {host}: {path} does not exist; start dockerd, or name another with DOCKER_HOST"
            )
        }
        Error::UnsupportedURISchemeError { uri } => {
            format!("DOCKER_HOST={uri} is not supported: use unix:///path, tcp://host:port or https://host:port")
        }
        #[cfg(feature = "docker-tls")]
        Error::CertPathError { path } => format!(
            "no TLS to the Docker engine at {host}: {} cannot be read; DOCKER_CERT_PATH names a folder with key.pem, \
             cert.pem and ca.pem",
            path.display()
        ),
        Error::RequestTimeoutError => format!("the Docker engine at {host} does not answer: is dockerd running?"),
        other => {
            let (why, hint) = cause(other);
            format!("the Docker engine at {host} cannot be reached: {why}; {hint}")
        }
    };
    Failure { kind: FailureKind::Unavailable, message }
}

/// The innermost error says what happened; the outer ones only say that something did.
fn cause(error: &Error) -> (String, &'static str) {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    let denied =
        inner.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied);
    let hint = if denied {
        "this user may not open the socket: add it to the socket's group"
    } else {
        "is dockerd running, and is DOCKER_HOST right?"
    };
    (one_line(&inner.to_string()), hint)
}

/// As one line of a log.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(host: &str) -> Engine {
        let client = Docker::connect_with_http("tcp://127.0.0.1:1", 1, API_DEFAULT_VERSION).unwrap();
        Engine { client, host: host.to_owned() }
    }

    #[test]
    fn published_ports_are_dialled_where_the_engine_is() {
        assert_eq!(engine("unix:///var/run/docker.sock").published_host(), None);
        assert_eq!(engine("tcp://build.example:2376").published_host(), Some("build.example"));
        assert_eq!(engine("tcp://[fd00::1]:2376").published_host(), Some("[fd00::1]"));
    }

    #[test]
    fn a_refusal_is_not_an_absence() {
        let refused = Error::DockerResponseServerError { status_code: 404, message: "no such\nimage".into() };
        let failure = engine("unix:///x").failure("start server1", &refused);
        assert_eq!(failure.kind, FailureKind::Refused);
        assert_eq!(failure.message, "the Docker engine at unix:///x would not start server1: no such image");
        let absent = engine("unix:///x").failure("start server1", &Error::SocketNotFoundError("/x".into()));
        assert_eq!(absent.kind, FailureKind::Unavailable);
    }

    #[tokio::test]
    async fn no_engine_is_one_clear_line() {
        let failure = Engine::connect(Some("unix:///nonexistent/docker.sock")).await.err().unwrap();
        assert_eq!(failure.kind, FailureKind::Unavailable);
        assert!(
            failure.message.starts_with("no Docker engine at unix:///nonexistent/docker.sock"),
            "{}",
            failure.message
        );
        let failure = Engine::connect(Some("ssh://host")).await.err().unwrap();
        assert!(failure.message.contains("ssh://host is not supported"), "{}", failure.message);
        assert!(!failure.message.contains('\n'));
    }
}
