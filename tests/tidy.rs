//! The crate held to its own rules: which module imports which, which crate is used where, the words it uses, and how
//! files open. It reads sources as text and runs nothing of them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The layer table of src/lib.rs, with the order inside layer 4. A module may import itself and lower layers; modules
/// of one layer do not import each other.
const LAYERS: [(&str, u8); 11] = [
    ("core", 0),
    ("kernel", 1),
    ("settings", 1),
    ("shared", 2),
    ("worker", 3),
    ("control", 3),
    ("replica", 3),
    ("experiment", 3),
    ("config", 4),
    ("balancer", 5),
    ("main", 6),
];

/// External crates that only some modules may use.
const CRATES: [(&str, &[&str]); 23] = [
    ("mio", &["kernel", "replica"]),
    ("listenfd", &["kernel"]),
    ("command_fds", &["control"]),
    ("libc", &["kernel"]),
    ("memmap2", &["core"]),
    ("nix", &["kernel"]),
    ("rustls", &["core"]),
    ("rustls_native_certs", &["config"]),
    ("tokio_rustls", &["control"]),
    ("x509_cert", &["core"]),
    ("rustix", &["kernel", "replica", "control", "experiment"]),
    ("socket2", &["kernel", "replica"]),
    ("signal_hook", &["replica", "balancer", "experiment"]),
    ("tokio", &["control"]),
    ("bollard", &["control"]),
    ("hickory_resolver", &["control"]),
    ("axum", &["control"]),
    // In settings for the types of methods and headers.
    ("hyper", &["control", "settings"]),
    ("hyper_rustls", &["control"]),
    ("hyper_util", &["control"]),
    ("instant_acme", &["control"]),
    ("clap", &["config", "settings", "experiment"]),
    ("clap_mangen", &["config"]),
];

/// Modules that handle network input: no code in them panics on purpose.
const NEVER_PANIC: [&str; 3] = ["core", "kernel", "worker"];
const PANICS: [&str; 6] = [".unwrap()", ".expect(\"", "panic!(", "todo!(", "unimplemented!(", "unreachable!("];

/// Lines that a file may have outside its tests.
const LINES_MAX: usize = 500;

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

/// Words that have a standard term instead, in small letters. `_` separates words too.
const WORDS: [(&str, &str); 27] = [
    ("heir", "replacement"),
    ("heirs", "resumed, the next in the queue"),
    ("crowd", "connection limiter"),
    ("whoever", "the client, the replica: name it"),
    ("nobody", "no client, no worker: name it"),
    ("somebody", "another client, another session: name it"),
    ("everybody", "every client, every session: name it"),
    ("takes leave", "begins to drain"),
    ("take leave", "begin to drain"),
    ("is owed", "is pending"),
    ("are owed", "are pending"),
    ("hears", "receives, is notified"),
    ("bury", "remove later"),
    ("buried", "removed later"),
    ("shun", "eject"),
    ("shunned", "ejected"),
    ("guest", "foreign replica"),
    ("guests", "foreign replicas"),
    ("stand in line", "queue"),
    ("stands in line", "queues"),
    ("standing in line", "queueing"),
    ("coalesce", "pipelining"),
    ("goodbye", "final write"),
    ("knock", "set readable"),
    ("law", "invariant, rule, RFC"),
    ("laws", "invariants, rules"),
    ("lawless", "without a rule"),
];

#[test]
fn imports_go_to_lower_layers_only() {
    let mut wrong = Vec::new();
    for file in sources() {
        let module = file.module();
        for (line, other) in imports(&file.code()) {
            if other == "*" {
                wrong.push(format!("{}:{line}: a glob import of the whole crate", file.name));
            } else if other != module && layer(&other).is_some() && layer(&other) >= layer(&module) {
                wrong.push(format!("{}:{line}: {module} may not import {other}", file.name));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn no_super_path_leaves_its_top_module() {
    let mut wrong = Vec::new();
    for file in sources().into_iter().filter(|file| file.module() != "lib") {
        for (number, line) in file.code_lines() {
            let in_tests = usize::from(number > file.tests_at());
            let climbs = line.split("super::super::").count() - 1;
            if climbs > 0 && line.matches("super::").count() >= file.depth() + in_tests {
                wrong.push(format!("{}:{number}: `super::` leaves the module; write `crate::`", file.name));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_module_has_a_layer() {
    let modules: BTreeSet<String> = sources().iter().map(Source::module).collect();
    let unknown: Vec<_> = modules.iter().filter(|module| *module != "lib" && layer(module).is_none()).collect();
    assert!(unknown.is_empty(), "no layer for {unknown:?}: add them to LAYERS and to src/lib.rs");
}

#[test]
fn external_crates_are_used_only_where_allowed() {
    let mut wrong = Vec::new();
    for file in sources() {
        for (number, line) in file.code_lines() {
            for (name, modules) in CRATES {
                let used = line.match_indices(&format!("{name}::")).any(|(at, _)| begins_word(&line, at))
                    || line.trim() == format!("use {name};");
                if used && !modules.contains(&file.module().as_str()) {
                    wrong.push(format!("{}:{number}: {name} is for {modules:?} only", file.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn code_that_handles_network_input_has_no_panic() {
    let mut wrong = Vec::new();
    // The bodies of fuzz targets are tests: they assert.
    let is_test = |file: &Source| file.name.contains("/tests/") || file.name.starts_with("src/core/fuzz/");
    let judged = |file: &Source| NEVER_PANIC.contains(&file.module().as_str()) && !is_test(file);
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
fn every_file_opens_with_a_description() {
    let files = ["src", "tests", "benches"].into_iter().flat_map(|folder| rust_files(&root().join(folder)));
    let without: Vec<String> =
        files.filter(|path| !read(path).starts_with("//! ")).map(|path| path.display().to_string()).collect();
    assert!(without.is_empty(), "no `//!` at the top of {without:#?}");
}

#[test]
fn no_file_is_too_long() {
    let long: Vec<String> = sources()
        .iter()
        .filter(|file| file.tests_at().min(file.text.lines().count()) > LINES_MAX)
        .map(|file| format!("{}: over {LINES_MAX} lines", file.name))
        .collect();
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn the_top_folder_holds_only_what_is_listed() {
    let Some(tracked) = tracked() else { return };
    let unknown: BTreeSet<&str> = tracked
        .iter()
        .filter_map(|path| path.split('/').next())
        .filter(|name| !name.starts_with('.') && !TOP.contains(name))
        .collect();
    assert!(unknown.is_empty(), "{unknown:?} may not lie at the top");
}

#[test]
fn words_are_the_standard_terms() {
    let Some(tracked) = tracked() else { return };
    let read_by_people = |path: &&String| {
        let named = ["src/", "tests/", "scripts/", "benches/"].iter().any(|folder| path.starts_with(folder))
            || ["README.md", "CHANGELOG.md"].contains(&path.as_str());
        let exempt = ["tests/tidy.rs", "src/experiment/font/", "tests/fuzz/corpus/", "tests/golden/"];
        named && !exempt.iter().any(|prefix| path.starts_with(prefix))
    };
    let mut wrong = Vec::new();
    for path in tracked.iter().filter(read_by_people) {
        let Ok(text) = std::fs::read_to_string(root().join(path)) else { continue };
        for (line, word, instead) in old_words(&text) {
            let found = format!("{path}:{line}: `{word}`; better: {instead}");
            wrong.push(found);
        }
    }
    assert!(wrong.is_empty(), "{} old words\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn no_type_name_has_two_meanings() {
    let mut declared: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in sources().into_iter().filter(|file| !file.name.contains("/tests/") && !file.name.contains("/fuzz/")) {
        for (number, line) in file.code_lines().into_iter().filter(|(number, _)| *number < file.tests_at()) {
            if let Some(name) = type_declared(&line) {
                declared.entry(name.into()).or_default().push(format!("{}:{number}", file.name));
            }
        }
    }
    declared.retain(|_, places| places.len() > 1);
    let wrong: Vec<String> = declared.iter().map(|(name, places)| format!("{name}: {}", places.join(", "))).collect();
    assert!(wrong.is_empty(), "type names declared more than once\n{}", wrong.join("\n"));
}

/// The checks above would pass over an empty tree: this one shows that they find what they look for.
#[test]
fn the_checks_find_what_they_look_for() {
    let sample = Source { name: "src/core/a/b.rs".into(), text: "// crate::x\nuse crate::control::y; // z\n".into() };
    assert_eq!((sample.module().as_str(), sample.depth()), ("core", 3));
    assert_eq!(sample.code_lines(), [(2, "use crate::control::y; ".into())]);
    let code = "use crate::{\n    core::{a, b},\n    control as c,\n};\nfn f(x: ringway::worker::W) { crate::shared::g() }\n\
                use crate::*;\nuse supercrate::no;\npub(crate) mod m;\n";
    let found = imports(code);
    let found: Vec<(usize, &str)> = found.iter().map(|(line, name)| (*line, name.as_str())).collect();
    assert_eq!(found, [(1, "core"), (1, "control"), (5, "shared"), (5, "worker"), (6, "*")]);
    let words: Vec<_> = old_words("a Crowd\nnot crowded\nhas_heir().is_shunned, it TAKES leave\n").collect();
    let words: Vec<(usize, &str)> = words.iter().map(|(line, word, _)| (*line, *word)).collect();
    assert_eq!(words, [(1, "crowd"), (3, "heir"), (3, "takes leave"), (3, "shunned")]);
    let declared =
        ["pub(super) enum Kind<K> {", "struct Pair(u8);", "type Id = u64;", "    type Socket;", "let x = Kind;"];
    assert_eq!(declared.map(type_declared), [Some("Kind"), Some("Pair"), Some("Id"), None, None]);
    assert!(layer("control") > layer("core"));
    assert!(sources().len() > 40 && sources().iter().any(|file| file.module() == "main"));
}

struct Source {
    /// From the repository's top, as `src/core/ring/mod.rs`.
    name: String,
    text: String,
}

impl Source {
    /// The top-level module that the file belongs to.
    fn module(&self) -> String {
        let part = self.name.split('/').nth(1).unwrap_or_default();
        part.strip_suffix(".rs").unwrap_or(part).into()
    }

    /// How many `super::` lead from the file's module to the crate's root.
    fn depth(&self) -> usize {
        let parts = self.name.split('/').count() - 1;
        if self.name.ends_with("/mod.rs") { parts - 1 } else { parts }
    }

    /// The line on which the tests of this file begin, or a number above every line.
    fn tests_at(&self) -> usize {
        self.text.lines().position(|line| line.trim() == "#[cfg(test)]").map_or(usize::MAX, |at| at + 1)
    }

    /// The text without line comments, line by line.
    fn code(&self) -> String {
        self.text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
    }

    /// Lines that hold code, with their numbers.
    fn code_lines(&self) -> Vec<(usize, String)> {
        let code = self.code();
        let numbered = code.split('\n').enumerate().map(|(at, line)| (at + 1, line.to_string()));
        numbered.filter(|(_, line)| !line.trim().is_empty()).collect()
    }
}

fn layer(module: &str) -> Option<u8> {
    LAYERS.iter().find(|(name, _)| *name == module).map(|(_, layer)| *layer)
}

/// The top-level modules that `code` names by `crate::` or `ringway::`, alone or in a group, with their lines.
fn imports(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for prefix in ["crate::", "ringway::"] {
        for (at, _) in code.match_indices(prefix).filter(|(at, _)| begins_word(code, *at)) {
            let line = code[..at].matches('\n').count() + 1;
            let rest = &code[at + prefix.len()..];
            let names = rest.strip_prefix('{').map_or_else(|| vec![first_name(rest)], group);
            found.extend(names.into_iter().map(|name| (line, name)));
        }
    }
    found.sort_by_key(|(line, _)| *line);
    found
}

/// The first name of each path in a group, up to its closing brace: `core::{a, b}, control}` has `core` and `control`.
fn group(text: &str) -> Vec<String> {
    let (mut depth, mut names, mut from) = (0, Vec::new(), 0);
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(first_name(&text[from..at]));
                from = at + 1;
            }
            _ => {}
        }
        if c == '}' && from == at + 1 {
            break;
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn first_name(path: &str) -> String {
    let path = path.trim_start();
    if path.starts_with('*') {
        return "*".into();
    }
    path.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// Where `text` uses a word of WORDS: line, word, and the better one.
fn old_words(text: &str) -> impl Iterator<Item = (usize, &'static str, &'static str)> {
    // The simulation's traces are hashed with their tags: those words stay.
    text.lines().enumerate().filter(|(_, line)| !line.contains(".note(\"")).flat_map(|(at, line)| {
        let line = line.to_lowercase().replace('_', " ");
        let is_whole = move |line: &str, at: usize, len: usize| {
            let inside = |c: char| c.is_alphanumeric();
            !line[..at].ends_with(inside) && !line[at + len..].starts_with(inside)
        };
        let found: Vec<_> = WORDS
            .iter()
            .filter(|(word, _)| line.match_indices(word).any(|(at, _)| is_whole(&line, at, word.len())))
            .map(|(word, instead)| (at + 1, *word, *instead))
            .collect();
        found
    })
}

/// The name of the type that a line declares. Associated types are not types of their own.
fn type_declared(line: &str) -> Option<&str> {
    let code = line.trim_start();
    let code = code.strip_prefix("pub").map_or(code, |rest| rest.strip_prefix("(super)").unwrap_or(rest));
    let mut words = code.split_whitespace();
    let kind = words.next()?;
    let is_type = ["struct", "enum", "trait", "union"].contains(&kind) || (kind == "type" && !line.starts_with(' '));
    let name = words.next().filter(|_| is_type)?;
    name.split(|c: char| !c.is_alphanumeric()).next()
}

fn begins_word(text: &str, at: usize) -> bool {
    !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
}

fn sources() -> Vec<Source> {
    let name = |path: &Path| path.strip_prefix(root()).expect("under the root").display().to_string();
    rust_files(&root().join("src")).iter().map(|path| Source { name: name(path), text: read(path) }).collect()
}

/// Every file under version control, or `None` where git does not know.
fn tracked() -> Option<Vec<String>> {
    let listed = Command::new("git").args(["ls-files"]).current_dir(root()).output().ok()?;
    Some(String::from_utf8_lossy(&listed.stdout).lines().map(String::from).collect())
}

/// Rust files below `folder`, without what a build wrote.
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
