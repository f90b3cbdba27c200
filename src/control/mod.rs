//! The control plane: one admin thread on a current-thread tokio runtime. It owns desired state and publishes snapshots.
//!
//! The registry decides and does nothing; what stands around it carries effects out and feeds commands back. No request of
//! a client passes here.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | nothing but this text and the re-exports |
//! | `acme` | certificates asked of an ACME server, kept in a folder |
//! | `registry` | which replicas there are and what state they are in: a pure reducer of commands to effects |
//! | `control_core` | publication, stops, worker ends and tickets around the registry: pure; the loop and the simulation drive it, and it returns `ControlAction`s (effects and log lines); level and words of log lines about signals and workers; the second signal; ready or not, and why in words; whether a successor may take over from its predecessor; how it ends (`End`) |
//! | `control_loop` | the admin thread: turns of the loop, tasks that it spawns; reloads and upgrades carried out |
//! | `heartbeats` | `HeartbeatTable`: which heartbeat an instance is asked for, by service and revision, while a rolling replacement changes it |
//! | `operations` | `OperationCounters`: reloads taken in and refused, upgrades that failed, certificates that cannot be used, orders of certificates, admin calls denied by reason; atomics, read by the metrics page |
//! | `orphans` | waits for zombies that process 1 of a container inherits: waitpid without hanging, children of others than ours |
//! | `signals` | which signals are handled (TERM, INT, QUIT; HUP, USR1, USR2), and what each asks for (`SignalRequest`); nothing is answered here |
//! | `log_throttle` | workers' events as log lines: the first of a kind at once, then a count for each second; names of former replicas; pure; windows by kind; words for a fault, a cap, a shortage |
//! | `probe` | one health check of one replica: connect or HTTP request with a timeout, the answer judged (status, X-Server-Id), the fault of a failure; I/O errors as `ProbeFault`s (dead, connect timed out, silent, unhealthy); TCP and Unix streams under one deadline |
//! | `secure` | TLS towards a replica that is probed or an API that a source asks: the handshake by an `UpstreamPolicy` |
//! | `upgrade` | an upgrade seen by the process that is replaced: `UpgradeStage` (waiting, starting, committed), sockets passed on by name, the file of the admin socket released, until when it waits |
//! | `successor` | spawns the process that takes over (same argv, `LISTEN_FDS`, a socket pair), tells it the `Introduction`, waits for `ready`, answers `go`; killed if it is not wanted; `SuccessorEvent`: ready, went, or ended and why |
//! | `predecessor` | the other end: `Introduction` (replicas, run ids) read from the process that this one replaces; `PredecessorLink`: says `ready`, awaits `go` |
//! | `service_manager` | `sd_notify` to systemd: READY, RELOADING, STOPPING, STATUS, MAINPID, WATCHDOG; the interval of pings from `WATCHDOG_USEC` |
//! | `runtime` | what starts and stops replicas: child processes, Docker containers, a fixed list |
//! | `reload` | values of a reload: the trait `Configuration` (read, commit, discard, renew certificates), `CertificateRenewal`, `ReloadPlan`, `ReloadReport` (changed, needs a restart) and its log line, `ReloadError`, who asked (`Requester`) and gets mistakes, which the log says too; the one that is pending |
//! | `admin_listener` | the socket of the admin API, TCP or Unix: bind, accept, hyper connections with head and write timeouts |
//! | `admin_seats` | how many admin connections are served at once: seats, strangers evicted, oldest first; it knows no HTTP; a permit each, the task to abort, kept once its caller is known |
//! | `socket_file` | the file of a Unix listener: bound with its mode, a dead one replaced, removed at the end; its type, permissions and identity (device, inode) checked |
//! | `write_deadline` | `AsyncRead` and `AsyncWrite` around a stream whose peer must read in time: polls of writes, flushes and shutdown bounded by a timer |
//! | `admin` | the admin API over HTTP: axum router and handlers, methods, query strings, which service is meant, dry runs, body limits, status codes; each call becomes an `AdminRequest` with a channel for its answer; what `GET /services` says |
//! | `admin_access` | who may call it: Host, bearer token, Origin; the denial; pure |
//! | `wire` | its JSON: strict parsing of `{"n", "hostnames"}` and `{"state", "weight"}` (serde visitor), the envelope of successes and failures, quoted values in errors; pure |
//! | `questions` | what it answers about the ring (`/ring`, explain, what-if) from the snapshot and a query string: members, shares, the way of a key; pure; parameters known, names added and removed |
//! | `metrics` | its page for scrapers, Prometheus' text or OpenMetrics |
//! | `page` | its live page and the stream of events |
//! | `fuzz` | the body of the fuzz target for the admin API: bodies of `/add`, `/rm` and `PATCH` on a registry: predicts what a call does by a dry run and by its own model (which names a container may have), and compares; the text of a refusal |

pub mod acme;
pub mod admin;
pub mod admin_access;
pub mod admin_listener;
pub mod control_core;
pub mod fuzz;
pub mod heartbeats;
mod log_throttle;
pub mod metrics;
pub mod page;
pub mod probe;
pub mod questions;
pub mod registry;
pub mod reload;
pub mod runtime;
pub mod service_manager;
pub mod wire;

mod admin_seats;
mod control_loop;
pub mod operations;
mod orphans;
mod predecessor;
mod secure;

mod signals;
mod socket_file;
mod successor;
mod upgrade;
mod write_deadline;

pub use control_core::{ControlCore, End};
pub use control_loop::{ControlInit, Wakeup, serve};
pub use heartbeats::Heartbeats;
pub use predecessor::PredecessorLink;
pub use upgrade::Upgrade;
