//! One Ringway per cluster and engine: two would take each other's containers for leftovers.
//!
//! The claim is a socket in the kernel's abstract namespace. It needs no folder, the kernel takes it back however the
//! process ends, and a balancer in a container on the host's network meets one beside it. It does not reach further
//! than this machine: two machines that share an engine have to be given cluster names of their own.

use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use super::engine::Engine;
use crate::control::runtime::{Failure, FailureKind};

/// Holds for as long as it lives. Nobody reads from it.
pub struct ClusterLock {
    _held: Option<UnixDatagram>,
}

impl ClusterLock {
    pub async fn stake(engine: &Engine, cluster: &str) -> Result<ClusterLock, Failure> {
        let id = engine.id().await?;
        match hold(&id, cluster) {
            Ok(held) => Ok(ClusterLock { _held: Some(held) }),
            Err(error) if error.kind() == ErrorKind::AddrInUse => Err(Failure {
                kind: FailureKind::Refused,
                message: format!(
                    "another Ringway on this machine runs the cluster {cluster} on the Docker engine at {}: end it, or give \
                     this one a name of its own with --docker-cluster",
                    engine.host
                ),
            }),
            Err(error) => {
                log::warn!("cannot make sure that no other Ringway runs the cluster {cluster}: {error}");
                Ok(ClusterLock { _held: None })
            }
        }
    }
}

fn hold(engine: &str, cluster: &str) -> std::io::Result<UnixDatagram> {
    let [engine, cluster] = [engine, cluster].map(|name| crc32fast::hash(name.as_bytes()));
    UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(format!("ringway-{engine:08x}-{cluster:08x}"))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_held_once_per_engine_and_free_again_afterwards() {
        let engine = format!("engine of {}", std::process::id());
        let held = hold(&engine, "a").unwrap();
        assert_eq!(hold(&engine, "a").unwrap_err().kind(), ErrorKind::AddrInUse);
        let others = [hold(&engine, "b").unwrap(), hold("another engine", &engine).unwrap()];
        drop(held);
        assert!(hold(&engine, "a").is_ok());
        drop(others);
    }
}
