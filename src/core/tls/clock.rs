//! The time of day as the workers tell it, for rustls: certificates and tickets expire by it. No clock is read here.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

#[derive(Debug, Default)]
pub struct Clock {
    unix_seconds: AtomicU64,
}

impl Clock {
    pub fn set(&self, unix_seconds: u64) {
        if self.unix_seconds.load(Ordering::Relaxed) != unix_seconds {
            self.unix_seconds.store(unix_seconds, Ordering::Relaxed);
        }
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.unix_seconds.load(Ordering::Relaxed))))
    }
}
