//! The tables `[health]` and `[ejection]`: what a heartbeat sends, what it expects, and how replicas are judged by it.

use std::ops::RangeInclusive;

use clap::Args;
use clap::builder::RangedU64ValueParser as Number;
use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};

use super::{units, values};
use crate::core::limits::Unit;

#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "Health")]
pub struct HealthSettings {
    /// Requested of every replica [default: /heartbeat of replicas that this balancer starts; where --replica names
    /// servers, for a program of one's own, and in tcp mode, a replica is healthy when it accepts a connection]
    #[arg(id = "health-path", long, value_name = "PATH", value_parser = values::path)]
    pub path: Option<String>,
    /// Time between two heartbeats
    #[arg(id = "health-interval", long, value_name = "DURATION", default_value = "500ms",
        value_parser = units::parser(Unit::Duration, 10..=3_600_000))]
    pub interval_ms: u64,
    /// The longest wait for an answer
    #[arg(id = "health-timeout", long, value_name = "DURATION", default_value = "500ms",
        value_parser = units::parser(Unit::Duration, 1..=3_600_000))]
    pub timeout_ms: u64,
    /// Heartbeats answered in a row after which a replica takes requests
    #[arg(id = "health-rise", long, value_name = "N", default_value = "1",
        value_parser = Number::<u32>::new().range(1..=1000))]
    pub rise: u32,
    /// Heartbeats failed in a row, all for one kind of reason, that count. No answer: new requests go to other replicas
    /// (--ejection-max-share). An answer that is not healthy: it takes no new requests. No way to it: it is replaced
    #[arg(id = "health-fall", long, value_name = "N", default_value = "2",
        value_parser = Number::<u32>::new().range(1..=1000))]
    pub fall: u32,
    /// The method of the request
    #[arg(id = "health-method", long, value_name = "METHOD", default_value = "GET", value_parser = method)]
    pub method: Method,
    /// The Host of the request [default: the replica's address]
    #[arg(id = "health-host", long, value_name = "HOST", value_parser = header_value)]
    pub host: Option<HeaderValue>,
    /// One more header of the request, as NAME: VALUE; repeat it for several
    #[arg(id = "health-header", long, value_name = "NAME: VALUE", value_parser = header)]
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Status codes of a healthy answer, single ones and ranges separated by commas
    #[arg(id = "health-status", long, value_name = "CODES", default_value = "200-299", value_delimiter = ',',
        value_parser = status_range)]
    pub status: Vec<RangeInclusive<u16>>,
    /// Text that the body of a healthy answer contains, in its first 64 KiB
    #[arg(id = "health-body", long, value_name = "TEXT")]
    pub body: Option<String>,
    /// Each interval is longer or shorter by up to so much of itself, at random, so that replicas are not all asked at once
    #[arg(id = "health-jitter", long, value_name = "PERCENT", default_value = "0",
        value_parser = Number::<u32>::new().range(0..=90))]
    pub jitter_percent: u32,
    /// A replica that has not answered so long after it began to run is replaced
    #[arg(id = "health-start-timeout", long, value_name = "DURATION", default_value = "1m",
        value_parser = units::parser(Unit::Duration, 1..=3_600_000))]
    pub start_timeout_ms: u64,
    /// A replica of ours that fails its heartbeats and sends nothing at all for so long is stopped and replaced, one at a
    /// time
    #[arg(id = "health-replace-after", long, value_name = "DURATION", default_value = "30s",
        value_parser = units::parser(Unit::Duration, 1..=86_400_000))]
    pub replace_after_ms: u64,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Ejection")]
pub struct EjectionSettings {
    /// Requests failed in a row (no connection, a reset, no answer in time) after which new ones go to other replicas for
    /// --ejection-base; 0: never
    #[arg(id = "ejection-consecutive-failures", long, value_name = "N", default_value = "5",
        value_parser = Number::<u32>::new().range(0..=1_000_000))]
    pub consecutive_failures: u32,
    /// A response with a 5xx status is a failed request too
    #[arg(id = "ejection-count-5xx", long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true", default_value = "false")]
    pub count_5xx: bool,
    /// By how much the share of failed requests at a replica may exceed that at the others together, in one
    /// --ejection-interval, from 0 to 1; with more, new ones go to others as after failures in a row. 0: never
    #[arg(id = "ejection-error-rate", long, value_name = "SHARE", default_value = "0.5", value_parser = share)]
    pub error_rate: f64,
    /// How often the shares of failed requests are compared
    #[arg(id = "ejection-interval", long, value_name = "DURATION", default_value = "10s",
        value_parser = units::parser(Unit::Duration, 100..=3_600_000))]
    pub interval_ms: u64,
    /// A replica with fewer requests in an interval is not compared
    #[arg(id = "ejection-min-requests", long, value_name = "N", default_value = "100",
        value_parser = Number::<u64>::new().range(1..=1_000_000_000))]
    pub min_requests: u64,
    /// How long failed requests take a replica out of new picks; twice as long each time that it fails again soon after
    #[arg(id = "ejection-base", long, value_name = "DURATION", default_value = "10s",
        value_parser = units::parser(Unit::Duration, 100..=86_400_000))]
    pub base_ms: u64,
    /// The longest ejection for failed requests
    #[arg(id = "ejection-max", long, value_name = "DURATION", default_value = "5m",
        value_parser = units::parser(Unit::Duration, 100..=86_400_000))]
    pub max_ms: u64,
    /// The share of a service's replicas that slowness and failed requests may take out of new picks at a time, from 0 to
    /// 1: where more are slow or fail, the load is the cause
    #[arg(id = "ejection-max-share", long, value_name = "SHARE", default_value = "0.5", value_parser = share)]
    pub max_share: f64,
}

fn method(text: &str) -> Result<Method, String> {
    Method::from_bytes(text.as_bytes()).map_err(|_| "want a method, like GET or HEAD".into())
}

fn header_value(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text).map_err(|_| "want a header's value, without control characters".into())
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("want NAME: VALUE, like Authorization: Bearer abc")?;
    let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is not a header's name"))?;
    Ok((name, header_value(value.trim())?))
}

/// `200`, or `200-299`.
fn status_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let code = |text: &str| text.parse().ok().filter(|code| (100..=999).contains(code));
    match (code(first), code(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        _ => Err("want status codes, like 200-299 or 200,204".into()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share: &f64| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "want a share from 0 to 1, like 0.5".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_codes_are_single_or_ranges() {
        assert_eq!(status_range("200-299"), Ok(200..=299));
        assert_eq!(status_range("401"), Ok(401..=401));
        for wrong in ["", "-", "99", "300-200", "200-", "2xx", "1000"] {
            assert!(status_range(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_header_has_a_name_and_a_value() {
        let (name, value) = header("X-Probe:  yes ").unwrap();
        assert_eq!((name.as_str(), value.as_bytes()), ("x-probe", &b"yes"[..]));
        for wrong in ["", "X-Probe", ": x", "a b: x", "a: b\nc: d"] {
            assert!(header(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_share_lies_between_0_and_1() {
        assert_eq!((share("0"), share("0.5"), share("1")), (Ok(0.0), Ok(0.5), Ok(1.0)));
        for wrong in ["", "-0.1", "1.1", "NaN", "50%"] {
            assert!(share(wrong).is_err(), "{wrong}");
        }
    }
}
