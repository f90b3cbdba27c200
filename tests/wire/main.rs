//! HTTP/1.1 held to its law, without sockets: tables of bytes in and bytes out, and the attacks that are known.

mod attacks;
mod corpus;
mod memory;
mod rig;
mod row;
mod shortage;
mod strict;
mod stuck;
mod table;
