//! Layer 0: protocols, ring and snapshot as pure values. No socket, clock, thread or randomness enters.
//!
//! | file | what it is |
//! |---|---|
//! | `mod.rs` | nothing but this text |
//! | [`balance`] | the policies by which a replica of a service is picked: hash (with or without a bound of load), least requests, round-robin, random; candidates |
//! | [`body`] | message framing: [`Body`](body::Body) by length, chunked, until close or tunnel; `ChunkDecoder` byte by byte (size digits, extensions, trailers), dechunked or forwarded, credit remaining, `FramingError` |
//! | [`buffer`] | memory of the lanes: `Store` with headroom in front (heap, or mapped by memmap2 when large), [`BufferPool`](buffer::BufferPool) of one worker, stores lent, copies kept; no meaning of bytes |
//! | [`challenges`] | [`Challenges`](challenges::Challenges): what an ACME server gets that checks our names: contents by token (http-01), certificates by name (tls-alpn-01) |
//! | [`client_cert`] | `Client-Cert` of RFC 9440: the line that replicas get, the names that are cut from what clients send |
//! | [`context`] | [`Context`](context::Context), what a session borrows for one call: time, snapshot, buffer pool, records, `Prng` (xorshift64*), `Date` line, and its `Tally` (requests and responses by class, for the counters) |
//! | [`exchange`] | one request and its response, or one tunnel: the facts kept of its head (`RequestFacts`: service, key, idempotent, pipelinable, upgrade, 100-continue), states of request, response, client's end and upstream's end, event stream, timed out; replicas tried (`Attempts`), the request retained, the rule of when it may be sent again; `InterimBudget` |
//! | [`failure_run`] | requests that one replica failed in a row, over all workers |
//! | [`fuzz`] | bodies of the fuzz targets |
//! | [`head`] | HTTP heads: find their end, parse them, the grammar of their parts; a refusal is a status and a reason |
//! | [`ip`] | an IP address formatted once as text, without an allocation |
//! | [`key`] | the routing key: CRC-32 of a request's path, query parameter, cookie, field or client address, by the key policy |
//! | [`lane`] | one direction of traffic between two legs: prefix, buffer (start, released, scanned, filled), pipe; its phase; when to splice and when to copy (lulls), compaction, headroom for a rewritten head, resend from a mark, bytes held; the lane's invariants |
//! | [`limits`] | [`Limits`](limits::Limits) of a service: each timeout and size with meaning, default, unit and range; `Trust`, `Via`, `AbortOn`; enforced elsewhere |
//! | [`net`] | [`Net`](net::Net), an address range (CIDR), and the block that counts as one client (an IPv6 /64); IPv4-mapped addresses |
//! | [`proxy`] | the PROXY protocol, versions 1 (a line) and 2 (signature, address block), read and written: source and destination of a connection |
//! | [`queue_heads`] | since when the oldest request that waits for a replica of a service does, in each worker |
//! | [`reply`] | bytes of the responses that the balancer makes itself: errors with a JSON body, reason phrases, Retry-After, OPTIONS and TRACE, contents for ACME servers |
//! | [`request`] | one request head judged: target, Host, Expect, Max-Forwards, X-Forwarded-* and Via, Upgrade, look-alikes of framing fields; to `RequestAnalysis` (body, keep-alive, idempotent, safe, local reply) and edits, or a refusal |
//! | [`response`] | one response head judged: status, framing without a body (HEAD, 204, 304), interim (1xx), 101, event streams; to `ResponseAnalysis` and edits (status line, `Date`), or 502; `RequestSummary`, what was asked |
//! | [`rewrite`] | what both heads have in common: Content-Length, Transfer-Encoding, Connection, hop-by-hop fields; edits in place; repairs of responses |
//! | [`ring`] | consistent hashing: members with weights to points, key to members in order; reports on it |
//! | [`routes`] | which service a request goes to: hosts, wildcards, path prefixes by segments, methods, listeners, weighted splits, redirects and their `Location`; hash tables built once; paths of the admin API go direct |
//! | [`session`] | one client connection: the protocol engine over two lanes; steps out, outcomes in |
//! | [`snapshot`] | what workers route by: [`Snapshot`](snapshot::Snapshot) with its listeners, services (mode, key policy, limits, PROXY header to send), replicas with [`State`](snapshot::State), [`Endpoint`](snapshot::Endpoint), weight and load (in flight, received: atomic cells of each worker), [`Lifecycle`](snapshot::Lifecycle) |
//! | [`step`] | the vocabulary between session and worker: legs, readiness, steps, their outcomes, `Pick`, `Notice` and the kinds of fault of a replica; a connection dialled or reused; how a session ends (`Ending`) |
//! | [`sticky`] | sticky sessions: the cookie that names a replica by a MAC, read and set; the key of the MAC |
//! | [`tick`] | a point in time, in milliseconds |
//! | [`tls`] | one TLS connection over bytes: records opened and sealed, certificates, tickets, bounds; rustls inside |
//! | [`exchange_record`] | [`ExchangeRecord`](exchange_record::ExchangeRecord): who asked, which replica, time stamps of the phases and durations from them, status, retries and why, how it ended (`ExchangeEnd`, the first fault); `Recording` (off, numbers, all); `Records`: begins a record for a request, a tunnel or a refused head; those of one worker are used again |
//! | [`request_text`] | copies of parts of a request's head for the access log (method, target, host, user agent, referer, id), each cut at its limit with a mark; kept before the head is rewritten |

pub mod balance;
pub mod body;
pub mod buffer;
pub mod challenges;
pub mod client_cert;
pub mod context;
pub mod exchange;
pub mod exchange_record;
pub mod failure_run;
pub mod fuzz;
pub mod head;
pub mod ip;
pub mod key;
pub mod lane;
pub mod limits;
pub mod net;
pub mod proxy;
pub mod queue_heads;
pub mod reply;
pub mod request;
pub mod request_text;
pub mod response;
pub mod rewrite;
pub mod ring;
pub mod routes;
pub mod session;
pub mod snapshot;
pub mod step;
pub mod sticky;
pub mod tick;
pub mod tls;
