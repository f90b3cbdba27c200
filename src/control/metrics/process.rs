//! What the operating system counts of this process, for the metrics that every exporter has (`process_*`).

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::exposition::{Exposition, MetricKind};

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessFacts {
    pub cpu_seconds: f64,
    pub resident_bytes: u64,
    pub virtual_bytes: u64,
    pub threads: u64,
    pub open_fds: usize,
    /// `None`: as many as it wants.
    pub max_fds: Option<u64>,
    /// Seconds since the Unix epoch.
    pub started_seconds: f64,
}

impl ProcessFacts {
    /// Lists the open descriptors: with thousands of them that takes milliseconds.
    pub fn read(started: SystemTime) -> ProcessFacts {
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        // Less the one that lists them.
        let open_fds = std::fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count().saturating_sub(1));
        ProcessFacts {
            cpu_seconds: cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9,
            resident_bytes: 1024 * figure(&status, "VmRSS:"),
            virtual_bytes: 1024 * figure(&status, "VmSize:"),
            threads: figure(&status, "Threads:"),
            open_fds,
            max_fds: getrlimit(Resource::Nofile).current,
            started_seconds: started.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64()),
        }
    }

    pub fn write(&self, page: &mut Exposition) {
        page.value(MetricKind::Counter, "process_cpu_seconds", "user and system time", self.cpu_seconds);
        page.value(MetricKind::Gauge, "process_resident_memory_bytes", "resident memory", self.resident_bytes);
        page.value(MetricKind::Gauge, "process_virtual_memory_bytes", "virtual memory", self.virtual_bytes);
        page.value(MetricKind::Gauge, "process_threads", "threads", self.threads);
        page.value(MetricKind::Gauge, "process_open_fds", "open descriptors", self.open_fds);
        let max_fds = self.max_fds.map_or_else(|| "+Inf".into(), |max| max.to_string());
        page.value(MetricKind::Gauge, "process_max_fds", "descriptors that may be open", max_fds);
        let help = "when the process started, since the Unix epoch";
        page.value(MetricKind::Gauge, "process_start_time_seconds", help, self.started_seconds);
    }
}

/// The number behind `name` in `/proc/PID/status`.
fn figure(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_what_every_process_has() {
        let facts = ProcessFacts::read(SystemTime::now());
        assert!(facts.cpu_seconds > 0.0 && facts.started_seconds > 1.7e9, "{facts:?}");
        assert!(facts.virtual_bytes >= facts.resident_bytes && facts.resident_bytes > 100_000, "{facts:?}");
        assert!(facts.threads >= 1 && facts.open_fds >= 3, "{facts:?}");
        assert!(facts.max_fds.is_none_or(|max| max >= facts.open_fds as u64), "{facts:?}");
    }
}
