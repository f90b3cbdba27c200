//! Layer 2: what both planes may touch. Snapshots go to the workers, events and counters come from them.
//!
//! | file | holds |
//! |---|---|
//! | `mod.rs` | nothing but this text |
//! | `publish` | snapshots to the workers (`SnapshotPublisher`, `SnapshotReader`, `SnapshotView`: ArcSwap and its cache), and the epochs that they acknowledge back; a reader that ends is detached |
//! | `events` | `WorkerEvent` (fault, retry, refusal, cap, resource exhausted, accept paused) over a bounded channel: sender, receiver, drop count; which replica an event makes suspect; what resource lacks |
//! | `counters` | `Counters` of one worker: connections accepted, closed, capped; requests, responses by class, refused, dialled, reused, retried, bytes; names and help texts for `/metrics`; relaxed atomics on cache lines of their own |
//! | `text` | control characters of foreign text made visible, and the format of a log line (time, level, target, message) |
//! | `connection_limiter` | open connections of each client address over all workers, and their cap: enter at accept, leave at close |
//! | `log_writer` | the log's bounded queue and the thread that writes it; lines dropped and counted |
//! | `access_log` | the access log: from records in the workers to lines in a file |
//! | `histogram` | `Histogram`: durations in fixed log-linear buckets (10 us to 100 s), one writer; `Durations`, the sum of several for a reader: count, sum, cumulative bounds |
//! | `reasons` | `ReasonTable`: how often each status and reason of a refusal occurred, a bounded table without locks |
//! | `service_metrics` | `ServiceMetrics`, what a worker measured of each service: responses by class, retries by reason, histograms of phases; `ServiceTable`, which follows the snapshot's services |

pub mod access_log;
pub mod connection_limiter;
pub mod counters;
pub mod events;
pub mod histogram;
pub mod log_writer;
pub mod publish;
pub mod reasons;
pub mod service_metrics;
pub mod text;
