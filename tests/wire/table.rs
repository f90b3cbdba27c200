//! Runs every row of the tables: in one read, cut at every byte of either side, and byte by byte.

use crate::rig::{Cut, Fate, Rig};
use crate::row::{Row, rows};
use crate::strict;

pub const TABLES: [&str; 5] = ["line.txt", "fields.txt", "framing.txt", "forwarding.txt", "responses.txt"];
/// The least number of rows in the tables.
const ROWS: usize = 300;
/// Messages up to this size in bytes are cut at every byte, longer ones at `CUTS` evenly spaced places.
const SHORT: usize = 600;
const CUTS: usize = 5;
/// Longer messages do not come byte by byte.
const LONG: usize = 16 * 1024;

#[test]
fn request_lines() {
    run_table("line.txt");
}

#[test]
fn request_fields() {
    run_table("fields.txt");
}

#[test]
fn request_bodies() {
    run_table("framing.txt");
}

#[test]
fn forwarded_requests() {
    run_table("forwarding.txt");
}

#[test]
fn responses() {
    run_table("responses.txt");
}

#[test]
fn every_row_names_its_rule() {
    let rows: Vec<Row> = TABLES.iter().flat_map(|file| rows(file, &read(file))).collect();
    assert!(rows.len() >= ROWS, "{} rows", rows.len());
    let unnamed: Vec<&str> = rows
        .iter()
        .map(|row| row.name.as_str())
        .filter(|name| !name.contains("RFC ") && !name.contains("CVE-"))
        .collect();
    assert!(unnamed.is_empty(), "rows that name no rule: {unnamed:?}");
}

fn run_table(file: &str) {
    let rows = rows(file, &read(file));
    let wrong: Vec<String> =
        rows.iter().filter_map(|row| check(row).err().map(|why| format!("{}\n{why}", row.name))).collect();
    assert!(wrong.is_empty(), "{} of {} rows are wrong:\n\n{}", wrong.len(), rows.len(), wrong.join("\n\n"));
}

pub fn read(file: &str) -> String {
    let path = format!("{}/tests/wire/{file}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn check(row: &Row) -> Result<(), String> {
    run(row, Cut::Whole, Cut::Whole).map_err(|why| format!("whole: {why}"))?;
    for at in cuts(row.client.len()) {
        run(row, Cut::At(at), Cut::Whole).map_err(|why| format!("request cut at {at}: {why}"))?;
    }
    let longest = row.answers.iter().map(|answer| answer.bytes.len()).max().unwrap_or(0);
    for at in cuts(longest) {
        run(row, Cut::Whole, Cut::At(at)).map_err(|why| format!("answer cut at {at}: {why}"))?;
    }
    if row.client.len().max(longest) > LONG {
        return Ok(());
    }
    run(row, Cut::Bytes, Cut::Whole).map_err(|why| format!("request byte by byte: {why}"))?;
    run(row, Cut::Whole, Cut::Bytes).map_err(|why| format!("answer byte by byte: {why}"))?;
    run(row, Cut::Bytes, Cut::Bytes).map_err(|why| format!("both byte by byte: {why}"))
}

fn cuts(len: usize) -> impl Iterator<Item = usize> {
    (1..len).step_by(if len <= SHORT { 1 } else { len / CUTS })
}

fn run(row: &Row, client: Cut, replica: Cut) -> Result<(), String> {
    let mut rig = Rig::new(row.limits.clone());
    rig.client_sends(&row.client, client);
    if let Some(end) = row.client_end {
        rig.client_ends(end);
    }
    rig.replica_answers(row.answers.clone(), replica);
    rig.run();
    if row.time_out {
        rig.time_out();
    }
    judge(row, &rig)
}

fn judge(row: &Row, rig: &Rig) -> Result<(), String> {
    for upstream in &rig.upstreams {
        let (requests, len) = strict::requests(&upstream.received);
        for request in &requests {
            let again = strict::requests(&request.text()).0;
            same("a request parsed, written and parsed again", &format!("{:?}", [request]), &format!("{again:?}"))?;
        }
        if row.replica_cut && !requests.is_empty() {
            return Err(format!("a complete request reached the replica: {:?}", text(&upstream.received)));
        }
        let whole = len == upstream.received.len() || row.replica_cut;
        if !whole && rig.closed.is_none() {
            return Err(format!("the replica has an incomplete request: {:?}", text(&upstream.received[len..])));
        }
    }
    let received = rig.received();
    if let Some(want) = row.to_replica.as_ref().filter(|_| !row.replica_cut) {
        same("to the replica", &text(want), &text(&received))?;
    }
    let (want, got) = (&row.to_client, &rig.to_client);
    if !row.client_cut {
        same("to the client", &text(want), &text(got))?;
    } else if !want.starts_with(got) || got.is_empty() {
        return Err(format!("to the client: expected a prefix of\n  {:?}\nbut got\n  {:?}", text(want), text(got)));
    }
    let fate = rig.upstreams.last().map_or(Fate::Closed, |upstream| upstream.fate);
    same("the client connection (true: reset)", &format!("{:?}", row.closed), &format!("{:?}", rig.closed))?;
    match row.fate {
        Some(want) => same("the upstream connection", &format!("{want:?}"), &format!("{fate:?}")),
        None => Ok(()),
    }
}

fn same(what: &str, want: &str, got: &str) -> Result<(), String> {
    if want == got { Ok(()) } else { Err(format!("{what}: expected\n  {want:?}\nbut got\n  {got:?}")) }
}

fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|b| *b as char).collect()
}
