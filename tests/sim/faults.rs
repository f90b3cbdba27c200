//! The rates of faults, drawn per world (swarm testing): some worlds have one frequent fault, others many together.
//! Rates are per mille of the calls, connections or seconds that they apply to. No fault is injected here.

use super::random::{Random, Streams};

#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// No fault that a client could see: no refusal, reset, failed replica or lack of descriptors.
    pub calm: bool,
    /// A read or write moves less than it could.
    pub short_io: u32,
    /// A read or write returns EAGAIN although it could move bytes; an edge follows.
    pub spurious_eagain: u32,
    /// A call returns EINTR.
    pub interrupted: u32,
    /// `wait` returns an event for a socket that is not ready.
    pub spurious_event: u32,
    /// `pipe` fails with EMFILE.
    pub pipe_fails: u32,
    /// `splice` fails with EINVAL.
    pub splice_fails: u32,
    /// `accept` fails with EMFILE, ENOBUFS or ECONNABORTED.
    pub accept_fails: u32,
    /// `connect` fails at once with EADDRNOTAVAIL, ENETUNREACH, EMFILE or ENOBUFS.
    pub connect_fails: u32,
    /// A connection attempt is refused.
    pub refused: u32,
    /// A connection attempt gets no reply.
    pub black_hole: u32,
    /// A response has a fault.
    pub response: u32,
    /// A replica closes an idle connection.
    pub idle_close: u32,
    /// A segment resets its connection. Per 20,000, not per mille.
    pub broken_connection: u32,
    /// Limit of open descriptors in the process. 0: none.
    pub max_descriptors: usize,
    /// A replica crashes or hangs, per second.
    pub death: u32,
    /// `/add` and `/rm`, per second.
    pub calls: u32,
    /// A worker waits 1 to 60 ms for the processor between two turns.
    pub delayed_turn: u32,
    /// The largest one-way latency of a connection.
    pub max_latency_us: u64,
    /// Resolution of the workers' clock.
    pub clock_step_ms: u64,
    /// The balancer stops while clients still connect.
    pub early_stop: bool,
    /// A reset discards what its receiver has not read.
    pub reset_discards_unread: bool,
    /// Replicas work on one request at a time, heartbeats included, and take long. Only in calm worlds.
    pub serial: bool,
}

impl Faults {
    pub fn draw(streams: &mut Streams) -> Faults {
        let faults = Faults::draw_rates(streams.faults());
        Faults { serial: faults.calm && !faults.early_stop && streams.health().one_in(3), ..faults }
    }

    fn draw_rates(random: &mut Random) -> Faults {
        let calm = random.one_in(4);
        // Drawn in a calm world too, so that the draws that follow are the same.
        let visible = |most: u32, random: &mut Random| {
            let rate = random.rate(most);
            if calm { 0 } else { rate }
        };
        let max_descriptors = visible(1, random) as usize * random.range(8, 60) as usize;
        Faults {
            calm,
            short_io: random.rate(400),
            spurious_eagain: random.rate(200),
            interrupted: random.rate(50),
            spurious_event: random.rate(200),
            pipe_fails: random.rate(500),
            splice_fails: random.rate(200),
            accept_fails: visible(200, random),
            connect_fails: visible(100, random),
            refused: visible(200, random),
            black_hole: visible(60, random),
            response: visible(300, random),
            idle_close: visible(500, random),
            broken_connection: visible(30, random),
            max_descriptors: if random.one_in(3) { max_descriptors } else { 0 },
            death: visible(400, random),
            calls: random.rate(800),
            delayed_turn: random.rate(30),
            max_latency_us: random.pick(&[50, 500, 2_000, 20_000]),
            clock_step_ms: random.pick(&[1, 1, 4, 10]),
            early_stop: random.one_in(5),
            reset_discards_unread: random.one_in(2),
            serial: false,
        }
    }

    /// Sets every rate to 0. The properties of network, clock and world stay.
    pub fn cease(&mut self) {
        let Faults { calm, max_latency_us, clock_step_ms, early_stop, reset_discards_unread, serial, .. } = *self;
        let properties = Faults { calm, max_latency_us, clock_step_ms, early_stop, ..Faults::default() };
        *self = Faults { reset_discards_unread, serial, ..properties };
    }
}
