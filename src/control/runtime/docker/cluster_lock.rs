//! One Ringway per cluster name and engine: two would remove each other's containers.
//!
//! The lock is a container of a fixed name, which the engine gives away once: it is created and never started, and its
//! labels say who holds it. A holder that ended in an orderly way has removed it. One that was killed has not, so a Ringway
//! that finds the lock taken asks for a sign of life through the engine, which both reach: it creates a container beside the
//! lock, a *claim*, and a live holder removes that. Unanswered for some seconds, the lock is taken over. This holds across
//! machines, containers and network namespaces. No clock is compared, and nothing is written while no second one starts.
//!
//! In one network namespace a bound socket in the kernel's abstract namespace says the same at once: it is released
//! however a process ends.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bollard::models::{ContainerCreateBody, ContainerSummary, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
};
use tokio::task::AbortHandle;

use super::engine::{Engine, status};
use super::plan;
use crate::control::runtime::{Failure, FailureKind};

/// On the lock and on claims to it: the cluster.
const LOCK: &str = "ringway.lock";
/// On the same: the network namespace of the process that created it, and what an operator finds the process by.
const NAMESPACE: &str = "ringway.namespace";
const PROCESS: &str = "ringway.process";

/// How often a holder looks for claims.
const TEND_EVERY: Duration = Duration::from_secs(1);
/// How long it may take to answer one: so many looks, since an engine may be slow.
const CLAIM_LIMIT: Duration = Duration::from_secs(5);
const CLAIM_PAUSE: Duration = Duration::from_millis(100);
/// How often the lock is tried for. Each time another process changed it between two calls.
const TRIES: u32 = 5;

/// Held until it is released, or the process ends.
pub struct ClusterLock {
    lock: Arc<Lock>,
    keeper: AbortHandle,
    socket: Option<UnixDatagram>,
    /// A process that replaces this one has it too, and is about to be the only one.
    is_lent: AtomicBool,
}

impl ClusterLock {
    /// `image` is any image that the engine has: a container cannot be created without one. `socket` is that of the Ringway
    /// which this one replaces: the lock that carries their run id is theirs both.
    pub async fn acquire(
        engine: &Engine,
        cluster: &str,
        image: &str,
        run_id: &str,
        socket: Option<UnixDatagram>,
    ) -> Result<ClusterLock, Failure> {
        let socket = match socket {
            Some(socket) => Ok(socket),
            None => bind(&engine.id().await?, cluster),
        };
        if let Err(error) = &socket {
            if error.kind() == ErrorKind::AddrInUse {
                return Err(held(engine, cluster, "in this network namespace"));
            }
            log::debug!("no socket for the lock of the cluster {cluster}: {error}");
        }
        let lock = Arc::new(Lock {
            engine: engine.clone(),
            cluster: cluster.to_owned(),
            name: format!("ringway-lock-{:08x}", crc32fast::hash(cluster.as_bytes())),
            image: image.to_owned(),
            run_id: run_id.to_owned(),
            namespace: socket.as_ref().ok().and_then(|_| network_namespace()),
            is_lost: AtomicBool::new(false),
        });
        lock.take().await?;
        let keeper = tokio::spawn(lock.clone().keep()).abort_handle();
        Ok(ClusterLock { lock, keeper, socket: socket.ok(), is_lent: AtomicBool::new(false) })
    }

    /// `Err` if another Ringway has taken the cluster over: its containers are that one's.
    pub fn check(&self) -> Result<(), Failure> {
        if self.is_lent() {
            let message = "an upgrade is under way: the new process starts and stops containers".to_owned();
            return Err(Failure { kind: FailureKind::Unavailable, message });
        }
        match self.lock.is_lost.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(held(&self.lock.engine, &self.lock.cluster, "which took it over")),
        }
    }

    /// A process that replaces this one starts and stops containers from now on.
    pub fn lend(&self) {
        self.is_lent.store(true, Ordering::Relaxed);
    }

    pub fn take_back(&self) {
        self.is_lent.store(false, Ordering::Relaxed);
    }

    pub fn is_lent(&self) -> bool {
        self.is_lent.load(Ordering::Relaxed)
    }

    pub fn socket(&self) -> Option<OwnedFd> {
        self.socket.as_ref()?.as_fd().try_clone_to_owned().ok()
    }

    pub async fn release(&self) {
        self.keeper.abort();
        if self.check().is_ok()
            && let Err(error) = self.lock.remove(&self.lock.name).await
        {
            log::warn!("the container {} stays: {}", self.lock.name, error.message);
        }
    }
}

impl Drop for ClusterLock {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

struct Lock {
    engine: Engine,
    cluster: String,
    /// Of the container.
    name: String,
    image: String,
    run_id: String,
    /// Where no other process can have the socket.
    namespace: Option<String>,
    is_lost: AtomicBool,
}

/// A container with the label `LOCK`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    id: String,
    is_lock: bool,
    run_id: String,
    namespace: Option<String>,
    process: String,
}

/// What the containers with the label ask of the holder.
#[derive(Debug, PartialEq, Eq)]
enum Duty {
    /// The lock was removed, by `docker container prune`, say.
    CreateAgain,
    /// Another Ringway has it.
    GiveUp,
    /// These are claims, answered by removing them.
    Answer(Vec<String>),
}

fn duty(found: &[Found], run_id: &str) -> Duty {
    match found.iter().find(|found| found.is_lock) {
        None => Duty::CreateAgain,
        Some(lock) if lock.run_id != run_id => Duty::GiveUp,
        Some(_) => Duty::Answer(found.iter().filter(|found| !found.is_lock).map(|claim| claim.id.clone()).collect()),
    }
}

impl Lock {
    async fn take(&self) -> Result<(), Failure> {
        for _ in 0..TRIES {
            if self.create(&self.name).await?.is_some() {
                return Ok(());
            }
            let Some(holder) = self.list().await?.into_iter().find(|found| found.is_lock) else { continue };
            if holder.run_id == self.run_id {
                return Ok(());
            }
            let is_gone = self.namespace.is_some() && holder.namespace == self.namespace;
            if !is_gone && self.is_answered().await? {
                return Err(held(&self.engine, &self.cluster, &holder.process));
            }
            log::warn!("the cluster {} was left by a Ringway that is gone: {}", self.cluster, holder.process);
            self.remove(&holder.id).await?;
        }
        Err(held(&self.engine, &self.cluster, "which starts at this moment"))
    }

    /// Asks the holder for a sign of life.
    async fn is_answered(&self) -> Result<bool, Failure> {
        let name = format!("{}-claim-{}", self.name, self.run_id);
        let Some(claim) = self.create(&name).await? else { return Ok(false) };
        let answer = async {
            while self.list().await?.iter().any(|found| found.id == claim) {
                tokio::time::sleep(CLAIM_PAUSE).await;
            }
            Ok(true)
        };
        let answered = tokio::time::timeout(CLAIM_LIMIT, answer).await.unwrap_or(Ok(false));
        self.remove(&claim).await?;
        answered
    }

    /// Looks after the lock until it is lost. An engine that does not answer changes nothing.
    async fn keep(self: Arc<Self>) {
        while !self.is_lost.load(Ordering::Relaxed) {
            tokio::time::sleep(TEND_EVERY).await;
            if let Err(failure) = self.tend().await {
                log::debug!("{}", failure.message);
            }
        }
    }

    async fn tend(&self) -> Result<(), Failure> {
        match duty(&self.list().await?, &self.run_id) {
            Duty::CreateAgain => self.create(&self.name).await.map(drop),
            Duty::GiveUp => {
                self.is_lost.store(true, Ordering::Relaxed);
                let cluster = &self.cluster;
                log::error!("another Ringway runs the cluster {cluster} now: this one starts and stops no container");
                Ok(())
            }
            Duty::Answer(claims) => {
                for claim in claims {
                    log::warn!("another Ringway asked for the cluster {}: it was refused", self.cluster);
                    self.remove(&claim).await?;
                }
                Ok(())
            }
        }
    }

    /// The new container's id; `None` if another one has the name.
    async fn create(&self, name: &str) -> Result<Option<String>, Failure> {
        let mut labels = HashMap::from([
            (LOCK.to_owned(), self.cluster.clone()),
            (plan::RUN_ID.to_owned(), self.run_id.clone()),
            (PROCESS.to_owned(), this_process()),
        ]);
        labels.extend(self.namespace.clone().map(|namespace| (NAMESPACE.to_owned(), namespace)));
        let body = ContainerCreateBody {
            image: Some(self.image.clone()),
            // An image need not have a command of its own. This one never runs.
            cmd: Some(vec!["never-started".into()]),
            labels: Some(labels),
            host_config: Some(HostConfig { network_mode: Some("none".into()), ..Default::default() }),
            ..Default::default()
        };
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        match self.engine.client.create_container(Some(options), body).await {
            Ok(created) => Ok(Some(created.id)),
            Err(error) if status(&error) == Some(409) => Ok(None),
            Err(error) => Err(self.engine.failure(&format!("create {name}"), &error)),
        }
    }

    async fn list(&self) -> Result<Vec<Found>, Failure> {
        let filters = HashMap::from([("label", vec![format!("{LOCK}={}", self.cluster)])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let list = self.engine.client.list_containers(Some(options)).await;
        let list = list.map_err(|error| self.engine.failure("list containers", &error))?;
        Ok(list.into_iter().map(|summary| found(summary, &self.name)).collect())
    }

    /// `Ok` too if it does not exist.
    async fn remove(&self, container: &str) -> Result<(), Failure> {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        match self.engine.client.remove_container(container, Some(options)).await {
            Err(error) if !matches!(status(&error), Some(404 | 409)) => {
                Err(self.engine.failure(&format!("remove {container}"), &error))
            }
            _ => Ok(()),
        }
    }
}

fn found(summary: ContainerSummary, lock_name: &str) -> Found {
    let mut labels = summary.labels.unwrap_or_default();
    let names = summary.names.unwrap_or_default();
    Found {
        id: summary.id.unwrap_or_default(),
        is_lock: names.iter().any(|name| name.trim_start_matches('/') == lock_name),
        run_id: labels.remove(plan::RUN_ID).unwrap_or_default(),
        namespace: labels.remove(NAMESPACE),
        process: labels.remove(PROCESS).unwrap_or_else(|| "a process that did not name itself".into()),
    }
}

fn held(engine: &Engine, cluster: &str, by: &str) -> Failure {
    let message = format!(
        "another Ringway runs the cluster {cluster} on the Docker engine at {}, {by}: end it, or give this one another \
         name with --docker-cluster",
        engine.host
    );
    Failure { kind: FailureKind::Refused, message }
}

/// A container's host name is its id.
fn this_process() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("process {} on {}", std::process::id(), host.trim())
}

/// Names the network namespace of this process, on all machines. No two that exist at one time have the same name.
fn network_namespace() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::read_link("/proc/self/ns/net").ok()?;
    Some(format!("{} {}", boot.trim(), namespace.display()))
}

fn bind(engine: &str, cluster: &str) -> std::io::Result<UnixDatagram> {
    let [engine, cluster] = [engine, cluster].map(|name| crc32fast::hash(name.as_bytes()));
    UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(format!("ringway-{engine:08x}-{cluster:08x}"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_locked_once_per_engine_until_the_lock_is_dropped() {
        let engine = format!("engine of {}", std::process::id());
        let held = bind(&engine, "a").unwrap();
        assert_eq!(bind(&engine, "a").unwrap_err().kind(), ErrorKind::AddrInUse);
        let others = [bind(&engine, "b").unwrap(), bind("another engine", &engine).unwrap()];
        drop(held);
        assert!(bind(&engine, "a").is_ok());
        drop(others);
    }

    fn labelled(name: &str, run_id: &str) -> Found {
        let text = format!(r#"{{"Id":"{name}","Names":["/{name}"],"Labels":{{"ringway.run-id":"{run_id}"}}}}"#);
        found(serde_json::from_str(&text).unwrap(), "lock")
    }

    #[test]
    fn the_holder_answers_claims_creates_a_removed_lock_again_and_gives_up_one_that_was_taken_over() {
        let [lock, claim] = [labelled("lock", "ours"), labelled("claim", "other")];
        assert_eq!(duty(&[lock.clone(), claim.clone()], "ours"), Duty::Answer(vec!["claim".into()]));
        assert_eq!(duty(std::slice::from_ref(&lock), "ours"), Duty::Answer(vec![]));
        assert_eq!(duty(&[claim], "ours"), Duty::CreateAgain);
        assert_eq!(duty(&[lock], "other"), Duty::GiveUp);
    }

    #[test]
    fn this_process_and_its_network_namespace_have_names() {
        assert!(this_process().starts_with(&format!("process {} on ", std::process::id())));
        assert!(network_namespace().is_some_and(|name| name.contains("net:[")));
    }
}
