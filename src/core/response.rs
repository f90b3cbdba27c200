//! What a response head means to an intermediary: where it ends, whether its connection may be used again, and what
//! changes before the client sees it. Replicas are held to the grammar as clients are: what is ambiguous is 502.

use super::body::Body;
use super::head::{self, Connection, Fields, Framing, Response};
use super::rewrite::Edits;

/// What the request tells us about its response.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    pub is_head: bool,
    pub upgrade: bool,
    pub minor: u8,
    /// The client connection may go on after this exchange, as far as we know now.
    pub keep_alive: bool,
}

#[derive(Debug)]
pub struct Plan {
    pub status: u16,
    pub body: Body,
    /// The replica keeps its connection, and nothing about its framing was odd.
    pub reusable: bool,
    /// The client connection goes on.
    pub keep_alive: bool,
}

impl Plan {
    pub fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }
}

pub fn plan(
    head: &[u8],
    response: &Response,
    asked: Asked,
    date_line: &str,
    edits: &mut Edits,
) -> Result<Plan, &'static str> {
    let mut reading = Reading { head, fields: response.fields, ..Reading::default() };
    for i in 0..response.fields.len() {
        reading.field(i, response.minor, edits)?;
    }
    let status = response.status;
    let interim = status < 200;
    if status == 101 && !(asked.upgrade && reading.connection.upgrade && reading.upgrade_line.is_some()) {
        return Err("101 that was not asked for");
    }
    let bodyless = asked.is_head || interim || status == 204 || status == 304;
    let framing = reading.framing;
    let body = match framing {
        _ if status == 101 => Body::Tunnel,
        _ if bodyless => Body::Empty,
        Framing { chunked: true, .. } if asked.minor == 0 => Body::stripped(),
        Framing { chunked: true, .. } if reading.connection.nominates => Body::chunked_without_trailers(),
        Framing { chunked: true, .. } => Body::chunked(),
        Framing { length: Some(length), .. } => Body::Length(length),
        Framing { .. } => Body::UntilClose,
    };
    reading.settle_framing(status, interim, &asked, edits);
    let keep_alive = asked.keep_alive && !body.is_close_delimited();
    let odd = framing.chunked && framing.length.is_some();
    if head.get(7) != Some(&b'1') {
        edits.replace(7, 1, &[b"1"]);
    }
    if head.get(STATUS_END) == Some(&b'\r') {
        edits.replace(STATUS_END, 0, &[b" "]);
    }
    if status == 101 {
        edits.replace(reading.end(), 0, &[b"Connection: upgrade\r\n"]);
    } else if !interim {
        let upgrade = status == UPGRADE_REQUIRED && reading.upgrade_line.is_some();
        reading.added(&asked, keep_alive, upgrade, date_line, edits);
    }
    let reusable = reading.connection.persists(response.minor) && !odd && !matches!(body, Body::UntilClose);
    Ok(Plan { status, body, reusable, keep_alive })
}

/// Where `HTTP/1.1 200` ends: a space follows, whether or not there is a reason (RFC 9112 section 4).
const STATUS_END: usize = 12;
/// Names in `Upgrade` what the client has to speak (RFC 9110 section 15.5.22).
const UPGRADE_REQUIRED: u16 = 426;

#[derive(Default)]
struct Reading<'b> {
    head: &'b [u8],
    fields: Fields<'b>,
    framing: Framing,
    connection: Connection,
    dated: bool,
    coding_line: Option<usize>,
    length_line: Option<usize>,
    upgrade_line: Option<usize>,
}

impl Reading<'_> {
    fn field(&mut self, i: usize, minor: u8, edits: &mut Edits) -> Result<(), &'static str> {
        let Some(field) = self.fields.get(i) else { return Ok(()) };
        let (name, value) = (field.name, field.value);
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        match name.len() {
            4 if is("date") => self.dated = true,
            7 if is("upgrade") => {
                if let Some(earlier) = self.upgrade_line.replace(i) {
                    self.cut(earlier, edits);
                }
            }
            10 if is("connection") => {
                self.connection.read(value)?;
                self.cut(i, edits);
            }
            10 if is("keep-alive") => self.cut(i, edits),
            14 if is("content-length") => {
                let length = head::parse_length(value).ok_or("malformed Content-Length")?;
                match self.framing.length.replace(length) {
                    None => self.length_line = Some(i),
                    Some(earlier) if earlier == length => self.cut(i, edits),
                    Some(_) => return Err("conflicting Content-Length"),
                }
            }
            16 if is("proxy-connection") => self.cut(i, edits),
            17 if is("transfer-encoding") => {
                if minor == 0 {
                    return Err("Transfer-Encoding in HTTP/1.0");
                }
                if self.framing.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err("unknown transfer coding");
                }
                self.framing.chunked = true;
                self.coding_line = Some(i);
            }
            _ => {}
        }
        Ok(())
    }

    fn cut(&self, i: usize, edits: &mut Edits) {
        let (at, len) = head::field_line(self.head, self.fields, i);
        edits.cut(at, len);
    }

    /// Framing fields that must not go on (RFC 9112 section 6, RFC 9110 section 8.6), and nominated ones.
    fn settle_framing(&self, status: u16, interim: bool, asked: &Asked, edits: &mut Edits) {
        let never = interim || status == 204;
        if let Some(i) = self.length_line {
            self.keep_if(!never && !self.framing.chunked, i, edits);
        }
        if let Some(i) = self.coding_line {
            self.keep_if(!never && asked.minor == 1, i, edits);
        }
        if let Some(i) = self.upgrade_line
            && status != 101
            && !(status == UPGRADE_REQUIRED && asked.minor == 1)
        {
            self.cut(i, edits);
        }
        if self.connection.nominates {
            for (i, _) in self.fields.iter().enumerate().filter(|(_, field)| self.is_nominated(field.name)) {
                self.cut(i, edits);
            }
        }
    }

    /// A framing field goes, or stays, written so that it can be read in one way only.
    fn keep_if(&self, keep: bool, i: usize, edits: &mut Edits) {
        let Some(field) = self.fields.get(i) else { return };
        let padded = field.value.len() > 1 && field.value.first() == Some(&b'0');
        if !keep {
            self.cut(i, edits);
        } else if padded || !head::is_tidy(self.head, field) {
            let (at, len) = head::field_line(self.head, self.fields, i);
            let length = self.framing.length.filter(|_| self.length_line == Some(i)).map(|length| length.to_string());
            let value = length.as_deref().unwrap_or("chunked");
            edits.replace(at, len, &[field.name.as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
        }
    }

    fn is_nominated(&self, name: &str) -> bool {
        // Dealt with already, or not a replica's to take away.
        const KEPT: [&str; 9] = [
            "connection",
            "content-length",
            "date",
            "keep-alive",
            "proxy-connection",
            "set-cookie",
            "transfer-encoding",
            "upgrade",
            "via",
        ];
        let lines = self.fields.iter().filter(|f| f.name.eq_ignore_ascii_case("connection"));
        let named = lines.flat_map(|f| head::tokens(f.value)).any(|token| token.eq_ignore_ascii_case(name.as_bytes()));
        named && !KEPT.iter().any(|k| name.eq_ignore_ascii_case(k))
    }

    fn added(&self, asked: &Asked, keep_alive: bool, upgrade: bool, date_line: &str, edits: &mut Edits) {
        let connection: &[u8] = match (keep_alive, asked.minor, upgrade) {
            (false, 1, false) => b"Connection: close\r\n",
            (false, 1, true) => b"Connection: close, upgrade\r\n",
            (true, 1, true) => b"Connection: upgrade\r\n",
            (true, 0, _) => b"Connection: keep-alive\r\n",
            _ => b"",
        };
        if !self.dated {
            edits.replace(self.end(), 0, &[date_line.as_bytes(), connection]);
        } else if !connection.is_empty() {
            edits.replace(self.end(), 0, &[connection]);
        }
    }

    fn end(&self) -> usize {
        self.head.len().saturating_sub(2)
    }
}
