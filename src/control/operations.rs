//! Counters of the control plane's operations: reloads applied and refused, upgrades that failed, admin calls denied,
//! certificates that cannot be used, orders of certificates. Counted where it is decided, read by the metrics page.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::admin_access::Denial;

#[derive(Debug, Default)]
pub struct OperationCounters {
    reloads: AtomicU64,
    reloads_refused: AtomicU64,
    last_reload_refused: AtomicBool,
    upgrades_failed: AtomicU64,
    certificates_refused: AtomicU64,
    orders: AtomicU64,
    orders_failed: AtomicU64,
    denied: [AtomicU64; Denial::ALL.len()],
}

impl OperationCounters {
    pub fn count_reload(&self) {
        self.reloads.fetch_add(1, Ordering::Relaxed);
        self.last_reload_refused.store(false, Ordering::Relaxed);
    }

    pub fn count_refused_reload(&self) {
        self.reloads_refused.fetch_add(1, Ordering::Relaxed);
        self.last_reload_refused.store(true, Ordering::Relaxed);
    }

    pub fn count_failed_upgrade(&self) {
        self.upgrades_failed.fetch_add(1, Ordering::Relaxed);
    }

    pub fn set_refused_certificates(&self, count: usize) {
        self.certificates_refused.store(count as u64, Ordering::Relaxed);
    }

    pub fn refused_certificates(&self) -> u64 {
        self.certificates_refused.load(Ordering::Relaxed)
    }

    /// An ACME server issued a certificate.
    pub fn count_order(&self) {
        self.orders.fetch_add(1, Ordering::Relaxed);
    }

    pub fn count_failed_order(&self) {
        self.orders_failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Those that brought a certificate, and those that failed.
    pub fn orders(&self) -> [u64; 2] {
        [&self.orders, &self.orders_failed].map(|count| count.load(Ordering::Relaxed))
    }

    /// How many it were for this reason, with this one.
    pub fn count_denial(&self, denial: Denial) -> u64 {
        let count = Denial::ALL.iter().position(|known| *known == denial).and_then(|at| self.denied.get(at));
        count.map_or(0, |count| count.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Those that were taken in, and those that were refused.
    pub fn reloads(&self) -> [u64; 2] {
        [&self.reloads, &self.reloads_refused].map(|count| count.load(Ordering::Relaxed))
    }

    /// The file says something that is not in force.
    pub fn is_last_reload_refused(&self) -> bool {
        self.last_reload_refused.load(Ordering::Relaxed)
    }

    pub fn failed_upgrades(&self) -> u64 {
        self.upgrades_failed.load(Ordering::Relaxed)
    }

    pub fn denied(&self) -> impl Iterator<Item = (Denial, u64)> {
        Denial::ALL.into_iter().zip(self.denied.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}
