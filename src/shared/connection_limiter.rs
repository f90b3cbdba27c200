//! How many connections each client address has open, over all workers: one table, since a client's connections may all
//! come to one worker or be spread over many. It exists only where a cap is set, and is touched at accept and at close.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::core::net::client_block;

#[derive(Debug)]
pub struct ConnectionLimiter {
    most: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

impl ConnectionLimiter {
    /// At most `most` connections of each client.
    pub fn new(most: usize) -> ConnectionLimiter {
        ConnectionLimiter { most, open: Mutex::default() }
    }

    /// Takes one more connection of `client` in; false if it has as many as it may.
    pub fn enter(&self, client: IpAddr) -> bool {
        let mut open = self.open();
        let count = open.entry(client_block(client)).or_default();
        let enters = *count < self.most;
        *count += usize::from(enters);
        enters
    }

    /// A connection that was taken in is closed.
    pub fn leave(&self, client: IpAddr) {
        let (mut open, block) = (self.open(), client_block(client));
        if let Some(count) = open.get_mut(&block) {
            *count -= 1;
            if *count == 0 {
                open.remove(&block);
            }
        }
    }

    /// A worker that panicked leaves the table as it was: it never stands half changed.
    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_its_own_count_and_leaves_nothing_behind() {
        let crowd = ConnectionLimiter::new(2);
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(crowd.enter(ip("192.0.2.1")) && crowd.enter(ip("::ffff:192.0.2.1")));
        assert!(!crowd.enter(ip("192.0.2.1")), "the third of one client");
        assert!(crowd.enter(ip("192.0.2.2")), "another client");
        crowd.leave(ip("192.0.2.1"));
        assert!(crowd.enter(ip("192.0.2.1")), "one of them left");
        assert!(crowd.enter(ip("2001:db8::1")) && crowd.enter(ip("2001:db8::2")));
        assert!(!crowd.enter(ip("2001:db8:0:0:ffff::3")), "one /64 is one client");
        assert!(crowd.enter(ip("2001:db8:0:1::1")), "the next /64 is another");
        for gone in ["192.0.2.1", "192.0.2.1", "192.0.2.2", "2001:db8::9", "2001:db8::9", "2001:db8:0:1::1"] {
            crowd.leave(ip(gone));
        }
        assert!(crowd.open().is_empty());
    }
}
