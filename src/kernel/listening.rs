//! The listening sockets of this process, one for each worker and address: bound here, so that a port in use is an error
//! before a snapshot names it, and taken by the workers. Which addresses are listened on is decided elsewhere.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::linux::{self, SendsFirst};

/// Shared by the workers and what configures them.
#[derive(Debug)]
pub struct ListeningSockets {
    workers: usize,
    bound: Mutex<BTreeMap<SocketAddr, BoundAddress>>,
}

#[derive(Debug)]
struct BoundAddress {
    /// With the port that was chosen, where the configured one is 0.
    local: SocketAddr,
    sends_first: SendsFirst,
    /// By worker, until it takes its own.
    sockets: Vec<Option<OwnedFd>>,
}

/// Why an address cannot be listened on.
#[derive(Debug)]
pub struct BindError {
    pub address: SocketAddr,
    pub error: io::Error,
}

impl ListeningSockets {
    pub fn new(workers: usize) -> ListeningSockets {
        ListeningSockets { workers, bound: Mutex::default() }
    }

    /// Binds those that are not bound yet: all of them or none.
    pub fn bind(&self, wanted: &[(SocketAddr, SendsFirst)]) -> Result<(), BindError> {
        let mut bound = self.bound();
        let mut new = Vec::new();
        for (address, sends_first) in wanted {
            let (address, sends_first) = (*address, *sends_first);
            match bound.get(&address) {
                Some(known) if known.sends_first == sends_first => {}
                Some(_) => {
                    let error =
                        io::Error::other("it is in use here in another mode; a restart or an upgrade changes it");
                    return Err(BindError { address, error });
                }
                None => {
                    let sockets = self.open(address, sends_first).map_err(|error| BindError { address, error })?;
                    new.push((address, sockets));
                }
            }
        }
        bound.extend(new);
        Ok(())
    }

    fn open(&self, address: SocketAddr, sends_first: SendsFirst) -> io::Result<BoundAddress> {
        if address.port() != 0 {
            linux::probe_free(address)?;
        }
        let first = linux::listen(address, sends_first)?;
        let local = linux::local_address(&first)?;
        let mut sockets = vec![Some(first)];
        for _ in 1..self.workers {
            sockets.push(Some(linux::listen(local, sends_first)?));
        }
        Ok(BoundAddress { local, sends_first, sockets })
    }

    /// A worker's own socket, which it closes itself, and the address with its real port.
    pub fn take(&self, address: SocketAddr, worker: usize) -> Option<(OwnedFd, SocketAddr)> {
        let mut bound = self.bound();
        let address = bound.get_mut(&address)?;
        Some((address.sockets.get_mut(worker)?.take()?, address.local))
    }

    /// With the real port.
    pub fn local(&self, address: SocketAddr) -> Option<SocketAddr> {
        self.bound().get(&address).map(|bound| bound.local)
    }

    /// All others may be bound anew; those that no worker took are closed.
    pub fn retain(&self, is_wanted: impl Fn(SocketAddr) -> bool) {
        self.bound().retain(|address, _| is_wanted(*address));
    }

    /// A panic elsewhere leaves the table whole: each change is one insertion or removal.
    fn bound(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, BoundAddress>> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const ANY_PORT: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

    #[test]
    fn each_worker_takes_a_socket_of_its_own_once() {
        let sockets = ListeningSockets::new(2);
        let address = SocketAddr::from(ANY_PORT);
        sockets.bind(&[(address, SendsFirst::Client)]).unwrap();
        let local = sockets.local(address).unwrap();
        assert_ne!(local.port(), 0);
        let taken = [0, 1, 1, 2].map(|worker| sockets.take(address, worker));
        let taken = taken.map(|taken| taken.map(|(socket, named)| (linux::local_address(&socket).unwrap(), named)));
        assert_eq!(taken, [Some((local, local)), Some((local, local)), None, None]);
        sockets.bind(&[(address, SendsFirst::Client)]).unwrap();
        assert_eq!(sockets.local(address), Some(local), "it is bound already");
    }

    #[test]
    fn an_address_in_use_binds_nothing() {
        let other = TcpListener::bind(SocketAddr::from(ANY_PORT)).unwrap();
        let (free, taken) = (SocketAddr::from(([127, 0, 0, 2], 0)), other.local_addr().unwrap());
        let sockets = ListeningSockets::new(1);
        let error = sockets.bind(&[(free, SendsFirst::Client), (taken, SendsFirst::Client)]).unwrap_err();
        assert_eq!((error.address, error.error.kind()), (taken, io::ErrorKind::AddrInUse));
        assert_eq!(sockets.local(free), None);
    }

    #[test]
    fn an_address_keeps_its_mode_until_it_is_given_up() {
        let sockets = ListeningSockets::new(1);
        let address = SocketAddr::from(ANY_PORT);
        sockets.bind(&[(address, SendsFirst::Client)]).unwrap();
        assert!(sockets.bind(&[(address, SendsFirst::Either)]).is_err());
        sockets.retain(|_| false);
        sockets.bind(&[(address, SendsFirst::Either)]).unwrap();
    }
}
