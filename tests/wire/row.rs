//! The text format of the tables. One row is one exchange or more: bytes in and bytes out on both sides.
//!
//! ```text
//! == RFC 9112 5.1: no whitespace before the colon     the section of the rule, and what is asserted
//! * one two                                           one row for each word, which replaces {*}
//! % line_limit=64 trust=keep                          limits that are not the defaults
//! > GET / HTTP/1.1                                    the client sends this line and CRLF
//! > no CRLF at the end of this one\
//! >. FIN                                              the client ends its connection (FIN, RST)
//! >> GET / HTTP/1.1                                   the replica must receive this; `>> +` are the added fields
//! >> CUT                                              the replica must not receive a complete request
//! << HTTP/1.1 200 OK                                  the replica sends this
//! <<. NEXT                                            the lines below answer the next request (also FIN, RST, EARLY)
//! < HTTP/1.1 200 OK                                   the client must receive this; `< @`: our Date, `< OK`: the default response
//! < CUT                                               the client must receive a prefix of the above
//! ! 400 why                                           the client must receive this refusal (`!h`: its head)
//! @                                                   the deadline passes
//! = close hungup                                      how the client connection and the last upstream one end
//! ```
//! Escapes: `\r \n \t \0 \\ \xNN`, and `{x*300}` is 300 times x. Defaults: the client sends a plain GET; the replica sends
//! the default response; the client connection stays open and the upstream one is parked, or, after a refusal, closed.

use ringway::core::limits::{Limits, RequestIdPolicy, Trust, Via};
use ringway::core::reply;
use ringway::core::step::Ending;

use crate::rig::{Answer, DATE_LINE, End, Fate};

pub const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
pub const ADDED: &[u8] = b"X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: http\r\nVia: 1.1 ringway\r\n";
pub const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nDate: now\r\n\r\nok";

#[derive(Clone, Debug)]
pub struct Row {
    pub name: String,
    pub limits: Limits,
    pub client: Vec<u8>,
    pub client_end: Option<End>,
    pub to_replica: Option<Vec<u8>>,
    pub replica_cut: bool,
    pub answers: Vec<Answer>,
    pub to_client: Vec<u8>,
    pub client_cut: bool,
    pub time_out: bool,
    pub closed: Option<Ending>,
    pub fate: Option<Fate>,
}

/// All rows of a table.
pub fn rows(file: &str, text: &str) -> Vec<Row> {
    let mut blocks: Vec<(usize, Vec<&str>)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.starts_with("==") {
            blocks.push((number + 1, vec![line]));
        } else if let Some((_, block)) = blocks.last_mut()
            && !line.is_empty()
            && !line.starts_with('#')
        {
            block.push(line);
        }
    }
    blocks.iter().flat_map(|(number, block)| expand(file, *number, block)).collect()
}

fn expand(file: &str, number: usize, block: &[&str]) -> Vec<Row> {
    let variants = block.iter().find_map(|line| line.strip_prefix("* "));
    match variants {
        None => vec![row(format!("{file}:{number}: {}", &block[0][3..]), block, "")],
        Some(list) => list
            .split(' ')
            .map(|variant| row(format!("{file}:{number}: {} [{variant}]", &block[0][3..]), block, variant))
            .collect(),
    }
}

fn row(name: String, block: &[&str], variant: &str) -> Row {
    let mut row = Row {
        name,
        limits: Limits::DEFAULT,
        client: Vec::new(),
        client_end: None,
        to_replica: None,
        replica_cut: false,
        answers: Vec::new(),
        to_client: Vec::new(),
        client_cut: false,
        time_out: false,
        closed: None,
        fate: None,
    };
    let (mut refused, mut has_ending, mut has_response) = (false, false, false);
    for line in &block[1..] {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        let rest = rest.replace("{*}", variant);
        match kind {
            "*" => {}
            "%" => rest.split(' ').for_each(|pair| limit(&mut row.limits, pair)),
            ">" => row.client.extend(line_bytes(&rest)),
            ">." => row.client_end = Some(end(&rest)),
            ">>" => {
                let to = row.to_replica.get_or_insert_default();
                match rest.as_str() {
                    "CUT" => row.replica_cut = true,
                    "+" => to.extend_from_slice(ADDED),
                    _ => to.extend(line_bytes(&rest)),
                }
            }
            "<<" => answer(&mut row.answers).bytes.extend(line_bytes(&rest)),
            "<<." => match rest.as_str() {
                "NEXT" => row.answers.push(Answer::default()),
                "EARLY" => answer(&mut row.answers).early = true,
                rest => answer(&mut row.answers).end = Some(end(rest)),
            },
            "<" => {
                has_response = true;
                match rest.as_str() {
                    "CUT" => row.client_cut = true,
                    "OK" => row.to_client.extend_from_slice(OK),
                    "@" => row.to_client.extend_from_slice(DATE_LINE.as_bytes()),
                    _ => row.to_client.extend(line_bytes(&rest)),
                }
            }
            "!" | "!h" => {
                (refused, has_response) = (true, true);
                let (status, why) = rest.split_once(' ').expect("a status and a reason");
                let status = status.parse().expect("a status");
                let refusal = if kind == "!h" { reply::refusal_head } else { reply::refusal };
                row.to_client.extend_from_slice(&refusal(status, why, DATE_LINE));
            }
            "@" => row.time_out = true,
            "=" => {
                has_ending = true;
                (row.closed, row.fate) = ending(&rest);
            }
            _ => panic!("{}: unknown line {line:?}", row.name),
        }
    }
    if row.client.is_empty() {
        row.client = GET.to_vec();
    }
    if row.answers.is_empty() {
        row.answers = vec![Answer { bytes: OK.to_vec(), ..Answer::default() }; 4];
    }
    if !has_response {
        row.to_client = OK.to_vec();
    }
    if refused && row.to_replica.is_none() {
        row.to_replica = Some(Vec::new());
    }
    if !has_ending {
        (row.closed, row.fate) = if refused { (Some(Ending::Clean), None) } else { (None, Some(Fate::Released)) };
    }
    row
}

fn answer(answers: &mut Vec<Answer>) -> &mut Answer {
    if answers.is_empty() {
        answers.push(Answer::default());
    }
    answers.last_mut().expect("one was just added")
}

fn end(text: &str) -> End {
    match text {
        "FIN" => End::Fin,
        "RST" => End::Reset,
        _ => panic!("unknown end {text:?}"),
    }
}

fn ending(text: &str) -> (Option<Ending>, Option<Fate>) {
    let (client, upstream) = text.split_once(' ').unwrap_or((text, ""));
    let closed = match client {
        "open" => None,
        "close" => Some(Ending::Clean),
        "reset" => Some(Ending::Reset),
        _ => panic!("unknown ending {text:?}"),
    };
    let fate = match upstream {
        "" => None,
        "parked" => Some(Fate::Released),
        "hungup" => Some(Fate::Closed),
        "used" => Some(Fate::InUse),
        _ => panic!("unknown ending {text:?}"),
    };
    (closed, fate)
}

fn limit(limits: &mut Limits, pair: &str) {
    let (name, value) = pair.split_once('=').expect("name=value");
    let number = || value.parse::<usize>().expect("a number");
    match name {
        "line_limit" => limits.line_limit = number(),
        "head_limit" => limits.head_limit = number(),
        "field_limit" => limits.field_limit = number(),
        "trust" => {
            limits.trust = match value {
                "append" => Trust::Append,
                "replace" => Trust::Replace,
                "keep" => Trust::Keep,
                _ => panic!("unknown trust {value:?}"),
            }
        }
        "request_id" => {
            limits.request_id = match value {
                "off" => RequestIdPolicy::Off,
                "pass" => RequestIdPolicy::Pass,
                _ => panic!("unknown request_id {value:?}"),
            }
        }
        "via" => {
            limits.via = match value {
                "on" => Via::On,
                "off" => Via::Off,
                _ => panic!("unknown via {value:?}"),
            }
        }
        _ => panic!("unknown limit {name:?}"),
    }
}

/// A line's bytes, with CRLF behind them unless it ends in a backslash.
fn line_bytes(line: &str) -> Vec<u8> {
    let open = line.ends_with('\\') && !line.ends_with("\\\\");
    let mut bytes = unescape(if open { &line[..line.len() - 1] } else { line });
    if !open {
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if first == '\\' {
            let (byte, len) = match rest.as_bytes()[1] {
                b'r' => (b'\r', 2),
                b'n' => (b'\n', 2),
                b't' => (b'\t', 2),
                b's' => (b' ', 2),
                b'0' => (0, 2),
                b'\\' => (b'\\', 2),
                b'x' => (u8::from_str_radix(&rest[2..4], 16).expect("two hex digits"), 4),
                other => panic!("unknown escape \\{}", other as char),
            };
            bytes.push(byte);
            rest = &rest[len..];
        } else if let Some((item, times, len)) = repetition(rest) {
            for _ in 0..times {
                bytes.extend(unescape(item));
            }
            rest = &rest[len..];
        } else {
            let mut buffer = [0; 4];
            bytes.extend_from_slice(first.encode_utf8(&mut buffer).as_bytes());
            rest = &rest[first.len_utf8()..];
        }
    }
    bytes
}

/// `{x*300}` at the front of `text`.
fn repetition(text: &str) -> Option<(&str, usize, usize)> {
    let close = text.strip_prefix('{')?.find('}')? + 1;
    let (item, times) = text[1..close].rsplit_once('*')?;
    Some((item, times.parse().ok()?, close + 1))
}
