//! Calls that change nothing: services, replicas, the ring, readiness, metrics, the page.

use axum::extract::State;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use super::openapi::{self, Described};
use super::parameters::{ServiceParameter, any_service, none, query, take_service};
use super::replies::{bad_request, rejected, reply, successful, unavailable};
use super::service_report::{self, ServiceReport};
use super::{AdminRequest, AdminState};
use crate::control::metrics::exposition::Format;
use crate::control::registry::{Rejection, ReplicaStatus};
use crate::control::wire::{self, Successful};
use crate::control::{page, questions};
use crate::core::ring::report::{ChangeReport, KeyReport, RingReport};
use crate::core::snapshot::Service;

/// The live page. It needs no token, and has no data.
#[utoipa::path(
    get,
    path = "/",
    responses(
        (status = 200, description = "the page", content_type = "text/html", body = String),
    ),
)]
pub async fn document() -> Response {
    page::document().into_response()
}

/// The events of the live page, which shows one service in detail; without a parameter the first one. It ends when that
/// service is removed.
#[utoipa::path(
    get,
    path = "/live",
    params(ServiceParameter),
    responses(
        (status = 200, description = "server-sent events", content_type = "text/event-stream", body = String),
        (status = 400, description = "a parameter is unknown or wrong: the message names it"),
        (status = 503, description = "as many are open as may be"),
    ),
)]
pub async fn live(State(state): State<AdminState>, uri: Uri) -> Response {
    let service = match any_service(&uri, &state.snapshots.current()) {
        Ok(service) => service,
        Err(why) => return bad_request(&why),
    };
    page::stream(state, service)
        .unwrap_or_else(|| unavailable(format!("{} live pages are open, which is the most", page::STREAMS_LIMIT)))
}

/// Of all services, or of one.
#[utoipa::path(
    get,
    path = "/replicas",
    params(ServiceParameter),
    responses(
        (status = 200, description = "each replica", body = Successful<Vec<ReplicaStatus>>),
        (status = 400, description = "a parameter is unknown or wrong: the message names it"),
        (status = 503, description = "the balancer is stopping"),
    ),
)]
pub async fn replicas(State(state): State<AdminState>, uri: Uri) -> Response {
    let snapshot = state.snapshots.current();
    let name = match any_service(&uri, &snapshot) {
        Ok(id) => id.and_then(|id| snapshot.service(id)).map(|service| service.name.clone()),
        Err(why) => return bad_request(&why),
    };
    match state.status().await {
        Ok(mut status) => {
            status.replicas.retain(|replica| name.as_ref().is_none_or(|name| replica.service == *name));
            successful(&status.replicas)
        }
        Err(stopping) => rejected(stopping),
    }
}

/// The digests of rings are computed where they are new: on a thread of its own, like an answer about the ring.
#[utoipa::path(
    get,
    path = "/services",
    responses(
        (status = 200, description = "each service", body = Successful<Vec<ServiceReport>>),
        (status = 400, description = "a parameter is unknown or wrong: the message names it"),
        (status = 503, description = "the balancer is stopping"),
    ),
)]
pub async fn services(State(state): State<AdminState>, uri: Uri) -> Response {
    if let Err(why) = none(&uri) {
        return bad_request(&why);
    }
    let status = match state.status().await {
        Ok(status) => status,
        Err(stopping) => return rejected(stopping),
    };
    let reports = spawn_blocking(move || {
        let snapshot = state.snapshots.current();
        service_report::services(&status, &snapshot, &state.rings.facts(), &state.counters)
    });
    match reports.await {
        Ok(reports) => successful(&reports),
        Err(error) => internal_error(&error.to_string()),
    }
}

/// The effective configuration as a file; secrets are hidden.
#[utoipa::path(
    get,
    path = "/config",
    responses(
        (status = 200, description = "as ringway run -c reads it", content_type = "application/toml", body = String),
        (status = 400, description = "a parameter is unknown or wrong: the message names it"),
        (status = 503, description = "the balancer is stopping"),
    ),
)]
pub async fn configuration(State(state): State<AdminState>, uri: Uri) -> Response {
    if let Err(why) = none(&uri) {
        return bad_request(&why);
    }
    match state.ask(|reply| AdminRequest::Configuration { reply }).await {
        Ok(text) => ([(CONTENT_TYPE, "application/toml"), (CACHE_CONTROL, "no-store")], text).into_response(),
        Err(stopping) => rejected(stopping),
    }
}

/// Needs no token.
#[utoipa::path(
    get,
    path = "/livez",
    responses(
        (status = 200, description = "this process is there", body = Successful<String>),
    ),
)]
pub async fn liveness() -> Response {
    successful(&"live")
}

/// Needs no token.
#[utoipa::path(
    get,
    path = "/readyz",
    responses(
        (status = 200, description = "requests are served", body = Successful<String>),
        (status = 503, description = "why clients are to be sent elsewhere"),
    ),
)]
pub async fn readiness(State(state): State<AdminState>) -> Response {
    match state.ask(|reply| AdminRequest::Readiness { reply }).await {
        Ok(Ok(())) => successful(&"ready"),
        Ok(Err(why)) => unavailable(why),
        Err(stopping) => rejected(stopping),
    }
}

/// The replicas' shares of the ring.
#[utoipa::path(
    get,
    path = "/ring",
    params(ServiceParameter),
    responses(
        (status = 200, description = "shares", body = Successful<RingReport>),
        (status = 400, description = "a parameter is unknown or wrong: the message names it"),
    ),
)]
pub async fn ring(State(state): State<AdminState>, uri: Uri) -> Response {
    question(state, uri, questions::ring).await
}

/// Where a key goes, and why.
#[utoipa::path(
    get,
    path = "/explain",
    params(("key" = String, Query, description = "What is hashed", example = "/index.html"),
        ServiceParameter),
    responses(
        (status = 200, description = "the way from the key to its replica", body = Successful<KeyReport>),
        (status = 400, description = "a parameter is unknown or wrong: the message names it"),
        (status = 404, description = "no replica is on the ring"),
    ),
)]
pub async fn explain(State(state): State<AdminState>, uri: Uri) -> Response {
    question(state, uri, questions::explain).await
}

/// Which keys a change would move.
#[utoipa::path(
    get,
    path = "/what-if",
    params(
        ("remove" = Option<String>, Query, description = "Names between commas", example = "server1", nullable = false),
        ("add" = Option<String>, Query, description = "Names between commas", example = "server99", nullable = false),
        ServiceParameter),
    responses(
        (status = 200, description = "what would move", body = Successful<ChangeReport>),
        (status = 400, description = "a parameter is unknown or wrong: the message names it"),
    ),
)]
pub async fn what_if(State(state): State<AdminState>, uri: Uri) -> Response {
    question(state, uri, questions::what_if).await
}

type RingQuestion = fn(&Service, &questions::Query) -> Result<String, Rejection>;

/// Answered on a thread of its own, one at a time: with thousands of replicas it takes a while, and heartbeats must not wait.
async fn question(state: AdminState, uri: Uri, answer: RingQuestion) -> Response {
    static TURN: Mutex<()> = Mutex::const_new(());
    let _turn = TURN.lock().await;
    let answer = move || {
        let snapshot = state.snapshots.current();
        let asked = query(&uri).and_then(|mut query| Ok((take_service(&mut query, &snapshot)?, query)));
        let (service, query) = asked.map_err(Rejection::bad_request)?;
        let gone = || Rejection::unavailable("the service is gone".into());
        answer(snapshot.service(service).ok_or_else(gone)?, &query)
    };
    match spawn_blocking(answer).await {
        Ok(Ok(json)) => reply(StatusCode::OK, json),
        Ok(Err(why)) => rejected(why),
        Err(error) => internal_error(&error.to_string()),
    }
}

/// Written on a thread of its own, like an answer about the ring.
#[utoipa::path(
    get,
    path = "/metrics",
    responses(
        (status = 200, description = "by Accept: Prometheus' text format, or OpenMetrics",
            content((String = "text/plain"), (String = "application/openmetrics-text"))),
    ),
)]
pub async fn metrics(State(state): State<AdminState>, headers: HeaderMap) -> Response {
    let accept: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let format = Format::accepted(&accept.join(","));
    let status = state.status().await.unwrap_or_default();
    match spawn_blocking(move || state.metrics(&status, format)).await {
        Ok(page) => ([(CONTENT_TYPE, format.content_type()), (VARY, "accept")], page).into_response(),
        Err(error) => internal_error(&error.to_string()),
    }
}

/// This description.
#[utoipa::path(
    get,
    path = "/openapi.json",
    responses(
        (status = 200, description = "OpenAPI 3.1", content_type = "application/json", body = serde_json::Value),
        (status = 400, description = "a parameter is unknown or wrong: the message names it"),
    ),
)]
pub async fn openapi(State(state): State<AdminState>, uri: Uri) -> Response {
    if let Err(why) = none(&uri) {
        return bad_request(&why);
    }
    let snapshot = state.snapshots.current();
    let services = snapshot.services.iter().filter(|service| service.is_listed());
    let services = services.map(|service| service.name.to_string()).collect();
    let described = Described { services, needs_token: state.access.load().token.is_some() };
    match openapi::document(&described).to_json() {
        Ok(json) => reply(StatusCode::OK, json),
        Err(error) => internal_error(&error.to_string()),
    }
}

fn internal_error(why: &str) -> Response {
    reply(StatusCode::INTERNAL_SERVER_ERROR, wire::failure(why))
}
