//! Counters of one worker each: a single writer, relaxed, on cache lines of their own. Readers sum them and compute
//! gauges.

use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Single writer: a load and a store, no locked instruction.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    pub fn count(&self) {
        self.add(1);
    }

    pub fn value(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// One worker's counters.
        #[derive(Debug, Default)]
        #[repr(align(128))]
        pub struct Counters { $($(#[doc = $doc])* pub $name: Counter,)* }

        impl Counters {
            /// Name, help text and value of each, for the metrics page.
            pub fn each(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), concat!($($doc,)*), self.$name.value()),)*]
            }
        }
    };
}

impl Counters {
    /// Responses by class, 1xx first.
    pub fn responses(&self) -> [&Counter; 5] {
        [&self.responses_1xx, &self.responses_2xx, &self.responses_3xx, &self.responses_4xx, &self.responses_5xx]
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
    /// requests whose head was read whole (a tunnel counts as one)
    requests,
    /// responses of replicas passed on, by class: informational
    responses_1xx,
    /// successful
    responses_2xx,
    /// redirection
    responses_3xx,
    /// client error
    responses_4xx,
    /// server error
    responses_5xx,
    /// answers of the balancer itself (400 to 505), and connections that it reset instead
    refused,
    /// connections opened to replicas
    dialled,
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
    /// bytes from clients to replicas
    bytes_up,
    /// bytes from replicas to clients
    bytes_down,
}
