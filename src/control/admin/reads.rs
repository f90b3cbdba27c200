//! Calls that change nothing: services, replicas, the ring, readiness, metrics, the page.

use axum::extract::State;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use super::parameters::{any_service, none, query, take_service};
use super::replies::{bad_request, rejected, reply, successful, unavailable};
use super::{AdminRequest, AdminState, service_report};
use crate::control::metrics::exposition::Format;
use crate::control::{page, questions, wire};
use crate::core::snapshot::Service;

pub async fn document() -> Response {
    page::document().into_response()
}

pub async fn live(State(state): State<AdminState>) -> Response {
    page::stream(state)
        .unwrap_or_else(|| unavailable(format!("{} live pages are open, which is the most", page::STREAMS_LIMIT)))
}

/// Of all services, or of one.
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
pub async fn configuration(State(state): State<AdminState>, uri: Uri) -> Response {
    if let Err(why) = none(&uri) {
        return bad_request(&why);
    }
    match state.ask(|reply| AdminRequest::Configuration { reply }).await {
        Ok(text) => ([(CONTENT_TYPE, "application/toml"), (CACHE_CONTROL, "no-store")], text).into_response(),
        Err(stopping) => rejected(stopping),
    }
}

pub async fn liveness() -> Response {
    successful(&"live")
}

pub async fn readiness(State(state): State<AdminState>) -> Response {
    match state.ask(|reply| AdminRequest::Readiness { reply }).await {
        Ok(Ok(())) => successful(&"ready"),
        Ok(Err(why)) => unavailable(why),
        Err(stopping) => rejected(stopping),
    }
}

pub async fn ring(State(state): State<AdminState>, uri: Uri) -> Response {
    question(state, uri, questions::ring).await
}

pub async fn explain(State(state): State<AdminState>, uri: Uri) -> Response {
    question(state, uri, questions::explain).await
}

pub async fn what_if(State(state): State<AdminState>, uri: Uri) -> Response {
    question(state, uri, questions::what_if).await
}

type RingQuestion = fn(&Service, &questions::Query) -> Result<String, String>;

/// Answered on a thread of its own, one at a time: with thousands of replicas it takes a while, and heartbeats must not wait.
async fn question(state: AdminState, uri: Uri, answer: RingQuestion) -> Response {
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
pub async fn metrics(State(state): State<AdminState>, headers: HeaderMap) -> Response {
    let accept: Vec<&str> = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let format = Format::accepted(&accept.join(","));
    let status = state.status().await.unwrap_or_default();
    match spawn_blocking(move || state.metrics(&status, format)).await {
        Ok(page) => ([(CONTENT_TYPE, format.content_type()), (VARY, "accept")], page).into_response(),
        Err(error) => internal_error(&error.to_string()),
    }
}

fn internal_error(why: &str) -> Response {
    reply(StatusCode::INTERNAL_SERVER_ERROR, wire::failure(why))
}
