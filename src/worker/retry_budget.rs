//! How many requests may be sent again to another replica: a share of the requests of a service, in each worker. Where all
//! replicas fail, the load that retries add stays small. Which request may be sent again at all is not decided here.
//!
//! A token bucket: no session has to give anything back.

use crate::core::snapshot::ServiceId;

/// Retries that are saved up at most, and at the start: where one replica ends, all its requests are sent again at once.
const BURST: u32 = 1_000;
/// Of one retry; a request brings as many as the budget has percent.
const COST: u32 = 100;

#[derive(Debug, Default)]
pub struct RetryBudgets(Vec<u32>);

impl RetryBudgets {
    /// A request begins.
    #[inline]
    pub fn deposit(&mut self, service: ServiceId, percent: u32) {
        if let Some(tokens) = self.0.get_mut(service.0 as usize) {
            *tokens = (*tokens + percent).min(BURST * COST);
        }
    }

    pub fn allows(&self, service: ServiceId) -> bool {
        self.0.get(service.0 as usize).is_none_or(|tokens| *tokens >= COST)
    }

    /// A request was sent again.
    pub fn withdraw(&mut self, service: ServiceId) {
        if let Some(tokens) = self.0.get_mut(service.0 as usize) {
            *tokens = tokens.saturating_sub(COST);
        }
    }

    /// There are so many services.
    pub fn follow(&mut self, services: usize) {
        self.0.resize(services.max(self.0.len()), BURST * COST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOP: ServiceId = ServiceId(0);

    #[test]
    fn behind_the_burst_retries_are_a_share_of_the_requests() {
        let mut budgets = RetryBudgets::default();
        budgets.follow(1);
        let mut retries = 0;
        let mut storm = |requests: u32, budgets: &mut RetryBudgets| {
            for _ in 0..requests {
                budgets.deposit(SHOP, 20);
                while budgets.allows(SHOP) {
                    budgets.withdraw(SHOP);
                    retries += 1;
                }
            }
            std::mem::take(&mut retries)
        };
        assert_eq!((storm(1, &mut budgets), storm(1_000, &mut budgets)), (BURST, 200));
        (0..1_000_000).for_each(|_| budgets.deposit(SHOP, 20));
        assert_eq!(storm(1, &mut budgets), BURST, "no more is saved up");
    }
}
