//! A record as a line of the access log. Text of clients is escaped: it can neither break a line nor control a terminal.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;

use super::json::{JsonObject, three_digits};
use crate::core::exchange::ExchangeKind;
use crate::core::exchange_record::{ExchangeEnd, ExchangeRecord};
use crate::core::ip::IpText;
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

    /// Microseconds since 1970 at a stamp.
    fn unix_us(self, stamp: Stamp) -> i64 {
        self.zero_us.saturating_add(stamp.0 as i64)
    }
}

/// Writes records as lines of one format.
#[derive(Debug)]
pub struct LineWriter {
    format: AccessLogFormat,
    /// Most lines begin in the same second as the line before.
    second: Option<i64>,
    /// That second as text.
    time: String,
}

impl LineWriter {
    pub fn new(format: AccessLogFormat) -> LineWriter {
        LineWriter { format, second: None, time: String::new() }
    }

    /// Appends the record's line, its end included.
    pub fn write_line(&mut self, out: &mut Vec<u8>, record: &ExchangeRecord, clock: WallClock) {
        let begun_us = clock.unix_us(record.times.begun);
        self.set_second(begun_us.div_euclid(1_000_000));
        match self.format {
            AccessLogFormat::Json => self.write_json(out, record, begun_us.rem_euclid(1_000_000) as u64 / 1_000),
            AccessLogFormat::Common => self.write_common(out, record),
            AccessLogFormat::Combined => {
                self.write_common(out, record);
                for part in [TextPart::Referer, TextPart::UserAgent] {
                    out.push(b' ');
                    write_quoted(out, &[record.text.part(part).unwrap_or(b"-")]);
                }
            }
        }
        out.push(b'\n');
    }

    fn set_second(&mut self, second: i64) {
        if self.second == Some(second) {
            return;
        }
        let format = match self.format {
            AccessLogFormat::Json => "%Y-%m-%dT%H:%M:%S",
            AccessLogFormat::Common | AccessLogFormat::Combined => "%d/%b/%Y:%H:%M:%S +0000",
        };
        self.time = Timestamp::from_second(second).unwrap_or_default().strftime(format).to_string();
        self.second = Some(second);
    }

    fn write_json(&self, out: &mut Vec<u8>, record: &ExchangeRecord, begun_ms: u64) {
        let part = |part| record.text.part(part);
        let mut line = JsonObject::begin(out);
        line.own_text("time", [self.time.as_bytes(), b".", &three_digits(begun_ms), b"Z"]);
        line.address("client", record.client.to_canonical());
        line.text("method", part(TextPart::Method));
        line.text("target", part(TextPart::Target));
        line.text("host", part(TextPart::Host));
        line.own_text("proto", [protocol(record).as_bytes()]);
        line.number("status", record.status.map(u64::from));
        line.number("bytes_in", Some(record.bytes_in));
        line.number("bytes_out", Some(record.bytes_out));
        line.milliseconds("duration_ms", Some(record.total_us()));
        line.milliseconds("head_ms", Some(record.head_us()));
        line.milliseconds("queue_ms", record.queue_us());
        line.milliseconds("connect_ms", record.connect_us());
        line.milliseconds("first_byte_ms", record.first_byte_us());
        line.text("service", part(TextPart::Service));
        line.text("replica", part(TextPart::Replica));
        line.number("attempts", Some(record.attempts.into()));
        line.list("retries", record.retries.reasons().map(|reason| reason.name()));
        line.number("epoch", Some(record.epoch));
        line.text("request_id", part(TextPart::RequestId));
        line.text("user_agent", part(TextPart::UserAgent));
        line.text("referer", part(TextPart::Referer));
        line.own_text("end", [record.end().name().as_bytes()]);
        let fault = record.fault.filter(|fault| fault.end != ExchangeEnd::Complete);
        line.text("why", fault.map(|fault| fault.why.as_bytes()));
        line.end();
    }

    /// `client - - [time] "request line" status bytes`, the bytes of the content.
    fn write_common(&self, out: &mut Vec<u8>, record: &ExchangeRecord) {
        out.extend_from_slice(IpText::new(record.client).text());
        out.extend_from_slice(b" - - [");
        out.extend_from_slice(self.time.as_bytes());
        out.extend_from_slice(b"] ");
        let part = |part| record.text.part(part).unwrap_or(b"-");
        write_quoted(out, &[part(TextPart::Method), b" ", part(TextPart::Target), b" ", protocol(record).as_bytes()]);
        out.push(b' ');
        match record.status {
            Some(status) => out.extend_from_slice(itoa::Buffer::new().format(status).as_bytes()),
            None => out.push(b'-'),
        }
        out.push(b' ');
        let content = record.bytes_out.saturating_sub(record.heads_out);
        out.extend_from_slice(itoa::Buffer::new().format(content).as_bytes());
    }
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
        LineWriter::new(format).write_line(&mut line, record, CLOCK);
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
    fn a_line_has_the_time_of_its_own_second() {
        let mut writer = LineWriter::new(AccessLogFormat::Json);
        let mut time = |us| {
            let mut record = record();
            record.times.begun = Stamp(us);
            let mut line = Vec::new();
            writer.write_line(&mut line, &record, CLOCK);
            serde_json::from_slice::<serde_json::Value>(&line).unwrap()["time"].as_str().unwrap().to_owned()
        };
        assert_eq!(time(0), "2026-11-18T11:06:40.123Z");
        assert_eq!(time(876_543), "2026-11-18T11:06:40.999Z");
        assert_eq!(time(876_544), "2026-11-18T11:06:41.000Z");
        assert_eq!(time(1), "2026-11-18T11:06:40.123Z");
    }

    #[test]
    fn a_clock_that_is_set_moves_the_times() {
        let wall = UNIX_EPOCH + Duration::from_micros(5_000_000);
        assert_eq!(WallClock::new(wall, Stamp(2_000_000)), WallClock { zero_us: 3_000_000 });
    }
}
