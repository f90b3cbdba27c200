//! The admin API over HTTP: it reads a call, passes it to the control loop and writes the answer. It decides nothing.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | [`AdminRequest`], [`AdminState`] and how it asks the control loop; the table of routes, the router, 404, 405 and who may call |
//! | `calls` | calls that change something, and `/rep`: bodies read with a limit and a timeout |
//! | `reads` | calls that change nothing: services, replicas, the ring, readiness, metrics, configuration, the page |
//! | `service_report` | what `GET /services` says of each service, routes and listeners that lead to it |
//! | `openapi` | `GET /openapi.json`: made from the handlers and their types; errors and the token of all calls |
//! | `parameters` | query strings: the service that is meant, dry runs; pure |
//! | `replies` | statuses, the JSON envelope, fields of the head |

mod calls;
mod openapi;
mod parameters;
mod reads;
mod replies;
mod service_report;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{ALLOW, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{MethodRouter, any};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::admin_access::{Denial, LIVEZ, PAGE, READYZ, SharedAccess};
use super::admin_seats::Seat;
use super::metrics::exposition::Format;
use super::metrics::process::ProcessFacts;
use super::metrics::rings::RingWatch;
use super::metrics::{self, DropCounts, ScrapeSources};
use super::operations::OperationCounters;
use super::page::Recent;
use super::registry::{Answer, Call, Rejection, Status};
use super::reload::ReloadAnswer;
use super::wire;
use crate::core::snapshot::ServiceId;
use crate::shared::counters::Counters;
use crate::shared::publish::SnapshotView;
use crate::shared::text::visible;
use crate::shared::{access_log, log_writer};
use replies::reply;

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
    pub access: SharedAccess,
    pub rings: RingWatch,
    pub operations: Arc<OperationCounters>,
    /// When this process started.
    pub started: SystemTime,
}

/// One path of the API.
struct ApiRoute {
    path: &'static str,
    methods: &'static [Method],
    handler: MethodRouter<AdminState>,
}

const GET: &[Method] = &[Method::GET];
const POST: &[Method] = &[Method::POST];

/// The API, whole.
fn routes() -> Vec<ApiRoute> {
    let route = |path, methods, handler| ApiRoute { path, methods, handler };
    vec![
        route(PAGE, GET, any(reads::document)),
        route("/live", GET, any(reads::live)),
        route("/rep", GET, any(calls::rep)),
        route("/add", POST, any(calls::add)),
        route("/rm", &[Method::DELETE, Method::POST], any(calls::remove)),
        route("/services", GET, any(reads::services)),
        route("/replicas", GET, any(reads::replicas)),
        route("/replicas/{name}", &[Method::PATCH], any(calls::patch)),
        route("/reload", POST, any(calls::reload)),
        route("/config", GET, any(reads::configuration)),
        route("/ring", GET, any(reads::ring)),
        route("/explain", GET, any(reads::explain)),
        route("/what-if", GET, any(reads::what_if)),
        route(LIVEZ, GET, any(reads::liveness)),
        route(READYZ, GET, any(reads::readiness)),
        route("/metrics", GET, any(reads::metrics)),
        route("/openapi.json", GET, any(reads::openapi)),
    ]
}

pub fn router(state: AdminState) -> Router {
    let add =
        |router: Router<AdminState>, ApiRoute { path, methods, handler }| router.route(path, only(methods, handler));
    let router = routes().into_iter().fold(Router::new(), add);
    router.fallback(nothing_here).layer(from_fn_with_state(state.clone(), guard)).with_state(state)
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

async fn nothing_here(request: Request) -> Response {
    let paths: Vec<&str> = routes().iter().map(|route| route.path).collect();
    let why = format!("there is nothing at {}: see {}", request.uri().path(), paths.join(", "));
    reply(StatusCode::NOT_FOUND, wire::failure(&why))
}

impl AdminState {
    /// What the control loop answers. `Err`: the balancer has ended, or ends before it answers.
    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> AdminRequest) -> Result<T, Rejection> {
        let (sender, answer) = oneshot::channel();
        let stopping = || Rejection::unavailable("the balancer is stopping".into());
        self.requests.send(request(sender)).map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }

    /// Made when it is asked for: it takes time in proportion to the number of replicas.
    pub async fn status(&self) -> Result<Status, Rejection> {
        self.ask(|reply| AdminRequest::Status { reply }).await
    }

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
            operations: &self.operations,
            rings: &self.rings.facts(),
            process: ProcessFacts::read(self.started),
        };
        metrics::page(&sources, format)
    }
}

/// A call that is denied reaches no handler, and its body is not read.
async fn guard(State(state): State<AdminState>, request: Request, next: Next) -> Response {
    let access = state.access.load_full();
    if let Err(denial) = access.check(request.uri(), request.headers()) {
        let count = state.operations.count_denial(denial);
        // Fewer and fewer: a call that is denied again and again fills no disk.
        if count.is_power_of_two() {
            let (method, path, why) = (request.method(), visible(request.uri().path()), denial.as_str());
            log::warn!(target: "ringway", "admin call denied for its {why}: {method} {path}; {count} so far");
        }
        return denied(denial);
    }
    if let Some(seat) = request.extensions().get::<Arc<Seat>>()
        && access.proves_itself(request.uri())
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
