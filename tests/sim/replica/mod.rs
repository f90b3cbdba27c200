//! A scripted replica: it reads requests with its own strict parser, checks them against what clients sent, and answers
//! by each request's plan, faults included. Which replica gets a request is not judged here but in the history.
//!
//! - `mod.rs`: the replica process: begin, stop, crash, hang
//! - [`connection`]: one connection: reading, writing, idle close
//! - [`request_check`]: the oracle of request heads
//! - [`response`]: the bytes of a response and its fault

mod connection;
mod request_check;
mod response;

use std::net::SocketAddr;

use ringway::core::snapshot::Mode;

use super::configuration::InstanceSettings;
use super::net::{Actor, Bound, Closing, Event, Net, SocketId};
use super::stream::Stream;
use super::tls::ReplicaTls;
use connection::Connection;

/// Reads are not limited: the connection takes what has arrived.
const READ_UNLIMITED: usize = 1 << 20;

pub struct Replica {
    pub me: Actor,
    pub name: String,
    pub instance: u64,
    pub address: SocketAddr,
    pub alive: bool,
    pub hung: bool,
    /// What it was started with.
    pub settings: InstanceSettings,
    mode: Mode,
    connections: Vec<Connection>,
    stopping: bool,
    tls: Option<ReplicaTls>,
    /// Its certificate is for another name.
    is_wrong: bool,
}

impl Replica {
    pub fn new(
        me: Actor,
        name: String,
        instance: u64,
        address: SocketAddr,
        mode: Mode,
        settings: InstanceSettings,
        net: &mut Net,
    ) -> Replica {
        net.bound.insert(address, Bound::Replica { actor: me, hung: false });
        let connections = Vec::new();
        let (alive, hung, stopping, tls, is_wrong) = (true, false, false, None, false);
        Replica { me, name, instance, address, alive, hung, settings, mode, connections, stopping, tls, is_wrong }
    }

    pub fn speaks_tls(&mut self, tls: ReplicaTls, is_wrong: bool) {
        (self.tls, self.is_wrong) = (Some(tls), is_wrong);
    }

    /// Its process runs and takes part.
    pub fn answers(&self) -> bool {
        self.alive && !self.hung
    }

    /// The process ends at once. Open connections are closed or reset.
    pub fn die(&mut self, net: &mut Net) {
        if !std::mem::replace(&mut self.alive, false) {
            return;
        }
        net.note("r.dies", self.instance, 0, 0);
        self.unbind(net);
        net.history.replica_fault(self.address, net.now_us);
        for socket in net.backlogs.remove(&self.me).into_iter().flatten() {
            net.close_by(socket, Closing::Reset);
        }
        for connection in std::mem::take(&mut self.connections) {
            if !connection.closed {
                connection.die(net);
            }
        }
    }

    /// From now on the process does nothing, and connection attempts get no reply.
    pub fn hang(&mut self, net: &mut Net) {
        self.hung = true;
        net.note("r.hangs", self.instance, 0, 0);
        net.history.replica_fault(self.address, net.now_us);
        if let Some(Bound::Replica { actor, hung }) = net.bound.get_mut(&self.address)
            && *actor == self.me
        {
            *hung = true;
        }
    }

    /// SIGTERM: the replica accepts nothing more and closes its connections between two requests.
    pub fn leave(&mut self, net: &mut Net) {
        self.stopping = true;
        self.unbind(net);
        net.history.replica_fault(self.address, net.now_us);
        net.after(1, Event::Wake(self.me));
    }

    fn unbind(&mut self, net: &mut Net) {
        if matches!(net.bound.get(&self.address), Some(Bound::Replica { actor, .. }) if *actor == self.me) {
            net.bound.remove(&self.address);
        }
    }

    pub fn has_work(&self) -> bool {
        self.connections.iter().any(|connection| !connection.closed && !connection.is_idle())
    }

    pub fn step(&mut self, net: &mut Net) {
        if !self.alive || self.hung {
            return;
        }
        for socket in net.backlogs.remove(&self.me).into_iter().flatten() {
            let read_max = if net.random.replicas().one_in(4) {
                net.random.replicas().range(500, 8_000) as usize
            } else {
                READ_UNLIMITED
            };
            if read_max < READ_UNLIMITED {
                net.set_receive_window(socket, read_max);
            }
            let stream = self.accept(net, socket);
            self.connections.push(Connection::new(socket, stream, self.me, self.address, self.mode, read_max));
        }
        for connection in &mut self.connections {
            if let Err(why) = connection.step(net) {
                panic!("replica {} ({}) on #{}: {why}", self.name, self.instance, connection.socket);
            }
            if self.stopping && connection.is_idle() && !connection.closed {
                connection.close(net, Closing::Fin);
            }
        }
        self.connections.retain(|connection| !connection.closed);
    }

    /// A wrong certificate is a fault of the replica: the balancer tries the next one.
    fn accept(&self, net: &mut Net, socket: SocketId) -> Stream {
        let Some(tls) = &self.tls else { return Stream::Plain };
        if self.is_wrong {
            net.note("r.is wrong", self.instance, socket as u64, 0);
            net.history.replica_fault(self.address, net.now_us);
        }
        tls.draw_stream(self.mode, self.is_wrong, net.random.replica_tls())
    }
}
