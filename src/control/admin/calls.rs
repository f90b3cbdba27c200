//! Calls that change something, and `/rep`, whose answers have their form: each is passed to the control loop, and answered
//! when every worker acts on the change.

use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::Response;
use tokio::time::timeout;

use super::parameters::{DryRunParameter, ServiceParameter, change_target, dry_run, query, service};
use super::replies::{answered, bad_request, rejected, reply, successful, unavailable};
use super::{AdminRequest, AdminState, DryRun};
use crate::control::registry::{Answer, Call, Change, ReplicaPatch, ReplicaStatus};
use crate::control::reload::{ReloadError, ReloadReport};
use crate::control::wire::{self, BODY_LIMIT, ReplicaNames, Successful};
use crate::core::snapshot::ServiceId;

/// From the end of the head to the end of the body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Lists the replicas.
#[utoipa::path(
    get,
    path = "/rep",
    params(ServiceParameter),
    responses(
        (status = 200, description = "names, in the order of the ring", body = Successful<ReplicaNames>),
        (status = 400, description = "a parameter is unknown or wrong: the message names it"),
        (status = 503, description = "the balancer is stopping"),
    ),
)]
pub async fn rep(State(state): State<AdminState>, uri: Uri) -> Response {
    match service(&uri, &state.snapshots.current()) {
        Ok(service) => state.call(service, Call::List).await,
        Err(why) => bad_request(&why),
    }
}

/// Starts n replicas: those named, and others under generated names.
#[utoipa::path(
    post,
    path = "/add",
    params(ServiceParameter, DryRunParameter),
    request_body = Change,
    responses(
        (status = 200, description = "all replicas, after the call", body = Successful<ReplicaNames>),
        (status = 400, description = "the message names the part of the call that is wrong; nothing changed"),
        (status = 408, description = "the body did not arrive in time"),
        (status = 413, description = "the body is too large"),
        (status = 502, description = "a replica was started and failed"),
        (status = 503, description = "stopping, an upgrade is under way, or the runtime is not there"),
    ),
)]
pub async fn add(State(state): State<AdminState>, request: Request) -> Response {
    state.change(request, Call::Add).await
}

/// Drains and stops n replicas: those named, and others chosen at random.
#[utoipa::path(
    method(delete, post),
    path = "/rm",
    params(ServiceParameter, DryRunParameter),
    request_body = Change,
    responses(
        (status = 200, description = "all replicas, after the call", body = Successful<ReplicaNames>),
        (status = 400, description = "the message names the part of the call that is wrong; nothing changed"),
        (status = 408, description = "the body did not arrive in time"),
        (status = 413, description = "the body is too large"),
        (status = 503, description = "stopping, an upgrade is under way, or the runtime is not there"),
    ),
)]
pub async fn remove(State(state): State<AdminState>, request: Request) -> Response {
    state.change(request, Call::Remove).await
}

/// Drains one replica, takes it back, or changes its weight. It is not stopped.
#[utoipa::path(
    patch,
    path = "/replicas/{name}",
    params(("name" = String, Path, description = "The replica", example = "server1"),
        ServiceParameter),
    request_body = ReplicaPatch,
    responses(
        (status = 200, description = "the replica, after the call", body = Successful<ReplicaStatus>),
        (status = 400, description = "the message names the part of the call that is wrong; nothing changed"),
        (status = 404, description = "there is no such replica: the message names those near it"),
        (status = 408, description = "the body did not arrive in time"),
        (status = 413, description = "the body is too large"),
        (status = 503, description = "stopping, an upgrade is under way, or the runtime is not there"),
    ),
)]
pub async fn patch(
    State(state): State<AdminState>,
    name: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let target = name.map_err(|error| format!("the name in the path cannot be read: {error}"));
    let target = target.and_then(|Path(name)| Ok((name, service(request.uri(), &state.snapshots.current())?)));
    let (name, service) = match target {
        Ok(target) => target,
        Err(why) => return bad_request(&why),
    };
    match read(request.into_body()).await.map(|body| wire::parse_patch(&body)) {
        Ok(Ok((wanted, weight))) => {
            state.call(service, Call::Patch(ReplicaPatch { name, state: wanted, weight })).await
        }
        Ok(Err(why)) => bad_request(&why),
        Err((status, why)) => reply(status, wire::failure(&why)),
    }
}

/// Reads the configuration again: whole, or not at all. A reply is sent when every worker acts on it.
#[utoipa::path(
    post,
    path = "/reload",
    params(DryRunParameter),
    responses(
        (status = 200, description = "what changed", body = Successful<ReloadReport>),
        (status = 400, description = "every mistake with its line; nothing changed"),
        (status = 503, description = "another reload or an upgrade is under way, or a runtime failed"),
    ),
)]
pub async fn reload(State(state): State<AdminState>, uri: Uri) -> Response {
    let dry_run = match query(&uri).and_then(|query| dry_run(&query, &["dry_run"])) {
        Ok(dry_run) => dry_run,
        Err(why) => return bad_request(&why),
    };
    match state.ask(|reply| AdminRequest::Reload { dry_run, reply }).await {
        Ok(Ok(report)) => successful(&report),
        Ok(Err(ReloadError::Invalid(lines))) => bad_request(&lines),
        Ok(Err(ReloadError::Unavailable(why))) => unavailable(why),
        Err(stopping) => rejected(stopping),
    }
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
            Ok(change) => self.call(service, call(Change { dry_run: dry_run == DryRun::Yes, ..change })).await,
            Err(why) => bad_request(&why),
        }
    }

    async fn call(&self, service: ServiceId, call: Call) -> Response {
        let answer = self.ask(|reply| AdminRequest::Call { service, call, reply }).await;
        answered(answer.unwrap_or_else(Answer::Rejected))
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
