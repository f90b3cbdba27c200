//! The replicas of a world, those of all processes of the balancer: addresses, starts, ends. Registry and runtime do not
//! enter here.

use std::net::{Ipv4Addr, SocketAddr};

use ringway::core::snapshot::Mode;

use super::configuration::{InstanceSettings, TCP_REPLICAS, tcp_address, tcp_instance, tcp_name};
use super::net::{Actor, Net};
use super::replica::Replica;
use super::tls::ReplicaTls;

/// One replica: its place among all that there ever were.
pub type ReplicaNumber = usize;

pub struct Fleet {
    /// The TCP service's first.
    replicas: Vec<Replica>,
    next_actor: Actor,
    next_port: u16,
    reuse_addresses: bool,
    tls: Option<ReplicaTls>,
}

impl Fleet {
    /// With the replicas of the service of bytes.
    pub fn new(net: &mut Net, first_actor: Actor, tls: Option<ReplicaTls>) -> Fleet {
        let reuse_addresses = net.random.control().one_in(2);
        let (replicas, next_port) = (Vec::new(), 1000);
        let mut fleet = Fleet { replicas, next_actor: first_actor, next_port, reuse_addresses, tls };
        for number in 0..TCP_REPLICAS {
            let (name, instance) = (tcp_name(number), tcp_instance(number));
            fleet.spawn(net, name, instance, tcp_address(number), Mode::Tcp, InstanceSettings::FIRST);
        }
        fleet
    }

    fn spawn(
        &mut self,
        net: &mut Net,
        name: String,
        instance: u64,
        address: SocketAddr,
        mode: Mode,
        settings: InstanceSettings,
    ) {
        let me = self.next_actor;
        self.next_actor += 1;
        let mut replica = Replica::new(me, name, instance, address, mode, settings, net);
        if let Some(tls) = &self.tls {
            // In a calm world the other replica of bytes takes the place of this one.
            let may_be_wrong = tls.may_be_wrong(mode, net.faults.calm);
            let is_wrong = may_be_wrong && net.random.replica_tls().one_in(4) && instance != tcp_instance(1);
            replica.speaks_tls(tls.clone(), is_wrong);
        }
        self.replicas.push(replica);
    }

    /// A new instance begins to listen, in some worlds at the address of one that has ended.
    pub fn start(&mut self, net: &mut Net, name: String, instance: u64, settings: InstanceSettings) -> ReplicaNumber {
        let free: Vec<SocketAddr> = self.replicas.iter().filter(|r| !r.alive).map(|r| r.address).collect();
        let unused = free.into_iter().find(|a| self.reuse_addresses && !net.bound.contains_key(a));
        let address = unused.unwrap_or_else(|| {
            self.next_port += 1;
            SocketAddr::from((Ipv4Addr::new(10, 1, 0, 1), self.next_port))
        });
        net.note("p.started", instance, u64::from(address.port()), 0);
        self.spawn(net, name, instance, address, Mode::Http, settings);
        self.replicas.len() - 1
    }

    pub fn get(&self, number: ReplicaNumber) -> &Replica {
        &self.replicas[number]
    }

    pub fn get_mut(&mut self, number: ReplicaNumber) -> &mut Replica {
        &mut self.replicas[number]
    }

    pub fn wake(&mut self, net: &mut Net, actor: Actor) {
        if let Some(replica) = self.replicas.iter_mut().find(|replica| replica.me == actor) {
            replica.step(net);
        }
    }

    /// Some replica answers at this address.
    pub fn answers_at(&self, address: SocketAddr) -> bool {
        self.replicas.iter().any(|replica| replica.address == address && replica.answers())
    }

    /// A replica dies or hangs. Which one died.
    pub fn strike(&mut self, net: &mut Net) -> Option<ReplicaNumber> {
        let alive: Vec<ReplicaNumber> = self.alive().collect();
        if alive.is_empty() {
            return None;
        }
        let number = net.random.control().pick(&alive);
        if net.random.control().one_in(3) {
            self.replicas[number].hang(net);
            return None;
        }
        self.replicas[number].die(net);
        Some(number)
    }

    /// Of the services that the balancer starts.
    pub fn alive(&self) -> impl Iterator<Item = ReplicaNumber> + '_ {
        (TCP_REPLICAS as usize..self.replicas.len()).filter(|number| self.replicas[*number].alive)
    }
}
