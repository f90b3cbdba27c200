//! Host names to addresses. The system's resolver is asked (getaddrinfo), so that /etc/hosts, search domains and every
//! other rule of this machine hold here as for any program on it. It tells no time to live: names are looked up again
//! every `REFRESH`, and the resolver behind it keeps what may be kept. No look-up runs on the admin thread.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

/// How often a name is looked up again.
pub const REFRESH: Duration = Duration::from_secs(10);
/// A look-up that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Threads that look names up at the same time.
const THREADS: usize = 16;

/// Implemented by the system's resolver, and by tests.
pub trait Resolver {
    /// All addresses of a host, in the order in which they should be tried (RFC 6724); never an empty list.
    fn look_up(&self, host: &str, port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>>;
}

pub struct SystemResolver {
    threads: Arc<Semaphore>,
}

impl Default for SystemResolver {
    fn default() -> Self {
        SystemResolver { threads: Arc::new(Semaphore::new(THREADS)) }
    }
}

impl Resolver for SystemResolver {
    async fn look_up(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let (threads, host) = (self.threads.clone(), host.to_owned());
        let looked_up = async {
            // A thread goes on after the timeout: its permit stays with it.
            let permit = threads.acquire_owned().await.map_err(io::Error::other)?;
            let found = spawn_blocking(move || {
                let found = (host.as_str(), port).to_socket_addrs().map(Vec::from_iter);
                drop(permit);
                found
            });
            found.await.map_err(io::Error::other)?
        };
        match timeout(TIMEOUT, looked_up).await {
            Ok(Ok(found)) if found.is_empty() => Err(io::Error::other("it has no address")),
            Ok(found) => found,
            Err(_) => Err(io::Error::other(format!("no answer within {} s", TIMEOUT.as_secs()))),
        }
    }
}
