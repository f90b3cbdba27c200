//! Layer 0: protocols, ring and snapshot as pure values. No socket, clock, thread or randomness enters.
//!
//! | file | what it is |
//! |---|---|
//! | [`body`] | message framing: bytes that may pass unexamined, and the chunked coding |
//! | [`buffer`] | buffers that lanes borrow, and their pool |
//! | [`context`] | what a session borrows for one call: time, snapshot, buffers, random numbers |
//! | [`exchange`] | one request and its response, and the rule of when a request may be sent again |
//! | [`fuzz`] | bodies of the fuzz targets |
//! | [`head`] | heads: finding their end (`scan`), parsing (`parse`), and the grammar of their parts (`grammar`) |
//! | [`ip`] | an IP address as text |
//! | [`key`] | the routing key of a request: its path, query parameter, cookie, field or address, hashed |
//! | [`lane`] | one direction of traffic between two legs |
//! | [`limits`] | timeouts and sizes of a service |
//! | [`net`] | address ranges |
//! | [`proxy`] | the PROXY protocol |
//! | [`reply`] | responses that the balancer makes itself |
//! | [`request`] | what a request head means to an intermediary |
//! | [`response`] | what a response head means to an intermediary |
//! | [`rewrite`] | what both heads have in common: framing fields, hop-by-hop fields, edits in place, repairs of responses |
//! | [`ring`] | consistent hashing |
//! | [`routes`] | which service a request goes to: hosts, path prefixes, methods, splits, redirects |
//! | [`session`] | one client connection: the protocol engine over two lanes |
//! | [`snapshot`] | the immutable state that a worker routes by |
//! | [`step`] | the steps a session asks for, and their outcomes |
//! | [`tick`] | a point in time |

pub mod body;
pub mod buffer;
pub mod context;
pub mod exchange;
pub mod fuzz;
pub mod head;
pub mod ip;
pub mod key;
pub mod lane;
pub mod limits;
pub mod net;
pub mod proxy;
pub mod reply;
pub mod request;
pub mod response;
pub mod rewrite;
pub mod ring;
pub mod routes;
pub mod session;
pub mod snapshot;
pub mod step;
pub mod tick;
