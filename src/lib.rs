//! Ringway: a load balancer that owns its replicas.
//!
//! One process starts the replicas (child processes or Docker containers), keeps N of them alive, spreads requests over
//! them by consistent hashing, and forwards bytes with one edge-triggered event loop per core.
//!
//! # The one idea
//!
//! One direction of traffic is one object, a [lane](core::lane): bytes come from a source leg, a framing says how many
//! may pass unlooked at (its *credit*), and they leave to a sink leg through a buffer or a pipe. Requests and responses,
//! HTTP and plain TCP, copied and spliced bytes all go through it; a tunnel is a lane with unlimited credit. Whatever
//! has to be written once for the client's side and once for the replica's side is in the wrong place.
//!
//! # The floors
//!
//! Imports go down only; the rooms of floor 3 never import each other. `tests/tidy.rs` holds the house to this table.
//!
//! | floor | room | law |
//! |---|---|---|
//! | 4 | `main`, [`balancer`], [`config`] | parse arguments, wire threads, nothing else |
//! | 3 | [`worker`] | the data plane: one event loop per core |
//! | 3 | [`control`] | the control plane: one admin thread, the only place for tokio |
//! | 3 | [`replica`] | the small server that the runtimes start |
//! | 3 | [`experiment`] | the experiments and their pictures |
//! | 2 | [`shared`] | what both planes may touch: snapshot view, counters, facts |
//! | 1 | [`kernel`] | one verb is one syscall; no policy |
//! | 0 | [`core`] | pure: bytes, time and choices in; steps and choices out |
//!
//! # How a request goes
//!
//! 1. A [`worker`]'s turn waits for edges, reads the clock once and loads the [snapshot](core::snapshot) once.
//! 2. An edge marks a [session](core::session); a session that can go on is asked for its next [step](core::step).
//! 3. `Recv`: bytes go into a buffer from the worker's pool. The [head](core::head) is found, parsed by httparse, held to
//!    what httparse leaves open, and [rewritten in place](core::rewrite), so that it leaves in one write with its body.
//! 4. `Dial`: the session names a key; the worker lets the [ring](core::ring) choose among live replicas and takes the
//!    connection used last from its own pool. Sessions never see ring, pool or socket, which keeps the whole protocol
//!    drivable by bytes and outcomes alone.
//! 5. `Send`, `Recv`, `Send`: request out, response in, response out. Bodies above [a stated size](core::lane::SPLICE_MIN)
//!    are spliced through a pipe. The upstream connection is parked as soon as its response was read whole.
//!
//! With `--upstream-pipelining` on, several sessions stand [in line](worker) on one upstream connection, and their requests leave in one
//! write; sessions do not know, because the connection keeps what came behind a response for the next in line.
//!
//! What a replica did not begin to answer goes to the next one on the ring, if sending it twice does no harm or no byte
//! of it left: [`may_redial`](core::exchange::Exchange::may_redial) is the one place that decides.
//!
//! # The two planes
//!
//! Down go only snapshots: one writer, one atomic swap, one load per turn. Up go only [facts](shared::events), over a
//! bounded channel that may drop. The [registry](control::registry) is a pure reducer of commands to effects; Docker, child
//! processes and heartbeats carry effects out and own nothing. A call to the admin API is answered when every worker
//! has acted on its snapshot.
//!
//! # Where the time goes
//!
//! A small keep-alive request costs four socket calls and a share of one `epoll_wait` (`scripts/syscalls` counts them;
//! at 64 connections under a tenth of a wait). Nothing else asks the kernel: a connection is watched once, from when it
//! is first waited for, the buffer is given back with the last byte, deadlines are numbers that a lazy heap looks at,
//! and the reply to a short read is not a second read. A client of HTTP is accepted [with its first
//! bytes](kernel::linux::listen), so that its first request costs no wait of its own. The last answer on a connection
//! leaves in one segment with the end of the stream. What is left is ours: some 8,000 instructions for a request by
//! consistent hash and its response, 1,600 of them httparse's, the rest in many small parts: two heads held to the
//! grammar and rewritten, six steps of the session, the ring and the loop. `valgrind --tool=callgrind` on `ringway run
//! --workers 1` under a load counts them.
#![forbid(unsafe_code)]

pub mod balancer;
pub mod config;
pub mod control;
pub mod core;
pub mod experiment;
pub mod kernel;
pub mod replica;
pub mod shared;
pub mod worker;
