//! What goes wrong, and how often: each world draws its own rates, so that some worlds have one fault in plenty and
//! others have many together. Rates are per mille of the calls or connections they strike.

use super::random::Random;

#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Nothing below that a client could see: no refusal, reset, loss of a replica or of descriptors.
    pub calm: bool,
    /// A read or write takes less than it could.
    pub short: u32,
    /// EAGAIN although there was something; an edge follows.
    pub blocked: u32,
    /// EINTR.
    pub interrupted: u32,
    /// An event that means nothing.
    pub spurious: u32,
    /// `pipe` fails.
    pub no_pipe: u32,
    /// The kernel will not splice (EINVAL).
    pub no_splice: u32,
    /// `accept` fails: EMFILE, ENOBUFS, ECONNABORTED.
    pub accept: u32,
    /// `connect` fails at once: EADDRNOTAVAIL, ENETUNREACH.
    pub connect: u32,
    /// A connection attempt is refused or lost.
    pub refused: u32,
    pub black_hole: u32,
    /// A request meets a fault at its replica.
    pub replica: u32,
    /// A replica closes a connection that is idle.
    pub idle_close: u32,
    /// The network breaks a connection with nobody asking for it.
    pub cut: u32,
    /// Descriptors of the process. 0: enough.
    pub descriptors: usize,
    /// A replica process dies or hangs, per second.
    pub death: u32,
    /// `/add` and `/rm`, per second.
    pub calls: u32,
    /// A worker is held up between two turns.
    pub held_up: u32,
    /// The longest way of a segment through the network.
    pub latency_us: u64,
    /// The kernel's coarse clock moves in steps of so many ms.
    pub clock_ms: u64,
    /// A balancer that stops while clients still come.
    pub early_stop: bool,
    /// A reset takes away what the client has not read.
    pub reset_eats: bool,
}

impl Faults {
    pub fn draw(random: &mut Random) -> Faults {
        let calm = random.one_in(4);
        let harm = |most: u32, random: &mut Random| {
            let rate = random.rate(most);
            if calm { 0 } else { rate }
        };
        let descriptors = harm(1, random) as usize * random.range(8, 60) as usize;
        Faults {
            calm,
            short: random.rate(400),
            blocked: random.rate(200),
            interrupted: random.rate(50),
            spurious: random.rate(200),
            no_pipe: random.rate(500),
            no_splice: random.rate(200),
            accept: harm(200, random),
            connect: harm(100, random),
            refused: harm(200, random),
            black_hole: harm(60, random),
            replica: harm(300, random),
            idle_close: harm(500, random),
            cut: harm(30, random),
            descriptors: if random.one_in(3) { descriptors } else { 0 },
            death: harm(400, random),
            calls: random.rate(800),
            held_up: random.rate(30),
            latency_us: random.pick(&[50, 500, 2_000, 20_000]),
            clock_ms: random.pick(&[1, 1, 4, 10]),
            early_stop: random.one_in(5),
            reset_eats: random.one_in(2),
        }
    }

    /// From now on nothing goes wrong that did not go wrong already.
    pub fn cease(&mut self) {
        let Faults { calm, latency_us, clock_ms, early_stop, reset_eats, .. } = *self;
        *self = Faults { calm, latency_us, clock_ms, early_stop, reset_eats, ..Faults::default() };
    }
}
