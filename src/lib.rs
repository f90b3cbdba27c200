//! Ringway: a load balancer that owns its replicas.
//!
//! One process starts the replicas (child processes or Docker containers), keeps N of them alive, spreads requests over
//! them by consistent hashing, and forwards bytes with one edge-triggered event loop per core.
//!
//! # The central object
//!
//! One direction of traffic is one object, a [lane](core::lane). Bytes come from a source leg, the message framing says
//! how many of them may pass without being parsed (the *credit*), and they leave to a sink leg through a buffer or a
//! pipe. Requests and responses, HTTP and plain TCP, copied and spliced bytes all use it; a tunnel is a lane with
//! unlimited credit. Code that exists once for the client's side and once for the replica's side is a design fault.
//!
//! # Layers
//!
//! A module imports only modules of lower layers and itself. Modules of one layer do not import each other.
//! `tests/tidy.rs` enforces this table.
//!
//! | layer | module | what it does |
//! |---|---|---|
//! | 4 | `main`, [`balancer`], [`config`] | reads arguments, connects threads |
//! | 3 | [`worker`] | the data plane: one event loop per core |
//! | 3 | [`control`] | the control plane: one admin thread; the only user of tokio |
//! | 3 | [`replica`] | the small server that the runtimes start |
//! | 3 | [`experiment`] | measurements of running balancers, and their pictures |
//! | 2 | [`shared`] | what both planes may use: snapshot reader, counters, worker events, access log |
//! | 1 | [`settings`] | what can be set: one struct for each table of the file, read by [`config`] |
//! | 1 | [`kernel`] | sockets, pipes and epoll; one method is one system call; no policy |
//! | 0 | [`core`] | pure protocol and routing: bytes, time and choices in; steps and choices out |
//!
//! Within layer 4, `main` imports [`balancer`], which imports [`config`].
//!
//! # Where to look
//!
//! The index table of each module's documentation has one row for each file of its folder. The files of the top folder:
//!
//! | file | what it is |
//! |---|---|
//! | `main.rs` | from argv to an exit status: dispatches the subcommands, starts the log, prints what `config`, `ring` and `experiment` return, a closed stdout |
//! | `lib.rs` | this text |
//!
//! Words that several folders share:
//!
//! | what is looked for | where it is defined | where it is read, judged or written |
//! |---|---|---|
//! | a timeout or size of a service | `core/limits`: default and range | `settings/limits`: flag; `core/session`: deadlines; `core/head/scan`: sizes |
//! | health of a replica | `settings/health`: flags | `control/probe`: one answer; `registry/health`: one instance; `registry/verdicts`: what follows |
//! | drain | `core/snapshot`: the state | `registry/drain`, `registry/leaving`: of a replica; `worker/drain`, `core/session`: of connections; `control_core`: of the balancer |
//! | start and stop of an instance | `control/runtime`: the trait | `registry/instances`: decides; `control_loop`: spawns; `runtime/process`, `docker/driver`: carry out |
//! | replicas that others start | `settings/source`: what is asked; `config/source_files`: its files | `runtime/discovery`: asked and believed; `registry/delisted`: those that are listed no more |
//! | a request is sent again | `core/exchange`: the rule | `core/session/failure`: the redial; `worker/connect`: the next replica; `worker/pipeline`: those queued behind |
//! | which replica a request goes to | `core/balance`: by the policy of its service | `settings/service`, `config/resolve`: set; `core/ring`: by hash; `worker/connect`: asked |
//! | a connection to a replica | `core/step`: `Connect` | `worker/connect`: one session's; `worker/upstreams`: all; `worker/pool`: idle ones |
//! | pressure on replicas | `core/limits`: how many requests, how many wait | `worker/queue`: who waits and whose turn it is; `core/queue_heads`: between workers; `worker/retry_budget`: retries |
//! | a head field | `core/head`: syntax | `core/request`, `core/response`: meaning; `core/rewrite`: change |
//! | a response of the balancer itself | `core/reply`: its bytes | `core/session/failure`: when; `control/admin`, `control/wire`: of the admin API |
//! | file descriptors | `kernel/linux`: the limit, how many are open | `worker/workers`: each worker's share; `worker/resources`: room, what waits; `balancer`: the warning |
//! | an exit status | `main` | `control_core`: how the run ended; `kernel/parent`, `replica/check`: an error text |
//! | a log line | `shared/text`, `shared/log_writer`: format, queue | `control/log_throttle`: of workers; `registry`: of replicas; `control_loop`: of reloads and upgrades; `config/unused`: of settings |
//! | a listener | `core/snapshot`: its id, mode, limits | `config/named`, `balancer/plan`: from the file; `kernel/listening`: its sockets; `worker/listeners`: which are open; `worker/accept`: accepts |
//! | TLS | `core/tls`: records, certificates, tickets; `core/snapshot`: the policy of a listener or service | `worker/handshake`: before a client's session; `worker/secure`: below one, and towards replicas |
//! | TLS that passes through | `core/tls/client_hello`: the name | `core/session/protocol`: read and routed; `core/snapshot`: `passthrough_to` |
//! | a certificate | `core/tls/certificate`: one pair; `core/tls/policy`: by name | `settings/tls`: flags; `config/certificates`: its files; `balancer/tls`: of each listener; `balancer/renewal`: changed files; `balancer/expiry`: log lines |
//! | a certificate from an ACME server | `core/challenges`, `core/tls/challenge`: what the server gets that checks a name | `settings/acme`, `config/acme`: which names, from where; `control/acme`: orders, the storage folder; `balancer/tls`: until there is one |
//! | a route | `core/routes`: the table | `config/named`: from the file; `core/session/protocol`: asked for each request |
//! | what an exchange was | `core/exchange_record`: the record | `core/session/record`: filled in; `shared/access_log`: a line; `shared/service_metrics`: counts and durations |
//! | a reload | `control/reload`: its values | `control_loop/reloads`: its turns; `balancer/reload`: read and compared; `registry/topology`: taken in; `runtime/per_service`: runtimes opened and closed |
//! | an upgrade in place | `control/upgrade`: how far it is | `control/successor`, `control/predecessor`: the two ends of the talk; `control_loop/replacement`: its turns; `kernel/inherited`: the sockets; `registry/lifecycle`: names and places taken over |
//! | the state of the balancer | `core/snapshot`: `Lifecycle` | `registry/lifecycle`: entered, ready or not; `core/session`: kept alive or not |
//!
//! # The path of a request
//!
//! 1. A [`worker`] waits for edges, reads the clock once and loads the [snapshot](core::snapshot) once. One such pass is
//!    a *turn*.
//! 2. An edge marks a [session](core::session) as ready. A session that can make progress is asked for its next
//!    [step](core::step).
//! 3. `Recv`: bytes go into a buffer from the worker's pool. The request [head](core::head) is found, parsed by httparse,
//!    checked for what httparse leaves open, and [rewritten in place](core::rewrite), so that it leaves in one write
//!    with its body.
//! 4. `Connect`: the session names a routing key. The worker asks its [balancer](core::balance) for a live replica, by
//!    default the first on the [ring](core::ring), and takes the most recently used idle connection from its own pool, or dials. A session never sees ring, pool or socket:
//!    the whole protocol can be driven by bytes and outcomes alone, in tests and in the simulation.
//! 5. `Send`, `Recv`, `Send`: request out, response in, response out. Bodies of at least
//!    [`SPLICE_MIN`](core::lane::SPLICE_MIN) bytes are spliced through a pipe. The upstream connection returns to the pool
//!    as soon as its response was read whole.
//!
//! With `--upstream-pipelining`, several sessions [queue](worker) on one upstream connection and their requests leave in
//! one write. A session does not know: the connection keeps the bytes behind a response for the next session in the queue.
//!
//! A request that failed before its response began goes to the next replica on the ring if no byte of it was sent, or
//! if it is idempotent. [`may_redial`](core::exchange::Exchange::may_redial) is the only place that decides.
//!
//! # Two planes
//!
//! Downwards go only snapshots: one writer, one atomic swap, one load per turn. Upwards go only
//! [worker events](shared::events), over a bounded channel; an event that finds it full is dropped and counted. The
//! [registry](control::registry) is a pure reducer of commands to effects. Docker, child processes and heartbeats carry
//! effects out and own no state of their own. A call to the admin API is answered when every worker has acknowledged its
//! snapshot.
//!
//! # Cost of a request
//!
//! A small keep-alive request costs four socket calls and a share of one `epoll_wait` (`scripts/syscalls` counts them;
//! at 64 connections less than a tenth of a wait). Nothing else enters the kernel: a connection is registered with epoll
//! once, when it is first waited for; deadlines are numbers in a lazy heap; and after a short read there is no second
//! read. A client of HTTP is accepted [together with its first bytes](kernel::linux::listen), so that its first request
//! costs no wait of its own. The last response on a connection leaves in one segment with the FIN. The rest is user
//! code: some 8,000 instructions for a request by consistent hash and its response, of which httparse takes 1,600.
//! `valgrind --tool=callgrind` on `ringway run --workers 1` under load counts them.
//!
//! # Glossary
//!
//! Traffic:
//!
//! - **lane**: one direction of a connection, from source to sink: [`Lane`](core::lane::Lane).
//! - **leg**: one of the two sockets of a session, client or upstream: [`Leg`](core::step::Leg).
//! - **credit**: bytes that may pass without being parsed: [`Body::credit`](core::body::Body::credit).
//! - **session**: the protocol state of one client connection, for its whole life: [`Session`](core::session::Session).
//! - **exchange**: one request and its response, or one tunnel: [`Exchange`](core::exchange::Exchange).
//! - **record**: what one exchange was, for the access log: [`ExchangeRecord`](core::exchange_record::ExchangeRecord).
//! - **step**: one action that a session asks for: [`Step`](core::step::Step). Its **outcome** has a type for each kind
//!   of step: [`Io`](core::step::Io), [`SpliceIn`](core::step::SpliceIn), [`Connect`](core::step::Connect).
//! - **pick**: what a replica is chosen for: [`Pick`](core::step::Pick).
//! - **context**: what a session is lent for one call (time, snapshot, buffers): [`Context`](core::context::Context).
//! - **turn**: one pass of a worker's event loop: [`Worker::turn`](worker::Worker::turn).
//! - **tick**: a point in time, in milliseconds of the worker's clock: [`Tick`](core::tick::Tick).
//! - **pool**: buffers of one worker, [`BufferPool`](core::buffer::BufferPool); idle upstream connections of one worker, per
//!   replica, `worker::pool`.
//! - **pipelining**: several requests sent on one upstream connection before their responses (RFC 9112 section 9.3.2):
//!   `worker::pipeline`. Sessions whose responses are not due yet wait in the connection's **queue**.
//! - **mux**: how sessions share an upstream connection (idle, exclusive, pipelined): `worker::upstreams`.
//! - **transport**: the byte stream of one connection over its socket: `worker::transport`.
//! - **arrival**: how a connection came: peer, local address, listener, over TLS or not, whether a PROXY header is due:
//!   [`Arrival`](core::session::Arrival).
//! - **pair**: a certificate with its chain and its private key, known by the NAME of its files:
//!   [`Certificate`](core::tls::certificate::Certificate). **Renewal**: pairs taken in because their files changed:
//!   `balancer::renewal`. **Refused**: a pair that cannot be used.
//! - **challenge**: how an ACME server checks that a name leads to us: [`Challenges`](core::challenges::Challenges), by a
//!   request (http-01) or a handshake (tls-alpn-01). **Order**: what it issues a certificate for: `control::acme`.
//!   **Placeholder**: the certificate of our own until it has.
//! - **policy**: what the clients of a listener are offered by TLS: [`Policy`](core::tls::policy::Policy).
//! - **handshake step**: the records of a handshake that one turn takes of one client: `worker::handshake`.
//! - **notice**: what a session has to report (a fault, a refusal, the client's name): [`Notice`](core::step::Notice). The
//!   worker makes a **worker event** of it: `worker::drive`.
//! - **fault**: how a request failed at a replica: [`FaultKind`](core::step::FaultKind). Of a probe: `ProbeFault`.
//! - **refusal**: a status and a reason for a message that is not passed on: [`Refusal`](core::head::Refusal).
//! - **cap**: a limit of connections, checked at accept: `worker::accept`. **exhausted**: a resource of this machine ran
//!   out: `worker::resources`.
//! - **edits**: cuts and insertions in a head: [`Edits`](core::rewrite::Edits).
//! - **interim**: a 1xx response before the final one: [`core::response`].
//! - **store**, **headroom**: a buffer's memory, and the free part in front of a head: [`core::buffer`].
//! - **phase**: where in a message a lane is (head, body, done): [`Phase`](core::lane::Phase).
//! - **token**: which socket an edge is for: [`kernel::Token`]. **wake**: ends the wait of another thread:
//!   [`kernel::Wake`].
//! - **tally**: requests and responses of one call of a session, for the counters: [`core::context`].
//! - **redial**: sending a failed request again, to the next replica:
//!   [`Exchange::may_redial`](core::exchange::Exchange::may_redial).
//! - **linger**: reading on after a final response, so that the client can receive it before the close:
//!   [`Limits::linger_timeout_ms`](core::limits::Limits::linger_timeout_ms).
//! - **splice**: moving bytes from socket to socket through a pipe, without copying them to user space: `Step::SpliceIn`,
//!   `Step::SpliceOut`.
//! - **tunnel**: bytes both ways without framing, after an upgrade or in TCP mode: [`Body::Tunnel`](core::body::Body).
//!
//! Routing and state:
//!
//! - **service**: a set of replicas with their ring, limits and key policy: [`Service`](core::snapshot::Service).
//! - **replica**: one server that requests go to: [`snapshot::Replica`](core::snapshot::Replica).
//! - **member**: a slot that is on its service's ring: `registry/service`. On a ring itself, a name and a weight:
//!   [`ring::Member`](core::ring::Member). An `/add` under way and a successor have slots that are no members.
//! - **weight**, **share**: points of a member relative to others; its part of all keys: [`core::ring::report`].
//! - **balance policy**: how a service chooses among its replicas: hash, least-request, round-robin, random:
//!   [`BalancePolicy`](core::balance::BalancePolicy). **Balance factor**: with hash, the bound of a replica's load as a
//!   multiple of its share: [`BalanceFactor`](core::balance::BalanceFactor).
//! - **table**: a ring of equal arcs, as Maglev has it: `core/ring/maglev`.
//! - **key**, **key policy**: the 32-bit hash that a request is routed by, and what it is made of: [`core::key`].
//! - **route**: which service a request's target belongs to: [`Routes`](core::routes::Routes).
//! - **load**: requests in flight at a replica, and how often it sent something, counted by workers:
//!   [`ReplicaLoad`](core::snapshot::ReplicaLoad).
//! - **endpoint**: where a replica is dialled, an address or a Unix socket: [`Endpoint`](core::snapshot::Endpoint).
//! - **instance**: one run of a replica (a process, a container). A replacement is a new instance under the same name;
//!   its number is the [`ReplicaId`](core::snapshot::ReplicaId).
//! - **managed**, **foreign**: an instance that we start and stop, or one that others do: [`control::runtime`]. Foreign
//!   ones are listed, or found by **discovery**: by their labels, or by a **source** (a file, DNS, Consul, Kubernetes, Docker
//!   Swarm), of which one answer may be **believed** and another doubted: `discovery/follow`. One that a list has no more is
//!   **delisted**. A managed one of an earlier run is **adopted**.
//! - **ring**: the map from routing keys to replicas: [`core::ring`].
//! - **snapshot**: the immutable state that workers act on: [`Snapshot`](core::snapshot::Snapshot).
//! - **epoch**: the number of a snapshot, one more each time: `Snapshot::epoch`.
//! - **ack**: a worker's statement that it acts on an epoch: [`SnapshotReader::ack`](shared::publish::SnapshotReader::ack).
//! - **worker event**: what a worker reports (a fault, a retry, a refusal):
//!   [`WorkerEvent`](shared::events::WorkerEvent).
//! - **registry**: the owner of the desired state; commands in, effects out: [`Registry`](control::registry::Registry).
//! - **decision**: what an operator says of one replica (drained, a weight), until they say otherwise:
//!   `registry/operator`.
//! - **effect**: what the registry asks for; **action**: an effect or a log line that the control core asks its driver for.
//! - **slot**: a replica's name in the registry and the instance that fills it: `control::registry::slot`.
//! - **runtime**: what starts and stops instances (process, docker), or lists them (fixed, a source): [`control::runtime`].
//! - **fixed**: the runtime of servers given by address or name (`--replica`); it starts nothing: `runtime/fixed`.
//! - **spec**, **started**: what the registry asks a runtime to start, and what came of it: [`control::runtime`].
//! - **cluster**: the name that the containers of one Ringway are labelled with, locked for one process:
//!   `docker/cluster_lock`.
//! - **claim**: a container by which a second Ringway asks whether the holder of that lock lives: `docker/cluster_lock`.
//! - **plan**: the definition of a replica's container. Its checksum tells whether one is **outdated**: `docker/plan`.
//! - **outdated**: an instance that runs with other settings than now; a **successor** replaces it: `registry/succession`.
//! - **revision**: the settings that an instance is started with, numbered: `control::runtime::revisions`. **rollout**: the rolling
//!   replacement of a service: `registry/rollout`.
//! - **ticket**: the number by which the answer to an admin call finds its caller: `control_core`, `registry/calls`.
//! - **rejection**: the error that answers an admin call: `registry/answer`. **denial**: one that may not call:
//!   `admin_access`.
//! - **failure**: a start or stop that a runtime could not do: [`control::runtime`].
//! - **command**: what the registry takes in: an admin call, a runtime event, a probe's result, an ack: `registry/command`.
//! - **verdict**: what a failed probe means for its instance: `registry/health`. What follows: `registry/verdicts`.
//! - **exclusion**: why an instance that is up gets no new requests (unreachable, slow, unhealthy): `registry/health`.
//! - **suspect**: a replica that a worker's fault points at; its next probe comes at once: `registry/health`.
//! - **silent**: nothing came from an instance for so long that it is replaced: `registry/verdicts`.
//! - **leaving**: an instance without a slot that drains or stops: `registry/leaving`.
//! - **heartbeat**, **probe**: the periodic health request to a replica: [`control::probe`].
//! - **ejection**: a slow replica gets new requests only where no other can take them, until it answers a heartbeat:
//!   `control::registry::health`.
//! - **drain**: a replica or the balancer finishes what is under way and takes nothing new:
//!   [`State::Draining`](core::snapshot::State), `Session::on_drain`.
//! - **lifecycle**: what the balancer as a whole does with its clients, from start to stop:
//!   [`Lifecycle`](core::snapshot::Lifecycle).
//! - **predecessor**, **successor**: the process that an upgrade in place (SIGUSR2) replaces, and the one that replaces it:
//!   `control::successor`.
//! - **heal**: the replacement of a dead instance by a new one that answers: `control::registry`.
#![forbid(unsafe_code)]

pub mod balancer;
pub mod config;
pub mod control;
pub mod core;
pub mod experiment;
pub mod kernel;
pub mod replica;
pub mod settings;
pub mod shared;
pub mod worker;
