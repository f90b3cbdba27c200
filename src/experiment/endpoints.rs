//! `endpoints`: every endpoint and every error of the API's contract, called on a running balancer and compared with what
//! the contract says.

use plotters::prelude::*;

use super::client::{HttpClient, HttpResponse};
use super::output::{self, Report};
use super::picture::{self, Area, Caption, Drawn, Figure, GREEN, LegendMark, MUTED, RED, TEXT_COLOUR, bold, text};
use super::progress::Progress;
use super::testbed::Testbed;
use super::{ExperimentSettings, check_interrupted};

/// A call, and the response that the contract requires.
struct ContractCall {
    port: Port,
    method: &'static str,
    target: &'static str,
    field: Option<(&'static str, &'static str)>,
    body: &'static str,
    status: u16,
    /// A part of the response's body, or of its `message`.
    body_contains: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Port {
    Data,
    Admin,
}

/// One call's response, and whether it is as the contract requires.
struct CallResult {
    call: String,
    answer: String,
    expected: String,
    passed: bool,
}

/// A limit that the calls can exceed.
const MAX_REPLICAS: &str = "--max-replicas=8";

#[rustfmt::skip]
fn calls() -> Vec<ContractCall> {
    let get = |target, status, body_contains| call(Port::Data, "GET", target, None, "", status, body_contains);
    let with = |name, value, status, body_contains| call(Port::Data, "GET", "/home", Some((name, value)), "", status, body_contains);
    let admin = |method, target, body, status, body_contains| call(Port::Admin, method, target, None, body, status, body_contains);
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
    body_contains: &'static str,
) -> ContractCall {
    ContractCall { port, method, target, field, body, status, body_contains }
}

pub fn run(settings: &ExperimentSettings, progress: &Progress) -> Result<Report, String> {
    let calls = calls();
    progress.expect(calls.len() as u64, "calls");
    let testbed = Testbed::start(settings, 3, &[MAX_REPLICAS])?;
    let rows = calls.iter().map(|call| {
        check_interrupted()?;
        progress.step();
        perform(call, &testbed)
    });
    let rows: Vec<CallResult> = rows.collect::<Result<_, String>>()?;
    let picture = picture::paint(&EndpointsFigure { rows: &rows })?;
    Ok(Report { name: "endpoints", picture, csv: csv(&rows), text: summary(&rows) })
}

fn perform(call: &ContractCall, testbed: &Testbed) -> Result<CallResult, String> {
    let before = testbed.names()?;
    let address = if call.port == Port::Data { testbed.data } else { testbed.admin };
    let fields: Vec<(&str, &str)> = call.field.into_iter().collect();
    let response = HttpClient::connect(address)
        .and_then(|mut client| client.request(call.method, call.target, &fields, call.body.as_bytes()));
    // A refused call changes nothing.
    let unchanged = call.status < 400 || testbed.names()? == before;
    let field = call.field.map(|(name, value)| format!(" ({name}: {value})")).unwrap_or_default();
    let place = if call.port == Port::Data { "data" } else { "admin" };
    let (answer, as_expected) = match &response {
        Ok(HttpResponse { status, body, .. }) => {
            let body = String::from_utf8_lossy(body);
            (format!("{status} {}", body.trim()), *status == call.status && contains(&body, call.body_contains))
        }
        Err(why) => (why.to_string(), false),
    };
    Ok(CallResult {
        call: format!("{place}: {} {}{field} {}", call.method, call.target, call.body).trim_end().into(),
        answer: if unchanged { answer } else { format!("{answer} (and the replicas changed)") },
        expected: format!("{} {}", call.status, call.body_contains).trim_end().into(),
        passed: as_expected && unchanged,
    })
}

fn contains(body: &str, part: &str) -> bool {
    body.contains(part) || message(body).is_some_and(|message| message.contains(part))
}

/// The `message` of a JSON response.
fn message(body: &str) -> Option<String> {
    let json: serde_json::Value = serde_json::from_str(body).ok()?;
    json["message"].as_str().map(String::from)
}

/// The answer as people read it: the status, and the message if it has one.
fn without_json(answer: &str) -> String {
    match answer.split_once(' ').and_then(|(status, body)| Some((status, message(body)?))) {
        Some((status, message)) => format!("{status} {message}"),
        None => answer.into(),
    }
}

fn verdict(row: &CallResult) -> &'static str {
    if row.passed { "as expected" } else { "NOT as expected" }
}

fn csv(rows: &[CallResult]) -> String {
    let fields = |row: &CallResult| [row.call.clone(), row.answer.clone(), row.expected.clone(), verdict(row).into()];
    output::csv(["call", "answer", "expected", "verdict"], rows.iter().map(fields))
}

fn summary(rows: &[CallResult]) -> String {
    let code = |text: &str| if text.is_empty() { String::new() } else { format!("`{text}`") };
    let fields = |row: &CallResult| [code(&row.call), code(&row.answer), code(&row.expected), verdict(row).into()];
    let passed = rows.iter().filter(|row| row.passed).count();
    format!(
        "{passed} of {} calls are answered as the contract requires; each refused call left the replicas as they were.\n\n{}",
        rows.len(),
        output::table(["call", "answer", "expected", ""], rows.iter().map(fields))
    )
}

struct EndpointsFigure<'a> {
    rows: &'a [CallResult],
}

const ROW_HEIGHT: i32 = 44;
const CALL_AT: i32 = 44;
const ANSWER_AT: i32 = 800;
/// Characters that fit into a column.
const CALL_WIDTH: usize = 52;
const ANSWER_WIDTH: usize = 52;

impl Figure for EndpointsFigure<'_> {
    fn name(&self) -> &'static str {
        "endpoints"
    }

    fn size(&self) -> (u32, u32) {
        (picture::WIDTH, 290 + ROW_HEIGHT as u32 * self.rows.len() as u32)
    }

    fn caption(&self) -> Caption {
        let passed = self.rows.iter().filter(|row| row.passed).count();
        Caption {
            title: format!("{passed} of {} calls answered as the contract requires", self.rows.len()),
            subtitle: "Called on a running balancer; each refused call left the replicas as they were.".into(),
            legend: vec![
                (LegendMark::Fill(GREEN), "as expected".into()),
                (LegendMark::Fill(RED), "not as expected".into()),
            ],
        }
    }

    fn body<B: DrawingBackend>(&self, area: &Area<B>) -> Drawn<B> {
        area.draw(&Text::new("call", (CALL_AT, 0), bold(&MUTED)))?;
        area.draw(&Text::new("answer", (ANSWER_AT, 0), bold(&MUTED)))?;
        for (row, y) in self.rows.iter().zip((1..).map(|i| i * ROW_HEIGHT)) {
            let colour = if row.passed { GREEN } else { RED };
            area.draw(&Circle::new((12, y + 11), 11, colour.filled()))?;
            area.draw(&Text::new(truncate(&row.call, CALL_WIDTH), (CALL_AT, y), text(&TEXT_COLOUR)))?;
            let answer = truncate(&without_json(&row.answer), ANSWER_WIDTH);
            area.draw(&Text::new(answer, (ANSWER_AT, y), text(&TEXT_COLOUR)))?;
        }
        Ok(())
    }
}

fn truncate(text: &str, width: usize) -> String {
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.chars().count() <= width { text } else { text.chars().take(width - 1).collect::<String>() + "…" }
}
