//! Runs the bodies of the fuzz targets over the kept corpus, and over mutations of the bytes of the tables. The mutations
//! have a fixed seed, so that a failure can be reproduced.

use std::path::{Path, PathBuf};

use ringway::core::fuzz;
use ringway::{config, control};

use crate::row::rows;
use crate::table::{TABLES, read};

/// Mutations of each seed.
const MUTATIONS: u64 = 60;

type Body = fn(&[u8]);

const TARGETS: [(&str, Body); 8] = [
    ("request_head", fuzz::request_head),
    ("response_head", fuzz::response_head),
    ("chunked", fuzz::chunked),
    ("session", fuzz::session),
    ("tls_session", fuzz::tls_session),
    ("client_hello", fuzz::client_hello),
    ("admin", control::fuzz::admin),
    ("config", config::fuzz::config),
];

#[test]
fn the_kept_corpus_passes() {
    for (name, body) in TARGETS {
        let seeds = kept(name);
        assert!(!seeds.is_empty(), "no corpus for {name}");
        for path in seeds {
            body(&std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
        }
    }
}

#[test]
fn mutated_request_heads_pass() {
    mutate_all(fuzz::request_head, requests());
}

#[test]
fn mutated_response_heads_pass() {
    mutate_all(fuzz::response_head, responses());
}

#[test]
fn mutated_chunks_pass() {
    mutate_all(fuzz::chunked, requests().into_iter().chain(responses()).map(body_of).collect());
}

#[test]
fn mutated_sessions_pass() {
    mutate_all(fuzz::session, sessions());
}

#[test]
fn mutated_tls_sessions_pass() {
    mutate_all(fuzz::tls_session, kept_inputs("tls_session"));
}

#[test]
fn mutated_client_hellos_pass() {
    mutate_all(fuzz::client_hello, kept_inputs("client_hello"));
}

fn mutate_all(body: Body, seeds: Vec<Vec<u8>>) {
    for (number, seed) in seeds.iter().filter(|seed| seed.len() < 2000).enumerate() {
        body(seed);
        let mut random = Random(number as u64 + 1);
        for _ in 0..MUTATIONS {
            let mut bytes = seed.clone();
            for _ in 0..=random.below(3) {
                random.mutate(&mut bytes);
            }
            body(&bytes);
        }
    }
}

fn requests() -> Vec<Vec<u8>> {
    TABLES.iter().flat_map(|file| rows(file, &read(file))).map(|row| row.client).collect()
}

fn responses() -> Vec<Vec<u8>> {
    let rows = TABLES.iter().flat_map(|file| rows(file, &read(file)));
    rows.flat_map(|row| row.answers.into_iter().take(1).map(|answer| answer.bytes)).collect()
}

/// An exchange in the format of the session target: reads of up to 255 bytes, those of the client first.
fn sessions() -> Vec<Vec<u8>> {
    let rows = TABLES.iter().flat_map(|file| rows(file, &read(file)));
    rows.map(|row| {
        let mut bytes = vec![0];
        for (leg, part) in [(0, &row.client), (1, &row.answers[0].bytes)] {
            for piece in part.chunks(255) {
                bytes.extend([leg | 4 << 1, piece.len() as u8]);
                bytes.extend_from_slice(piece);
            }
        }
        bytes
    })
    .collect()
}

fn body_of(message: Vec<u8>) -> Vec<u8> {
    let end = message.windows(4).position(|w| w == b"\r\n\r\n").map_or(0, |at| at + 4);
    message[end..].to_vec()
}

fn kept(target: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

fn kept_inputs(target: &str) -> Vec<Vec<u8>> {
    kept(target).iter().map(|path| std::fs::read(path).expect("it is there")).collect()
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n.max(1)
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        const TELLING: &[u8] = b"\r\n\0 \t:;,0159afAF\x7f\x80\xffGH/*.\"#";
        let at = self.below(bytes.len() + 1);
        let byte = TELLING[self.below(TELLING.len())];
        match self.below(6) {
            0 if at < bytes.len() => bytes[at] = byte,
            1 => bytes.insert(at, byte),
            2 if at < bytes.len() => {
                bytes.remove(at);
            }
            3 => bytes.truncate(at),
            4 => {
                let len = self.below(16);
                let copy = bytes[at.min(bytes.len())..(at + len).min(bytes.len())].to_vec();
                let to = self.below(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            _ if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            _ => {}
        }
    }
}
