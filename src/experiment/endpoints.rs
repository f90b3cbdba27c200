//! `endpoints`: every endpoint and every error of the contract, asked of a running balancer: call, answer, expectation.

use plotters::prelude::*;

use super::client::{Client, Reply};
use super::lab::Lab;
use super::output::{self, Report};
use super::picture::{self, Area, Drawn, Figure, GREEN, Head, INK, Mark, QUIET, RED, bold, text};
use super::progress::Progress;
use super::{Settings, interrupted};

/// What is asked, and what the contract answers.
struct Call {
    port: Port,
    method: &'static str,
    target: &'static str,
    field: Option<(&'static str, &'static str)>,
    body: &'static str,
    status: u16,
    /// Somewhere in the answer's body.
    says: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Port {
    Data,
    Admin,
}

/// One call's answer, and whether it is as the contract has it.
struct Row {
    call: String,
    answer: String,
    expected: String,
    good: bool,
}

/// How many replicas there may be while this runs.
const MOST: &str = "--max-replicas=8";

#[rustfmt::skip]
fn calls() -> Vec<Call> {
    let get = |target, status, says| call(Port::Data, "GET", target, None, "", status, says);
    let with = |name, value, status, says| call(Port::Data, "GET", "/home", Some((name, value)), "", status, says);
    let admin = |method, target, body, status, says| call(Port::Admin, method, target, None, body, status, says);
    vec![
        get("/home", 200, "Server ID: server"),
        with("Accept", "application/json", 200, "Hello from Server: server"),
        get("/heartbeat", 200, ""),
        get("/nothing", 404, ""),
        get("/rep", 200, "\"N\":3"),
        admin("GET", "/rep", "", 200, "\"replicas\":[\"server1\",\"server2\",\"server3\"]"),
        admin("POST", "/add", "{\"n\":4,\"hostnames\":[\"S5\",\"S4\"]}", 200, "\"N\":7"),
        admin("DELETE", "/rm", "{\"n\":4,\"hostnames\":[\"S5\",\"S4\"]}", 200, "\"N\":3"),
        admin("POST", "/add", "{\"n\":1,\"hostnames\":[\"a1\",\"a2\"]}", 400, "<Error> Length of hostname list is more than newly added instances"),
        admin("DELETE", "/rm", "{\"n\":1,\"hostnames\":[\"a1\",\"a2\"]}", 400, "<Error> Length of hostname list is more than removable instances"),
        admin("POST", "/add", "{}", 400, "n is missing"),
        admin("POST", "/add", "{\"n\":0}", 400, "n is 0"),
        admin("POST", "/add", "{\"n\":-1}", 400, "n is -1"),
        admin("POST", "/add", "{\"n\":\"2\"}", 400, "whole number"),
        admin("POST", "/add", "{\"n\":9}", 400, "--max-replicas"),
        admin("POST", "/add", "{\"n\":2,\"hostnames\":[\"S4\",\"S4\"]}", 400, "named twice"),
        admin("POST", "/add", "{\"n\":1,\"hostnames\":[\"\"]}", 400, "name is empty"),
        admin("POST", "/add", "{\"n\":1,\"hostnames\":[\"../etc\"]}", 400, "../etc"),
        admin("POST", "/add", "{\"n\":1,\"names\":[]}", 400, "names"),
        admin("POST", "/add", "n=1", 400, "not JSON"),
        admin("DELETE", "/rm", "{\"n\":9}", 400, "n is 9"),
        admin("DELETE", "/rm", "{\"n\":1,\"hostnames\":[\"server9\"]}", 400, "no such replica"),
        admin("GET", "/add", "", 405, "use POST"),
        with("Content-Length", "x", 400, "failure"),
        with("Transfer-Encoding", "gzip", 501, "failure"),
        with("Expect", "a-miracle", 417, "failure"),
        get("/a b", 400, "failure"),
    ]
}

fn call(
    port: Port,
    method: &'static str,
    target: &'static str,
    field: Option<(&'static str, &'static str)>,
    body: &'static str,
    status: u16,
    says: &'static str,
) -> Call {
    Call { port, method, target, field, body, status, says }
}

pub fn run(settings: &Settings, progress: &Progress) -> Result<Report, String> {
    let calls = calls();
    progress.expect(calls.len() as u64, "calls");
    let lab = Lab::start(settings, 3, &[MOST])?;
    let rows = calls.iter().map(|call| {
        interrupted()?;
        progress.step();
        perform(call, &lab)
    });
    let rows: Vec<Row> = rows.collect::<Result<_, String>>()?;
    let picture = picture::paint(&Table { rows: &rows })?;
    Ok(Report { name: "endpoints", picture, csv: csv(&rows), text: words(&rows) })
}

fn perform(call: &Call, lab: &Lab) -> Result<Row, String> {
    let before = lab.names()?;
    let address = if call.port == Port::Data { lab.data } else { lab.admin };
    let fields: Vec<(&str, &str)> = call.field.into_iter().collect();
    let asked = Client::connect(address)
        .and_then(|mut client| client.ask(call.method, call.target, &fields, call.body.as_bytes()));
    // A call that is refused changes nothing.
    let unchanged = call.status < 400 || lab.names()? == before;
    let field = call.field.map(|(name, value)| format!(" ({name}: {value})")).unwrap_or_default();
    let place = if call.port == Port::Data { "data" } else { "admin" };
    let (answer, as_expected) = match &asked {
        Ok(Reply { status, body, .. }) => {
            let body = String::from_utf8_lossy(body);
            (format!("{status} {}", body.trim()), *status == call.status && said(&body, call.says))
        }
        Err(why) => (why.to_string(), false),
    };
    Ok(Row {
        call: format!("{place}: {} {}{field} {}", call.method, call.target, call.body).trim_end().into(),
        answer: if unchanged { answer } else { format!("{answer} (and the replicas changed)") },
        expected: format!("{} {}", call.status, call.says).trim_end().into(),
        good: as_expected && unchanged,
    })
}

fn said(body: &str, says: &str) -> bool {
    body.contains(says) || message(body).is_some_and(|message| message.contains(says))
}

/// What a JSON answer says in words.
fn message(body: &str) -> Option<String> {
    let json: serde_json::Value = serde_json::from_str(body).ok()?;
    json["message"].as_str().map(String::from)
}

/// The answer as people read it: the status, and the message if it has one.
fn brief(answer: &str) -> String {
    match answer.split_once(' ').and_then(|(status, body)| Some((status, message(body)?))) {
        Some((status, message)) => format!("{status} {message}"),
        None => answer.into(),
    }
}

fn verdict(row: &Row) -> &'static str {
    if row.good { "as expected" } else { "NOT as expected" }
}

fn csv(rows: &[Row]) -> String {
    let fields = |row: &Row| [row.call.clone(), row.answer.clone(), row.expected.clone(), verdict(row).into()];
    output::csv(["call", "answer", "expected", "verdict"], rows.iter().map(fields))
}

fn words(rows: &[Row]) -> String {
    let code = |text: &str| if text.is_empty() { String::new() } else { format!("`{text}`") };
    let fields = |row: &Row| [code(&row.call), code(&row.answer), code(&row.expected), verdict(row).into()];
    let good = rows.iter().filter(|row| row.good).count();
    format!(
        "{good} of {} calls are answered as the contract has it; each refused call left the replicas as they were.\n\n{}",
        rows.len(),
        output::table(["call", "answer", "expected", ""], rows.iter().map(fields))
    )
}

struct Table<'a> {
    rows: &'a [Row],
}

const ROW: i32 = 44;
const CALL_AT: i32 = 44;
const ANSWER_AT: i32 = 800;
/// As much text as a column has room for.
const CALL_WIDTH: usize = 52;
const ANSWER_WIDTH: usize = 52;

impl Figure for Table<'_> {
    fn name(&self) -> &'static str {
        "endpoints"
    }

    fn size(&self) -> (u32, u32) {
        (picture::WIDTH, 290 + ROW as u32 * self.rows.len() as u32)
    }

    fn head(&self) -> Head {
        let good = self.rows.iter().filter(|row| row.good).count();
        Head {
            title: format!("{good} of {} calls answered as the contract has it", self.rows.len()),
            says: "Asked of a running balancer; each refused call left the replicas as they were.".into(),
            legend: vec![(Mark::Fill(GREEN), "as expected".into()), (Mark::Fill(RED), "not as expected".into())],
        }
    }

    fn body<B: DrawingBackend>(&self, area: &Area<B>) -> Drawn<B> {
        area.draw(&Text::new("call", (CALL_AT, 0), bold(&QUIET)))?;
        area.draw(&Text::new("answer", (ANSWER_AT, 0), bold(&QUIET)))?;
        for (row, y) in self.rows.iter().zip((1..).map(|i| i * ROW)) {
            let colour = if row.good { GREEN } else { RED };
            area.draw(&Circle::new((12, y + 11), 11, colour.filled()))?;
            area.draw(&Text::new(cut(&row.call, CALL_WIDTH), (CALL_AT, y), text(&INK)))?;
            area.draw(&Text::new(cut(&brief(&row.answer), ANSWER_WIDTH), (ANSWER_AT, y), text(&INK)))?;
        }
        Ok(())
    }
}

fn cut(text: &str, width: usize) -> String {
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.chars().count() <= width { text } else { text.chars().take(width - 1).collect::<String>() + "…" }
}
