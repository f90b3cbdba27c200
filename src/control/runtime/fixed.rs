//! Servers given by address or name (`--replica HOST:PORT`). They are probed, and never started or stopped.
//!
//! The name of a replica is its identity on the ring; where it is may change. A host name is looked up at the start, every
//! [`REFRESH`], and when a heartbeat fails. The replica stays at its address for as long as the name has it and it accepts
//! connections; then it moves to the first of the name's addresses that does. A name that has no address yet is no error:
//! its replica joins when it has one.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{sleep, timeout};

use super::resolver::{REFRESH, Resolver, SystemResolver};
use super::revisions::Revision;
use super::{Failure, FailureKind, InstanceId, Runtime, RuntimeEvent, Spec, Started};
use crate::core::snapshot::{Endpoint, ServiceId};
use crate::settings::{FixedReplica, HostPort};

/// Between two attempts to find a server that has no address, or does not answer at it.
const RETRY: Duration = Duration::from_secs(1);
/// An address that accepts no connection within this is passed over.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Of an instance's number, the low bits count the instances of one server.
const INSTANCE_BITS: u32 = 24;

pub struct Fixed<R = SystemResolver> {
    servers: RefCell<Vec<Rc<ListedServer>>>,
    /// Servers that were ever listed.
    listed: Cell<u64>,
    resolver: Rc<R>,
    events: OnceCell<UnboundedSender<RuntimeEvent>>,
}

/// A listed server, and where it is.
struct ListedServer {
    replica: FixedReplica,
    address: Cell<Option<SocketAddr>>,
    /// Of its next instance: the server's own number in the high bits, so that it tells whose instance it is.
    number: Cell<u64>,
    /// The last look-up of its name failed, which was logged.
    is_unknown: Cell<bool>,
    /// A heartbeat failed where it is.
    failed: Notify,
    /// Looks its name up, until the server is removed.
    watch: RefCell<Option<AbortHandle>>,
}

/// Why a name is looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trigger {
    Refresh,
    Failure,
}

impl Fixed {
    pub fn new(replicas: Vec<FixedReplica>) -> Fixed {
        Fixed::with_resolver(replicas, SystemResolver::default())
    }
}

impl<R: Resolver + 'static> Fixed<R> {
    fn with_resolver(replicas: Vec<FixedReplica>, resolver: R) -> Fixed<R> {
        let (servers, listed, events) = Default::default();
        let fixed = Fixed { servers, listed, resolver: Rc::new(resolver), events };
        let servers = replicas.into_iter().map(|replica| fixed.listed(replica)).collect();
        fixed.servers.replace(servers);
        fixed
    }

    fn listed(&self, replica: FixedReplica) -> Rc<ListedServer> {
        let server = self.listed.replace(self.listed.get() + 1);
        Rc::new(ListedServer::new(replica, server << INSTANCE_BITS))
    }

    /// Another list: servers that are on both stay, those that are new join, others leave.
    pub fn set_servers(&self, replicas: Vec<FixedReplica>) {
        let before = self.servers.take();
        let known = |replica: &FixedReplica| before.iter().find(|server| server.replica == *replica).cloned();
        let servers: Vec<_> =
            replicas.into_iter().map(|replica| known(&replica).unwrap_or_else(|| self.listed(replica))).collect();
        let is_kept = |server: &Rc<ListedServer>| servers.iter().any(|kept| Rc::ptr_eq(kept, server));
        let has_name = |name: &str| servers.iter().any(|server| server.replica.name == name);
        for gone in before.iter().filter(|server| !is_kept(server)) {
            gone.unwatch();
            if !has_name(&gone.replica.name) {
                self.send(gone.left());
            }
        }
        for new in servers.iter().filter(|server| !before.iter().any(|known| Rc::ptr_eq(known, server))) {
            self.join(new);
        }
        self.servers.replace(servers);
    }

    /// A server that is listed now: at its address, or where its name is found to lead.
    fn join(&self, server: &Rc<ListedServer>) {
        if let HostPort::Address(address) = server.replica.address {
            let (spec, started) = server.locate_at(address);
            self.send(Some(RuntimeEvent::Joined { spec, started, why: "it is listed now".into() }));
        }
        self.watch(server, Vec::new());
    }

    fn send(&self, event: Option<RuntimeEvent>) {
        if let (Some(events), Some(event)) = (self.events.get(), event) {
            let _ = events.send(event);
        }
    }

    /// Follows the addresses of a server that was given by name.
    fn watch(&self, server: &Rc<ListedServer>, known: Vec<SocketAddr>) {
        if let HostPort::Name { .. } = server.replica.address
            && let Some(events) = self.events.get()
        {
            let names = NameWatch { resolver: self.resolver.clone(), known };
            let watch = spawn_local(names.run(server.clone(), events.clone()));
            server.watch.replace(Some(watch.abort_handle()));
        }
    }

    /// The server whose instance this is or was.
    fn server_of(&self, instance: InstanceId) -> Option<Rc<ListedServer>> {
        let InstanceId::Foreign(number) = instance else { return None };
        let is_its = |server: &&Rc<ListedServer>| server.number.get() >> INSTANCE_BITS == number >> INSTANCE_BITS;
        self.servers.borrow().iter().find(is_its).cloned()
    }
}

impl<R: Resolver + 'static> Runtime for Fixed<R> {
    async fn start(&self, spec: &Spec) -> Result<Started, Failure> {
        let message = format!("{} cannot be started: the replicas are a fixed list (--replica)", spec.name);
        Err(Failure { kind: FailureKind::Refused, message })
    }

    async fn stop(&self, instance: InstanceId, _grace: Duration) -> Result<(), Failure> {
        if let Some(server) = self.server_of(instance) {
            server.unwatch();
        }
        Ok(())
    }

    async fn attach(&self, events: UnboundedSender<RuntimeEvent>) -> Result<Vec<(Spec, Started)>, Failure> {
        let _ = self.events.set(events);
        let servers = self.servers.borrow().clone();
        let lookups: Vec<_> = servers
            .iter()
            .map(|server| {
                let (server, resolver) = (server.clone(), self.resolver.clone());
                spawn_local(async move { server.addresses(&*resolver).await })
            })
            .collect();
        let mut found = Vec::new();
        for (server, lookup) in servers.iter().zip(lookups) {
            let known = lookup.await.unwrap_or_default();
            found.extend(known.first().map(|address| server.locate_at(*address)));
            self.watch(server, known);
        }
        Ok(found)
    }

    fn resume(&self, instance: InstanceId) {
        if let Some(server) = self.server_of(instance) {
            self.watch(&server, server.address.get().into_iter().collect());
        }
    }

    fn on_probe_failed(&self, instance: InstanceId) {
        if let Some(server) = self.server_of(instance).filter(|server| server.is_at(instance)) {
            server.failed.notify_one();
        }
    }
}

impl ListedServer {
    fn new(replica: FixedReplica, first: u64) -> ListedServer {
        ListedServer {
            replica,
            address: Cell::default(),
            number: Cell::new(first),
            is_unknown: Cell::default(),
            failed: Notify::new(),
            watch: RefCell::default(),
        }
    }

    fn is_at(&self, instance: InstanceId) -> bool {
        self.address.get().is_some() && instance.number() + 1 == self.number.get()
    }

    /// Its name is not looked up any more.
    fn unwatch(&self) {
        if let Some(watch) = self.watch.take() {
            watch.abort();
        }
    }

    /// The end of its instance, if it has one.
    fn left(&self) -> Option<RuntimeEvent> {
        self.address.get()?;
        let instance = InstanceId::Foreign(self.number.get() - 1);
        Some(RuntimeEvent::Delisted { instance, why: "it is not listed any more".into() })
    }

    /// What its host has now; empty if that is not known.
    async fn addresses(&self, resolver: &impl Resolver) -> Vec<SocketAddr> {
        let found = match &self.replica.address {
            HostPort::Address(address) => Ok(vec![*address]),
            HostPort::Name { host, port } => resolver.look_up(host, *port).await,
        };
        let was_unknown = self.is_unknown.replace(found.is_err());
        found.unwrap_or_else(|error| {
            if !was_unknown {
                log::warn!("{}: its name cannot be looked up: {error}; it is tried again", self.replica.name);
            }
            Vec::new()
        })
    }

    /// An instance of its own, so that connections to another address are not taken for connections to this one.
    fn locate_at(&self, address: SocketAddr) -> (Spec, Started) {
        let instance = InstanceId::Foreign(self.number.replace(self.number.get() + 1));
        self.address.set(Some(address));
        let (service, name) = (ServiceId::default(), Arc::from(self.replica.name.as_str()));
        let spec = Spec { service, name, instance, revision: Revision::FIRST, replaces: None };
        let (endpoint, handle) = (Endpoint::Tcp(address), "a foreign server".into());
        (spec, Started { endpoint, handle, weight: self.replica.weight })
    }

    /// When and why its name is looked up next.
    async fn next_trigger(&self) -> Trigger {
        let pause = if self.address.get().is_some() { REFRESH } else { RETRY };
        tokio::select! {
            () = self.failed.notified() => Trigger::Failure,
            () = sleep(pause) => Trigger::Refresh,
        }
    }
}

/// Follows the addresses of one server's name.
struct NameWatch<R> {
    resolver: Rc<R>,
    /// The addresses that the name had last.
    known: Vec<SocketAddr>,
}

impl<R: Resolver> NameWatch<R> {
    async fn run(mut self, server: Rc<ListedServer>, events: UnboundedSender<RuntimeEvent>) {
        loop {
            let trigger = server.next_trigger().await;
            let address = self.find(&server, trigger).await;
            if let Some(address) = address.filter(|address| server.address.get() != Some(*address)) {
                let why = format!("its name leads to {address} now");
                let (spec, started) = server.locate_at(address);
                let _ = events.send(RuntimeEvent::Joined { spec, started, why });
            }
            if trigger == Trigger::Failure {
                sleep(RETRY).await;
            }
        }
    }

    /// Where the server is, if it is known. A server that accepts connections is not looked for elsewhere.
    async fn find(&mut self, server: &ListedServer, trigger: Trigger) -> Option<SocketAddr> {
        let here = server.address.get();
        if trigger == Trigger::Failure
            && let Some(address) = first_accepting(here.iter().chain(&self.known)).await
        {
            return Some(address);
        }
        let found = server.addresses(&*self.resolver).await;
        if !found.is_empty() {
            self.known = found;
        }
        match here {
            Some(here) if trigger == Trigger::Refresh && self.known.contains(&here) => None,
            Some(_) => first_accepting(&self.known).await,
            None => first_accepting(&self.known).await.or(self.known.first().copied()),
        }
    }
}

async fn first_accepting(addresses: impl IntoIterator<Item = &SocketAddr>) -> Option<SocketAddr> {
    for address in addresses {
        if let Ok(Ok(_)) = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            return Some(*address);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::TcpListener;

    use tokio::sync::mpsc::unbounded_channel;
    use tokio::task::LocalSet;

    use super::*;

    /// What every name leads to; empty: it cannot be looked up.
    #[derive(Clone, Default)]
    struct Zone(Rc<RefCell<Vec<SocketAddr>>>);

    impl Resolver for Zone {
        async fn look_up(&self, _host: &str, _port: u16) -> io::Result<Vec<SocketAddr>> {
            let found = self.0.borrow().clone();
            if found.is_empty() { Err(io::Error::other("no such name")) } else { Ok(found) }
        }
    }

    fn listed() -> FixedReplica {
        let address = HostPort::Name { host: "web".into(), port: 80 };
        FixedReplica { name: "web:80".into(), address, weight: 1 }
    }

    fn listening() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    fn refusing() -> SocketAddr {
        listening().1
    }

    fn run(test: impl Future<Output = ()>) {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&tokio, test);
    }

    fn endpoint(event: RuntimeEvent) -> (Spec, Endpoint) {
        let RuntimeEvent::Joined { spec, started, .. } = event else { panic!("{event:?}") };
        (spec, started.endpoint)
    }

    #[test]
    fn a_server_that_fails_moves_to_the_next_address_of_its_name() {
        run(async {
            let ((_listener, second), first) = (listening(), refusing());
            let zone = Zone::default();
            zone.0.replace(vec![first, second]);
            let fixed = Fixed::with_resolver(vec![listed()], zone);
            let (events, mut heard) = unbounded_channel();
            let found = fixed.attach(events).await.unwrap();
            assert_eq!((found[0].1.endpoint.clone(), &*found[0].0.name), (Endpoint::Tcp(first), "web:80"));
            fixed.on_probe_failed(found[0].0.instance);
            let (spec, moved) = endpoint(heard.recv().await.unwrap());
            assert_eq!((moved, &*spec.name), (Endpoint::Tcp(second), "web:80"));
            assert_ne!(spec.instance, found[0].0.instance, "an instance of its own");
            fixed.stop(found[0].0.instance, Duration::ZERO).await.unwrap();
            drop(fixed);
            assert_eq!(heard.recv().await, None, "removed, although it moved while it drained");
        });
    }

    #[test]
    fn a_name_without_an_address_is_looked_up_until_it_has_one() {
        run(async {
            let (zone, address) = (Zone::default(), refusing());
            let fixed = Fixed::with_resolver(vec![listed()], zone.clone());
            let (events, mut heard) = unbounded_channel();
            assert_eq!(fixed.attach(events).await.unwrap(), []);
            zone.0.replace(vec![address]);
            assert_eq!(endpoint(heard.recv().await.unwrap()).1, Endpoint::Tcp(address));
        });
    }

    #[test]
    fn a_removed_server_is_not_looked_for() {
        run(async {
            let zone = Zone::default();
            zone.0.replace(vec![refusing()]);
            let fixed = Fixed::with_resolver(vec![listed()], zone);
            let (events, mut heard) = unbounded_channel();
            let found = fixed.attach(events).await.unwrap();
            fixed.stop(found[0].0.instance, Duration::ZERO).await.unwrap();
            drop(fixed);
            assert_eq!(heard.recv().await, None, "nothing sends events any more");
        });
    }

    async fn found(
        here: SocketAddr,
        known: &[SocketAddr],
        zone: &[SocketAddr],
        trigger: Trigger,
    ) -> Option<SocketAddr> {
        let server = ListedServer::new(listed(), 0);
        server.locate_at(here);
        let names = Zone::default();
        names.0.replace(zone.to_vec());
        NameWatch { resolver: Rc::new(names), known: known.to_vec() }.find(&server, trigger).await
    }

    #[test]
    fn a_server_moves_only_when_its_name_has_another_address_or_it_accepts_no_connection() {
        run(async {
            let ((_here, here), (_there, there), dead) = (listening(), listening(), refusing());
            let both = [there, here];
            assert_eq!(
                found(here, &both, &both, Trigger::Refresh).await,
                None,
                "the order of addresses changes nothing"
            );
            assert_eq!(found(here, &[here], &[there], Trigger::Refresh).await, Some(there), "its name left it");
            assert_eq!(
                found(here, &[here], &[dead], Trigger::Refresh).await,
                None,
                "nothing is better where it is to be"
            );
            assert_eq!(found(here, &both, &both, Trigger::Failure).await, Some(here), "slow, not gone");
            assert_eq!(found(dead, &[dead, there], &[], Trigger::Failure).await, Some(there), "without a look-up");
            assert_eq!(found(dead, &[dead], &[there], Trigger::Failure).await, Some(there), "after a look-up");
            assert_eq!(found(dead, &[dead], &[], Trigger::Failure).await, None);
        });
    }
}
