//! Reloads on the admin thread: the configuration is read, the runtimes are prepared beside the loop, then the registry takes
//! it in, and its answer ends the reload. One at a time.

use tokio::task::spawn_local;

use super::{ControlLoop, write};
use crate::control::acme::ChallengeUpdate;
use crate::control::heartbeats::Heartbeats;
use crate::control::registry::{Answer, Command, Reconfiguration, ServiceSource, Topology};
use crate::control::reload::{
    CertificateRenewal, PendingReload, ReloadAnswer, ReloadError, ReloadPlan, ReloadReport, Requester,
};
use crate::control::runtime::per_service::Reconfigured;
use crate::control::runtime::revisions::Revision;
use crate::control::runtime::service_runtime::RuntimeSettings;
use crate::control::runtime::{Failure, Runtime};
use crate::core::snapshot::ServiceId;
use crate::core::tick::Tick;

/// From one look at the files of certificates to the next.
const CERTIFICATES_MS: u64 = 2_000;

/// The runtimes took a configuration in, or refused.
pub struct Prepared {
    topology: Topology,
    heartbeats: Heartbeats,
    outcome: Result<Reconfigured, Failure>,
}

impl ControlLoop {
    /// Reads the configuration, and has the runtimes prepared for it.
    pub(super) fn begin_reload(&mut self, requester: Requester) {
        if let Some(why) = self.why_no_reload() {
            return requester.answer(Err(ReloadError::Unavailable(why.into())));
        }
        self.announce_reload();
        let ReloadPlan { topology, heartbeats, runtimes, acme, report } = match self.read() {
            Ok(plan) => plan,
            Err(lines) => return self.answer(requester, Err(ReloadError::Invalid(lines))),
        };
        let report = self.with_restarts(report, &runtimes);
        self.reload = Some(PendingReload { requester, report, acme, ticket: None });
        let (runtime, prepared) = (self.runtime.clone(), self.prepared_in.clone());
        spawn_local(async move {
            let outcome = runtime.reconfigure(runtimes).await;
            let _ = prepared.send(Prepared { topology, heartbeats, outcome });
        });
    }

    /// `Err`: every mistake, or the first thing that no reload can do.
    fn read(&mut self) -> Result<ReloadPlan, String> {
        let plan = self.configuration.read()?;
        let Some((id, has, wanted)) = self.runtime.other_kind(&plan.runtimes) else { return Ok(plan) };
        self.configuration.discard();
        let name = plan.topology.services.get(&id).map(ServiceSource::name).cloned().unwrap_or_default();
        Err(format!(
            "service {name}: its runtime is {has} and is to be {wanted}: a reload cannot change that; give the service \
             another name, or upgrade (SIGUSR2) or restart"
        ))
    }

    fn why_no_reload(&self) -> Option<&'static str> {
        if self.reload.is_some() {
            Some("another reload is under way")
        } else if self.upgrade.is_wanted() || self.core.is_standing_by() {
            Some("an upgrade is under way")
        } else {
            None
        }
    }

    /// Says what a reload would do.
    pub(super) fn try_reload(&mut self) -> ReloadAnswer {
        if let Some(why) = self.why_no_reload() {
            return Err(ReloadError::Unavailable(why.into()));
        }
        let plan = self.read().map_err(ReloadError::Invalid)?;
        self.configuration.discard();
        let rolling = self.rolling(self.runtime.revisions_of(&plan.runtimes), &plan.topology);
        Ok(ReloadReport { rolling, ..self.with_restarts(plan.report, &plan.runtimes) })
    }

    fn with_restarts(&self, mut report: ReloadReport, runtimes: &[(ServiceId, RuntimeSettings)]) -> ReloadReport {
        report.needs_restart.extend(self.runtime.needs_restart(runtimes));
        report
    }

    /// Services whose replicas run with other settings than these. `None`: those that none was started with.
    fn rolling(
        &self,
        revisions: impl IntoIterator<Item = (ServiceId, Option<Revision>)>,
        topology: &Topology,
    ) -> Vec<String> {
        let is_rolled = |(id, revision): &(ServiceId, Option<Revision>)| self.core.rolls_out(*id, *revision);
        let rolled = revisions.into_iter().filter(is_rolled);
        rolled.filter_map(|(id, _)| Some(topology.services.get(&id)?.name().to_string())).collect()
    }

    /// The runtimes are ready: the registry takes the configuration in.
    pub(super) fn take_in(&mut self, prepared: Prepared, now: Tick) {
        let Prepared { topology, heartbeats, outcome } = prepared;
        match outcome {
            Ok(Reconfigured { found, revisions }) => {
                let ticket = self.next_ticket();
                let rolling = self.rolling(revisions.iter().map(|(id, to)| (*id, Some(*to))), &topology);
                if let Some(reload) = &mut self.reload {
                    reload.ticket = Some(ticket);
                    reload.report.rolling = rolling;
                }
                self.heartbeats.take_in(heartbeats, &revisions);
                self.core.raise_stop_limit(self.runtime.stop_limit());
                let change = Reconfiguration { ticket, topology, found, revisions };
                self.apply(Command::Reconfigure(change.into()), now);
            }
            Err(failure) => {
                self.configuration.discard();
                if let Some(reload) = self.reload.take() {
                    self.answer(reload.requester, Err(ReloadError::Unavailable(failure.message)));
                }
            }
        }
    }

    /// Every worker acts on it, or it came too late for a balancer that stops.
    pub(super) fn end_reload(&mut self, answer: Answer) {
        let Some(PendingReload { requester, report, acme, .. }) = self.reload.take() else { return };
        self.configuration.commit();
        self.acme.follow(acme);
        let answer = match answer {
            Answer::Rejected(rejection) => Err(ReloadError::Unavailable(rejection.message)),
            Answer::Reconfigured | Answer::Replicas(_) | Answer::Replica(_) => Ok(report),
        };
        self.answer(requester, answer);
    }

    /// Certificates are taken in by themselves, but not into a configuration that is about to be another.
    pub(super) fn renew_certificates(&mut self, now: Tick) {
        self.certificates_due = now.after_ms(CERTIFICATES_MS);
        if self.reload.is_some() {
            return;
        }
        let CertificateRenewal { listeners, lines, refused } = self.configuration.renew_certificates();
        lines.into_iter().for_each(|(level, line)| write(level, &line));
        self.operations.set_refused_certificates(refused);
        if !listeners.is_empty() {
            self.apply(Command::ReplaceListeners(listeners), now);
        }
    }

    pub(super) fn replace_challenges(&mut self, ChallengeUpdate { challenges, reply }: ChallengeUpdate, now: Tick) {
        let ticket = self.next_ticket();
        self.replies.insert(ticket, reply);
        self.apply(Command::ReplaceChallenges { ticket, challenges }, now);
    }

    /// After each turn: certificates are asked for once ACME servers reach this process.
    pub(super) fn begin_acme(&mut self) {
        if !self.core.is_standing_by()
            && let Some(plan) = self.first_acme.take()
        {
            self.acme.follow(Some(plan));
        }
    }

    fn answer(&self, requester: Requester, answer: ReloadAnswer) {
        match &answer {
            Ok(_) => self.operations.count_reload(),
            Err(_) => self.operations.count_refused_reload(),
        }
        requester.answer(answer);
    }
}
