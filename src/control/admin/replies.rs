//! How an answer is written: status, JSON envelope, fields of the head.

use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::control::registry::{Answer, Rejection};
use crate::control::wire::{self, ReplicaNames};

pub fn reply(status: StatusCode, json: String) -> Response {
    (status, [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")], json).into_response()
}

pub fn successful(message: &impl Serialize) -> Response {
    reply(StatusCode::OK, wire::successful(message))
}

pub fn bad_request(why: &str) -> Response {
    reply(StatusCode::BAD_REQUEST, wire::failure(why))
}

pub fn answered(answer: Answer) -> Response {
    match answer {
        Answer::Replicas(names) => successful(&ReplicaNames::of(names.iter().map(|name| &**name))),
        Answer::Replica(replica) => successful(&replica),
        Answer::Reconfigured => successful(&"reconfigured"),
        Answer::Rejected(rejection) => rejected(rejection),
    }
}

pub fn rejected(Rejection { status, message }: Rejection) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = reply(status, wire::failure(&message));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(RETRY_AFTER, 1.into());
    }
    response
}

pub fn unavailable(why: String) -> Response {
    rejected(Rejection::unavailable(why))
}
