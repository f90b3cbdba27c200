//! What a replica says, written once at its start: an answer is four copies into the connection's output.

use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    Home,
    HomeJson,
    Heartbeat,
    NotFound,
    /// A head that cannot be understood, with its status.
    Refused(u16),
}

impl Page {
    /// `/home` has a JSON form for those who ask for it.
    pub fn of(method: &str, target: &str, wants_json: impl FnOnce() -> bool) -> Page {
        let path = target.split('?').next().unwrap_or_default();
        match path {
            _ if method != "GET" && method != "HEAD" => Page::NotFound,
            "/home" if wants_json() => Page::HomeJson,
            "/home" => Page::Home,
            "/heartbeat" => Page::Heartbeat,
            _ => Page::NotFound,
        }
    }
}

/// How the answer ends: what it says of the connection, and whether its body is held back.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    pub minor: u8,
    pub keep_alive: bool,
    pub head_only: bool,
}

struct Text {
    head: Vec<u8>,
    body: Vec<u8>,
}

pub struct Answers {
    id: String,
    home: Text,
    home_json: Text,
    heartbeat: Text,
    not_found: Text,
    /// The `Date` line and the empty line, and the second they were written for.
    date: Vec<u8>,
    second: u64,
}

impl Answers {
    pub fn new(id: &str) -> Answers {
        let hello = serde_json::json!({"message": format!("Hello from Server: {id}"), "status": "successful"});
        let plain = "Content-Type: text/plain\r\nVary: Accept\r\n";
        let json = "Content-Type: application/json\r\nVary: Accept\r\n";
        Answers {
            id: id.into(),
            home: text(id, "200 OK", plain, format!("Server ID: {id}")),
            home_json: text(id, "200 OK", json, hello.to_string()),
            heartbeat: text(id, "200 OK", "", String::new()),
            not_found: text(id, "404 Not Found", "", String::new()),
            date: Vec::new(),
            second: 0,
        }
    }

    /// Called once a turn: the date is written anew once a second.
    pub fn at(&mut self, now: SystemTime) {
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        if second != self.second || self.date.is_empty() {
            self.second = second;
            self.date = format!("Date: {}\r\n\r\n", httpdate::fmt_http_date(now)).into_bytes();
        }
    }

    pub fn write(&self, page: Page, ending: Ending, out: &mut Vec<u8>) {
        let refused;
        let text = match page {
            Page::Home => &self.home,
            Page::HomeJson => &self.home_json,
            Page::Heartbeat => &self.heartbeat,
            Page::NotFound => &self.not_found,
            Page::Refused(status) => {
                refused = text(&self.id, &format!("{status} Refused"), "", String::new());
                &refused
            }
        };
        out.extend_from_slice(&text.head);
        match (ending.minor, ending.keep_alive) {
            (_, false) => out.extend_from_slice(b"Connection: close\r\n"),
            (0, true) => out.extend_from_slice(b"Connection: keep-alive\r\n"),
            (_, true) => {}
        }
        out.extend_from_slice(&self.date);
        if !ending.head_only {
            out.extend_from_slice(&text.body);
        }
    }
}

fn text(id: &str, status: &str, fields: &str, body: String) -> Text {
    let head = format!("HTTP/1.1 {status}\r\nX-Server-ID: {id}\r\n{fields}Content-Length: {}\r\n", body.len());
    Text { head: head.into_bytes(), body: body.into_bytes() }
}
