//! Listening sockets that this process was started with: by systemd (`sd_listen_fds(3)`), or by a Ringway that it
//! replaces. They are matched to addresses here; who listens where is decided elsewhere.
//!
//! `LISTEN_FDS` sockets begin at descriptor 3. `LISTEN_PID` may be unset: a process cannot know the id of the one that it
//! is about to become the parent of. Both variables are removed at once, and the descriptors close on exec: no replica
//! gets them.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use listenfd::ListenFd;
use rustix::net::{AddressFamily, SocketType, sockopt};

/// Names that a Ringway gives to what it passes on, in `LISTEN_FDNAMES`.
pub const ADMIN: &str = "ringway.admin";
pub const HANDSHAKE: &str = "ringway.handshake";
/// Before the name of the service that it is of.
pub const LOCK: &str = "ringway.lock.";
/// Before the name of a listener.
pub const LISTENER: &str = "ringway.listener.";

const NAMES: &str = "LISTEN_FDNAMES";
/// The first descriptor (SD_LISTEN_FDS_START).
pub const FIRST: i32 = 3;

/// What no listener has taken yet.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Vec<InheritedSocket>,
    /// What could be no listener, named for the operator. It is closed already.
    others: Vec<String>,
}

#[derive(Debug)]
struct InheritedSocket {
    name: String,
    address: Address,
    descriptor: OwnedFd,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
    /// A connected or a datagram socket, which is no listener.
    None,
}

impl Inherited {
    /// Call it first, before there are threads and other descriptors.
    pub fn take() -> Inherited {
        let names = std::env::var(NAMES).unwrap_or_default();
        let mut descriptors = ListenFd::from_env();
        let mut names = names.split(':').map(str::to_owned);
        let mut inherited = Inherited::default();
        for index in 0..descriptors.len() {
            let name = names.next().filter(|name| !name.is_empty()).unwrap_or_else(|| "unknown".into());
            match take(&mut descriptors, index) {
                Some((address, descriptor)) => inherited.sockets.push(InheritedSocket { name, address, descriptor }),
                None => inherited.others.push(format!("{name}, which is no stream socket")),
            }
        }
        inherited
    }

    /// Something was passed on that can be a listener.
    pub fn has_listeners(&self) -> bool {
        self.sockets.iter().any(|socket| socket.address != Address::None)
    }

    /// All listeners on `address`. Port 0 stands for the port of the listener that has `name`.
    pub fn listeners(&mut self, address: SocketAddr, name: &str) -> Vec<OwnedFd> {
        self.extract(|socket| match socket.address {
            Address::Tcp(own) if address.port() == 0 => own.ip() == address.ip() && socket.name == name,
            Address::Tcp(own) => own == address,
            _ => false,
        })
    }

    /// The listener at `path`, and the name that it came with.
    pub fn unix_listener(&mut self, path: &Path) -> Option<(UnixListener, String)> {
        let at = self.sockets.iter().position(|socket| socket.address == Address::Unix(path.to_owned()))?;
        let socket = self.sockets.remove(at);
        Some((socket.descriptor.into(), socket.name))
    }

    /// The connection to the Ringway that this one replaces.
    pub fn handshake(&mut self) -> Option<UnixStream> {
        self.named(HANDSHAKE).map(UnixStream::from)
    }

    /// The locks that it holds, each with what it is of.
    pub fn locks(&mut self) -> Vec<(String, UnixDatagram)> {
        let locks =
            self.sockets.extract_if(.., |socket| socket.name.starts_with(LOCK) && socket.address == Address::None);
        let of = |name: &str| name.strip_prefix(LOCK).unwrap_or_default().to_owned();
        locks.map(|socket| (of(&socket.name), UnixDatagram::from(socket.descriptor))).collect()
    }

    /// What is left, named for the operator. It is closed.
    pub fn close(self) -> Vec<String> {
        self.sockets.iter().map(InheritedSocket::describe).chain(self.others).collect()
    }

    fn named(&mut self, name: &str) -> Option<OwnedFd> {
        self.extract(|socket| socket.name == name && socket.address == Address::None).pop()
    }

    fn extract(&mut self, mut is_wanted: impl FnMut(&InheritedSocket) -> bool) -> Vec<OwnedFd> {
        let wanted = self.sockets.extract_if(.., |socket| is_wanted(socket));
        wanted.map(|socket| socket.descriptor).collect()
    }
}

impl InheritedSocket {
    fn describe(&self) -> String {
        let name = &self.name;
        match &self.address {
            Address::Tcp(address) => format!("{address} ({name})"),
            Address::Unix(path) => format!("{} ({name})", path.display()),
            Address::None => name.clone(),
        }
    }
}

/// Each of these marks the descriptor to be closed on exec, if it is of the kind.
fn take(descriptors: &mut ListenFd, index: usize) -> Option<(Address, OwnedFd)> {
    let kinds = [
        (AddressFamily::INET, SocketType::STREAM),
        (AddressFamily::UNIX, SocketType::STREAM),
        (AddressFamily::UNIX, SocketType::DGRAM),
    ];
    let taken = kinds.into_iter().find_map(|(family, kind)| {
        let (family, kind) = (i32::from(family.as_raw()), kind.as_raw() as i32);
        descriptors.take_custom::<OwnedFd>(index, family, kind, "socket").ok().flatten()
    });
    if let (None, Ok(Some(other))) = (&taken, descriptors.take_raw_fd(index)) {
        let _ = nix::unistd::close(other);
    }
    taken.map(|socket| (address(&socket), socket))
}

fn address(socket: &impl AsFd) -> Address {
    if !sockopt::socket_acceptconn(socket).unwrap_or(false) {
        return Address::None;
    }
    let Ok(name) = rustix::net::getsockname(socket) else { return Address::None };
    if let Ok(address) = SocketAddr::try_from(name.clone()) {
        return Address::Tcp(address);
    }
    let unix = rustix::net::SocketAddrUnix::try_from(name).ok();
    let path = unix.and_then(|unix| unix.path().map(|path| PathBuf::from(path.to_string_lossy().into_owned())));
    path.map_or(Address::None, Address::Unix)
}
