//! The admin API over HTTP: it reads a call, passes it to the control loop and writes the answer. It decides
//! nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Query, Request, State};
use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, any};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Mutex, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::admin_access::{AdminAccess, Denial, PAGE};
use super::admin_seats::Seat;
use super::page::{self, Recent};
use super::registry::{Answer, Call, Change, Rejection, Status};
use super::wire::{self, BODY_LIMIT, ReplicaNames};
use super::{metrics, questions};
use crate::core::ring::RingKind;
use crate::core::snapshot::Snapshot;
use crate::shared::counters::Counters;
use crate::shared::log_writer;
use crate::shared::publish::SnapshotView;

/// From the end of the head to the end of the body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// What the admin API asks of the control loop.
pub enum AdminRequest {
    Call { call: Call, reply: oneshot::Sender<Answer> },
    Status { reply: oneshot::Sender<Status> },
}

/// What handlers answer from.
#[derive(Clone)]
pub struct AdminState {
    pub requests: UnboundedSender<AdminRequest>,
    pub snapshots: SnapshotView,
    pub counters: Arc<[Arc<Counters>]>,
    /// Worker events that were dropped.
    pub dropped: Arc<AtomicU64>,
    pub ring: RingKind,
    pub recent: Recent,
    pub access: Arc<AdminAccess>,
}

pub fn router(state: AdminState) -> Router {
    Router::new()
        .route(PAGE, only(&[Method::GET], any(async || page::document())))
        .route("/live", only(&[Method::GET], any(live)))
        .route("/rep", only(&[Method::GET], any(list)))
        .route("/add", only(&[Method::POST], any(add)))
        .route("/rm", only(&[Method::DELETE, Method::POST], any(remove)))
        .route("/replicas", only(&[Method::GET], any(replicas)))
        .route("/ring", only(&[Method::GET], any(async |state, uri| question(state, uri, questions::ring).await)))
        .route("/explain", only(&[Method::GET], any(async |state, uri| question(state, uri, questions::explain).await)))
        .route("/what-if", only(&[Method::GET], any(async |state, uri| question(state, uri, questions::what_if).await)))
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

async fn list(State(state): State<AdminState>) -> Response {
    state.ask(Call::List).await
}

async fn add(State(state): State<AdminState>, request: Request) -> Response {
    state.change(request, Call::Add).await
}

async fn remove(State(state): State<AdminState>, request: Request) -> Response {
    state.change(request, Call::Remove).await
}

type RingQuestion = fn(&Snapshot, RingKind, &questions::Query) -> Result<String, String>;

/// Answered on a thread of its own, one at a time: with thousands of replicas it takes a while, and heartbeats must not wait.
async fn question(State(state): State<AdminState>, uri: Uri, answer: RingQuestion) -> Response {
    static TURN: Mutex<()> = Mutex::const_new(());
    let _turn = TURN.lock().await;
    let answer = move || query(&uri).and_then(|query| answer(&state.snapshots.current(), state.ring, &query));
    match spawn_blocking(answer).await.unwrap_or_else(|error| Err(error.to_string())) {
        Ok(json) => reply(StatusCode::OK, json),
        Err(why) => reply(StatusCode::BAD_REQUEST, wire::failure(&why)),
    }
}

async fn show_metrics(State(state): State<AdminState>) -> Response {
    let snapshot = state.snapshots.current();
    let dropped = state.dropped.load(Ordering::Relaxed);
    let status = state.status().await.unwrap_or_default();
    let page = metrics::page(&snapshot, &state.counters, &status, dropped, log_writer::dropped_lines());
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], page).into_response()
}

async fn replicas(State(state): State<AdminState>) -> Response {
    match state.status().await {
        Some(status) => reply(StatusCode::OK, wire::successful(&status.replicas)),
        None => answered(Answer::Rejected(stopping())),
    }
}

fn stopping() -> Rejection {
    Rejection::unavailable("the balancer is stopping".into())
}

async fn nothing_here(request: Request) -> Response {
    let why = format!(
        "there is nothing at {}: see /rep, /add, /rm, /replicas, /ring, /explain, /what-if, /metrics",
        request.uri().path()
    );
    reply(StatusCode::NOT_FOUND, wire::failure(&why))
}

impl AdminState {
    async fn change(&self, request: Request, call: fn(Change) -> Call) -> Response {
        let dry_run = match dry_run(request.uri()) {
            Ok(dry_run) => dry_run,
            Err(why) => return reply(StatusCode::BAD_REQUEST, wire::failure(&why)),
        };
        let body = match read(request.into_body()).await {
            Ok(body) => body,
            Err((status, why)) => return reply(status, wire::failure(&why)),
        };
        match wire::parse_change(&body) {
            Ok(change) => self.ask(call(Change { dry_run, ..change })).await,
            Err(why) => reply(StatusCode::BAD_REQUEST, wire::failure(&why)),
        }
    }

    async fn ask(&self, call: Call) -> Response {
        let (sender, answer) = oneshot::channel();
        let sent = self.requests.send(AdminRequest::Call { call, reply: sender });
        let answer = match sent {
            Ok(()) => answer.await.ok(),
            Err(_) => None,
        };
        answered(answer.unwrap_or_else(|| Answer::Rejected(stopping())))
    }
}

impl AdminState {
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

/// `?dry_run=1` and nothing else.
fn dry_run(uri: &Uri) -> Result<bool, String> {
    let query = query(uri)?;
    questions::known(&query, &["dry_run"])?;
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

    #[test]
    fn dry_run_is_the_only_parameter() {
        let dry = |query: &str| dry_run(&format!("/rm?{query}").parse().unwrap());
        assert_eq!(dry(""), Ok(false));
        assert_eq!(dry("dry_run=1"), Ok(true));
        assert_eq!(dry("dry_run=0"), Ok(false));
        assert_eq!(dry("dryrun=1"), Err("\"dryrun\" is no parameter here: it takes dry_run".into()));
        assert_eq!(dry("dry_run"), Err("dry_run is \"\": it is 1 or 0".into()));
    }
}
