//! HTTP/1.1 conformance of a session without sockets: tables of bytes in and bytes out, and the known attacks.

mod attacks;
mod corpus;
mod memory;
mod rig;
mod row;
mod shortage;
mod strict;
mod stuck;
mod table;
