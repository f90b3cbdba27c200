//! The command line: help, and mistakes reported in one line with exit status 2.

mod support;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use support::{Process, RINGWAY, run};

#[test]
fn every_mistake_is_one_line_with_exit_status_2() {
    let mistakes: [(&[&str], &[&str]); 34] = [
        (&[], &["no command", "ringway run"]),
        (&["runn"], &["runn", "'run'"]),
        (&["run", "--listn", "x"], &["--listn", "'--listen'"]),
        (&["run", "extra"], &["extra"]),
        (&["run", "--listen", "80"], &["--listen", "80", "IP:PORT"]),
        (&["run", "--listen", "localhost:80"], &["--listen", "IP:PORT"]),
        (&["run", "--listen"], &["--listen", "value"]),
        (&["run", "--workers", "0"], &["--workers", "0", "1..="]),
        (&["run", "--workers", "two"], &["--workers", "two"]),
        (&["run", "--replicas", "65"], &["65", "--max-replicas 64"]),
        (&["run", "--replica", "nonsense"], &["--replica", "nonsense", "HOST:PORT"]),
        (&["run", "--replica", "127.0.0.1:1,127.0.0.1:1"], &["127.0.0.1:1", "twice"]),
        (&["run", "--replica", "127.0.0.1:1", "--runtime", "docker"], &["--replica", "fixed"]),
        (&["run", "--runtime", "fixed"], &["--replica"]),
        (&["run", "--runtime", "vm"], &["vm", "docker"]),
        (&["run", "--admin", "8001"], &["--admin", "unix:/PATH"]),
        (&["run", "--admin", "0.0.0.0:8001"], &["0.0.0.0:8001", "--admin-token"]),
        (&["run", "--listen", "127.0.0.1:8001"], &["127.0.0.1:8001", "--listen"]),
        (&["run", "--listen", "0.0.0.0:80", "--admin-on-data-port"], &["0.0.0.0:80", "--admin-token"]),
        (&["run", "--hash-key", "header:"], &["--hash-key", "header:NAME"]),
        (&["run", "--line-limit", "9000B", "--head-limit", "4KiB"], &["--line-limit 9000B", "--head-limit 4KiB"]),
        (&["run", "--head-timeout", "10"], &["--head-timeout", "'10'", "(ms, s, m, h)", "from 1ms to 168h"]),
        (&["run", "--head-timeout", "0"], &["--head-timeout", "from 1ms to 168h"]),
        (&["run", "--health-interval", "1.5s"], &["--health-interval", "from 10ms to 1h"]),
        (&["run", "--min-body-rate", "100B"], &["--min-body-rate", "B/s", "from 0 to 1GiB/s"]),
        (&["run", "--head-timeout-ms", "5"], &["--head-timeout-ms is --head-timeout now, with a unit: 500ms"]),
        (&["config", "--docker-memory-mib=5"], &["--docker-memory-mib is --docker-memory now, with a unit: 64MiB"]),
        (&["run", "--workers-ms", "5"], &["--workers-ms", "unexpected"]),
        (&["run", "--health-path", "heartbeat"], &["--health-path", "/heartbeat"]),
        (&["run", "--mode", "tcp", "--hash-key", "header:X"], &["--hash-key", "--mode http", "client-ip"]),
        (&["run", "--docker-env", "PORT=80"], &["--docker-env", "PORT", "--docker-port"]),
        (&["run", "--docker-env", "SERVER_ID=a"], &["--docker-env", "SERVER_ID"]),
        (&["check"], &["FILE"]),
        (&["check", "--config", "/nowhere/ringway.toml"], &["/nowhere/ringway.toml", "No such file"]),
    ];
    for (args, parts) in mistakes {
        assert_one_line(&run(args), parts, &args.join(" "));
    }
}

#[test]
fn a_port_in_use_is_reported_with_its_address() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let args = ["run", "--listen", &address, "--admin", "off"];
    assert_one_line(&run(&args), &[&address, "in use"], "a taken data port");
    let args = ["run", "--listen", "127.0.0.1:0", "--admin", &address];
    assert_one_line(&run(&args), &[&address, "in use"], "a taken admin port");
    let port = taken.local_addr().expect("bound").port().to_string();
    assert_one_line(&run(&["replica", "--port", &port]), &[&address, "in use", "PORT"], "a taken replica port");
}

#[test]
fn help_states_defaults_and_units() {
    let help = stdout(&run(&["run", "--help"]));
    let parts = [
        "127.0.0.1:8000",
        "127.0.0.1:8001",
        "[default: 3]",
        "one per core",
        "<DURATION> Time between two heartbeats [default: 500ms]",
        "[default: 16KiB]",
        "[default: 100B/s]",
        "RINGWAY_LISTEN",
        "SIGTERM",
    ];
    for part in parts {
        assert!(joined(&help).contains(part), "{part} is missing from:\n{help}");
    }
    let durations = help.lines().filter(|line| line.trim_start().starts_with("--") && line.contains("<DURATION>"));
    assert!(durations.count() >= 14, "{help}");
    for verb in ["run", "check", "replica", "ring", "experiment"] {
        let output = run(&[verb, "--help"]);
        assert_eq!(output.status.code(), Some(0), "{verb}");
        assert!(stdout(&output).contains("Usage: ringway"), "{verb}");
    }
    assert!(stdout(&run(&["--version"])).starts_with("ringway "));
}

#[test]
fn short_help_is_shorter_than_long_help() {
    let [short, long] = ["-h", "--help"].map(|flag| stdout(&run(&["run", flag])));
    assert!(short.lines().count() * 2 < long.lines().count(), "{short}");
    let listed = |help: &str| -> BTreeSet<String> {
        let flags = help.lines().filter_map(|line| line.trim_start().strip_prefix("--")?.split([' ', '[']).next());
        flags.map(str::to_owned).collect()
    };
    assert_eq!(listed(&short), listed(&long), "each flag is in both");
    assert!(joined(&long).contains("A host name is looked up again") && !joined(&short).contains("is looked up again"));
}

#[test]
fn each_shell_gets_a_script_that_knows_the_flags() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(stdout(&output).contains("hash-key"), "{shell}");
    }
    assert_one_line(&run(&["completions", "cmd"]), &["cmd", "bash", "zsh"], "no such shell");
}

#[test]
fn each_command_that_help_lists_has_a_manual_page() {
    let page = stdout(&run(&["man"]));
    assert!(page.contains(".TH ringway 1 ") && page.contains("ringway\\-run(1)"), "{page}");
    let folder = std::env::temp_dir().join(format!("ringway-man-{}", std::process::id()));
    let output = run(&["man", "--dir", folder.to_str().expect("a name in UTF-8")]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0), "{output:?}");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_else(|why| panic!("{name}: {why}"));
    assert_eq!(read("ringway.1").trim_end(), page.trim_end());
    let run_page = read("ringway-run.1");
    for part in [
        ".TH ringway-run 1 \"\" \"ringway 0.",
        "ringway run [OPTIONS] [\\-\\- <PROGRAM>...]",
        "\\-\\-hash\\-key",
        ".SH NOTES",
        "SIGTERM",
    ] {
        assert!(run_page.contains(part), "{part}: {run_page}");
    }
    assert!(read("ringway-ring-show.1").contains("ringway ring show"), "pages of nested commands");
    assert!(!folder.join("ringway-exec.1").exists(), "a hidden command has none");
    let taken = folder.join("ringway.1");
    assert_one_line(&run(&["man", "--dir", taken.to_str().unwrap()]), &["--dir", "ringway.1"], "a file in the way");
    std::fs::remove_dir_all(folder).expect("it is ours");
}

#[test]
fn the_effective_configuration_is_a_file_with_a_comment_for_every_key() {
    let flags = ["--replicas=5", "--hash-key=header:X", "--ejection-max-share=0.25", "--admin-token=s3cret"];
    let units = ["--head-timeout=90s", "--line-limit=1KiB", "--min-body-rate=0", "--docker-memory=1GiB"];
    let flags = [&flags[..], &units].concat();
    let printed = stdout(&run(&[["config"].as_slice(), &flags].concat()));
    for line in ["replicas = 5", "[hash]", "key = \"header:X\"", "max_share = 0.25", "# token is set, and not shown"]
        .into_iter()
        .chain(["head_timeout = \"90s\"", "line_limit = \"1KiB\"", "min_body_rate = 0", "memory = \"1GiB\""])
        .chain(["head_limit = \"16KiB\"", "interval = \"500ms\"", "tunnel_timeout = \"1h\""])
    {
        assert!(printed.lines().any(|printed| printed == line), "{line} is missing from:\n{printed}");
    }
    assert!(!printed.contains("s3cret"));
    let entries = printed.split("\n\n").filter(|entry| !entry.trim().is_empty() && !entry.starts_with('['));
    assert!(entries.clone().count() > 60 && entries.into_iter().all(|entry| entry.trim().lines().count() >= 2));
    let file = File::new("effective", &printed);
    let checked = run(&["check", file.path()]);
    assert!(checked.status.success(), "{checked:?}");
    let again = stdout(&run(&["config", "-c", file.path(), "--admin-token=s3cret"]));
    assert_eq!(again, printed, "it says what it was read from");
    let printed = stdout(&run(&["config", "--", "./app", "--port", "80"]));
    assert!(printed.contains("\nprogram = [\"./app\", \"--port\", 80]\n"), "{printed}");
    let file = File::new("effective-program", &printed);
    assert_eq!(stdout(&run(&["config", "-c", file.path()])), printed);
}

#[test]
fn a_valid_file_is_summarised() {
    let file = File::new(
        "valid",
        "listen = \"127.0.0.1:9999\"\nreplica = [\"127.0.0.1:1\", \"big=127.0.0.1:2@3\"]\n\
         [admin]\nlisten = \"off\"\n[hash]\nkey = \"uri\"\n[limits]\nhead_timeout = \"5s\"\nmin_body_rate = 0\nmax_connections = 7\n",
    );
    for args in [["check", "--config", file.path()].as_slice(), &["check", file.path()]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        assert!(stdout(&output).contains("http on 127.0.0.1:9999, 2 fixed replicas, no admin"), "{output:?}");
    }
}

#[test]
fn a_program_of_ones_own_can_be_set_in_a_file() {
    let file = File::new("program", "replicas = 2\nprogram = [\"./app\", \"--flag\"]\n");
    let output = run(&["check", "--config", file.path()]);
    assert!(stdout(&output).contains("http on 127.0.0.1:8000, 2 replicas of ./app, admin"), "{output:?}");
}

#[test]
fn a_mistake_in_a_file_is_reported_with_its_line() {
    let mistakes: [(&str, &[&str]); 19] = [
        ("foo = 1", &[":1:1: foo", "no such setting"]),
        ("\n\n[limits]\ntimeout = 5", &[":4:1: limits.timeout", "no such setting"]),
        ("[limits]\nhead_timeout = -5", &[":2:1: limits.head_timeout", "-5"]),
        ("[limits]\nhead_timeout = 5", &[":2:1: limits.head_timeout: `5`", "(ms, s, m, h)"]),
        ("[limits]\nhead_limit = 8192", &[":2:1: limits.head_limit", "(B, KiB, MiB, GiB), from 256B to 128KiB"]),
        ("[limits]\nhead-timeout = \"5s\"", &["head-timeout", "no such setting"]),
        ("[limits]\nhead_timeout_ms = 5", &[":2:1: limits.head_timeout_ms: it is head_timeout now, with a unit"]),
        ("[health]\ninterval_ms = 5", &[":2:1: health.interval_ms: it is interval now", "interval = \"500ms\""]),
        ("[docker]\nmemory_mib = 5", &[":2:1: docker.memory_mib: it is memory now", "memory = \"64MiB\""]),
        ("workers = \"many\"", &[":1:1: workers", "many"]),
        ("workers = 0", &[":1:1: workers", "1..="]),
        ("workers = 2\nworkers = 3", &[":2:", "duplicate"]),
        ("listen = [\"127.0.0.1:1\", \"127.0.0.1:2\"]", &[":1:1: listen", "want one"]),
        ("listen = 1.5", &[":1:1: listen", "IP:PORT"]),
        ("x = ", &[":1:"]),
        ("config = \"other.toml\"", &[":1:1: config", "no such setting"]),
        ("[forwarded]\ntrust = \"all\"", &[":2:1: forwarded.trust", "append, replace or keep"]),
        ("[forwarded]\nvia = \"no\"", &[":2:1: forwarded.via", "on or off"]),
        ("[hash.key]\nname = \"uri\"", &["hash.key"]),
    ];
    for (at, (text, parts)) in mistakes.into_iter().enumerate() {
        let file = File::new(&format!("wrong{at}"), text);
        assert_one_line(&run(&["check", "--config", file.path()]), parts, text);
        assert_one_line(&run(&["run", "--config", file.path()]), parts, text);
    }
}

#[test]
fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
    let file = File::new("layers", "replicas = 0");
    let error_of = |args: &[&str], env: &[(&str, &str)]| {
        let output = Command::new(RINGWAY).arg("run").args(args).env_clear().envs(env.iter().copied()).output();
        String::from_utf8(output.expect("our own binary starts").stderr).expect("text")
    };
    // Each source sets a value that a later check refuses by name, so that the message shows which source won.
    let in_file = File::new("layers2", "listen = \"127.0.0.1:3\"\n[admin]\nlisten = \"127.0.0.1:3\"");
    assert!(error_of(&["-c", file.path()], &[]).contains("replicas"), "the file's own value is read");
    assert!(error_of(&["-c", in_file.path()], &[]).contains("are both 127.0.0.1:3"), "file over default");
    let env = [("RINGWAY_LISTEN", "127.0.0.1:4"), ("RINGWAY_ADMIN", "127.0.0.1:4")];
    assert!(error_of(&["-c", in_file.path()], &env).contains("are both 127.0.0.1:4"), "environment over file");
    let args = ["-c", in_file.path(), "--listen", "127.0.0.1:5", "--admin", "127.0.0.1:5"];
    assert!(error_of(&args, &env).contains("are both 127.0.0.1:5"), "flag over environment");
    let env = [("RINGWAY_WORKERS", "zero")];
    assert!(error_of(&[], &env).contains("RINGWAY_WORKERS"), "an invalid value is reported with its source");
    let env = [("RINGWAY_HEALTH_INTERVAL_MS", "500")];
    assert!(error_of(&[], &env).contains("RINGWAY_HEALTH_INTERVAL_MS is RINGWAY_HEALTH_INTERVAL now, with a unit"));
    let env = [("RINGWAY_HEALTH_INTERVAL", "500")];
    assert!(error_of(&[], &env).contains("RINGWAY_HEALTH_INTERVAL)"), "a value without a unit, with its source");
    let env = [("RINGWAY_CONFIG", in_file.path())];
    assert!(error_of(&[], &env).contains("are both 127.0.0.1:3"), "the file can be named in the environment");
}

#[test]
fn an_error_cannot_control_the_terminal() {
    let host = "unix:///nowhere\u{1b}[2J";
    let output = run(&["run", "--listen=127.0.0.1:0", "--admin=off", "--runtime=docker", "--docker-host", host]);
    assert_one_line(&output, &["nowhere\\u{1b}[2J"], "an engine's address");
    assert!(!output.stderr.contains(&0x1b), "{output:?}");
}

/// What `run` says of them before a taken port ends it.
#[test]
fn a_setting_without_effect_is_named_in_a_warning() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    for (args, env, warning) in [
        ("--docker-image=x", "", "--docker-image has no effect without --runtime docker"),
        ("--replica=127.0.0.1:1 --replicas=5", "", "--replicas has no effect with --replica"),
        ("--mode=tcp --health-path=/a", "", "--health-path has no effect with --mode tcp"),
        ("--mode=tcp --head-limit=9KiB", "", "--head-limit has no effect with --mode tcp"),
        ("--mode=tcp --forwarded-via=off", "", "--forwarded-via has no effect with --mode tcp"),
        ("--replica=127.0.0.1:1 --health-status=200", "", "--health-status has no effect without --health-path"),
        ("--health-status=200 -- sh", "", "--health-status has no effect without --health-path"),
        ("--admin=off --admin-token=t", "", "--admin-token has no effect with --admin off"),
        ("", "RINGWAY_LISTN", "RINGWAY_LISTN in the environment is no setting"),
        ("", "RINGWAY_DOCKER_IMAGE", "RINGWAY_DOCKER_IMAGE: --docker-image has no effect without --runtime docker"),
        ("--workers=2 --pin", "", ""),
        ("", "RINGWAY_BIND", ""),
    ] {
        let env = Some((env, "127.0.0.1")).filter(|(name, _)| !name.is_empty());
        let args = ["run", "--listen", &address].into_iter().chain(args.split_whitespace());
        let output = Command::new(RINGWAY).args(args).env_clear().envs(env).output().expect("our own binary starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        let warnings: Vec<&str> = stderr.lines().filter(|line| line.contains(" WARN ")).collect();
        assert_eq!(warnings.len(), usize::from(!warning.is_empty()), "{stderr}");
        assert!(warnings.iter().all(|line| line.contains(warning)), "{warning}: {stderr}");
    }
}

#[test]
fn settings_of_a_file_that_contradict_or_have_no_effect_are_named_with_their_line() {
    let contradiction = File::new("contradiction", "mode = \"tcp\"\n[hash]\nkey = \"uri\"\n");
    let place = format!("{}:3:1: --hash-key", contradiction.path());
    assert_one_line(&run(&["check", "--config", contradiction.path()]), &[&place], "a contradiction");
    let idle = File::new("idle", "replicas = 4\n\n[docker]\nimage = \"x\"\n");
    let output = run(&["check", "--config", idle.path()]);
    let warning = format!("{}:4:1: --docker-image has no effect", idle.path());
    assert!(output.status.success() && stdout(&output).contains(&warning), "{output:?}");
}

#[test]
fn a_balancer_drains_on_sigterm_and_exits_with_0() {
    let mut balancer = Process::start(&["run", "--listen", "127.0.0.1:0", "--admin", "off", "--replicas", "1"], &[]);
    assert!(balancer.banner.contains(&format!("http://{}", balancer.address)), "{}", balancer.banner);
    balancer.signal("TERM");
    assert_eq!(balancer.wait().code(), Some(0));
}

/// Subcommands that print and end.
const PRINTING: [&[&str]; 5] = [
    &["--help"],
    &["--version"],
    &["run", "--help"],
    &["ring", "show", "--replicas", "2000"],
    &["ring", "lint", "--ring", "exercise"],
];

#[test]
fn a_reader_of_stdout_that_goes_away_ends_the_command_quietly() {
    for args in PRINTING {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output =
            Command::new(RINGWAY).args(args).stdout(writer).stderr(Stdio::piped()).output().expect("it starts");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
        assert_eq!(output.status.code(), Some(128 + 13), "{args:?}: as if SIGPIPE had ended it");
    }
}

#[test]
fn a_full_disk_behind_stdout_is_one_line() {
    let file = File::new("full", "workers = 1");
    for args in PRINTING.into_iter().chain([&["check", "--config", file.path()][..]]) {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let output = Command::new(RINGWAY).args(args).stdout(full).stderr(Stdio::piped()).output().expect("it starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {stderr}");
        assert!(stderr.starts_with("ringway: cannot write to stdout: No space left"), "{args:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
    }
}

#[test]
fn mistakes_need_no_stderr() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let status = Command::new(RINGWAY).arg("runn").stderr(writer).status().expect("it starts");
    assert_eq!(status.code(), Some(2));
}

fn assert_one_line(output: &Output, parts: &[&str], what: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{what}: {output:?}");
    assert_eq!(stderr.trim_end().lines().count(), 1, "{what}: {stderr}");
    assert!(stderr.starts_with("ringway: "), "{what}: {stderr}");
    for part in parts {
        assert!(stderr.contains(part), "{what}: {part:?} is not in {stderr}");
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn joined(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A file of this test run, removed with it.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> File {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("cli-{}-{name}.toml", std::process::id()));
        std::fs::write(&path, text).expect("a writable target folder");
        File(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("UTF-8")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
