//! The health of one instance: what its probes found, and whether it sent anything meanwhile. It says what follows for
//! this instance. What its service can spare is decided elsewhere; no effect and no other instance enters.
//!
//! A verdict needs evidence. Evidence of death (nothing listens, no way to its host, its process is stopped) takes all
//! requests away at once. A late answer does not: a server that works on one request at a time answers no probe while it
//! works.

use super::ejection::{EjectionPolicy, PassiveEjection};
use crate::core::snapshot::State;
use crate::core::tick::Tick;

/// Between two probes of an instance that has not answered yet.
const FIRST_PROBE_MS: u64 = 20;
/// A worker's fault brings the next probe forward, but not closer to the last one than this.
const SUSPECT_PROBE_GAP_MS: u64 = 50;
/// The timeout of the first probe after a worker's fault.
const SUSPECT_PROBE_TIMEOUT_MS: u64 = 250;

/// How the replicas of one service are judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HealthPolicy {
    pub interval_ms: u64,
    /// Each interval is longer or shorter by up to so much of itself.
    pub jitter_percent: u32,
    pub timeout_ms: u64,
    /// So many answers in a row and a replica takes requests.
    pub rise: u32,
    /// So many failures of one kind in a row and they count.
    pub fall: u32,
    /// An instance that has not answered so long after it began to run is replaced.
    pub start_timeout_ms: u64,
    /// A managed instance that sent nothing for so long is replaced.
    pub replace_after_ms: u64,
    /// One that is back takes its whole weight so long after; 0: at once.
    pub slow_start_ms: u64,
    pub ejection: EjectionPolicy,
}

impl Default for HealthPolicy {
    fn default() -> HealthPolicy {
        HealthPolicy {
            interval_ms: 500,
            jitter_percent: 0,
            timeout_ms: 500,
            rise: 1,
            fall: 2,
            start_timeout_ms: 60_000,
            replace_after_ms: 30_000,
            slow_start_ms: 0,
            ejection: EjectionPolicy::default(),
        }
    }
}

/// A probe that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeFailure {
    pub fault: ProbeFault,
    /// For the operator.
    pub why: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeFault {
    /// Nothing that serves is there: the connection was refused or reset, the process is stopped, or another server answers.
    Dead,
    /// The connection attempt got no answer: its host is gone, or, if it still sends responses, its queue of connections is
    /// full.
    ConnectTimedOut,
    /// The connection stands; no answer came in time.
    Silent,
    /// It answered, but not as a healthy replica does.
    Unhealthy,
}

/// Why an instance that is up takes no new requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// Evidence of death: requests in flight go elsewhere too.
    Unreachable,
    /// It does not answer in time.
    Slow,
    /// It answers that it is not healthy.
    Unhealthy,
    /// It failed requests, in a row or more than others.
    Failing,
}

impl Exclusion {
    pub fn state(self) -> State {
        match self {
            Exclusion::Unreachable => State::Down,
            Exclusion::Slow | Exclusion::Failing => State::Ejected,
            Exclusion::Unhealthy => State::Draining,
        }
    }
}

/// What follows from a failed probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: it sends responses, only the probe is late.
    Busy,
    /// Nothing yet: so many failures in a row.
    Missed(u32),
    /// It is excluded from now on, because of this.
    Excluded(Exclusion),
    /// It is to be ejected if its service can spare it.
    Slow,
    /// Evidence of death, so many times in a row.
    Dead(u32),
    /// It sent nothing for so many milliseconds.
    Expired(u64),
}

/// What follows from an answered probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Improvement {
    /// More answers are needed, or none was.
    None,
    /// It was excluded, and takes requests again.
    Readmitted,
    /// It had never answered, or was down.
    Risen,
}

/// At most one probe is in flight.
#[derive(Debug)]
pub struct Health {
    in_flight: bool,
    last: Tick,
    next: Tick,
    /// `ReplicaLoad::received` when it was last looked at.
    received: u64,
    /// A worker reported a fault since the last answer.
    suspected: bool,
    answers_in_a_row: u32,
    /// Of one kind.
    failures_in_a_row: u32,
    last_fault: Option<ProbeFault>,
    /// By heartbeats.
    exclusion: Option<Exclusion>,
    /// By requests.
    ejection: PassiveEjection,
    /// When it last answered a probe or sent anything else; at first, since when it is watched.
    answered_at: Tick,
}

impl Health {
    /// The first probe is due at `next`.
    pub fn watched_from(now: Tick, next: Tick) -> Health {
        Health {
            in_flight: false,
            last: Tick::ZERO,
            next,
            received: 0,
            suspected: false,
            answers_in_a_row: 0,
            failures_in_a_row: 0,
            last_fault: None,
            exclusion: None,
            ejection: PassiveEjection::default(),
            answered_at: now,
        }
    }

    pub fn due(&self) -> Tick {
        let probe = if self.in_flight { Tick::NEVER } else { self.next };
        probe.min(self.ejection.due())
    }

    pub fn failures_in_a_row(&self) -> u32 {
        self.failures_in_a_row
    }

    pub fn exclusion(&self) -> Option<Exclusion> {
        self.exclusion.or_else(|| self.ejection.is_on().then_some(Exclusion::Failing))
    }

    /// The timeout of a probe that is due now; it counts as in flight. `received` is `ReplicaLoad::received`.
    pub fn begin_probe(&mut self, policy: &HealthPolicy, received: u64, now: Tick) -> Option<u64> {
        self.begin(policy.interval_ms, policy.timeout_ms, received, now)
    }

    /// The same before the first answer: probes follow each other faster.
    pub fn begin_first_probe(&mut self, policy: &HealthPolicy, received: u64, now: Tick) -> Option<u64> {
        self.begin(FIRST_PROBE_MS.min(policy.interval_ms), policy.timeout_ms, received, now)
    }

    fn begin(&mut self, pause_ms: u64, timeout_ms: u64, received: u64, now: Tick) -> Option<u64> {
        if self.in_flight || self.next > now {
            return None;
        }
        self.in_flight = true;
        self.last = now;
        self.next = now.after_ms(pause_ms);
        self.note_received(received, now);
        let is_first_after_fault = self.suspected && self.failures_in_a_row == 0;
        Some(if is_first_after_fault { SUSPECT_PROBE_TIMEOUT_MS.min(timeout_ms) } else { timeout_ms })
    }

    /// True if it sent anything since the last look. That is life, as an answer is.
    fn note_received(&mut self, received: u64, now: Tick) -> bool {
        let sends = std::mem::replace(&mut self.received, received) != received;
        if sends {
            self.answered_at = now;
        }
        sends
    }

    /// The probe in flight was never sent.
    pub fn probe_skipped(&mut self) {
        self.in_flight = false;
    }

    /// The probe in flight was answered. True if that makes `rise` answers in a row.
    pub fn probe_ok(&mut self, policy: &HealthPolicy, now: Tick) -> bool {
        self.in_flight = false;
        self.answered_at = now;
        self.suspected = false;
        self.failures_in_a_row = 0;
        self.answers_in_a_row = self.answers_in_a_row.saturating_add(1);
        self.answers_in_a_row >= policy.rise
    }

    /// Ends an exclusion by heartbeats. True if it takes requests again.
    pub fn readmit(&mut self) -> bool {
        self.exclusion.take().is_some() && !self.ejection.is_on()
    }

    /// Others get its new requests for so many milliseconds, because it failed requests in a row.
    pub fn eject_failing(&mut self, policy: &EjectionPolicy, now: Tick) -> u64 {
        self.ejection.begin(policy, now)
    }

    pub fn is_ejection_over(&self, now: Tick) -> bool {
        self.ejection.is_on() && self.ejection.due() <= now
    }

    /// Ends an ejection for failed requests that is due by now. True if it takes requests again.
    pub fn end_ejection(&mut self, now: Tick) -> bool {
        self.is_ejection_over(now) && self.ejection.end() && self.exclusion.is_none()
    }

    /// The probe in flight failed, and nothing follows from it yet.
    pub fn miss(&mut self, fault: ProbeFault) -> u32 {
        self.in_flight = false;
        self.answers_in_a_row = 0;
        let before = if self.last_fault == Some(fault) { self.failures_in_a_row } else { 0 };
        self.last_fault = Some(fault);
        self.failures_in_a_row = before.saturating_add(1);
        self.failures_in_a_row
    }

    /// The probe in flight of an instance that takes requests failed.
    pub fn probe_failed(&mut self, fault: ProbeFault, policy: &HealthPolicy, received: u64, now: Tick) -> Verdict {
        let sends = self.note_received(received, now);
        match fault {
            ProbeFault::Silent | ProbeFault::ConnectTimedOut if sends => {
                self.in_flight = false;
                self.failures_in_a_row = 0;
                Verdict::Busy
            }
            ProbeFault::Dead | ProbeFault::ConnectTimedOut => self.is_dead(policy, now),
            ProbeFault::Silent | ProbeFault::Unhealthy => self.is_late_or_unhealthy(fault, policy, now),
        }
    }

    fn is_dead(&mut self, policy: &HealthPolicy, now: Tick) -> Verdict {
        let failures = self.miss(ProbeFault::Dead);
        // The next probe follows at once: it is replaced soon, or back soon.
        self.next = now;
        if failures >= policy.fall {
            return Verdict::Dead(failures);
        }
        match self.exclusion.replace(Exclusion::Unreachable) {
            Some(Exclusion::Unreachable) => Verdict::Missed(failures),
            _ => Verdict::Excluded(Exclusion::Unreachable),
        }
    }

    fn is_late_or_unhealthy(&mut self, fault: ProbeFault, policy: &HealthPolicy, now: Tick) -> Verdict {
        let was_suspected = self.suspected;
        let failures = self.miss(fault);
        let silent_ms = now.ms_since(self.answered_at);
        let counts = failures >= policy.fall;
        match fault {
            ProbeFault::Unhealthy if counts && self.exclusion.is_none() => {
                self.exclusion = Some(Exclusion::Unhealthy);
                Verdict::Excluded(Exclusion::Unhealthy)
            }
            _ if counts && silent_ms >= policy.replace_after_ms => Verdict::Expired(silent_ms),
            _ if self.exclusion.is_some() => Verdict::Missed(failures),
            ProbeFault::Silent if counts || was_suspected => Verdict::Slow,
            _ => Verdict::Missed(failures),
        }
    }

    /// Other replicas get its requests until it answers.
    pub fn eject(&mut self) {
        self.exclusion = Some(Exclusion::Slow);
    }

    /// A worker reported a fault: the next probe comes sooner.
    pub fn suspect(&mut self, now: Tick) {
        self.suspected = true;
        let soonest = self.last.after_ms(SUSPECT_PROBE_GAP_MS).max(now);
        self.next = self.next.min(soonest);
    }
}
