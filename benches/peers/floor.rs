//! The lower bound of `scripts/bench`: a relay that only moves bytes.
//!
//! `floor PORT ORIGIN_PORT... [--splice]` opens one connection to an origin for each client. It does not parse, route or
//! keep deadlines: its cost is that of the kernel, and no relay of one request at a time can cost much less.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

const LISTENER: u64 = u64::MAX;
const BUFFER: usize = 64 * 1024;
const PIPE: usize = 1 << 20;

/// One direction: bytes that were read and not yet written.
#[derive(Default)]
struct Lane {
    pending: Vec<u8>,
    written: usize,
    pipe: Option<(OwnedFd, OwnedFd)>,
    in_pipe: usize,
}

struct Pair {
    ends: [TcpStream; 2],
    lanes: [Lane; 2],
}

fn main() -> io::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let ports: Vec<u16> = words.iter().filter_map(|word| word.parse().ok()).collect();
    let splices = words.iter().any(|word| word == "--splice");
    let Some((port, origins)) = ports.split_first().filter(|(_, origins)| !origins.is_empty()) else {
        eprintln!("usage: floor PORT ORIGIN_PORT... [--splice]");
        std::process::exit(2);
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, *port))?;
    listener.set_nonblocking(true)?;
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut pairs: Vec<Option<Pair>> = Vec::new();
    let mut events = Vec::with_capacity(512);
    let mut buffer = vec![0; BUFFER];
    loop {
        events.clear();
        epoll::wait(&epoll, spare_capacity(&mut events), None)?;
        for event in &events {
            let id = event.data.u64();
            if id == LISTENER {
                while let Ok((client, _)) = listener.accept() {
                    let place = pairs.iter().position(Option::is_none).unwrap_or(pairs.len());
                    let origin = origins[place % origins.len()];
                    if let Ok(pair) = Pair::open(client, origin, splices, &epoll, place) {
                        if place == pairs.len() {
                            pairs.push(None);
                        }
                        pairs[place] = Some(pair);
                    }
                }
                continue;
            }
            let Some(place) = pairs.get_mut((id >> 1) as usize) else { continue };
            let Some(pair) = place else { continue };
            let (end, flags) = ((id & 1) as usize, event.flags);
            let can_write = flags.contains(EventFlags::OUT) && pair.lanes[1 - end].has_pending();
            let can_read = flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP);
            if (can_write && pair.pump(1 - end, &mut buffer).is_err())
                || (can_read && pair.pump(end, &mut buffer).is_err())
            {
                *place = None;
            }
        }
    }
}

impl Lane {
    fn has_pending(&self) -> bool {
        self.in_pipe > 0 || self.written < self.pending.len()
    }
}

impl Pair {
    fn open(client: TcpStream, origin: u16, splices: bool, epoll: &OwnedFd, place: usize) -> io::Result<Pair> {
        let ends = [client, TcpStream::connect((Ipv4Addr::LOCALHOST, origin))?];
        let mut lanes = [Lane::default(), Lane::default()];
        for (at, (end, lane)) in ends.iter().zip(&mut lanes).enumerate() {
            end.set_nonblocking(true)?;
            end.set_nodelay(true)?;
            if splices {
                let pipe = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
                fcntl_setpipe_size(&pipe.1, PIPE)?;
                lane.pipe = Some(pipe);
            }
            let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
            epoll::add(epoll, end, EventData::new_u64((place * 2 + at) as u64), flags)?;
        }
        Ok(Pair { ends, lanes })
    }

    /// Moves bytes from `end` to its peer until a read or a write would block. An error ends both.
    fn pump(&mut self, end: usize, buffer: &mut [u8]) -> io::Result<()> {
        let (from, to, lane) = (&self.ends[end], &self.ends[1 - end], &mut self.lanes[end]);
        let outcome = match &lane.pipe {
            Some((out, into)) => pump_pipe(from, to, (out, into), &mut lane.in_pipe),
            None => pump_copies(from, to, lane, buffer),
        };
        match outcome {
            Err(why) if why.kind() == ErrorKind::WouldBlock => Ok(()),
            outcome => outcome,
        }
    }
}

fn pump_pipe(
    from: &TcpStream,
    to: &TcpStream,
    (out, into): (&OwnedFd, &OwnedFd),
    in_pipe: &mut usize,
) -> io::Result<()> {
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    loop {
        while *in_pipe > 0 {
            *in_pipe -= splice(out, None, to, None, *in_pipe, flags)?;
        }
        match splice(from, None, into, None, PIPE, flags)? {
            0 => return Err(Errno::PIPE.into()),
            n => *in_pipe = n,
        }
    }
}

fn pump_copies(mut from: &TcpStream, mut to: &TcpStream, lane: &mut Lane, buffer: &mut [u8]) -> io::Result<()> {
    while lane.written < lane.pending.len() {
        lane.written += to.write(&lane.pending[lane.written..])?;
    }
    lane.pending.clear();
    lane.written = 0;
    loop {
        let n = from.read(buffer)?;
        if n == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let sent = match to.write(&buffer[..n]) {
            Err(why) if why.kind() == ErrorKind::WouldBlock => 0,
            sent => sent?,
        };
        if sent < n {
            lane.pending.extend_from_slice(&buffer[sent..n]);
            return Ok(());
        }
        // A short read has emptied the socket.
        if n < buffer.len() {
            return Ok(());
        }
    }
}
