//! Layer 2: what both planes may touch. Snapshots go to the workers, events and counters come from them.
//!
//! | file | holds |
//! |---|---|
//! | `publish` | snapshots, and the acknowledgements of workers |
//! | `events` | what workers report |
//! | `counters` | what workers count |
//! | `text` | text of others, made safe for a terminal |
//! | `connection_limiter` | connections of each client address, over all workers |
//! | `log_writer` | the log's queue and thread |

pub mod connection_limiter;
pub mod counters;
pub mod events;
pub mod log_writer;
pub mod publish;
pub mod text;
