//! Floor 0: protocols, ring and snapshot as pure values. No socket, clock, thread or randomness enters.

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
pub mod session;
pub mod snapshot;
pub mod step;
pub mod tick;
