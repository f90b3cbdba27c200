//! The rolling replacement of one service's instances: where it comes from, how often it failed, when it goes on. It
//! replaces nothing itself.

use std::sync::Arc;

use super::answer::Rejection;
use super::slots::SlotId;
use crate::control::runtime::revisions::Revision;
use crate::core::tick::Tick;

/// So many successors in a row that do not come up end a rolling replacement.
const FAILURES_MAX: u32 = 2;
/// After a failure the next attempt waits so long at first; the pause doubles up to the second of these.
const RETRY_FIRST_MS: u64 = 1_000;
const RETRY_MAX_MS: u64 = 10_000;

#[derive(Debug)]
pub struct Rollout {
    /// What all instances ran with before: it goes back to these. `None`: an earlier process had them.
    pub from: Option<Revision>,
    pub since: Tick,
    /// In the order in which they were replaced.
    pub replaced: Vec<Arc<str>>,
    failures: u32,
    /// The member whose successor failed last.
    failed: Option<SlotId>,
    /// After a failure: when the next attempt begins.
    retry_at: Option<Tick>,
}

/// What follows a successor that did not come up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    Retry { pause_ms: u64 },
    Stop,
}

impl Rollout {
    pub fn new(from: Option<Revision>, now: Tick) -> Rollout {
        Rollout { from, since: now, replaced: Vec::new(), failures: 0, failed: None, retry_at: None }
    }

    pub fn succeeded(&mut self, name: Arc<str>) {
        self.replaced.push(name);
        self.failures = 0;
    }

    /// `to` is what it replaces with. What worked before is tried again and again, as is an engine that does not answer:
    /// that says nothing about the settings.
    pub fn failed(&mut self, member: SlotId, to: Revision, why: &Rejection, now: Tick) -> AfterFailure {
        self.failed = Some(member);
        let is_way_back = self.from == Some(to);
        let before = self.failures;
        if !why.is_unavailable() || is_way_back {
            self.failures = self.failures.saturating_add(1);
        }
        if self.failures >= FAILURES_MAX && !is_way_back {
            return AfterFailure::Stop;
        }
        let pause_ms = (RETRY_FIRST_MS << before.min(16)).min(RETRY_MAX_MS);
        self.retry_at = Some(now.after_ms(pause_ms));
        AfterFailure::Retry { pause_ms }
    }

    /// It goes on then.
    pub fn wait(&mut self, until: Tick) {
        self.retry_at = self.retry_at.max(Some(until));
    }

    pub fn go_on(&mut self, now: Tick) {
        self.retry_at = Some(now);
    }

    /// When it goes on by itself. `Tick::NEVER`: it waits for no time.
    pub fn due(&self) -> Tick {
        self.retry_at.unwrap_or(Tick::NEVER)
    }

    /// False during the pause after a failure.
    pub fn may_begin(&mut self, now: Tick) -> bool {
        self.retry_at = self.retry_at.filter(|at| *at > now);
        self.retry_at.is_none()
    }

    /// Of members that may be replaced, in ring order: the first behind the one that failed.
    pub fn choose(&self, members: &[SlotId]) -> Option<SlotId> {
        let behind = members.iter().find(|member| self.failed.is_none_or(|failed| **member > failed));
        behind.or(members.first()).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Tick = Tick(1_000);
    const OLD: Revision = Revision(1);
    const NEW: Revision = Revision(2);

    #[test]
    fn two_failures_in_a_row_stop_it_and_a_success_between_them_does_not() {
        let (mut rollout, slot) = (Rollout::new(Some(OLD), NOW), SlotId::default());
        let refused = Rejection::bad_gateway("it ended".into());
        assert_eq!(rollout.failed(slot, NEW, &refused, NOW), AfterFailure::Retry { pause_ms: 1_000 });
        assert!(!rollout.may_begin(NOW) && rollout.due() == Tick(2_000));
        assert!(rollout.may_begin(Tick(2_000)) && rollout.due() == Tick::NEVER);
        rollout.succeeded("a".into());
        assert_eq!(rollout.failed(slot, NEW, &refused, NOW), AfterFailure::Retry { pause_ms: 1_000 });
        assert_eq!(rollout.failed(slot, NEW, &refused, NOW), AfterFailure::Stop);
    }

    #[test]
    fn the_way_back_and_an_engine_that_does_not_answer_are_tried_again() {
        let slot = SlotId::default();
        let refused = Rejection::bad_gateway("it ended".into());
        let unavailable = Rejection::unavailable("no engine".into());
        for (from, to, why) in [(Some(OLD), OLD, &refused), (Some(OLD), NEW, &unavailable)] {
            let mut rollout = Rollout::new(from, NOW);
            for _ in 0..30 {
                let after = rollout.failed(slot, to, why, NOW);
                assert!(matches!(after, AfterFailure::Retry { pause_ms: 1_000..=10_000 }), "{after:?}");
            }
        }
    }
}
