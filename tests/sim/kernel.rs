//! The kernel as the workers of a simulated world see it: the verbs of `trait Kernel` over the simulated network, each
//! with the faults that the world drew.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ringway::core::snapshot::Endpoint;
use ringway::core::tick::Tick;
use ringway::kernel::{Event, Kernel, Token};

use super::net::{End, Net, Owner, Shared};

/// The largest number of bytes a pipe holds.
const PIPE: usize = 1 << 20;
/// When the world began, for `Date`.
const EPOCH: u64 = 1_795_000_000;
const ENOBUFS: i32 = 105;
const EMFILE: i32 = 24;
const EADDRNOTAVAIL: i32 = 99;
const ENETUNREACH: i32 = 101;

pub struct SimKernel {
    net: Shared,
    worker: usize,
    pub patience: Rc<RefCell<Option<u64>>>,
    wake: Arc<AtomicBool>,
}

pub struct SimSocket {
    net: Shared,
    end: End,
}

pub struct SimListener {
    net: Shared,
    worker: usize,
    number: usize,
}

pub struct SimPipe {
    net: Shared,
    bytes: RefCell<VecDeque<u8>>,
    /// Who filled it last: bytes of two sources never meet in one pipe.
    source: RefCell<Option<End>>,
}

impl SimKernel {
    /// `patience` is told until when a wait would last (`None`: until something happens).
    pub fn new(net: Shared, worker: usize, patience: Rc<RefCell<Option<u64>>>, wake: Arc<AtomicBool>) -> SimKernel {
        SimKernel { net, worker, patience, wake }
    }

    pub fn listener(net: &Shared, worker: usize) -> SimListener {
        let number = net.borrow_mut().add_door(worker);
        SimListener { net: net.clone(), worker, number }
    }
}

/// `wait` cannot block in a world of one thread: it says so by this error, and is called again when its time has come.
pub fn would_wait(error: &io::Error) -> bool {
    error.kind() == ErrorKind::WouldBlock
}

impl Kernel for SimKernel {
    type Socket = SimSocket;
    type Listener = SimListener;
    type Pipe = SimPipe;

    fn wait(&mut self, timeout_ms: Option<u64>, events: &mut Vec<Event>) -> io::Result<()> {
        events.clear();
        let net = &mut *self.net.borrow_mut();
        let woken = self.wake.swap(false, Ordering::Relaxed);
        // Asked again in the same wait: it still ends when it was to end.
        let until = self.patience.borrow().or(timeout_ms.map(|ms| net.now_us + ms * 1000));
        let over = self.patience.borrow().is_some_and(|until| until <= net.now_us);
        let most = net.random.kernel().pick(&[1, 2, 16, 512]);
        net.edges(self.worker, most, events);
        if net.random.kernel().per_mille(net.faults.spurious) {
            events.extend(net.spurious(self.worker));
        }
        let interrupted = net.random.kernel().per_mille(net.faults.interrupted);
        if woken || over || interrupted || timeout_ms == Some(0) || !events.is_empty() {
            *self.patience.borrow_mut() = None;
            return Ok(());
        }
        assert!(net.held_back.is_empty(), "a worker waits with bytes held back");
        *self.patience.borrow_mut() = Some(until.unwrap_or(u64::MAX));
        Err(ErrorKind::WouldBlock.into())
    }

    fn now(&mut self) -> Tick {
        Tick(self.net.borrow().now_ms())
    }

    fn unix_seconds(&mut self) -> u64 {
        EPOCH + self.net.borrow().now_us / 1_000_000
    }

    fn accept(&mut self, listener: &SimListener) -> io::Result<(SimSocket, SocketAddr)> {
        let net = &mut *self.net.borrow_mut();
        if net.random.kernel().per_mille(net.faults.interrupted) {
            return Err(ErrorKind::Interrupted.into());
        }
        if net.random.kernel().per_mille(net.faults.accept) {
            let error = match net.random.kernel().below(3) {
                0 => ErrorKind::ConnectionAborted.into(),
                1 => io::Error::from_raw_os_error(ENOBUFS),
                _ => io::Error::from_raw_os_error(EMFILE),
            };
            net.note("w.accept failed", self.worker as u64, 0, 0);
            return Err(error);
        }
        room_for(net, 1)?;
        let Some(end) = net.accept(self.worker, listener.number) else { return Err(ErrorKind::WouldBlock.into()) };
        net.books.sockets_opened += 1;
        net.note("w.accept", self.worker as u64, end as u64, 0);
        Ok((SimSocket { net: self.net.clone(), end }, SocketAddr::from((client_ip(net.ledger.client_of(end)), 4000))))
    }

    fn local(&mut self, _: &SimSocket) -> io::Result<SocketAddr> {
        Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, 80)))
    }

    fn connect(&mut self, endpoint: &Endpoint) -> io::Result<SimSocket> {
        let net = &mut *self.net.borrow_mut();
        let Endpoint::Tcp(address) = endpoint else { return Err(ErrorKind::Unsupported.into()) };
        net.ledger.may_dial(*address);
        if net.random.kernel().per_mille(net.faults.connect) {
            let code = net.random.kernel().pick(&[EADDRNOTAVAIL, ENETUNREACH, EMFILE, ENOBUFS]);
            match code {
                EADDRNOTAVAIL => net.ledger.barred(*address, net.now_us, net.faults.clock_ms),
                _ => net.ledger.trouble(*address, net.now_us),
            }
            return Err(io::Error::from_raw_os_error(code));
        }
        if let Err(error) = room_for(net, 1) {
            net.ledger.trouble(*address, net.now_us);
            return Err(error);
        }
        net.books.sockets_opened += 1;
        let end = net.connect(Owner::Worker(self.worker), *address);
        net.note("w.connect", self.worker as u64, end as u64, u64::from(address.port()));
        Ok(SimSocket { net: self.net.clone(), end })
    }

    fn watch(&mut self, socket: &SimSocket, token: Token) -> io::Result<()> {
        self.net.borrow_mut().watch(socket.end, token);
        Ok(())
    }

    fn watch_listener(&mut self, listener: &SimListener, token: Token) -> io::Result<()> {
        self.net.borrow_mut().watch_door(self.worker, listener.number, token);
        Ok(())
    }

    fn recv(&mut self, socket: &SimSocket, space: &mut [u8]) -> io::Result<usize> {
        let net = &mut *self.net.borrow_mut();
        assert!(!space.is_empty(), "a read with no room can only look like the end");
        let most = self.may_move(net, socket.end, space.len())?;
        let result = net.read(socket.end, &mut space[..most]);
        short(net, socket.end, most, space.len());
        told(net, "w.recv", self.worker, socket.end, result)
    }

    fn send(&mut self, socket: &SimSocket, bytes: &[u8], more: bool) -> io::Result<usize> {
        let net = &mut *self.net.borrow_mut();
        assert!(!bytes.is_empty(), "nothing to send");
        let most = self.may_move(net, socket.end, bytes.len())?;
        let result = net.write(socket.end, &bytes[..most]);
        // What fills a socket is not held back.
        if more && result == Ok(bytes.len()) {
            net.held_back.insert(socket.end);
        } else {
            net.held_back.remove(&socket.end);
        }
        short(net, socket.end, most, bytes.len());
        told(net, "w.send", self.worker, socket.end, result)
    }

    fn pipe(&mut self) -> io::Result<SimPipe> {
        let net = &mut *self.net.borrow_mut();
        if net.random.kernel().per_mille(net.faults.no_pipe) {
            return Err(io::Error::from_raw_os_error(EMFILE));
        }
        room_for(net, 2)?;
        net.books.pipes_opened += 1;
        net.note("w.pipe", self.worker as u64, 0, 0);
        Ok(SimPipe { net: self.net.clone(), bytes: RefCell::default(), source: RefCell::default() })
    }

    fn splice_in(&mut self, socket: &SimSocket, pipe: &SimPipe, most: u64) -> io::Result<u64> {
        let net = &mut *self.net.borrow_mut();
        assert!(most > 0, "a splice of nothing");
        if net.random.kernel().per_mille(net.faults.no_splice) {
            return Err(ErrorKind::InvalidInput.into());
        }
        let mut bytes = pipe.bytes.borrow_mut();
        let source = pipe.source.replace(Some(socket.end));
        assert!(bytes.is_empty() || source == Some(socket.end), "bytes of two sources in one pipe");
        let room = (PIPE - bytes.len()).min(usize::try_from(most).unwrap_or(usize::MAX));
        if room == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let most = self.may_move(net, socket.end, room)?;
        let mut space = vec![0; most.min(net.waiting(socket.end).max(1))];
        let result = net.read(socket.end, &mut space);
        if let Ok(n) = result {
            bytes.extend(&space[..n]);
        }
        told(net, "w.fill", self.worker, socket.end, result).map(|n| n as u64)
    }

    fn splice_out(&mut self, pipe: &SimPipe, socket: &SimSocket, most: u64) -> io::Result<u64> {
        let net = &mut *self.net.borrow_mut();
        let mut bytes = pipe.bytes.borrow_mut();
        let len = bytes.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        if len == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let most = self.may_move(net, socket.end, len)?;
        let result = net.write(socket.end, &bytes.make_contiguous()[..most]);
        if let Ok(n) = result {
            bytes.drain(..n);
        }
        told(net, "w.drain", self.worker, socket.end, result).map(|n| n as u64)
    }

    fn shutdown_write(&mut self, socket: &SimSocket) -> io::Result<()> {
        let net = &mut *self.net.borrow_mut();
        net.note("w.finish", self.worker as u64, socket.end as u64, 0);
        net.finish(socket.end);
        Ok(())
    }

    fn abort(&mut self, socket: &SimSocket) -> io::Result<()> {
        self.net.borrow_mut().linger_zero(socket.end);
        Ok(())
    }
}

impl SimKernel {
    /// How many of `len` bytes this call moves at most, if it moves any.
    fn may_move(&self, net: &mut Net, end: End, len: usize) -> io::Result<usize> {
        if net.is_connected(end) && !net.is_dead(end) && net.random.kernel().per_mille(net.faults.blocked) {
            net.edge_later(end);
            return Err(ErrorKind::WouldBlock.into());
        }
        if net.random.kernel().per_mille(net.faults.interrupted) {
            return Err(ErrorKind::Interrupted.into());
        }
        if net.random.kernel().per_mille(net.faults.short) {
            return Ok(1 + net.random.kernel().size(len as u64 - 1) as usize);
        }
        Ok(len)
    }
}

/// A call that was kept short: what it left is news a little later.
fn short(net: &mut Net, end: End, moved: usize, asked: usize) {
    if moved < asked {
        net.edge_later(end);
    }
}

fn told(
    net: &mut Net,
    what: &'static str,
    worker: usize,
    end: End,
    result: Result<usize, ErrorKind>,
) -> io::Result<usize> {
    let told = match result {
        Ok(n) => n as u64,
        Err(kind) => u64::MAX - kind as u64,
    };
    net.note(what, worker as u64, end as u64, told);
    if result.is_ok() {
        net.ledger.moved(end, net.now_us);
    }
    if net.loud
        && let Err(kind) = result
    {
        net.say(|| format!("    = {kind:?}"));
    }
    result.map_err(io::Error::from)
}

fn room_for(net: &Net, more: usize) -> io::Result<()> {
    let limit = net.faults.descriptors;
    if limit > 0 && net.books.descriptors() + more > limit {
        return Err(io::Error::from_raw_os_error(EMFILE));
    }
    Ok(())
}

/// A client's address says which client it is.
pub fn client_ip(actor: usize) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 9, (actor >> 8) as u8, actor as u8))
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        if let Ok(mut net) = self.net.try_borrow_mut() {
            net.close(self.end);
        }
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        if let Ok(mut net) = self.net.try_borrow_mut() {
            net.close_door(self.worker, self.number);
        }
    }
}

impl Drop for SimPipe {
    fn drop(&mut self) {
        if let Ok(mut net) = self.net.try_borrow_mut() {
            net.books.pipes_closed += 1;
        }
    }
}
