//! What the kernel says about a process of this machine (`proc_pid_stat(5)`). Whose process it is is not known here.

use std::fs;

/// Why the process cannot run although it has not ended: it was stopped (SIGSTOP, SIGTSTP). A debugger stops it in another
/// way, which does not count.
pub fn suspension(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    (state(&stat)? == "T").then(|| format!("its process {pid} is stopped"))
}

/// Whether the process is one of this container: its control group is named after it (`cgroups(7)`).
pub fn runs_in_container(pid: i32, container: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|groups| groups.contains(container))
}

/// The state stands behind the name, which is in parentheses and may contain some.
fn state(stat: &str) -> Option<&str> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().next()
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};

    use super::*;

    #[test]
    fn a_stopped_process_is_told_from_one_that_runs() {
        let mut child: Child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let raw = pid.as_raw_nonzero().get();
        assert_eq!(suspension(raw), None);
        kill_process(pid, Signal::STOP).unwrap();
        waitpid(Some(pid), WaitOptions::UNTRACED).unwrap();
        assert_eq!(suspension(raw), Some(format!("its process {raw} is stopped")));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(suspension(raw), None, "it is gone");
    }

    #[test]
    fn a_name_with_parentheses_hides_no_state() {
        assert_eq!(state("7 (a) T (b) S 1 7"), Some("S"));
        assert_eq!(state("no such line"), None);
    }
}
