//! What one worker counts and measures: a single writer, relaxed, on cache lines of its own. Readers sum over the workers.

use std::sync::atomic::{AtomicU64, Ordering};

use super::histogram::Histogram;
use super::reasons::ReasonTable;
use super::service_metrics::ServiceTable;
use crate::core::step::FaultKind;

#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Single writer: a load and a store, no locked instruction.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    #[inline]
    pub fn count(&self) {
        self.add(1);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a worker has of something, as of the end of its last turn.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    #[inline]
    pub fn set(&self, value: usize) {
        self.0.store(value as u64, Ordering::Relaxed);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a worker has in use.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Gauges {
    pub clients: Gauge,
    /// TLS handshakes of clients under way.
    pub handshakes: Gauge,
    pub upstreams: Gauge,
    pub upstreams_in_use: Gauge,
    /// Requests that wait for a replica with room.
    pub queued: Gauge,
    pub buffers: Gauge,
    pub pipes: Gauge,
}

/// One counter, for the metrics page.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// Counters that differ in their labels only are one family; they stand behind each other.
    pub family: &'static str,
    pub labels: &'static [(&'static str, &'static str)],
    pub help: &'static str,
    pub value: u64,
}

macro_rules! counters {
    (@family $name:ident) => { stringify!($name) };
    (@family $name:ident $family:literal) => { $family };
    (@labels) => { &[] };
    (@labels $($label:ident: $value:literal),+) => { &[$((stringify!($label), $value)),+] };
    ($($(#[doc = $doc:literal])* $name:ident $(in $family:literal { $($label:ident: $value:literal),+ })?,)*) => {
        /// What one worker counts and measures.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct Counters {
            $($(#[doc = $doc])* pub $name: Counter,)*
            /// Local replies, and connections that were reset instead, by status and reason.
            pub replies: ReasonTable,
            pub resets: ReasonTable,
            /// How long a turn was busy, from the end of its wait to the begin of the next one.
            pub turns: Histogram,
            pub gauges: Gauges,
            pub services: ServiceTable,
        }

        impl Counters {
            /// Each plain counter.
            pub fn each(&self) -> Vec<Counted> {
                vec![$(Counted {
                    family: counters!(@family $name $($family)?),
                    labels: counters!(@labels $($($label: $value),+)?),
                    help: concat!($($doc,)*),
                    value: self.$name.value(),
                },)*]
            }
        }
    };
}

impl Counters {
    /// Responses by class, 1xx first.
    pub fn responses(&self) -> [&Counter; 5] {
        [&self.responses_1xx, &self.responses_2xx, &self.responses_3xx, &self.responses_4xx, &self.responses_5xx]
    }

    /// Faults that requests met at replicas, by kind.
    pub fn faults(&self, kind: FaultKind) -> &Counter {
        match kind {
            FaultKind::ConnectFailed(_) => &self.connect_failed,
            FaultKind::ConnectTimedOut { .. } => &self.connect_timed_out,
            FaultKind::Slow { .. } => &self.slow,
            FaultKind::ResponseTimedOut { .. } => &self.response_timed_out,
            FaultKind::ConnectionClosed => &self.connection_closed,
            FaultKind::BadResponse(_) => &self.bad_response,
        }
    }
}

counters! {
    /// client connections accepted
    accepted,
    /// client connections closed
    closed,
    /// client connections refused at accept by a cap
    capped,
    /// client connections refused by the cap for each client address
    capped_per_client,
    /// TLS handshakes of clients, by how they ended
    tls_full in "tls_handshakes" { result: "full" },
    tls_resumed in "tls_handshakes" { result: "resumed" },
    tls_failed in "tls_handshakes" { result: "failed" },
    tls_timed_out in "tls_handshakes" { result: "timed_out" },
    tls_plain_text in "tls_handshakes" { result: "plain_text" },
    /// tunnels over TLS that a client ended without close_notify
    tls_truncated,
    /// requests whose head was read whole (a tunnel counts as one)
    requests,
    /// responses of replicas passed on, by class; informational ones included
    responses_1xx in "responses" { code: "1xx" },
    responses_2xx in "responses" { code: "2xx" },
    responses_3xx in "responses" { code: "3xx" },
    responses_4xx in "responses" { code: "4xx" },
    responses_5xx in "responses" { code: "5xx" },
    /// answers of the balancer itself (400 to 505), and connections that it reset instead
    refused,
    /// connections opened to replicas
    dialled,
    /// connections to replicas closed
    upstream_closed,
    /// requests sent on a pooled connection
    reused,
    /// requests sent again to another replica or connection
    retried,
    /// times that a request waited for a descriptor, memory or a local port of ours
    short,
    /// exchanges that went to the access log
    access_log_records,
    /// exchanges that did not, because its thread was behind
    access_log_dropped,
    /// faults that requests met at replicas
    connect_failed in "replica_faults" { reason: "connect_failed" },
    connect_timed_out in "replica_faults" { reason: "connect_timed_out" },
    slow in "replica_faults" { reason: "slow" },
    response_timed_out in "replica_faults" { reason: "response_timed_out" },
    connection_closed in "replica_faults" { reason: "connection_closed" },
    bad_response in "replica_faults" { reason: "bad_response" },
    /// bytes sent to replicas (up) and to clients (down), copied through a buffer or spliced through a pipe
    copied_up in "forwarded_bytes" { direction: "up", method: "copy" },
    copied_down in "forwarded_bytes" { direction: "down", method: "copy" },
    spliced_up in "forwarded_bytes" { direction: "up", method: "splice" },
    spliced_down in "forwarded_bytes" { direction: "down", method: "splice" },
}
