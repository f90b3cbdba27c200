//! The admin API over HTTP: it reads a call, passes it to the control loop and writes the answer. It decides
//! nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Query, Request, State};
use axum::http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, VARY, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Mutex, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::admin_access::{AdminAccess, Denial, LIVEZ, PAGE, READYZ};
use super::admin_seats::Seat;
use super::metrics::exposition::Format;
use super::metrics::process::ProcessFacts;
use super::metrics::rings::RingWatch;
use super::metrics::{self, DropCounts, ScrapeSources};
use super::page::{self, Recent};
use super::questions;
use super::registry::{Answer, Call, Change, Rejection, Status};
use super::reload::{ReloadAnswer, ReloadError};
use super::wire::{self, BODY_LIMIT, ReplicaNames};
use crate::core::snapshot::{Service, ServiceId, Snapshot};
use crate::shared::counters::Counters;
use crate::shared::publish::SnapshotView;
use crate::shared::{access_log, log_writer};

/// From the end of the head to the end of the body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// What the admin API asks of the control loop.
pub enum AdminRequest {
    Call {
        service: ServiceId,
        call: Call,
        reply: oneshot::Sender<Answer>,
    },
    Status {
        reply: oneshot::Sender<Status>,
    },
    /// `Err`: why clients are to be sent elsewhere.
    Readiness {
        reply: oneshot::Sender<Result<(), String>>,
    },
    Reload {
        dry_run: DryRun,
        reply: oneshot::Sender<ReloadAnswer>,
    },
    Configuration {
        reply: oneshot::Sender<String>,
    },
}

/// Whether a call only says what it would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DryRun {
    Yes,
    No,
}

/// What handlers answer from.
#[derive(Clone)]
pub struct AdminState {
    pub requests: UnboundedSender<AdminRequest>,
    pub snapshots: SnapshotView,
    pub counters: Arc<[Arc<Counters>]>,
    /// Worker events that were dropped.
    pub dropped: Arc<AtomicU64>,
    pub recent: Recent,
    pub access: Arc<AdminAccess>,
    pub rings: RingWatch,
    /// When this process started.
    pub started: SystemTime,
}

pub fn router(state: AdminState) -> Router {
    Router::new()
        .route(PAGE, only(&[Method::GET], any(async || page::document())))
        .route("/live", only(&[Method::GET], any(live)))
        .route("/rep", only(&[Method::GET], any(list)))
        .route("/add", only(&[Method::POST], any(add)))
        .route("/rm", only(&[Method::DELETE, Method::POST], any(remove)))
        .route("/replicas", only(&[Method::GET], any(replicas)))
        .route("/reload", only(&[Method::POST], any(reload)))
        .route("/config", only(&[Method::GET], any(configuration)))
        .route("/ring", only(&[Method::GET], any(async |state, uri| question(state, uri, questions::ring).await)))
        .route("/explain", only(&[Method::GET], any(async |state, uri| question(state, uri, questions::explain).await)))
        .route("/what-if", only(&[Method::GET], any(async |state, uri| question(state, uri, questions::what_if).await)))
        .route(LIVEZ, only(&[Method::GET], any(async || reply(StatusCode::OK, wire::successful(&"live")))))
        .route(READYZ, only(&[Method::GET], any(readiness)))
        .route("/metrics", only(&[Method::GET], any(show_metrics)))
        .fallback(nothing_here)
        .layer(from_fn_with_state(state.clone(), guard))
        .with_state(state)
}

/// 405 with `Allow` for every other method (RFC 9110, 15.5.6). HEAD is allowed where GET is.
fn only(methods: &'static [Method], route: MethodRouter<AdminState>) -> MethodRouter<AdminState> {
    route.layer(axum::middleware::from_fn(move |request: Request, next: Next| async move {
        let method = request.method();
        let head = method == Method::HEAD && methods.contains(&Method::GET);
        if head || methods.contains(method) {
            return next.run(request).await;
        }
        let allow = methods.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
        let why = format!("{method} is not allowed here: use {allow}");
        let mut response = reply(StatusCode::METHOD_NOT_ALLOWED, wire::failure(&why));
        if let Ok(allow) = allow.parse() {
            response.headers_mut().insert(ALLOW, allow);
        }
        response
    }))
}

async fn live(State(state): State<AdminState>) -> Response {
    page::stream(state).unwrap_or_else(|| {
        let why = format!("{} live pages are open, which is the most", page::STREAMS_LIMIT);
        answered(Answer::Rejected(Rejection::unavailable(why)))
    })
}

async fn list(State(state): State<AdminState>, uri: Uri) -> Response {
    let service = query(&uri).and_then(|mut query| {
        let service = take_service(&mut query, &state.snapshots.current())?;
        questions::known(&query, &["service"]).map(|()| service)
    });
    match service {
        Ok(service) => state.ask(service, Call::List).await,
        Err(why) => bad_request(&why),
    }
}

async fn add(State(state): State<AdminState>, request: Request) -> Response {
    state.change(request, Call::Add).await
}

async fn remove(State(state): State<AdminState>, request: Request) -> Response {
    state.change(request, Call::Remove).await
}

type RingQuestion = fn(&Service, &questions::Query) -> Result<String, String>;

/// Answered on a thread of its own, one at a time: with thousands of replicas it takes a while, and heartbeats must not wait.
async fn question(State(state): State<AdminState>, uri: Uri, answer: RingQuestion) -> Response {
    static TURN: Mutex<()> = Mutex::const_new(());
    let _turn = TURN.lock().await;
    let answer = move || {
        let (mut query, snapshot) = (query(&uri)?, state.snapshots.current());
        let service = take_service(&mut query, &snapshot)?;
        answer(snapshot.service(service).ok_or("the service is gone")?, &query)
    };
    match spawn_blocking(answer).await.unwrap_or_else(|error| Err(error.to_string())) {
        Ok(json) => reply(StatusCode::OK, json),
        Err(why) => bad_request(&why),
    }
}

/// Written on a thread of its own, like an answer about the ring.
async fn show_metrics(State(state): State<AdminState>, headers: HeaderMap) -> Response {
    let accept: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let format = Format::accepted(&accept.join(","));
    let status = state.status().await.unwrap_or_default();
    match spawn_blocking(move || state.metrics(&status, format)).await {
        Ok(page) => ([(CONTENT_TYPE, format.content_type()), (VARY, "accept")], page).into_response(),
        Err(error) => reply(StatusCode::INTERNAL_SERVER_ERROR, wire::failure(&error.to_string())),
    }
}

async fn replicas(State(state): State<AdminState>) -> Response {
    match state.status().await {
        Some(status) => reply(StatusCode::OK, wire::successful(&status.replicas)),
        None => answered(Answer::Rejected(stopping())),
    }
}

/// Reads the configuration again: whole, or not at all. A reply is sent when every worker acts on it.
async fn reload(State(state): State<AdminState>, uri: Uri) -> Response {
    let dry_run = match query(&uri).and_then(|query| dry_run(&query, &["dry_run"])) {
        Ok(true) => DryRun::Yes,
        Ok(false) => DryRun::No,
        Err(why) => return bad_request(&why),
    };
    let (sender, answer) = oneshot::channel();
    let sent = state.requests.send(AdminRequest::Reload { dry_run, reply: sender });
    let answer = match sent {
        Ok(()) => answer.await.ok(),
        Err(_) => None,
    };
    match answer {
        Some(Ok(report)) => reply(StatusCode::OK, wire::successful(&report)),
        Some(Err(ReloadError::Invalid(lines))) => bad_request(&lines),
        Some(Err(ReloadError::Unavailable(why))) => answered(Answer::Rejected(Rejection::unavailable(why))),
        None => answered(Answer::Rejected(stopping())),
    }
}

/// The effective configuration as a file; secrets are hidden.
async fn configuration(State(state): State<AdminState>) -> Response {
    let (sender, text) = oneshot::channel();
    let sent = state.requests.send(AdminRequest::Configuration { reply: sender });
    let text = match sent {
        Ok(()) => text.await.ok(),
        Err(_) => None,
    };
    match text {
        Some(text) => ([(CONTENT_TYPE, "application/toml"), (CACHE_CONTROL, "no-store")], text).into_response(),
        None => answered(Answer::Rejected(stopping())),
    }
}

fn stopping() -> Rejection {
    Rejection::unavailable("the balancer is stopping".into())
}

async fn readiness(State(state): State<AdminState>) -> Response {
    let (sender, readiness) = oneshot::channel();
    let sent = state.requests.send(AdminRequest::Readiness { reply: sender });
    let readiness = if sent.is_ok() { readiness.await.ok() } else { None };
    match readiness {
        Some(Ok(())) => reply(StatusCode::OK, wire::successful(&"ready")),
        Some(Err(why)) => answered(Answer::Rejected(Rejection::unavailable(why))),
        None => answered(Answer::Rejected(stopping())),
    }
}

async fn nothing_here(request: Request) -> Response {
    let why = format!(
        "there is nothing at {}: see /rep, /add, /rm, /replicas, /reload, /config, /ring, /explain, /what-if, /livez, \
         /readyz, /metrics",
        request.uri().path()
    );
    reply(StatusCode::NOT_FOUND, wire::failure(&why))
}

impl AdminState {
    async fn change(&self, request: Request, call: fn(Change) -> Call) -> Response {
        let (service, dry_run) = match change_target(request.uri(), &self.snapshots.current()) {
            Ok(target) => target,
            Err(why) => return bad_request(&why),
        };
        let body = match read(request.into_body()).await {
            Ok(body) => body,
            Err((status, why)) => return reply(status, wire::failure(&why)),
        };
        match wire::parse_change(&body) {
            Ok(change) => self.ask(service, call(Change { dry_run, ..change })).await,
            Err(why) => bad_request(&why),
        }
    }

    async fn ask(&self, service: ServiceId, call: Call) -> Response {
        let (sender, answer) = oneshot::channel();
        let sent = self.requests.send(AdminRequest::Call { service, call, reply: sender });
        let answer = match sent {
            Ok(()) => answer.await.ok(),
            Err(_) => None,
        };
        answered(answer.unwrap_or_else(|| Answer::Rejected(stopping())))
    }
}

impl AdminState {
    fn metrics(&self, status: &Status, format: Format) -> String {
        let dropped = DropCounts {
            worker_events: self.dropped.load(Ordering::Relaxed),
            log_lines: log_writer::dropped_lines(),
            access_log_lines: access_log::unwritten_lines(),
        };
        let sources = ScrapeSources {
            snapshot: &self.snapshots.current(),
            counters: &self.counters,
            status,
            dropped,
            rings: &self.rings.facts(),
            process: ProcessFacts::read(self.started),
        };
        metrics::page(&sources, format)
    }

    /// Made when it is asked for: it takes time in proportion to the number of replicas. `None`: the balancer has ended.
    pub async fn status(&self) -> Option<Status> {
        let (sender, status) = oneshot::channel();
        self.requests.send(AdminRequest::Status { reply: sender }).ok()?;
        status.await.ok()
    }
}

fn answered(answer: Answer) -> Response {
    match answer {
        Answer::Replicas(names) => {
            reply(StatusCode::OK, wire::successful(&ReplicaNames::of(names.iter().map(|name| &**name))))
        }
        Answer::Replica(replica) => reply(StatusCode::OK, wire::successful(&replica)),
        Answer::Reconfigured => reply(StatusCode::OK, wire::successful(&"reconfigured")),
        Answer::Rejected(Rejection { status, message }) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let mut response = reply(status, wire::failure(&message));
            if status == StatusCode::SERVICE_UNAVAILABLE {
                response.headers_mut().insert(RETRY_AFTER, 1.into());
            }
            response
        }
    }
}

fn reply(status: StatusCode, json: String) -> Response {
    (status, [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], json).into_response()
}

fn query(uri: &Uri) -> Result<Vec<(String, String)>, String> {
    let Query(pairs) = Query::try_from_uri(uri).map_err(|error| format!("the query cannot be read: {error}"))?;
    Ok(pairs)
}

fn bad_request(why: &str) -> Response {
    reply(StatusCode::BAD_REQUEST, wire::failure(why))
}

/// Takes `service=NAME` out of a query. Without it, the only service is meant.
fn take_service(query: &mut Vec<(String, String)>, snapshot: &Snapshot) -> Result<ServiceId, String> {
    let services = (0..).map(ServiceId).zip(&snapshot.services).filter(|(_, service)| !service.is_internal());
    let services: Vec<(ServiceId, &str)> = services.map(|(id, service)| (id, &*service.name)).collect();
    let names = || services.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
    let named = query.iter().position(|(parameter, _)| parameter == "service").map(|at| query.remove(at).1);
    match (named, &services[..]) {
        (Some(name), _) => services
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(id, _)| *id)
            .ok_or_else(|| format!("service is {name:?}: there is no such service; there are {}", names())),
        (None, [(only, _)]) => Ok(*only),
        (None, _) => Err(format!("service is missing: say which one, as ?service=NAME; there are {}", names())),
    }
}

/// `?service=NAME` and `?dry_run=1`, and nothing else.
fn change_target(uri: &Uri, snapshot: &Snapshot) -> Result<(ServiceId, bool), String> {
    let mut query = query(uri)?;
    let service = take_service(&mut query, snapshot)?;
    Ok((service, dry_run(&query, &["dry_run", "service"])?))
}

/// `?dry_run=1`, in a query that may have `known` parameters.
fn dry_run(query: &[(String, String)], known: &[&str]) -> Result<bool, String> {
    questions::known(query, known)?;
    match query.last().map(|(_, value)| value.as_str()) {
        None | Some("0" | "false") => Ok(false),
        Some("1" | "true") => Ok(true),
        Some(other) => Err(format!("dry_run is {other:?}: it is 1 or 0")),
    }
}

async fn read(body: Body) -> Result<Vec<u8>, (StatusCode, String)> {
    match timeout(BODY_TIMEOUT, to_bytes(body, BODY_LIMIT)).await {
        Ok(Ok(bytes)) => Ok(bytes.to_vec()),
        Ok(Err(error)) if is_too_long(&error) => {
            Err((StatusCode::PAYLOAD_TOO_LARGE, format!("the body is larger than {BODY_LIMIT} bytes")))
        }
        Ok(Err(error)) => Err((StatusCode::BAD_REQUEST, format!("the body cannot be read: {error}"))),
        Err(_) => {
            Err((StatusCode::REQUEST_TIMEOUT, format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs())))
        }
    }
}

fn is_too_long(error: &axum::Error) -> bool {
    let source = std::error::Error::source(error);
    source.is_some_and(|source| source.is::<http_body_util::LengthLimitError>())
}

/// A call that is denied reaches no handler, and its body is not read.
async fn guard(State(state): State<AdminState>, request: Request, next: Next) -> Response {
    if let Err(denial) = state.access.check(request.uri(), request.headers()) {
        return denied(denial);
    }
    if let Some(seat) = request.extensions().get::<Arc<Seat>>()
        && state.access.proves_itself(request.uri())
    {
        seat.keep();
    }
    next.run(request).await
}

fn denied(denial: Denial) -> Response {
    let (status, why) = match denial {
        Denial::UnknownHost => (
            StatusCode::MISDIRECTED_REQUEST,
            "this Host is no address, not localhost and no name of this balancer: allow a name with --admin-host",
        ),
        Denial::NoToken => (StatusCode::UNAUTHORIZED, "a token is asked for: Authorization: Bearer TOKEN"),
        Denial::ForeignPage => (StatusCode::FORBIDDEN, "a page of another origin may not call the admin API"),
    };
    let mut response = reply(status, wire::failure(why));
    if denial == Denial::NoToken {
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ring::{Ring, RingKind};
    use crate::core::snapshot::{INTERNAL_SERVICE, KeyPolicy, Mode};

    fn snapshot(names: &[&str]) -> Snapshot {
        let service = |name: &&str| Service {
            name: (*name).into(),
            mode: Mode::Http,
            key: KeyPolicy::Request,
            limits: Arc::default(),
            send_proxy: None,
            replicas: Vec::new(),
            ring: Arc::new(Ring::build(RingKind::Ketama, &[])),
        };
        Snapshot { services: names.iter().map(service).map(Arc::new).collect(), ..Snapshot::empty(1) }
    }

    #[test]
    fn a_change_takes_service_and_dry_run() {
        let snapshot = snapshot(&["shop", INTERNAL_SERVICE]);
        let target = |query: &str| change_target(&format!("/rm?{query}").parse().unwrap(), &snapshot);
        let shop = ServiceId(0);
        assert_eq!(target(""), Ok((shop, false)));
        assert_eq!(target("dry_run=1"), Ok((shop, true)));
        assert_eq!(target("service=shop&dry_run=0"), Ok((shop, false)));
        assert_eq!(target("dryrun=1"), Err("\"dryrun\" is no parameter here: it takes dry_run and service".into()));
        assert_eq!(target("dry_run"), Err("dry_run is \"\": it is 1 or 0".into()));
    }

    #[test]
    fn which_service_is_meant_must_be_clear() {
        let snapshot = snapshot(&["shop", INTERNAL_SERVICE, "blog"]);
        let target = |query: &str| change_target(&format!("/rm?{query}").parse().unwrap(), &snapshot);
        assert_eq!(target("service=blog"), Ok((ServiceId(2), false)));
        assert_eq!(target(""), Err("service is missing: say which one, as ?service=NAME; there are shop, blog".into()));
        let internal = format!("service={INTERNAL_SERVICE}");
        for query in ["service=nowhere", &internal] {
            assert!(target(query).is_err_and(|why| why.ends_with("there is no such service; there are shop, blog")));
        }
    }
}
