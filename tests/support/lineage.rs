//! A balancer that is replaced by SIGUSR2, again and again: the process that serves now, and what all of them logged.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use super::balancer::Balancer;
use super::{Log, RINGWAY, TIMEOUT, until};

pub struct Lineage {
    /// The first of them.
    pub first: Balancer,
    pub log: Log,
    /// The process that serves.
    pub current: u32,
    replaced: usize,
}

impl Lineage {
    /// `program` is our binary, or a link to it that a test replaces.
    pub fn start(name: &str, program: &Path, flags: &[&str]) -> Lineage {
        let log = Log::new(name);
        let mut command = Command::new(program);
        command.stderr(log.file());
        Lineage::of(Balancer::start_as(command, flags), log)
    }

    /// Of a balancer that logs there.
    pub fn of(first: Balancer, log: Log) -> Lineage {
        Lineage { current: first.process.id(), first, log, replaced: 0 }
    }

    /// Replaces the process that serves, and waits until the next one does.
    pub fn upgrade(&mut self) {
        self.signal("USR2");
        self.await_upgrade();
    }

    pub fn await_upgrade(&mut self) {
        self.replaced += 1;
        let successor = || {
            let log = self.log.read();
            let line = log.lines().filter(|line| line.contains("has taken over:")).nth(self.replaced - 1)?;
            line.split("process ").nth(1)?.split(' ').next()?.parse().ok()
        };
        self.current = until(Instant::now() + TIMEOUT, "the upgrade", successor);
    }

    pub fn signal(&self, name: &str) {
        signal(self.current, name);
    }

    /// Waits until the process that serves has ended.
    pub fn await_end(&self) {
        until(Instant::now() + TIMEOUT, "the end", || (!is_alive(self.current)).then_some(()));
    }

    /// Waits until all of `text` is in the log.
    pub fn await_line(&self, text: &str) {
        until(Instant::now() + TIMEOUT, text, || self.log.read().contains(text).then_some(()));
    }
}

impl Drop for Lineage {
    fn drop(&mut self) {
        if self.current != self.first.process.id() {
            let _ = Command::new("kill").args(["-KILL", &self.current.to_string()]).status();
        }
    }
}

pub fn signal(process: u32, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &process.to_string()]).status();
    assert!(status.expect("kill").success());
}

pub fn is_alive(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// A link to our binary that can be replaced while it runs, as a package manager does.
pub struct Program(pub PathBuf);

impl Program {
    pub fn new(name: &str) -> Program {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        std::fs::hard_link(RINGWAY, &path).expect("a link beside our binary");
        Program(path)
    }

    pub fn replace_by_script(&self, script: &str) {
        use std::os::unix::fs::PermissionsExt;
        let new = self.0.with_extension("new");
        std::fs::write(&new, format!("#!/bin/sh\n{script}\n")).expect("a writable folder");
        std::fs::set_permissions(&new, PermissionsExt::from_mode(0o755)).expect("our file");
        std::fs::rename(new, &self.0).expect("our file");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
