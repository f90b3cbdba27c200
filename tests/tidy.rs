//! The rooms of the house: what may import what, which crates may stand where, and how a file opens.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A room may import itself, and rooms on floors below its own. Those of one floor do not know each other.
const FLOORS: [(&str, u8); 10] = [
    ("core", 0),
    ("kernel", 1),
    ("shared", 2),
    ("worker", 3),
    ("control", 3),
    ("replica", 3),
    ("experiment", 3),
    ("config", 4),
    ("balancer", 5),
    ("main", 6),
];

/// Where a crate may be named: sockets and loops are not everybody's business.
const CRATES: [(&str, &[&str]); 13] = [
    ("mio", &["kernel", "replica"]),
    ("libc", &["kernel"]),
    ("memmap2", &["core"]),
    ("nix", &["kernel"]),
    ("rustix", &["kernel", "replica", "control", "experiment"]),
    ("socket2", &["kernel", "replica"]),
    ("signal_hook", &["replica", "balancer", "experiment"]),
    ("tokio", &["control"]),
    ("bollard", &["control"]),
    ("axum", &["control"]),
    ("hyper", &["control"]),
    ("hyper_util", &["control"]),
    ("clap", &["config", "experiment"]),
];

/// Network input never panics, and neither does what handles it.
const NEVER_PANIC: [&str; 3] = ["core", "kernel", "worker"];
const PANICS: [&str; 6] = [".unwrap()", ".expect(\"", "panic!(", "todo!(", "unimplemented!(", "unreachable!("];

/// A file with more lines than this outside its tests holds more than one idea.
const LINES: usize = 500;

/// What may lie at the top of the repository, beside files that begin with a dot.
const TOP: [&str; 10] = [
    "Cargo.toml",
    "Cargo.lock",
    "LICENSE",
    "CHANGELOG.md",
    "README.md",
    "Dockerfile",
    "src",
    "benches",
    "tests",
    "scripts",
];

#[test]
fn imports_go_down_only() {
    let mut wrong = Vec::new();
    for file in sources() {
        let room = file.room();
        for (number, line) in file.code_lines() {
            let found = paths(&line, "crate::").chain(paths(&line, "ringway::"));
            for other in found.filter(|other| *other != room && floor(other).is_some()) {
                if floor(other) >= floor(&room) {
                    wrong.push(format!("{}:{number}: {room} may not import {other}", file.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn nobody_leaves_a_room_by_the_back_door() {
    let mut wrong = Vec::new();
    for file in sources().into_iter().filter(|file| file.room() != "lib") {
        for (number, line) in file.code_lines() {
            let in_tests = usize::from(number > file.tests_at());
            let climbs = line.split("super::super::").count() - 1;
            if climbs > 0 && line.matches("super::").count() >= file.depth() + in_tests {
                wrong.push(format!("{}:{number}: `super::` out of the room; write `crate::`", file.name));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_room_has_a_floor() {
    let rooms: std::collections::BTreeSet<String> = sources().iter().map(Source::room).collect();
    let strangers: Vec<_> = rooms.iter().filter(|room| *room != "lib" && floor(room).is_none()).collect();
    assert!(strangers.is_empty(), "no floor for {strangers:?}: add them to FLOORS and to src/lib.rs");
}

#[test]
fn crates_stand_where_they_may() {
    let mut wrong = Vec::new();
    for file in sources() {
        for (number, line) in file.code_lines() {
            for (name, rooms) in CRATES {
                let named = line.match_indices(&format!("{name}::")).any(|(at, _)| begins_word(&line, at))
                    || line.trim() == format!("use {name};");
                if named && !rooms.contains(&file.room().as_str()) {
                    wrong.push(format!("{}:{number}: {name} may stand in {rooms:?} only", file.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn what_handles_network_input_does_not_panic() {
    let mut wrong = Vec::new();
    // The bodies of fuzz targets handle nothing: they judge what does.
    let judged =
        |file: &Source| NEVER_PANIC.contains(&file.room().as_str()) && !file.name.starts_with("src/core/fuzz/");
    for file in sources().into_iter().filter(judged) {
        for (number, line) in file.code_lines().into_iter().filter(|(number, _)| *number < file.tests_at()) {
            for panic in PANICS.iter().filter(|panic| line.contains(**panic)) {
                wrong.push(format!("{}:{number}: {panic}", file.name));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_file_opens_with_its_law() {
    let files = ["src", "tests", "benches"].into_iter().flat_map(|folder| rust_files(&root().join(folder)));
    let lawless: Vec<String> =
        files.filter(|path| !read(path).starts_with("//! ")).map(|path| path.display().to_string()).collect();
    assert!(lawless.is_empty(), "no `//!` at the top of {lawless:#?}");
}

#[test]
fn no_file_holds_two_ideas() {
    let long: Vec<String> = sources()
        .iter()
        .filter(|file| file.tests_at().min(file.text.lines().count()) > LINES)
        .map(|file| format!("{}: over {LINES} lines", file.name))
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn the_top_of_the_repository_is_what_a_visitor_expects() {
    let listed = Command::new("git").args(["ls-files"]).current_dir(root()).output();
    let Ok(listed) = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()) else { return };
    let strangers: std::collections::BTreeSet<&str> = listed
        .lines()
        .filter_map(|path| path.split('/').next())
        .filter(|name| !name.starts_with('.') && !TOP.contains(name))
        .collect();
    assert!(strangers.is_empty(), "{strangers:?} may not lie at the top");
}

/// The checks above would pass over an empty tree; this one says that they looked at ours.
#[test]
fn the_checks_see_what_they_check() {
    let sample = Source { name: "src/core/a/b.rs".into(), text: "// crate::x\nuse crate::control::y; // z\n".into() };
    assert_eq!((sample.room().as_str(), sample.depth()), ("core", 3));
    assert_eq!(sample.code_lines(), [(2, "use crate::control::y; ".into())]);
    assert_eq!(paths("use crate::control::y;", "crate::").collect::<Vec<_>>(), ["control"]);
    assert!(floor("control") > floor("core"));
    assert!(sources().len() > 40 && sources().iter().any(|file| file.room() == "main"));
}

struct Source {
    /// From the repository's top, as `src/core/ring/mod.rs`.
    name: String,
    text: String,
}

impl Source {
    fn room(&self) -> String {
        let part = self.name.split('/').nth(1).unwrap_or_default();
        part.strip_suffix(".rs").unwrap_or(part).into()
    }

    /// How many `super::` lead out of the file's module to the crate's root.
    fn depth(&self) -> usize {
        let parts = self.name.split('/').count() - 1;
        if self.name.ends_with("/mod.rs") { parts - 1 } else { parts }
    }

    /// The line on which the tests of this file begin, or one that there is not.
    fn tests_at(&self) -> usize {
        self.text.lines().position(|line| line.trim() == "#[cfg(test)]").map_or(usize::MAX, |at| at + 1)
    }

    /// Lines with their numbers, comments left out.
    fn code_lines(&self) -> Vec<(usize, String)> {
        let code = |line: &str| line.split("//").next().unwrap_or_default().to_string();
        let numbered = self.text.lines().enumerate().map(|(at, line)| (at + 1, code(line)));
        numbered.filter(|(_, line)| !line.trim().is_empty()).collect()
    }
}

fn floor(room: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == room).map(|(_, floor)| *floor)
}

/// The first names after each `prefix` in a line.
fn paths<'l>(line: &'l str, prefix: &'l str) -> impl Iterator<Item = &'l str> {
    line.match_indices(prefix).filter(|(at, _)| begins_word(line, *at)).map(move |(at, _)| {
        let rest = &line[at + prefix.len()..];
        &rest[..rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())]
    })
}

fn begins_word(line: &str, at: usize) -> bool {
    !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
}

fn sources() -> Vec<Source> {
    let name = |path: &Path| path.strip_prefix(root()).expect("under the root").display().to_string();
    rust_files(&root().join("src")).iter().map(|path| Source { name: name(path), text: read(path) }).collect()
}

/// What is ours: a build writes files of others below `target`.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for path in entries.map(|entry| entry.expect("a readable folder").path()) {
        if path.is_dir() && !path.ends_with("target") {
            found.extend(rust_files(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
