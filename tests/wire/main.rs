//! HTTP/1.1 held to its RFCs, without sockets: tables of bytes in and bytes out, known attacks, and rare states.

mod abandoned;
mod attacks;
mod boundaries;
mod corpus;
mod deadlines;
mod memory;
mod rig;
mod row;
mod shortage;
mod strict;
mod stuck;
mod table;
