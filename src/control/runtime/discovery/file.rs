//! A file that lists the servers of a service: JSON or lines, looked at again and again. What is wrong in it is named with
//! its line.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tokio::task::spawn_blocking;

use super::follow::{AnswerContent, Cursor, FoundServer, SourceAnswer};
use crate::core::ring::WEIGHT_MAX;
use crate::settings::{HostPort, values};

/// Between two looks at the file. A change is read when two looks saw it.
const LOOK_MS: u64 = 250;
/// A longer file is another one than was meant.
const SIZE_LIMIT_MIB: u64 = 8;

pub struct FileSource {
    path: PathBuf,
    /// What the last look saw.
    seen: Option<String>,
}

impl FileSource {
    pub fn new(path: PathBuf) -> FileSource {
        FileSource { path, seen: None }
    }

    pub async fn ask(&mut self, cursor: Option<&Cursor>) -> Result<SourceAnswer, String> {
        let path = self.path.clone();
        let stamp = spawn_blocking(move || stamp(&path)).await.unwrap_or_default();
        let is_settled = self.seen.replace(stamp.clone()).is_none_or(|seen| seen == stamp);
        let known = cursor.filter(|cursor| cursor.0 == stamp || !is_settled);
        if let Some(cursor) = known.cloned() {
            let content = AnswerContent::Unchanged;
            return Ok(SourceAnswer { content, cursor: Some(cursor), again_ms: LOOK_MS, note: None });
        }
        let path = self.path.clone();
        let servers = spawn_blocking(move || read(&path)).await.map_err(|error| error.to_string())??;
        Ok(SourceAnswer { cursor: Some(Cursor(stamp)), ..SourceAnswer::whole(servers, LOOK_MS) })
    }
}

/// Whether the file is still the same, as far as can be seen without reading it; empty where there is none.
fn stamp(path: &Path) -> String {
    fs::metadata(path).map_or_else(
        |_| String::new(),
        |found| format!("{} {} {}.{:09}", found.ino(), found.size(), found.mtime(), found.mtime_nsec()),
    )
}

/// The servers that a file lists. `Err`: the file, the line and what is wrong, in one line.
pub fn read(path: &Path) -> Result<Vec<FoundServer>, String> {
    let shown = path.display();
    let unreadable = |error: std::io::Error| format!("{shown} cannot be read: {error}");
    // Before it is opened: a pipe would be waited for.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(format!("{shown} is not a regular file"));
    }
    let mut bytes = Vec::new();
    let limit = SIZE_LIMIT_MIB << 20;
    File::open(path).and_then(|file| file.take(limit + 1).read_to_end(&mut bytes)).map_err(unreadable)?;
    if bytes.len() as u64 > limit {
        return Err(format!("{shown} is longer than {SIZE_LIMIT_MIB} MiB"));
    }
    let text = String::from_utf8(bytes).map_err(|_| format!("{shown} is not text in UTF-8"))?;
    parse(&text).map_err(|FileFault { line, why }| match line {
        Some(line) => format!("{shown}:{line}: {why}"),
        None => format!("{shown}: {why}"),
    })
}

#[derive(Debug, PartialEq, Eq)]
struct FileFault {
    line: Option<usize>,
    why: String,
}

fn fault(line: usize, why: impl Into<String>) -> FileFault {
    FileFault { line: Some(line), why: why.into() }
}

/// JSON if it begins so, else lines.
fn parse(text: &str) -> Result<Vec<FoundServer>, FileFault> {
    let mut signs = text.chars().filter(|c| !c.is_whitespace());
    let servers = match (signs.next(), signs.next()) {
        (None, _) => {
            return Err(FileFault { line: None, why: "it is empty: half-written? [] lists no replica".into() });
        }
        (Some('{'), _) => json::<ReplicaList>(text)?.replicas,
        // An IPv6 address has another sign there.
        (Some('['), None | Some('{' | ']')) => json(text)?,
        _ => return lines(text),
    };
    distinct(servers.into_iter().map(|ListEntry(server)| (server, None)))
}

fn json<'t, T: Deserialize<'t>>(text: &'t str) -> Result<T, FileFault> {
    serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        // Its place stands before the message.
        let why = message.rsplit_once(" at line ").map_or(&*message, |(why, _)| why);
        fault(error.line(), why)
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReplicaList {
    replicas: Vec<ListEntry>,
}

#[derive(Deserialize)]
#[serde(try_from = "RawEntry")]
struct ListEntry(FoundServer);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    address: String,
    name: Option<String>,
    #[serde(default = "one")]
    weight: u32,
}

fn one() -> u32 {
    1
}

impl TryFrom<RawEntry> for ListEntry {
    type Error = String;

    fn try_from(RawEntry { address, name, weight }: RawEntry) -> Result<ListEntry, String> {
        let wrong = || format!("address {address:?}: want an address with a port, like 10.0.0.1:80 or [::1]:80");
        let parsed: SocketAddr = address.parse().map_err(|_| wrong())?;
        let name = name.unwrap_or_else(|| address.clone());
        let name = values::found_name(&name).map_err(|why| format!("name {name:?}: {why}"))?;
        match weight {
            1..=WEIGHT_MAX => Ok(ListEntry(FoundServer { name: name.into(), address: parsed, weight })),
            _ => Err(format!("weight {weight}: want a whole number from 1 to {WEIGHT_MAX}")),
        }
    }
}

/// `NAME=HOST:PORT@WEIGHT`, as `--replica` has them; empty ones and those that begin with `#` are passed over.
fn lines(text: &str) -> Result<Vec<FoundServer>, FileFault> {
    let count = text.lines().count();
    if !text.ends_with('\n') {
        return Err(fault(count, "the last line has no end: half-written?"));
    }
    let mut servers = Vec::new();
    for (number, line) in text.lines().enumerate().map(|(at, line)| (at + 1, line.trim())) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let replica = values::replica(line).map_err(|why| fault(number, format!("{line:?}: {why}")))?;
        let name = values::found_name(&replica.name).map_err(|why| fault(number, format!("{line:?}: {why}")))?;
        let HostPort::Address(address) = replica.address else {
            let why = format!("{line:?}: want an address: names are for --replica and --runtime dns");
            return Err(fault(number, why));
        };
        servers.push((FoundServer { name: name.into(), address, weight: replica.weight }, Some(number)));
    }
    distinct(servers)
}

/// A name is a place on the ring: two servers cannot share it.
fn distinct(servers: impl IntoIterator<Item = (FoundServer, Option<usize>)>) -> Result<Vec<FoundServer>, FileFault> {
    let mut by_name = BTreeMap::new();
    for (server, line) in servers {
        let address = server.address;
        let known = by_name.entry(server.name.clone()).or_insert(server);
        if known.address != address {
            let why = format!("the name {} is given to {} and {address}", known.name, known.address);
            return Err(FileFault { line, why });
        }
    }
    Ok(by_name.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(text: &str) -> Vec<(String, String, u32)> {
        let servers = parse(text).unwrap_or_else(|fault| panic!("{text:?}: {fault:?}"));
        servers.into_iter().map(|server| (server.name.to_string(), server.address.to_string(), server.weight)).collect()
    }

    fn wrong(text: &str) -> (Option<usize>, String) {
        let fault = parse(text).expect_err(text);
        (fault.line, fault.why)
    }

    #[test]
    fn a_list_is_json_or_lines() {
        let both = [("10.0.0.2:80".into(), "10.0.0.2:80".into(), 1), ("a".into(), "10.0.0.1:80".into(), 2)];
        let list = r#"[{"address":"10.0.0.1:80","name":"a","weight":2},{"address":"10.0.0.2:80"}]"#;
        assert_eq!(listed(list), both);
        assert_eq!(listed(&format!("\n {{\"replicas\": {list}}}\n")), both);
        assert_eq!(listed("# shop\na=10.0.0.1:80@2\n\n  10.0.0.2:80\n"), both);
        assert_eq!(listed("10.0.0.2:80\n10.0.0.2:80\n"), both[..1], "given twice it is one");
        assert_eq!(listed("[::1]:80\n")[0].0, "[::1]:80");
    }

    #[test]
    fn a_list_without_servers_says_so() {
        assert_eq!((listed("[]"), listed("{\"replicas\":[]}"), listed("# none\n")), Default::default());
        assert!(wrong("").1.contains("half-written"));
        assert!(wrong(" \n").1.contains("half-written"));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        for (text, line, why) in [
            ("10.0.0.1:80\n10.0.0.2:8", 2, "half-written"),
            ("10.0.0.1:80\nb=10.0.0.2\n", 2, "want HOST:PORT"),
            ("10.0.0.1:80\n\nweb.internal:80\n", 3, "--runtime dns"),
            ("a=10.0.0.1:80\na=10.0.0.2:80\n", 2, "the name a is given to 10.0.0.1:80 and 10.0.0.2:80"),
            ("a=10.0.0.1:80@0\n", 1, "weight"),
            ("[{\"address\":\"10.0.0.1:80\"},\n{\"address\":\"10.0.0.2\"}]", 2, "want an address with a port"),
            ("[{\"address\":\"10.0.0.1:80\"},\n{\"address\":\"10.0.0.2:80\"}", 2, "EOF"),
            ("[\n{\"addres\":\"10.0.0.1:80\"}]", 2, "unknown field `addres`"),
            ("[\n{\"address\":\"10.0.0.1:80\",\"weight\":0}]", 2, "weight 0"),
            ("[\n{\"address\":\"10.0.0.1:80\",\"name\":\"a b\"}]", 2, "name \"a b\""),
            ("{\"servers\":[]}", 1, "unknown field `servers`"),
            ("[", 1, "EOF"),
            ("[1]\n", 1, "want HOST:PORT"),
        ] {
            let (at, said) = wrong(text);
            assert_eq!(at, Some(line), "{text:?}: {said}");
            assert!(said.contains(why), "{text:?}: {said}");
        }
    }
}
