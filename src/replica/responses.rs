//! The replica's responses, rendered once at its start: writing one is four copies into the connection's output. Nothing
//! here reads a request or a socket.

use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseKind {
    Home,
    HomeJson,
    Heartbeat,
    NotFound,
    /// The request was refused with this status.
    Refused(u16),
}

impl ResponseKind {
    /// The response to a request. `wants_json`: its `Accept` names JSON, in which `/home` can answer.
    pub fn to(method: &str, target: &str, wants_json: impl FnOnce() -> bool) -> ResponseKind {
        let path = target.split('?').next().unwrap_or_default();
        match path {
            _ if method != "GET" && method != "HEAD" => ResponseKind::NotFound,
            "/home" if wants_json() => ResponseKind::HomeJson,
            "/home" => ResponseKind::Home,
            "/heartbeat" => ResponseKind::Heartbeat,
            _ => ResponseKind::NotFound,
        }
    }
}

/// What depends on the request: the HTTP version, whether the connection stays open, whether the body is left out (HEAD).
#[derive(Clone, Copy, Debug)]
pub struct ResponseOptions {
    pub minor: u8,
    pub keep_alive: bool,
    pub head_only: bool,
}

struct Rendered {
    head: Vec<u8>,
    body: Vec<u8>,
}

pub struct Responses {
    id: String,
    home: Rendered,
    home_json: Rendered,
    heartbeat: Rendered,
    not_found: Rendered,
    /// The `Date` field and the empty line after it, rendered for `second`.
    date: Vec<u8>,
    second: u64,
}

impl Responses {
    pub fn new(id: &str) -> Responses {
        let hello = serde_json::json!({"message": format!("Hello from Server: {id}"), "status": "successful"});
        let plain = "Content-Type: text/plain\r\nVary: Accept\r\n";
        let json = "Content-Type: application/json\r\nVary: Accept\r\n";
        Responses {
            id: id.into(),
            home: render(id, "200 OK", plain, format!("Server ID: {id}")),
            home_json: render(id, "200 OK", json, hello.to_string()),
            heartbeat: render(id, "200 OK", "", String::new()),
            not_found: render(id, "404 Not Found", "", String::new()),
            date: Vec::new(),
            second: 0,
        }
    }

    /// Called once per loop iteration; the date is rendered once per second.
    pub fn update_date(&mut self, now: SystemTime) {
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if second != self.second || self.date.is_empty() {
            self.second = second;
            self.date = format!("Date: {}\r\n\r\n", httpdate::fmt_http_date(now)).into_bytes();
        }
    }

    pub fn write(&self, kind: ResponseKind, options: ResponseOptions, out: &mut Vec<u8>) {
        let refused;
        let rendered = match kind {
            ResponseKind::Home => &self.home,
            ResponseKind::HomeJson => &self.home_json,
            ResponseKind::Heartbeat => &self.heartbeat,
            ResponseKind::NotFound => &self.not_found,
            ResponseKind::Refused(status) => {
                refused = render(&self.id, &format!("{status} Refused"), "", String::new());
                &refused
            }
        };
        out.extend_from_slice(&rendered.head);
        match (options.minor, options.keep_alive) {
            (_, false) => out.extend_from_slice(b"Connection: close\r\n"),
            (0, true) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
            (_, true) => {}
        }
        out.extend_from_slice(&self.date);
        if !options.head_only {
            out.extend_from_slice(&rendered.body);
        }
    }
}

fn render(id: &str, status: &str, fields: &str, body: String) -> Rendered {
    let head = format!("HTTP/1.1 {status}\r\nX-Server-ID: {id}\r\n{fields}Content-Length: {}\r\n", body.len());
    Rendered { head: head.into_bytes(), body: body.into_bytes() }
}
