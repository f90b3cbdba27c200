//! How many connections each client address has open. One table for all workers, since the connections of a client may be
//! spread over them. It exists only where a cap is set, and is locked at accept and at close only.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::core::net::client_block;

#[derive(Debug)]
pub struct ConnectionLimiter {
    max: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

impl ConnectionLimiter {
    /// At most `max` connections of each client address; an IPv6 client is its /64.
    pub fn new(max: usize) -> ConnectionLimiter {
        ConnectionLimiter { max, open: Mutex::default() }
    }

    /// Counts one more connection of `client`; false, and not counted, if it has as many as it may.
    pub fn enter(&self, client: IpAddr) -> bool {
        let mut open = self.open();
        let count = open.entry(client_block(client)).or_default();
        let enters = *count < self.max;
        *count += usize::from(enters);
        enters
    }

    /// A connection that was counted is closed.
    pub fn leave(&self, client: IpAddr) {
        let (mut open, block) = (self.open(), client_block(client));
        if let Some(count) = open.get_mut(&block) {
            *count -= 1;
            if *count == 0 {
                open.remove(&block);
            }
        }
    }

    /// A panic of another worker leaves the table whole: each change is one assignment.
    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_a_count_of_its_own_that_ends_with_its_last_connection() {
        let limiter = ConnectionLimiter::new(2);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(limiter.enter(ip("192.0.2.1")) && limiter.enter(ip("::ffff:192.0.2.1")));
        assert!(!limiter.enter(ip("192.0.2.1")), "the third of one client");
        assert!(limiter.enter(ip("192.0.2.2")), "another client");
        limiter.leave(ip("192.0.2.1"));
        assert!(limiter.enter(ip("192.0.2.1")), "one of them left");
        assert!(limiter.enter(ip("2001:db8::1")) && limiter.enter(ip("2001:db8::2")));
        assert!(!limiter.enter(ip("2001:db8:0:0:ffff::3")), "one /64 is one client");
        assert!(limiter.enter(ip("2001:db8:0:1::1")), "the next /64 is another");
        for gone in ["192.0.2.1", "192.0.2.1", "192.0.2.2", "2001:db8::9", "2001:db8::9", "2001:db8:0:1::1"] {
            limiter.leave(ip(gone));
        }
        assert!(limiter.open().is_empty());
    }
}
