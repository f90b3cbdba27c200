//! Seeds that once failed, with what they caught. No world is run here.
//!
//! A seed is kept for the fault that it caught in the source of its time. Worlds with one shared stream of random
//! numbers shift whenever any draw is added or a worker makes another system call, so that most of them are other
//! worlds today. Where "Ringway" is named the fault was in `src`, otherwise in the simulation.

use super::random::Streams;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StreamKind {
    /// One stream for all concerns, as all worlds had before the streams were split.
    Shared,
    /// One for each concern, when no world had TLS.
    PerConcern,
    /// One for each concern, that of TLS included, when only clients spoke it.
    WithTls,
    /// That of replicas' TLS too.
    WithReplicaTls,
    /// That of policies too: before, all services balanced by hash.
    WithPolicies,
}

#[derive(Clone, Copy, Debug)]
pub struct Regression {
    pub seed: u64,
    pub streams: StreamKind,
    pub caught: &'static str,
}

pub const ALL: &[Regression] = &[
    shared(310, FIRST),
    shared(404, FIRST),
    shared(469, FIRST),
    shared(491, FIRST),
    shared(1259, NO_DEADLINE),
    shared(1412, ECHO_SLEEPS),
    shared(1415, BODY_PATTERN),
    shared(
        1759,
        "a request that arrived before the excess bytes behind a response counted as sent during that response",
    ),
    shared(1803, "Ringway closed without answering a pipelined request that it had read before a stop"),
    shared(1948, BODY_PATTERN),
    shared(2239, BODY_PATTERN),
    shared(2311, NO_DEADLINE),
    shared(2317, BODY_PATTERN),
    shared(
        2931,
        "Ringway kept request bytes, and their buffer, in an idle session whose replica had answered and closed",
    ),
    shared(3250, BODY_PATTERN),
    shared(3807, "a 504 counted as a fault although the network had not delivered the request to its replica"),
    shared(3914, NO_DEADLINE),
    shared(5150, "a simulated splice took the reset of a socket: a broken tunnel looked like one that ended in order"),
    shared(5426, "a replica echoed a long tunnel in small writes with gaps, which took longer than the world lasts"),
    shared(5897, "a simulated splice took the reset of a socket: a body cut by it looked complete"),
    shared(6409, UNKNOWN),
    shared(11730, PIPE_WITHOUT_REPLICA),
    shared(12076, "Ringway passed the reset of a tunnel's replica on as a FIN when a second write got EPIPE"),
    shared(13076, ECHO_SLEEPS),
    shared(18324, PIPE_WITHOUT_REPLICA),
    shared(2007391, "Ringway sent requests to a dead replica's address for some ms after another replica had got it"),
    shared(3001166, SPLICE_SPINS),
    shared(3001271, SPLICE_SPINS),
    shared(3002446, "Ringway spliced a pipelined response past bytes that it had read ahead: bytes out of order"),
    shared(
        3008611,
        "Ringway pipelined a request behind a response with Connection: close; its reset cut that response",
    ),
    shared(
        6006813,
        "a 504 counted as a fault although a slow network left the replica too little of the response timeout",
    ),
    shared(
        8113415,
        "a replica without a free local port was to be avoided for 10 ms, whatever the worker's clock step",
    ),
    shared(8122051, "a client's FIN before its 101 arrived did not count as the end of the tunnel"),
    shared(
        9003009,
        "a request after the idle timeout counted as unanswered when the last response had been slow to arrive",
    ),
    per_concern(18575, "a broken POST got the response plan of a HEAD, without a length; Ringway delimits it by close"),
    per_concern(448, PLACE_LOST),
    per_concern(450, PLACE_LOST),
    per_concern(493, GIVEN_UP_WHILE_LENT),
    per_concern(533, GIVEN_UP_WHILE_LENT),
    per_concern(543, "Ringway took an /add as a process that had not taken over: an upgrade changed the members"),
    per_concern(566, "Ringway ended an adopted instance at an /rm, with requests of the process before in flight"),
    per_concern(1232, ENDED_UNDER_REQUESTS),
    per_concern(5191, ENDED_UNDER_REQUESTS),
    per_concern(655, "Ringway took an /rm as a process that had not taken over: it ended what the other served with"),
    with_tls(
        179,
        "Ringway took what was sealed at once for all that a socket took: the rest of a response was never sent",
    ),
    with_tls(768, "Ringway waited for room for a close_notify with a buffer that nothing would use"),
    with_tls(
        989,
        "Ringway closed a connection whose socket had no room for close_notify: a body that a close ends looked cut",
    ),
    with_replica_tls(
        253,
        "Ringway passed the reset of a tunnel's replica on as a FIN when the write of records that were pending met it",
    ),
    with_replica_tls(7272, "a response that outlasted the drain of a replica that a reload removed counted as lost"),
];

/// The commit that brought the simulation (f142dba) lists the seed and says nothing about it.
const FIRST: &str = "unknown: before the recorded history";
/// Kept by dca6b63 with the seeds around it, but it does not fail with the sources before that commit.
const UNKNOWN: &str = "unknown: not recorded, and not reproduced with the sources of its time";
const BODY_PATTERN: &str = "a replica checked a malformed request body against the pattern of a well-formed one";
const ECHO_SLEEPS: &str = "an echo that paused between two writes was not woken for the bytes that arrived meanwhile";
const NO_DEADLINE: &str =
    "Ringway had no response timeout after a 100 (Continue), or a head that began before the request's end";
/// As Docker's runtime of that time does it: the simulation has a model of it.
const GIVEN_UP_WHILE_LENT: &str =
    "Ringway forgot a silent container that it gave up during an upgrade that failed: it ran on";
const ENDED_UNDER_REQUESTS: &str =
    "Ringway ended adopted containers at a stop while the process before had requests in flight at them";
const PIPE_WITHOUT_REPLICA: &str = "Ringway spliced a request body into a pipe after its replica had gone";
const PLACE_LOST: &str = "Ringway listed a replica that had just died behind the others after an upgrade";
const SPLICE_SPINS: &str = "a worker of Ringway span: a splice of a pipelined response never consumed its edge";

const fn shared(seed: u64, caught: &'static str) -> Regression {
    Regression { seed, streams: StreamKind::Shared, caught }
}

const fn per_concern(seed: u64, caught: &'static str) -> Regression {
    Regression { seed, streams: StreamKind::PerConcern, caught }
}

/// It was kept when no world had these streams, and has none.
pub fn predates(seed: u64, streams: StreamKind) -> bool {
    ALL.iter().any(|regression| regression.seed == seed && regression.streams < streams)
}

const fn with_tls(seed: u64, caught: &'static str) -> Regression {
    Regression { seed, streams: StreamKind::WithTls, caught }
}

const fn with_replica_tls(seed: u64, caught: &'static str) -> Regression {
    Regression { seed, streams: StreamKind::WithReplicaTls, caught }
}

/// The random numbers of a seed's world.
pub fn streams(seed: u64) -> Streams {
    if predates(seed, StreamKind::PerConcern) { Streams::shared(seed) } else { Streams::new(seed) }
}
