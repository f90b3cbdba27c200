//! `trait Kernel` over the simulated network: the system calls of a worker, each with the faults that the world drew.
//! It asserts how workers may call them; what the bytes mean never enters.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ringway::core::snapshot::Endpoint;
use ringway::core::tick::{Stamp, Tick};
use ringway::kernel::{Flush, Kernel, SocketEvent, Token};

use super::net::{Net, Owner, ProcessId, SharedNet, SocketId, WorkerId};

/// The capacity of a pipe, in bytes.
const PIPE_CAPACITY: usize = 1 << 20;
/// The wall clock at virtual time 0, for `Date`, in Unix seconds.
pub const EPOCH_S: u64 = 1_795_000_000;
const ENOBUFS: i32 = 105;
const EMFILE: i32 = 24;
const EADDRNOTAVAIL: i32 = 99;
const ENETUNREACH: i32 = 101;

/// Until when a worker's wait lasts: `None` outside a wait, `u64::MAX` without a timeout.
pub type WaitDeadline = Rc<RefCell<Option<u64>>>;

pub struct SimKernel {
    net: SharedNet,
    process: ProcessId,
    worker: WorkerId,
    /// Those that its process has, and that were not asked for yet.
    listeners: Vec<(SimListener, SocketAddr)>,
    wait_until_us: WaitDeadline,
    wake: Arc<AtomicBool>,
}

pub struct SimSocket {
    net: SharedNet,
    id: SocketId,
}

pub struct SimListener {
    net: SharedNet,
    worker: WorkerId,
    number: usize,
}

pub struct SimPipe {
    net: SharedNet,
    process: ProcessId,
    bytes: RefCell<VecDeque<u8>>,
    /// The socket whose bytes it holds.
    source: RefCell<Option<SocketId>>,
}

impl SimKernel {
    /// Of a worker of this process; `place` says which of those it is.
    pub fn new(
        shared: SharedNet,
        process: ProcessId,
        place: usize,
        wait_until_us: WaitDeadline,
        wake: Arc<AtomicBool>,
    ) -> SimKernel {
        let mut net = shared.borrow_mut();
        let worker = net.add_worker(process);
        let open = |address| {
            let number = net.add_listener(worker, address)?;
            Some((SimListener { net: shared.clone(), worker, number }, address))
        };
        let listeners = listening_addresses(place).into_iter().filter_map(open).collect();
        drop(net);
        SimKernel { net: shared, process, worker, listeners, wait_until_us, wake }
    }

    pub fn worker(&self) -> WorkerId {
        self.worker
    }
}

/// Where clients connect to a worker: for HTTP, and for bytes. Each worker of a process has addresses of its own.
pub fn listening_addresses(place: usize) -> [SocketAddr; 2] {
    let ip = Ipv4Addr::new(10, 0, place as u8, 1);
    [(ip, 80).into(), (ip, 81).into()]
}

/// `wait` cannot block a world of one thread: it returns this error, and the world repeats the turn at the deadline or
/// when there is an edge.
pub fn would_wait(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock
}

impl Kernel for SimKernel {
    type Socket = SimSocket;
    type Listener = SimListener;
    type Pipe = SimPipe;

    fn listeners(&mut self, address: SocketAddr) -> Vec<(SimListener, SocketAddr)> {
        self.listeners.extract_if(.., |(_, bound)| *bound == address).collect()
    }

    /// Oracle: a worker does not wait while bytes sent with MSG_MORE are held back.
    fn wait(&mut self, timeout_ms: Option<u64>, events: &mut Vec<SocketEvent>) -> io::Result<()> {
        events.clear();
        let net = &mut *self.net.borrow_mut();
        let woken = self.wake.swap(false, Ordering::Relaxed);
        // A wait that is repeated keeps its deadline.
        let until = self.wait_until_us.borrow().or(timeout_ms.map(|ms| net.now_us + ms * 1000));
        let expired = self.wait_until_us.borrow().is_some_and(|until| until <= net.now_us);
        let max = net.random.kernel().pick(&[1, 2, 16, 512]);
        net.edges(self.worker, max, events);
        if net.random.kernel().per_mille(net.faults.spurious_event) {
            events.extend(net.spurious_event(self.worker));
        }
        let interrupted = net.random.kernel().per_mille(net.faults.interrupted);
        if woken || expired || interrupted || timeout_ms == Some(0) || !events.is_empty() {
            *self.wait_until_us.borrow_mut() = None;
            return Ok(());
        }
        assert!(net.corked.is_empty(), "a worker waits while bytes sent with MSG_MORE are held back");
        *self.wait_until_us.borrow_mut() = Some(until.unwrap_or(u64::MAX));
        Err(ErrorKind::WouldBlock.into())
    }

    fn now(&mut self) -> Tick {
        Tick(self.net.borrow().now_ms())
    }

    fn stamp(&mut self) -> Stamp {
        Stamp(self.net.borrow().now_us)
    }

    fn unix_seconds(&mut self) -> u64 {
        EPOCH_S + self.net.borrow().now_us / 1_000_000
    }

    fn accept(&mut self, listener: &SimListener) -> io::Result<(SimSocket, SocketAddr)> {
        let net = &mut *self.net.borrow_mut();
        if net.random.kernel().per_mille(net.faults.interrupted) {
            return Err(ErrorKind::Interrupted.into());
        }
        if net.random.kernel().per_mille(net.faults.accept_fails) {
            let error = match net.random.kernel().below(3) {
                0 => ErrorKind::ConnectionAborted.into(),
                1 => io::Error::from_raw_os_error(ENOBUFS),
                _ => io::Error::from_raw_os_error(EMFILE),
            };
            net.note("w.accept failed", self.worker as u64, 0, 0);
            return Err(error);
        }
        self.check_descriptors(net, 1)?;
        let Some(id) = net.accept(self.worker, listener.number) else { return Err(ErrorKind::WouldBlock.into()) };
        net.resources[self.process].sockets_opened += 1;
        net.note("w.accept", self.worker as u64, id as u64, 0);
        Ok((SimSocket { net: self.net.clone(), id }, SocketAddr::from((client_ip(net.history.client_of(id)), 4000))))
    }

    fn local(&mut self, _: &SimSocket) -> io::Result<SocketAddr> {
        Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, 80)))
    }

    fn connect(&mut self, endpoint: &Endpoint) -> io::Result<SimSocket> {
        let net = &mut *self.net.borrow_mut();
        let Endpoint::Tcp(address) = endpoint else { return Err(ErrorKind::Unsupported.into()) };
        net.history.check_dial(self.process, *address);
        if net.random.kernel().per_mille(net.faults.connect_fails) {
            let code = net.random.kernel().pick(&[EADDRNOTAVAIL, ENETUNREACH, EMFILE, ENOBUFS]);
            match code {
                EADDRNOTAVAIL => net.history.no_local_port(*address, net.now_us, net.faults.clock_step_ms),
                _ => net.history.replica_fault(*address, net.now_us),
            }
            return Err(io::Error::from_raw_os_error(code));
        }
        if let Err(error) = self.check_descriptors(net, 1) {
            net.history.replica_fault(*address, net.now_us);
            return Err(error);
        }
        net.resources[self.process].sockets_opened += 1;
        let id = net.connect(Owner::Worker(self.worker), *address);
        net.note("w.connect", self.worker as u64, id as u64, u64::from(address.port()));
        Ok(SimSocket { net: self.net.clone(), id })
    }

    fn watch(&mut self, socket: &SimSocket, token: Token) -> io::Result<()> {
        self.net.borrow_mut().watch(socket.id, token);
        Ok(())
    }

    fn watch_listener(&mut self, listener: &SimListener, token: Token) -> io::Result<()> {
        self.net.borrow_mut().watch_listener(self.worker, listener.number, token);
        Ok(())
    }

    fn recv(&mut self, socket: &SimSocket, buffer: &mut [u8]) -> io::Result<usize> {
        let net = &mut *self.net.borrow_mut();
        assert!(!buffer.is_empty(), "a read into an empty buffer cannot be told from the end of the stream");
        let max = self.transfer_limit(net, socket.id, buffer.len())?;
        let result = net.read(socket.id, &mut buffer[..max]);
        edge_after_short(net, socket.id, max, buffer.len());
        self.trace(net, "w.recv", socket.id, result)
    }

    fn send(&mut self, socket: &SimSocket, bytes: &[u8], flush: Flush) -> io::Result<usize> {
        let net = &mut *self.net.borrow_mut();
        assert!(!bytes.is_empty(), "a send of no bytes");
        let max = self.transfer_limit(net, socket.id, bytes.len())?;
        let result = net.write(socket.id, &bytes[..max]);
        // A short send fills the socket's buffer, which is then sent.
        if flush == Flush::WithNext && result == Ok(bytes.len()) {
            net.corked.insert(socket.id);
        } else {
            net.corked.remove(&socket.id);
        }
        edge_after_short(net, socket.id, max, bytes.len());
        self.trace(net, "w.send", socket.id, result)
    }

    fn pipe(&mut self) -> io::Result<SimPipe> {
        let net = &mut *self.net.borrow_mut();
        if net.random.kernel().per_mille(net.faults.pipe_fails) {
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        self.check_descriptors(net, 2)?;
        net.resources[self.process].pipes_opened += 1;
        net.note("w.pipe", self.worker as u64, 0, 0);
        Ok(SimPipe {
            net: self.net.clone(),
            process: self.process,
            bytes: RefCell::default(),
            source: RefCell::default(),
        })
    }

    fn splice_in(&mut self, socket: &SimSocket, pipe: &SimPipe, max: u64) -> io::Result<u64> {
        let net = &mut *self.net.borrow_mut();
        assert!(max > 0, "a splice of no bytes");
        if net.random.kernel().per_mille(net.faults.splice_fails) {
            return Err(ErrorKind::InvalidInput.into());
        }
        let mut bytes = pipe.bytes.borrow_mut();
        let source = pipe.source.replace(Some(socket.id));
        assert!(bytes.is_empty() || source == Some(socket.id), "bytes of two sources in one pipe");
        let space = (PIPE_CAPACITY - bytes.len()).min(usize::try_from(max).unwrap_or(usize::MAX));
        if space == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let max = self.transfer_limit(net, socket.id, space)?;
        let mut buffer = vec![0; max.min(net.unread_len(socket.id).max(1))];
        let result = net.read(socket.id, &mut buffer);
        if let Ok(n) = result {
            bytes.extend(&buffer[..n]);
        }
        self.trace(net, "w.fill", socket.id, result).map(|n| n as u64)
    }

    fn splice_out(&mut self, pipe: &SimPipe, socket: &SimSocket, max: u64) -> io::Result<u64> {
        let net = &mut *self.net.borrow_mut();
        let mut bytes = pipe.bytes.borrow_mut();
        let len = bytes.len().min(usize::try_from(max).unwrap_or(usize::MAX));
        if len == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let max = self.transfer_limit(net, socket.id, len)?;
        let result = net.write(socket.id, &bytes.make_contiguous()[..max]);
        if let Ok(n) = result {
            bytes.drain(..n);
        }
        self.trace(net, "w.drain", socket.id, result).map(|n| n as u64)
    }

    fn shutdown_write(&mut self, socket: &SimSocket) -> io::Result<()> {
        let net = &mut *self.net.borrow_mut();
        net.note("w.finish", self.worker as u64, socket.id as u64, 0);
        net.shutdown_write(socket.id);
        Ok(())
    }

    fn abort(&mut self, socket: &SimSocket) -> io::Result<()> {
        self.net.borrow_mut().set_linger_zero(socket.id);
        Ok(())
    }
}

impl SimKernel {
    /// How many of `len` bytes a call moves at most.
    ///
    /// # Errors
    /// The call moves none: a spurious EAGAIN (an edge follows), or EINTR.
    fn transfer_limit(&self, net: &mut Net, id: SocketId, len: usize) -> io::Result<usize> {
        if net.is_connected(id) && !net.is_dead(id) && net.random.kernel().per_mille(net.faults.spurious_eagain) {
            net.edge_later(id);
            return Err(ErrorKind::WouldBlock.into());
        }
        if net.random.kernel().per_mille(net.faults.interrupted) {
            return Err(ErrorKind::Interrupted.into());
        }
        if net.random.kernel().per_mille(net.faults.short_io) {
            return Ok(1 + net.random.kernel().size(len as u64 - 1) as usize);
        }
        Ok(len)
    }

    /// Each process has a limit of its own.
    fn check_descriptors(&self, net: &Net, more: usize) -> io::Result<()> {
        let max = net.faults.max_descriptors;
        if max > 0 && net.resources[self.process].descriptors() + more > max {
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        Ok(())
    }

    fn trace(
        &self,
        net: &mut Net,
        what: &'static str,
        id: SocketId,
        result: Result<usize, ErrorKind>,
    ) -> io::Result<usize> {
        let value = match result {
            Ok(n) => n as u64,
            Err(kind) => u64::MAX - kind as u64,
        };
        net.note(what, self.worker as u64, id as u64, value);
        match result {
            Ok(_) => net.history.bytes_moved(id, net.now_us),
            Err(kind) => net.log(|| format!("    = {kind:?}")),
        }
        result.map_err(io::Error::from)
    }
}

/// A call that a fault made short is followed by an edge, as if the remaining bytes had arrived after it.
fn edge_after_short(net: &mut Net, id: SocketId, moved: usize, asked: usize) {
    if moved < asked {
        net.edge_later(id);
    }
}

/// Each client has an address of its own.
pub fn client_ip(actor: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 9, (actor >> 8) as u8, actor as u8))
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        if let Ok(mut net) = self.net.try_borrow_mut() {
            net.close(self.id);
        }
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        if let Ok(mut net) = self.net.try_borrow_mut() {
            net.close_listener(self.worker, self.number);
        }
    }
}

impl Drop for SimPipe {
    fn drop(&mut self) {
        if let Ok(mut net) = self.net.try_borrow_mut() {
            net.resources[self.process].pipes_closed += 1;
        }
    }
}
