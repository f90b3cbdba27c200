//! The listening sockets of this process, one for each worker and address: bound here, so that a port in use is an error
//! before a snapshot names it, and taken by the workers. Which addresses are listened on is decided elsewhere.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::inherited::{self, Inherited};
use super::linux::{self, SendsFirst};

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Unique. A process that replaces this one finds its sockets by it.
    pub name: String,
    pub address: SocketAddr,
    pub sends_first: SendsFirst,
}

/// Shared by the workers and what configures them.
#[derive(Debug)]
pub struct ListeningSockets {
    workers: usize,
    state: Mutex<SocketTable>,
}

#[derive(Debug, Default)]
struct SocketTable {
    bound: BTreeMap<SocketAddr, BoundAddress>,
    inherited: Inherited,
}

#[derive(Debug)]
struct BoundAddress {
    /// Of the socket, for a process that replaces this one.
    name: String,
    /// With the port that was chosen, where the configured one is 0.
    local: SocketAddr,
    sends_first: SendsFirst,
    /// By worker, until it takes its own.
    sockets: Vec<Vec<Arc<OwnedFd>>>,
    /// All of them. The workers close them.
    all: Vec<Weak<OwnedFd>>,
}

/// Why an address cannot be listened on.
#[derive(Debug)]
pub struct BindError {
    pub address: SocketAddr,
    pub error: io::Error,
}

impl ListeningSockets {
    /// `inherited` are sockets that this process was started with: they are used where their address is wanted.
    pub fn new(workers: usize, inherited: Inherited) -> ListeningSockets {
        ListeningSockets { workers, state: Mutex::new(SocketTable { inherited, ..SocketTable::default() }) }
    }

    /// Binds those that are not bound yet: all of them or none.
    pub fn bind(&self, wanted: &[Listen]) -> Result<(), BindError> {
        let SocketTable { bound, inherited } = &mut *self.state();
        let mut new = Vec::new();
        for listen in wanted {
            let address = listen.address;
            match bound.get(&address) {
                Some(known) if known.sends_first == listen.sends_first => {}
                Some(_) => {
                    let error =
                        io::Error::other("it is in use here in another mode; a restart or an upgrade changes it");
                    return Err(BindError { address, error });
                }
                None => {
                    let opened = open(listen, self.workers, inherited);
                    new.push((address, opened.map_err(|error| BindError { address, error })?));
                }
            }
        }
        bound.extend(new);
        Ok(())
    }

    /// A worker's own sockets, which it closes itself, and the address with its real port.
    pub fn take(&self, address: SocketAddr, worker: usize) -> Vec<(Arc<OwnedFd>, SocketAddr)> {
        let mut state = self.state();
        let Some(bound) = state.bound.get_mut(&address) else { return Vec::new() };
        let own = bound.sockets.get_mut(worker).map(std::mem::take).unwrap_or_default();
        own.into_iter().map(|socket| (socket, bound.local)).collect()
    }

    /// Every socket with its name, for a process that replaces this one.
    pub fn all(&self) -> Vec<(String, Arc<OwnedFd>)> {
        let state = self.state();
        let named = |bound: &BoundAddress| -> Vec<(String, Arc<OwnedFd>)> {
            bound.all.iter().filter_map(|socket| Some((bound.name.clone(), socket.upgrade()?))).collect()
        };
        state.bound.values().flat_map(named).collect()
    }

    /// Closes the inherited sockets that no listener took; each named for the operator.
    pub fn close_unwanted(&self) -> Vec<String> {
        std::mem::take(&mut self.state().inherited).close()
    }

    /// With the real port.
    pub fn local(&self, address: SocketAddr) -> Option<SocketAddr> {
        self.state().bound.get(&address).map(|bound| bound.local)
    }

    /// All others may be bound anew; those that no worker took are closed.
    pub fn retain(&self, is_wanted: impl Fn(SocketAddr) -> bool) {
        self.state().bound.retain(|address, _| is_wanted(*address));
    }

    /// A panic elsewhere leaves the table whole: each change is one insertion or removal.
    fn state(&self) -> MutexGuard<'_, SocketTable> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sockets that were inherited are all used: a connection may wait in the queue of any. Where they are fewer than the
/// workers, more are bound beside them; where that is not allowed (another user bound them, or without SO_REUSEPORT), they
/// are shared.
fn open(listen: &Listen, workers: usize, inherited: &mut Inherited) -> io::Result<BoundAddress> {
    let Listen { name, address, sends_first } = listen;
    let name = format!("{}{name}", inherited::LISTENER);
    let mut sockets = inherited.listeners(*address, &name);
    sockets.iter().try_for_each(|socket| linux::adopt(socket, *sends_first))?;
    let has_inherited = !sockets.is_empty();
    if !has_inherited {
        if address.port() != 0 {
            linux::probe_free(*address)?;
        }
        sockets.push(linux::listen(*address, *sends_first)?);
    }
    let local = sockets.first().map_or(Ok(*address), linux::local_address)?;
    while sockets.len() < workers {
        match linux::listen(local, *sends_first) {
            Ok(socket) => sockets.push(socket),
            Err(error) if has_inherited => {
                log::info!("{workers} workers share {} sockets on {local}: {error}", sockets.len());
                break;
            }
            Err(error) => return Err(error),
        }
    }
    let sockets: Vec<Arc<OwnedFd>> = sockets.into_iter().map(Arc::new).collect();
    let all = sockets.iter().map(Arc::downgrade).collect();
    Ok(BoundAddress { name, local, sends_first: *sends_first, sockets: share_out(&sockets, workers), all })
}

/// A socket of its own for each worker, or several, or one that it shares: every worker and every socket is there.
fn share_out<T: Clone>(sockets: &[T], workers: usize) -> Vec<Vec<T>> {
    let mut shares: Vec<Vec<T>> = vec![Vec::new(); workers];
    let count = sockets.len().max(workers);
    for (number, socket) in sockets.iter().cycle().take(count).enumerate() {
        if let Some(share) = shares.get_mut(number % workers.max(1)) {
            share.push(socket.clone());
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn listen(address: SocketAddr, sends_first: SendsFirst) -> [Listen; 1] {
        [Listen { name: address.to_string(), address, sends_first }]
    }

    fn any_port() -> SocketAddr {
        ([127, 0, 0, 1], 0).into()
    }

    fn sockets(workers: usize) -> ListeningSockets {
        ListeningSockets::new(workers, Inherited::default())
    }

    #[test]
    fn each_worker_takes_a_socket_of_its_own_once() {
        let (sockets, address) = (sockets(2), any_port());
        sockets.bind(&listen(address, SendsFirst::Client)).unwrap();
        let local = sockets.local(address).unwrap();
        assert_ne!(local.port(), 0);
        let taken = [0, 1, 1, 2].map(|worker| sockets.take(address, worker));
        assert_eq!(taken.each_ref().map(Vec::len), [1, 1, 0, 0]);
        assert!(
            taken
                .iter()
                .flatten()
                .all(|(socket, named)| linux::local_address(socket).unwrap() == local && *named == local)
        );
        assert_eq!(sockets.all().len(), 2);
        sockets.bind(&listen(address, SendsFirst::Client)).unwrap();
        assert_eq!(sockets.local(address), Some(local), "it is bound already");
        drop(taken);
        assert_eq!(sockets.all().len(), 0, "the workers closed them");
    }

    #[test]
    fn an_address_in_use_binds_nothing() {
        let other = TcpListener::bind(any_port()).unwrap();
        let (free, taken) = (SocketAddr::from(([127, 0, 0, 2], 0)), other.local_addr().unwrap());
        let sockets = sockets(1);
        let wanted = [free, taken].map(|address| listen(address, SendsFirst::Client)).concat();
        let error = sockets.bind(&wanted).unwrap_err();
        assert_eq!((error.address, error.error.kind()), (taken, io::ErrorKind::AddrInUse));
        assert_eq!(sockets.local(free), None);
    }

    #[test]
    fn an_address_keeps_its_mode_until_it_is_given_up() {
        let (sockets, address) = (sockets(1), any_port());
        sockets.bind(&listen(address, SendsFirst::Client)).unwrap();
        assert!(sockets.bind(&listen(address, SendsFirst::Either)).is_err());
        sockets.retain(|_| false);
        sockets.bind(&listen(address, SendsFirst::Either)).unwrap();
    }

    #[test]
    fn every_worker_has_a_socket_and_every_socket_a_worker() {
        assert_eq!(share_out(&[0, 1], 2), [vec![0], vec![1]]);
        assert_eq!(
            share_out(&[0, 1, 2], 2),
            [vec![0, 2], vec![1]],
            "a socket without a worker would lose its connections"
        );
        assert_eq!(share_out(&[0], 3), [vec![0], vec![0], vec![0]]);
    }
}
