//! A record as a line of the access log. Text of clients is escaped: it can neither break a line nor control a terminal.

use std::borrow::Cow;
use std::io;
use std::net::IpAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

use crate::core::exchange::ExchangeKind;
use crate::core::exchange_record::{ExchangeEnd, ExchangeRecord};
use crate::core::request_text::TextPart;
use crate::core::tick::Stamp;
use crate::settings::AccessLogFormat;
use crate::shared::text;

/// What turns a stamp into a time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallClock {
    /// The wall clock at stamp 0, in microseconds.
    zero_us: i64,
}

impl WallClock {
    /// The wall clock is `wall` at the stamp `now`.
    pub fn new(wall: SystemTime, now: Stamp) -> WallClock {
        let wall_us = wall.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as i64);
        WallClock { zero_us: wall_us.saturating_sub(now.0 as i64) }
    }

    fn time(self, stamp: Stamp, format: &str) -> String {
        let time = Timestamp::from_microsecond(self.zero_us.saturating_add(stamp.0 as i64)).unwrap_or_default();
        time.strftime(format).to_string()
    }
}

/// Appends the record's line, its end included.
pub fn write_line(out: &mut Vec<u8>, record: &ExchangeRecord, format: AccessLogFormat, clock: WallClock) {
    match format {
        AccessLogFormat::Json => write_json(out, record, clock),
        AccessLogFormat::Common => write_common(out, record, clock),
        AccessLogFormat::Combined => {
            write_common(out, record, clock);
            for part in [TextPart::Referer, TextPart::UserAgent] {
                out.push(b' ');
                write_quoted(out, &[record.text.part(part).unwrap_or(b"-")]);
            }
        }
    }
    out.push(b'\n');
}

#[derive(Serialize)]
struct JsonLine<'r> {
    time: String,
    client: IpAddr,
    method: Option<Cow<'r, str>>,
    target: Option<Cow<'r, str>>,
    host: Option<Cow<'r, str>>,
    proto: &'static str,
    status: Option<u16>,
    bytes_in: u64,
    bytes_out: u64,
    duration_ms: f64,
    head_ms: f64,
    queue_ms: Option<f64>,
    connect_ms: Option<f64>,
    first_byte_ms: Option<f64>,
    service: Option<Cow<'r, str>>,
    replica: Option<Cow<'r, str>>,
    attempts: u32,
    retries: Vec<&'static str>,
    epoch: u64,
    request_id: Option<Cow<'r, str>>,
    user_agent: Option<Cow<'r, str>>,
    referer: Option<Cow<'r, str>>,
    end: &'static str,
    why: Option<&'static str>,
}

fn write_json(out: &mut Vec<u8>, record: &ExchangeRecord, clock: WallClock) {
    let part = |part| record.text.part(part).map(String::from_utf8_lossy);
    let line = JsonLine {
        time: clock.time(record.times.begun, "%Y-%m-%dT%H:%M:%S%.3fZ"),
        client: record.client.to_canonical(),
        method: part(TextPart::Method),
        target: part(TextPart::Target),
        host: part(TextPart::Host),
        proto: protocol(record),
        status: record.status,
        bytes_in: record.bytes_in,
        bytes_out: record.bytes_out,
        duration_ms: ms(record.total_us()),
        head_ms: ms(record.head_us()),
        queue_ms: record.queue_us().map(ms),
        connect_ms: record.connect_us().map(ms),
        first_byte_ms: record.first_byte_us().map(ms),
        service: part(TextPart::Service),
        replica: part(TextPart::Replica),
        attempts: record.attempts,
        retries: record.retries.reasons().map(|reason| reason.name()).collect(),
        epoch: record.epoch,
        request_id: part(TextPart::RequestId),
        user_agent: part(TextPart::UserAgent),
        referer: part(TextPart::Referer),
        end: record.end().name(),
        why: record.fault.filter(|fault| fault.end != ExchangeEnd::Complete).map(|fault| fault.why),
    };
    // Writing to a Vec cannot fail, and every value has a form in JSON.
    let _ = line.serialize(&mut Serializer::with_formatter(out, VisibleFormatter));
}

/// As `CompactFormatter`, with the control characters escaped that JSON allows as they are (DEL and C1).
struct VisibleFormatter;

impl Formatter for VisibleFormatter {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut plain = fragment;
        while let Some((at, control)) = plain.char_indices().find(|(_, c)| c.is_control()) {
            let (before, rest) = plain.split_at(at);
            CompactFormatter.write_string_fragment(writer, before)?;
            write!(writer, "\\u{:04x}", u32::from(control))?;
            plain = rest.get(control.len_utf8()..).unwrap_or_default();
        }
        CompactFormatter.write_string_fragment(writer, plain)
    }
}

/// `client - - [time] "request line" status bytes`, the bytes of the content.
fn write_common(out: &mut Vec<u8>, record: &ExchangeRecord, clock: WallClock) {
    let time = clock.time(record.times.begun, "%d/%b/%Y:%H:%M:%S +0000");
    out.extend_from_slice(format!("{} - - [{time}] ", record.client.to_canonical()).as_bytes());
    let part = |part| record.text.part(part).unwrap_or(b"-");
    write_quoted(out, &[part(TextPart::Method), b" ", part(TextPart::Target), b" ", protocol(record).as_bytes()]);
    let status = record.status.map_or_else(|| "-".into(), |status| status.to_string());
    let content = record.bytes_out.saturating_sub(record.heads_out);
    out.extend_from_slice(format!(" {status} {content}").as_bytes());
}

fn write_quoted(out: &mut Vec<u8>, parts: &[&[u8]]) {
    out.push(b'"');
    for part in parts {
        text::escape_into(out, part);
    }
    out.push(b'"');
}

fn protocol(record: &ExchangeRecord) -> &'static str {
    const SWITCHING_PROTOCOLS: u16 = 101;
    match (record.kind, record.status, record.minor) {
        (ExchangeKind::Tunnel, status, _) if status != Some(SWITCHING_PROTOCOLS) => "TCP",
        (_, _, 0) => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const CLOCK: WallClock = WallClock { zero_us: 1_795_000_000_123_456 };

    fn record() -> ExchangeRecord {
        let mut record = ExchangeRecord { status: Some(200), bytes_out: 150, heads_out: 50, ..Default::default() };
        record.text.keep(TextPart::Method, b"GET");
        record.text.keep(TextPart::Target, b"/a\"b\\c");
        record.text.keep(TextPart::UserAgent, b"\x1b[2J \xff");
        record
    }

    fn line(record: &ExchangeRecord, format: AccessLogFormat) -> String {
        let mut line = Vec::new();
        write_line(&mut line, record, format, CLOCK);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn the_common_format_is_that_of_apache_with_bytes_escaped() {
        let common = "0.0.0.0 - - [18/Nov/2026:11:06:40 +0000] \"GET /a\\x22b\\x5Cc HTTP/1.1\" 200 100";
        assert_eq!(line(&record(), AccessLogFormat::Common), format!("{common}\n"));
        assert_eq!(line(&record(), AccessLogFormat::Combined), format!("{common} \"-\" \"\\x1B[2J \\xFF\"\n"));
        let nothing = ExchangeRecord { kind: ExchangeKind::Tunnel, ..Default::default() };
        let nothing = line(&nothing, AccessLogFormat::Common);
        assert!(nothing.ends_with(" \"- - TCP\" - 0\n"), "{nothing}");
    }

    #[test]
    fn json_is_one_object_whose_text_controls_no_terminal() {
        let mut record = record();
        record.text.keep(TextPart::Referer, "\u{9b}2J\u{7f}ü\n".as_bytes());
        let line = line(&record, AccessLogFormat::Json);
        assert!(line.ends_with("}\n") && !line.trim_end().chars().any(char::is_control), "{line}");
        let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(parsed["time"], "2026-11-18T11:06:40.123Z");
        assert_eq!((&parsed["target"], &parsed["user_agent"]), (&"/a\"b\\c".into(), &"\u{1b}[2J \u{fffd}".into()));
        assert_eq!((&parsed["referer"], &parsed["host"]), (&"\u{9b}2J\u{7f}ü\n".into(), &serde_json::Value::Null));
    }

    #[test]
    fn a_clock_that_is_set_moves_the_times() {
        let wall = UNIX_EPOCH + Duration::from_micros(5_000_000);
        assert_eq!(WallClock::new(wall, Stamp(2_000_000)), WallClock { zero_us: 3_000_000 });
    }
}
