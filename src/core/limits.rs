//! The timeouts and sizes of a service, and which forwarding fields it trusts and adds: one plain value. Timeouts are in
//! milliseconds, sizes in bytes.
//!
//! Each limit is stated once, in `limits!`: meaning, default, unit and range. [`Limits::ALL`] describes them to the code that
//! reads or prints them. Nothing here is parsed or enforced.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::head;
use super::sticky::StickyPolicy;

/// What is done with the `X-Forwarded-*` and `Forwarded` fields of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// `X-Forwarded-For` is appended to, the others are cut.
    Append,
    /// All are cut: `X-Forwarded-For` names the client alone.
    Replace,
    /// They come from a trusted proxy: they stay, and `X-Forwarded-For` is appended to.
    Keep,
}

/// Whether a `Via` of ours is added to requests (RFC 9110 section 7.6.3). Those of others stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    On,
    Off,
}

/// What becomes of `X-Request-Id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestIdPolicy {
    /// It is a field like any other.
    Off,
    /// A valid one is passed on and logged; any other is cut.
    Pass,
    /// The same, and a request without one gets one.
    Make,
}

/// What a client does to its connection that ends its request at the replica too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortOn {
    /// A reset: nothing can reach the client any more.
    Reset,
    /// A FIN too, although the client may still read.
    Close,
    /// The request runs to its end, whether or not its client is there.
    Nothing,
}

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Milliseconds.
    Duration,
    /// Bytes.
    Size,
    /// Bytes per second.
    Rate,
    /// Things.
    Count,
}

/// One limit, described.
pub struct Limit {
    /// Its field in [`Limits`].
    pub name: &'static str,
    /// What it bounds and what follows beyond it, in the help's words.
    pub help: &'static str,
    pub unit: Unit,
    pub range: RangeInclusive<u64>,
    pub read: fn(&Limits) -> u64,
    pub write: fn(&mut Limits, u64),
}

impl Limit {
    /// Its key in the configuration file, where values carry the unit that the field's name ends with.
    pub fn key(&self) -> &'static str {
        self.name.strip_suffix("_ms").unwrap_or(self.name)
    }
}

/// One line for each limit: `field: type = default, unit, range`. Its doc comment is its help.
macro_rules! limits {
    ($($(#[doc = $help:literal])+ $name:ident: $type:ty = $default:expr, $unit:ident, $range:expr;)+) => {
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Limits {
            $($(#[doc = $help])+ pub $name: $type,)+
            /// Whether the forwarded fields of clients are trusted.
            pub trust: Trust,
            pub via: Via,
            /// For so many seconds browsers are to use https only (RFC 6797 section 6.1).
            pub hsts_seconds: Option<u64>,
            /// Connections in use at a replica at most; 0: no limit.
            pub max_upstream_connections: u32,
            /// Requests that wait in a worker for a replica with room at most, and how long each does.
            pub queue: usize,
            pub queue_timeout_ms: u64,
            /// Requests that may be sent again to another replica, in percent of all requests.
            pub retry_budget: u32,
            pub request_id: RequestIdPolicy,
            /// A cookie leads clients back to the replica where their session began.
            pub sticky: Option<Arc<StickyPolicy>>,
            /// What of a client ends its request at the replica.
            pub abort_on: AbortOn,
        }

        impl Limits {
            pub const DEFAULT: Limits = Limits {
                $($name: $default,)+
                trust: Trust::Append,
                via: Via::On,
                hsts_seconds: None,
                max_upstream_connections: 0,
                queue: 1_024,
                queue_timeout_ms: 1_000,
                retry_budget: 20,
                request_id: RequestIdPolicy::Pass,
                sticky: None,
                abort_on: AbortOn::Reset,
            };

            /// Every limit, in the order of the help.
            pub const ALL: &'static [Limit] = &[$(Limit {
                name: stringify!($name),
                help: concat!($($help),+),
                unit: Unit::$unit,
                range: $range,
                read: |limits| limits.$name as u64,
                write: |limits, value| limits.$name = value as $type,
            },)+];
        }
    };
}

/// Longer than any deadline makes sense; short enough that no sum of two overflows.
const WEEK_MS: u64 = 7 * 24 * 3_600_000;

limits! {
    /// A client's whole TLS handshake, from accept on
    handshake_timeout_ms: u64 = 5_000, Duration, 1..=WEEK_MS;
    /// A client's whole head, from its first byte
    head_timeout_ms: u64 = 10_000, Duration, 1..=WEEK_MS;
    /// A client connection with no request under way (from accept on)
    idle_timeout_ms: u64 = 60_000, Duration, 1..=WEEK_MS;
    /// Connecting to a replica; then the next replica is tried
    connect_timeout_ms: u64 = 500, Duration, 1..=WEEK_MS;
    /// From the end of a request (or an interim response) to the head of its response
    response_timeout_ms: u64 = 60_000, Duration, 1..=WEEK_MS;
    /// A body in which no byte moves
    stall_timeout_ms: u64 = 60_000, Duration, 1..=WEEK_MS;
    /// A client that sends or reads a body more slowly than this for longer than --stall-timeout is disconnected: n
    /// bytes extend that deadline by at most n / rate; 0: any byte restarts it
    min_body_rate: u64 = 100, Rate, 0..=1 << 30;
    /// A tunnel (WebSocket, or --mode tcp) or an event stream (text/event-stream) in which no byte moves
    tunnel_timeout_ms: u64 = 3_600_000, Duration, 1..=WEEK_MS;
    /// A client that may still be sending behind its last response can read that response for this long after its last
    /// byte; then it is disconnected
    linger_timeout_ms: u64 = 5_000, Duration, 1..=WEEK_MS;
    /// The same in all, however much it sends. While the balancer stops, --linger-timeout is all it gets
    linger_max_ms: u64 = 30_000, Duration, 1..=WEEK_MS;
    /// Requests in flight get this long to finish when a replica or the balancer stops
    drain_timeout_ms: u64 = 10_000, Duration, 1..=WEEK_MS;
    /// An idle connection to a replica is closed after this
    pool_idle_timeout_ms: u64 = 60_000, Duration, 1..=WEEK_MS;
    /// Idle connections kept to each replica by each worker
    pool_size: usize = 1024, Count, 0..=1_000_000;
    /// Replicas that one request is tried on at most
    attempts: u32 = 3, Count, 1..=100;
    /// Safe requests without a body that become ready together are sent together on one connection to a replica, at
    /// most this many (pipelining, RFC 9112 section 9.3.2); 0 or 1: one after another
    upstream_pipelining: usize = 0, Count, 0..=1024;
    /// A longer request line is answered 414
    line_limit: usize = 8 * 1024, Size, 64..=head::HEAD_MAX as u64;
    /// A longer request head is answered 431, a longer response head 502
    head_limit: usize = 16 * 1024, Size, 256..=head::HEAD_MAX as u64;
    /// A request head with more fields is answered 431, a response head 502
    field_limit: usize = 100, Count, 4..=head::FIELDS_MAX as u64;
}

impl Default for Limits {
    fn default() -> Self {
        Limits::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_lies_within_its_range() {
        for limit in Limits::ALL {
            let default = (limit.read)(&Limits::DEFAULT);
            assert!(limit.range.contains(&default), "{}: {default}", limit.name);
        }
    }

    #[test]
    fn a_deadline_is_at_most_a_week() {
        let limit = Limits::ALL.iter().find(|limit| limit.name == "head_timeout_ms").unwrap();
        assert_eq!(limit.range, 1..=604_800_000);
    }

    #[test]
    fn writing_a_limit_sets_its_own_field() {
        for limit in Limits::ALL {
            let mut limits = Limits::DEFAULT;
            (limit.write)(&mut limits, *limit.range.end());
            assert_eq!((limit.read)(&limits), *limit.range.end(), "{}", limit.name);
            let others = Limits::ALL.iter().filter(|other| other.name != limit.name);
            assert!(others.into_iter().all(|other| (other.read)(&limits) == (other.read)(&Limits::DEFAULT)));
        }
    }
}
