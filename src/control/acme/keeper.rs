//! The task that keeps the certificates of a plan: the one that is due next is asked for, one at a time. What an order is, and
//! when it is due, is decided elsewhere.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::http::RetryAfter;
use super::order::{self, OrderError};
use super::schedule::{self, Backoff};
use super::storage::{Storage, StorageLock};
use super::{AcmePlan, ChallengeUpdate, WantedCertificate, unix_seconds};
use crate::control::operations::OperationCounters;
use crate::control::registry::readable;
use crate::core::challenges::Challenges;

/// What one order may take in all.
const ORDER_LIMIT: Duration = Duration::from_secs(300);
/// An order is begun anew at once so often, if that may help.
const REPEATS: usize = 5;
/// From one look at the lock to the next.
const LOCK_POLL: Duration = Duration::from_secs(1);
/// The clock may be set meanwhile, and files be removed.
const SLEEP_MAX: Duration = Duration::from_secs(3600);

pub struct Keeper {
    plans: watch::Receiver<Option<Arc<AcmePlan>>>,
    challenges: UnboundedSender<ChallengeUpdate>,
    operations: Arc<OperationCounters>,
    /// By certificate.
    backoff: BTreeMap<String, Backoff>,
    random: fastrand::Rng,
    /// Workers answer challenges.
    is_published: Cell<bool>,
}

impl Keeper {
    pub fn new(
        plans: watch::Receiver<Option<Arc<AcmePlan>>>,
        challenges: UnboundedSender<ChallengeUpdate>,
        operations: Arc<OperationCounters>,
    ) -> Keeper {
        let (backoff, random, is_published) = Default::default();
        Keeper { plans, challenges, operations, backoff, random, is_published }
    }

    /// Ends with the sender of plans.
    pub async fn run(mut self) {
        loop {
            let plan = self.plans.borrow_and_update().clone();
            self.backoff.values_mut().for_each(Backoff::forgive);
            if let Some(plan) = plan {
                self.keep(&plan).await;
            }
            if self.plans.changed().await.is_err() {
                return;
            }
        }
    }

    /// Until there is another plan.
    async fn keep(&mut self, plan: &AcmePlan) {
        let storage = Storage::new(&plan.folder);
        let Some(_lock) = self.lock(&storage).await else { return };
        while !self.plans.has_changed().unwrap_or(true) {
            let now = unix_seconds(SystemTime::now());
            let due = plan.certificates.iter().map(|wanted| (self.due(wanted, &storage), wanted));
            let pause = match due.min_by_key(|(due, _)| *due) {
                Some((due, wanted)) if due <= now => {
                    self.attempt(plan, wanted, &storage).await;
                    continue;
                }
                Some((due, _)) => Duration::from_secs(due - now).min(SLEEP_MAX),
                None => SLEEP_MAX,
            };
            if self.is_changed_within(pause).await {
                return;
            }
        }
    }

    /// Waits for it. `None`: there is another plan.
    async fn lock(&mut self, storage: &Storage) -> Option<StorageLock> {
        let mut is_told = false;
        loop {
            let why = match storage.lock() {
                Ok(Some(lock)) => return Some(lock),
                Ok(None) => "another process has it, which asks for certificates; they are taken in here too".into(),
                Err(error) => error.to_string(),
            };
            if !std::mem::replace(&mut is_told, true) {
                log::info!(target: "ringway", "ACME: {}: {why}", storage.lock_file().display());
            }
            if self.is_changed_within(LOCK_POLL).await {
                return None;
            }
        }
    }

    /// Waits so long for another plan.
    async fn is_changed_within(&mut self, pause: Duration) -> bool {
        let mut plans = self.plans.clone();
        timeout(pause, plans.changed()).await.is_ok()
    }

    /// In seconds since 1970.
    fn due(&self, wanted: &WantedCertificate, storage: &Storage) -> u64 {
        let stored = storage.certificate(wanted.name());
        let stored = stored.filter(|one| wanted.names.iter().all(|name| one.names.contains(name)));
        let renewal = stored.map_or(0, |one| schedule::renewal(one.valid_from, one.expires));
        renewal.max(self.backoff.get(wanted.name()).map_or(0, |backoff| backoff.not_before))
    }

    async fn attempt(&mut self, plan: &AcmePlan, wanted: &WantedCertificate, storage: &Storage) {
        let (name, retry_after) = (wanted.name(), RetryAfter::default());
        log::info!(target: "ringway", "ACME: asking {} for certificate {name}", plan.directory);
        let order = timeout(ORDER_LIMIT, self.obtain(plan, wanted, storage, &retry_after));
        let late = |_| Err(OrderError::Other(format!("no certificate within {} s", ORDER_LIMIT.as_secs())));
        let pair = order.await.unwrap_or_else(late);
        if self.is_published.get() {
            let _ = self.publish(None).await;
        }
        let saved = match pair {
            Ok(pair) => save(storage.clone(), name.to_owned(), pair).await,
            Err(error) => Err(error.to_string()),
        };
        match saved {
            Ok(()) => {
                self.operations.count_order();
                self.backoff.remove(name);
                log::info!(target: "ringway", "ACME: certificate {name} is issued");
            }
            Err(why) => {
                self.operations.count_failed_order();
                let (now, backoff) =
                    (unix_seconds(SystemTime::now()), self.backoff.entry(name.to_owned()).or_default());
                backoff.fail(now, retry_after.unix_seconds(), &mut self.random);
                let delay = readable((backoff.not_before - now) * 1_000);
                log::error!(target: "ringway", "ACME: certificate {name}: {why}; the next attempt comes in {delay}");
            }
        }
    }

    /// Chain and key in PEM.
    async fn obtain(
        &self,
        plan: &AcmePlan,
        wanted: &WantedCertificate,
        storage: &Storage,
        retry_after: &RetryAfter,
    ) -> Result<String, OrderError> {
        let mut repeats = 0;
        loop {
            let once = async {
                let account = order::account(plan, storage, retry_after).await?;
                order::obtain(&account, wanted, async |challenges| self.publish(Some(challenges)).await).await
            };
            match once.await {
                Err(OrderError::BadNonce) if repeats < REPEATS => {}
                Err(OrderError::UnknownAccount) if repeats < REPEATS => {
                    log::warn!(target: "ringway", "ACME: {} does not know our account: making another", plan.directory);
                    let _ = storage.forget_account(plan.email.as_deref());
                }
                done => return done,
            }
            repeats += 1;
        }
    }

    /// Returns when every worker acts on it.
    async fn publish(&self, challenges: Option<Challenges>) -> Result<(), OrderError> {
        self.is_published.set(challenges.is_some());
        let (reply, answer) = oneshot::channel();
        let update = ChallengeUpdate { challenges: challenges.map(Arc::new), reply };
        let gone = || OrderError::Other("the balancer is stopping".into());
        self.challenges.send(update).map_err(|_| gone())?;
        answer.await.map(drop).map_err(|_| gone())
    }
}

/// Beside the admin thread: a disk may be slow.
async fn save(storage: Storage, name: String, pair: String) -> Result<(), String> {
    let saved = tokio::task::spawn_blocking(move || storage.save_certificate(&name, &pair)).await;
    saved.map_err(|error| error.to_string())?.map_err(|error| format!("it cannot be stored: {error}"))
}
