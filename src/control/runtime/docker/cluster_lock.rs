//! One Ringway per cluster name and engine: two would remove each other's containers.
//!
//! The lock is a bound socket in the kernel's abstract namespace: it needs no directory, it is released however the
//! process ends, and it is shared by processes on the host and containers on the host's network. It covers one machine:
//! two machines that share an engine need two cluster names.

use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use super::engine::Engine;
use crate::control::runtime::{Failure, FailureKind};

/// The lock is released when this is dropped. Nothing is read from the socket.
pub struct ClusterLock {
    _socket: Option<UnixDatagram>,
}

impl ClusterLock {
    pub async fn acquire(engine: &Engine, cluster: &str) -> Result<ClusterLock, Failure> {
        let id = engine.id().await?;
        match bind(&id, cluster) {
            Ok(socket) => Ok(ClusterLock { _socket: Some(socket) }),
            Err(error) if error.kind() == ErrorKind::AddrInUse => Err(Failure {
                kind: FailureKind::Refused,
                message: format!(
                    "another Ringway on this machine runs the cluster {cluster} on the Docker engine at {}: end it, or give \
                     this one another name with --docker-cluster",
                    engine.host
                ),
            }),
            Err(error) => {
                log::warn!("cannot check that no other Ringway runs the cluster {cluster}: {error}");
                Ok(ClusterLock { _socket: None })
            }
        }
    }
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
}
