//! Experiments that take a load of their own, in a short form: they run, and their files say what cannot depend on the
//! machine.

mod support;

use std::collections::BTreeMap;
use std::path::PathBuf;

use support::run;

/// A row of an experiment's CSV by the names of its columns.
type Row = BTreeMap<String, String>;

struct Report {
    rows: Vec<Row>,
    text: String,
}

fn experiment(name: &str, time: &str) -> Report {
    let folder: PathBuf = std::env::temp_dir().join(format!("ringway-{name}-{}", std::process::id()));
    let out = folder.to_str().expect("a name in UTF-8");
    let output = run(&["experiment", name, "--time", time, "--out", out]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let read = |kind: &str| {
        let path = folder.join(format!("{name}.{kind}"));
        std::fs::read(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
    };
    let text = |kind: &str| String::from_utf8(read(kind)).expect("text");
    assert!(text("svg").starts_with("<svg") && read("png").starts_with(b"\x89PNG"));
    let csv = text("csv");
    let mut lines = csv.lines().map(|line| line.split(',').map(String::from).collect::<Vec<_>>());
    let head = lines.next().expect("a head");
    let rows = lines.map(|line| head.iter().cloned().zip(line).collect()).collect();
    let report = Report { rows, text: text("md") };
    std::fs::remove_dir_all(&folder).expect("its own folder");
    report
}

fn number(row: &Row, column: &str) -> f64 {
    row[column].parse().unwrap_or_else(|why| panic!("{column} of {row:?}: {why}"))
}

#[test]
fn a_replica_that_fails_is_ejected_and_comes_back_and_half_stay() {
    let report = experiment("ejection", "1s");
    let is = |row: &&Row, event: &str| row["event"] == event;
    let ejected: Vec<&Row> = report.rows.iter().filter(|row| is(row, "ejected")).collect();
    let back = report.rows.iter().filter(|row| is(row, "back")).count();
    assert!(ejected.len() >= 3 && ejected.len() == back, "{:?}", report.rows);
    assert_eq!(ejected[0]["replica"], "server2");
    // One that never failed is never ejected, and has no failures.
    assert!(report.rows.iter().all(|row| row["replica"] != "server4"), "{:?}", report.rows);
    assert!(report.text.contains("At most 2 of 4 were out at a time (goal: 2)"), "{}", report.text);
}

#[test]
fn each_policy_is_measured_under_each_load_beside_its_prediction() {
    let report = experiment("policies", "1s");
    let of = |series: &str| report.rows.iter().filter(|row| row["series"] == series).collect::<Vec<_>>();
    let policies = ["hash", "bounded hash", "least-request", "round-robin", "random"];
    for series in ["slow replica", "heavy tail"] {
        assert_eq!(of(series).iter().map(|row| row["policy"].as_str()).collect::<Vec<_>>(), policies);
    }
    for row in &report.rows {
        assert!(number(row, "failed") <= number(row, "requests") && number(row, "served_p50_ms") > 0.0, "{row:?}");
        assert!(number(row, "goodput") > 0.0, "{row:?}");
    }
    let overload = of("overload");
    assert_eq!(overload.iter().map(|row| row["load"].as_str()).collect::<Vec<_>>(), ["0.50", "1.00", "1.50", "2.00"]);
    // What is refused never reaches a replica, and nothing is sent twice.
    for row in &overload {
        let reached = number(row, "requests") - number(row, "refused");
        assert!(number(row, "received_by_replicas") <= reached, "{row:?}");
    }
    // The servers cannot do more: the rest must have been refused.
    assert!(number(overload[3], "refused") > 0.0 && number(overload[3], "predicted_goodput") == 1.0, "{overload:?}");
    assert_eq!(report.text.matches(": met)").count() + report.text.matches(": missed)").count(), 3, "{}", report.text);
}
