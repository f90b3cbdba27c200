//! The connection to the engine: which socket, which version, and what its errors mean. It does not know replicas.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::errors::Error;
use bollard::{API_DEFAULT_VERSION, Docker};

use crate::control::runtime::{Failure, FailureKind};

/// Limit of one call to the engine. Starting a container on a busy disk is the slowest.
const CALL_TIMEOUT_S: u64 = 60;
/// The engine answers a ping in milliseconds; one that hangs must not delay the start for a minute.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// A connected engine whose API version was negotiated.
#[derive(Clone)]
pub struct Engine {
    pub client: Docker,
    /// As in `DOCKER_HOST`: `unix:///var/run/docker.sock`.
    pub host: String,
}

impl Engine {
    /// Connects to `host`, or to `DOCKER_HOST`, or to the first of the usual sockets that exists.
    pub async fn connect(host: Option<&str>) -> Result<Engine, Failure> {
        let host = match host {
            Some(host) => host.to_owned(),
            None => env_var("DOCKER_HOST").unwrap_or_else(usual_socket),
        };
        let client = client(&host).map_err(|error| unreachable(&host, &error))?;
        let engine = Engine { client, host };
        let client = tokio::time::timeout(PING_TIMEOUT, engine.client.clone().negotiate_version()).await;
        let client = client.map_err(|_| engine.no_answer())?.map_err(|error| engine.failure("talk to it", &error))?;
        let engine = Engine { client, ..engine };
        engine.ping().await?;
        engine.warn_if_socket_is_mounted();
        Ok(engine)
    }

    /// Each connection looks the socket up by its path. A mount of the socket itself does not follow when the engine makes
    /// a new one.
    fn warn_if_socket_is_mounted(&self) {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let path = self.host.strip_prefix("unix://").unwrap_or_default();
        if is_mount(&mounts, path) {
            log::warn!(
                "{path} is a mount of the socket itself: when the engine restarts it is a dead one, and nothing is healed \
                 any more; mount its folder, as scripts/compose.yml does"
            );
        }
    }

    /// A socket that connects may still have no engine that answers.
    pub async fn ping(&self) -> Result<(), Failure> {
        match tokio::time::timeout(PING_TIMEOUT, self.client.ping()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(self.failure("ping it", &error)),
            Err(_) => Err(self.no_answer()),
        }
    }

    /// Identifies the engine, however it is reached. An engine without an id is identified by its host.
    pub async fn id(&self) -> Result<String, Failure> {
        let info = self.client.info().await.map_err(|error| self.failure("give its id", &error))?;
        Ok(info.id.unwrap_or_else(|| self.host.clone()))
    }

    /// A client whose time limit exceeds `grace`: the engine answers a stop call when the container has ended.
    pub fn with_grace(&self, grace: Duration) -> Docker {
        self.client.clone().with_timeout(grace + Duration::from_secs(CALL_TIMEOUT_S))
    }

    /// The host on which published ports are dialled; `None` for this machine.
    pub fn published_host(&self) -> Option<&str> {
        let (scheme, rest) = self.host.split_once("://")?;
        match scheme {
            "tcp" | "http" | "https" => Some(rest.rsplit_once(':').map_or(rest, |(host, _)| host)),
            _ => None,
        }
    }

    /// An error of the engine as one line: what was attempted, where, why not.
    pub fn failure(&self, attempt: &str, error: &Error) -> Failure {
        match error {
            Error::DockerResponseServerError { status_code: 503.., message } => Failure {
                kind: FailureKind::Unavailable,
                message: format!("the Docker engine at {} is not ready to {attempt}: {}", self.host, one_line(message)),
            },
            Error::DockerResponseServerError { message, .. } => Failure {
                kind: FailureKind::Refused,
                message: format!("the Docker engine at {} would not {attempt}: {}", self.host, one_line(message)),
            },
            other => unreachable(&self.host, other),
        }
    }

    fn no_answer(&self) -> Failure {
        Failure {
            kind: FailureKind::Unavailable,
            message: format!("the Docker engine at {} does not answer: is dockerd running?", self.host),
        }
    }
}

/// Whether `path` is a mount point, by the text of /proc/self/mountinfo: the fifth word of a line is one.
fn is_mount(mounts: &str, path: &str) -> bool {
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(path))
}

/// The image does not exist on the engine.
pub fn no_image(engine: &Engine, image: &str) -> Failure {
    let message = format!(
        "the image {image} is not on the Docker engine at {}: build it (docker build -t {image} .) or pull it (docker pull {image})",
        engine.host
    );
    Failure { kind: FailureKind::Refused, message }
}

/// The HTTP status of the engine's answer, if it answered.
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

/// The directory of `key.pem`, `cert.pem` and `ca.pem`: that of the docker command.
#[cfg_attr(not(feature = "docker-tls"), allow(dead_code))]
fn certificates() -> PathBuf {
    let home = || Path::new(&env_var("HOME").unwrap_or_default()).join(".docker");
    env_var("DOCKER_CERT_PATH").map_or_else(home, PathBuf::from)
}

fn wants_tls() -> bool {
    env_var("DOCKER_TLS_VERIFY").is_some()
}

/// The system's socket, a rootless engine's, or Docker Desktop's.
fn usual_socket() -> String {
    let system = "/var/run/docker.sock".to_owned();
    let rootless = env_var("XDG_RUNTIME_DIR").map(|folder| format!("{folder}/docker.sock"));
    let desktop = env_var("HOME").map(|home| format!("{home}/.docker/run/docker.sock"));
    let mut paths = [Some(system.clone()), rootless, desktop].into_iter().flatten();
    format!("unix://{}", paths.find(|path| Path::new(path).exists()).unwrap_or(system))
}

fn env_var(name: &str) -> Option<String> {
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

/// The text of the innermost error, which is the specific one, and a hint.
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

/// Line breaks and repeated spaces become one space.
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
    fn published_ports_are_dialled_on_the_engines_host() {
        assert_eq!(engine("unix:///var/run/docker.sock").published_host(), None);
        assert_eq!(engine("tcp://build.example:2376").published_host(), Some("build.example"));
        assert_eq!(engine("tcp://[fd00::1]:2376").published_host(), Some("[fd00::1]"));
    }

    #[test]
    fn a_socket_that_is_a_mount_of_its_own_is_noticed() {
        let mounts = "12 1 0:5 / / rw - overlay o rw\n13 12 0:6 /docker.sock /run/docker.sock rw - tmpfs t rw\n";
        assert!(is_mount(mounts, "/run/docker.sock"));
        assert!(!is_mount(mounts, "/run") && !is_mount(mounts, "/docker.sock") && !is_mount(mounts, ""));
    }

    #[test]
    fn an_answer_is_refused_and_a_missing_socket_unavailable() {
        let refused = Error::DockerResponseServerError { status_code: 404, message: "no such\nimage".into() };
        let failure = engine("unix:///x").failure("start server1", &refused);
        assert_eq!(failure.kind, FailureKind::Refused);
        assert_eq!(failure.message, "the Docker engine at unix:///x would not start server1: no such image");
        let absent = engine("unix:///x").failure("start server1", &Error::SocketNotFoundError("/x".into()));
        assert_eq!(absent.kind, FailureKind::Unavailable);
    }

    #[tokio::test]
    async fn a_missing_engine_is_one_line_that_names_the_host() {
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
