//! The listening sockets that this worker has open: those that the snapshot names. What is accepted is not known here.

use std::net::SocketAddr;

use crate::core::request::Scheme;
use crate::core::session::Arrival;
use crate::core::snapshot::{ListenerId, Snapshot};
use crate::core::tick::Tick;

/// An open listening socket, and whether connections wait in its queue.
pub struct OpenListener<L> {
    pub socket: L,
    /// As it is configured, and as it was bound.
    address: SocketAddr,
    local: SocketAddr,
    /// The snapshot's listener that its connections belong to.
    id: ListenerId,
    /// Tells its events from those of sockets that were closed.
    number: u32,
    pub readable: bool,
    pub pause: Option<Pause>,
    /// When a pause was last reported.
    pub reported: Option<Tick>,
}

#[derive(Clone, Copy, Debug)]
pub struct Pause {
    pub since: Tick,
    pub until: Tick,
    pub reported: bool,
}

/// In the order in which they were opened.
pub struct Listeners<L> {
    open: Vec<OpenListener<L>>,
    next_number: u32,
}

/// What a snapshot asks for beyond the sockets that are open.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ListenerChanges {
    /// Places of those that it does not name any more, the last first.
    pub closed: Vec<usize>,
    pub opened: Vec<(ListenerId, SocketAddr)>,
}

impl<L> OpenListener<L> {
    /// A connection of `peer`, as the snapshot's listener has it.
    pub fn arrival(&self, peer: SocketAddr, snapshot: &Snapshot) -> Arrival {
        let listener = snapshot.listener(self.id);
        let proxies = listener.map_or(&[][..], |listener| &listener.proxies);
        let proxied = proxies.iter().any(|net| net.contains(peer.ip()));
        let scheme = if self.speaks_tls(snapshot) { Scheme::Https } else { Scheme::Http };
        Arrival { peer, local: self.local, proxied, listener: self.id, scheme }
    }

    pub fn speaks_tls(&self, snapshot: &Snapshot) -> bool {
        snapshot.listener(self.id).is_some_and(|listener| listener.tls.is_some())
    }

    pub fn is_ready(&self, now: Tick) -> bool {
        self.readable && self.pause.is_none_or(|pause| pause.until <= now)
    }

    /// What was exhausted may be available again.
    pub fn retry_now(&mut self, now: Tick) {
        if let Some(pause) = &mut self.pause {
            pause.until = now;
        }
    }

    pub fn paused_until(&self) -> Option<Tick> {
        self.pause.map(|pause| pause.until)
    }
}

impl<L> Listeners<L> {
    pub fn new() -> Listeners<L> {
        Listeners { open: Vec::new(), next_number: 0 }
    }

    pub fn len(&self) -> usize {
        self.open.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = &OpenListener<L>> {
        self.open.iter()
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut OpenListener<L>> {
        self.open.iter_mut()
    }

    pub fn get(&self, place: usize) -> Option<&OpenListener<L>> {
        self.open.get(place)
    }

    pub fn get_mut(&mut self, place: usize) -> Option<&mut OpenListener<L>> {
        self.open.get_mut(place)
    }

    /// The number that the next one will have.
    pub fn next_number(&self) -> u32 {
        self.next_number
    }

    pub fn insert(&mut self, id: ListenerId, address: SocketAddr, socket: L, local: SocketAddr) {
        let number = self.next_number;
        self.next_number = self.next_number.wrapping_add(1);
        let (readable, pause, reported) = (false, None, None);
        self.open.push(OpenListener { socket, address, local, id, number, readable, pause, reported });
    }

    /// An edge. It stands until accept finds the queue empty.
    pub fn set_readable(&mut self, number: u32) {
        if let Some(listener) = self.open.iter_mut().find(|listener| listener.number == number) {
            listener.readable = true;
        }
    }

    pub fn remove(&mut self, place: usize) -> Option<OpenListener<L>> {
        (place < self.open.len()).then(|| self.open.remove(place))
    }

    pub fn take_all(&mut self) -> Vec<OpenListener<L>> {
        std::mem::take(&mut self.open)
    }

    /// What has to change so that those are open that `snapshot` names. An address that moved to another listener stays open
    /// and belongs to that one from now on.
    pub fn follow(&mut self, snapshot: &Snapshot) -> ListenerChanges {
        let mut changes = ListenerChanges::default();
        for (id, listener) in (0..).map(ListenerId).zip(&snapshot.listeners) {
            for address in &listener.bind {
                let mut known = self.open.iter_mut().filter(|open| open.address == *address).peekable();
                if known.peek().is_none() {
                    changes.opened.push((id, *address));
                }
                known.for_each(|open| open.id = id);
            }
        }
        let is_named =
            |open: &OpenListener<L>| snapshot.listeners.iter().any(|listener| listener.bind.contains(&open.address));
        changes.closed =
            (0..self.open.len()).rev().filter(|place| !self.open.get(*place).is_some_and(is_named)).collect();
        changes
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::core::limits::Limits;
    use crate::core::snapshot::{Lifecycle, Listener, Mode, ServiceId};

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    /// One listener for each list of ports.
    fn snapshot(ports: &[&[u16]]) -> Snapshot {
        let listener = |ports: &&[u16]| Listener {
            name: "l".into(),
            bind: ports.iter().map(|port| address(*port)).collect(),
            lifecycle: Lifecycle::Serving,
            mode: Mode::Http,
            service: Some(ServiceId(0)),
            redirect: None,
            proxies: vec!["10.0.0.0/8".parse().expect("a range")],
            limits: Arc::new(Limits::DEFAULT),
            tls: None,
        };
        Snapshot { listeners: ports.iter().map(listener).map(Arc::new).collect(), ..Snapshot::empty(1) }
    }

    fn opened(ports: &[&[u16]]) -> Listeners<()> {
        let mut listeners = Listeners::new();
        for (id, address) in listeners.follow(&snapshot(ports)).opened {
            listeners.insert(id, address, (), address);
        }
        listeners
    }

    #[test]
    fn what_a_snapshot_names_is_opened_once_and_closed_when_it_names_it_no_more() {
        let mut listeners = opened(&[&[80, 81], &[90]]);
        assert_eq!(listeners.follow(&snapshot(&[&[80, 81], &[90]])), ListenerChanges::default());
        let changes = listeners.follow(&snapshot(&[&[81], &[], &[91]]));
        assert_eq!(changes.closed, [2, 0]);
        assert_eq!(changes.opened, [(ListenerId(2), address(91))]);
    }

    #[test]
    fn numbers_rise_and_a_pause_ends_when_it_is_due() {
        let mut listeners = opened(&[&[80, 81]]);
        let numbers: Vec<u32> = listeners.iter().map(|open| open.number).collect();
        assert_eq!((numbers, listeners.next_number()), (vec![0, 1], 2));
        let open = listeners.get_mut(1).expect("two are open");
        assert_eq!(open.paused_until(), None);
        open.readable = true;
        open.pause = Some(Pause { since: Tick(5), until: Tick(105), reported: false });
        assert_eq!(
            (open.paused_until(), open.is_ready(Tick(104)), open.is_ready(Tick(105))),
            (Some(Tick(105)), false, true)
        );
        assert!(listeners.remove(2).is_none() && listeners.remove(1).is_some());
    }

    #[test]
    fn an_address_may_move_to_another_listener() {
        let mut listeners = opened(&[&[80]]);
        assert_eq!(listeners.follow(&snapshot(&[&[], &[80]])), ListenerChanges::default());
        let snapshot = snapshot(&[&[], &[80]]);
        let arrival = |peer: [u8; 4]| listeners.get(0).map(|open| open.arrival((peer, 9).into(), &snapshot));
        let arrivals = [[10, 1, 2, 3], [11, 0, 0, 1]].map(|peer| arrival(peer).map(|a| (a.listener, a.proxied)));
        assert_eq!(arrivals, [Some((ListenerId(1), true)), Some((ListenerId(1), false))]);
    }

    #[test]
    fn an_event_of_a_closed_socket_reaches_no_other() {
        let mut listeners = opened(&[&[80]]);
        listeners.remove(0);
        listeners.insert(ListenerId(0), address(81), (), address(81));
        listeners.set_readable(0);
        assert!(!listeners.iter().any(|open| open.is_ready(Tick(1))));
        listeners.set_readable(1);
        assert!(listeners.iter().all(|open| open.is_ready(Tick(1))));
    }
}
