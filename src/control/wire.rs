//! The admin API's JSON: request bodies are parsed strictly, answers have the form of the contract. Pure, and fuzzed.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::registry::{Change, RequestedState};
use crate::core::ring::WEIGHT_MAX;

/// The longest body of a call, in bytes.
pub const BODY_LIMIT: usize = 64 * 1024;
/// Characters of a wrong value that a message repeats.
const QUOTE_LIMIT: usize = 64;

/// Parses `{"n":3,"hostnames":["S5"]}`, a change that is to be made. `Err` names the field and the value that are wrong.
pub fn parse_change(body: &[u8]) -> Result<Change, String> {
    let (mut n, mut hostnames) = (None, None);
    for (field, value) in fields(body, r#"{"n":1}"#)? {
        match field.as_str() {
            "n" => n = Some(count(&value)?),
            "hostnames" => hostnames = Some(names(&value)?),
            _ => return Err(unknown(&field, "n and hostnames")),
        }
    }
    let n = n.ok_or("n is missing: how many replicas, a whole number from 1")?;
    Ok(Change { n, hostnames: hostnames.unwrap_or_default(), dry_run: false })
}

/// Parses `{"state":"drain","weight":2}`, where either may be missing. `Err` names the field and the value that are wrong.
pub fn parse_patch(body: &[u8]) -> Result<(Option<RequestedState>, Option<u32>), String> {
    let (mut state, mut weight) = (None, None);
    for (field, value) in fields(body, r#"{"state":"drain"}"#)? {
        match field.as_str() {
            "state" => state = Some(requested_state(&value)?),
            "weight" => weight = Some(requested_weight(&value)?),
            _ => return Err(unknown(&field, "state and weight")),
        }
    }
    if state.is_none() && weight.is_none() {
        return Err(r#"state and weight are missing: give one of them, such as {"state":"drain"}"#.into());
    }
    Ok((state, weight))
}

fn requested_state(value: &Value) -> Result<RequestedState, String> {
    match value.as_str() {
        Some("up") => Ok(RequestedState::Up),
        Some("drain") => Ok(RequestedState::Drain),
        _ => Err(format!(r#"state is {}: it must be "drain" or "up""#, quote(value))),
    }
}

fn requested_weight(value: &Value) -> Result<u32, String> {
    let weight = whole(value).and_then(|weight| u32::try_from(weight).ok());
    match weight {
        Some(weight @ 1..=WEIGHT_MAX) => Ok(weight),
        Some(0) => Err(format!(
            r#"weight is 0: it must be a whole number from 1 to {WEIGHT_MAX}; {{"state":"drain"}} takes a replica out"#
        )),
        _ => Err(format!("weight is {}: it must be a whole number from 1 to {WEIGHT_MAX}", quote(value))),
    }
}

/// The fields of an object, each given once.
fn fields(body: &[u8], example: &str) -> Result<Vec<(String, Value)>, String> {
    if body.trim_ascii().is_empty() {
        return Err(format!("the body is empty: send an object such as {example}"));
    }
    let body: JsonBody = serde_json::from_slice(body).map_err(|error| format!("the body is not JSON: {error}"))?;
    let fields = match body {
        JsonBody::Object(fields) => fields,
        JsonBody::Other(value) => return Err(format!("the body is {}: it must be an object", quote(&value))),
    };
    let mut earlier = BTreeSet::new();
    match fields.iter().find(|(field, _)| !earlier.insert(field)) {
        Some((twice, _)) => Err(format!("{} is given twice", quote_name(twice))),
        None => Ok(fields),
    }
}

fn unknown(field: &str, known: &str) -> String {
    format!("{} is not a field of this call: it takes {known}", quote_name(field))
}

/// 2.0 is a whole number too, to a schema as to most programs.
fn whole(value: &Value) -> Option<u64> {
    /// Above it a fraction cannot be told from none.
    const EXACT_MAX: f64 = (1u64 << f64::MANTISSA_DIGITS) as f64;
    let of_float = |number: &f64| number.fract() == 0.0 && (0.0..=EXACT_MAX).contains(number);
    value.as_u64().or_else(|| value.as_f64().filter(of_float).map(|number| number as u64))
}

fn count(value: &Value) -> Result<u64, String> {
    match whole(value) {
        Some(n) if n >= 1 => Ok(n),
        _ => Err(format!("n is {}: it must be a whole number from 1", quote(value))),
    }
}

fn names(value: &Value) -> Result<Vec<String>, String> {
    let Value::Array(items) = value else {
        return Err(format!("hostnames is {}: it must be a list of names", quote(value)));
    };
    let name = |(at, item): (usize, &Value)| match item {
        Value::String(name) => Ok(name.clone()),
        other => Err(format!("hostnames[{at}] is {}: it must be a name in quotes", quote(other))),
    };
    items.iter().enumerate().map(name).collect()
}

fn quote(value: &Value) -> String {
    shorten(value.to_string())
}

/// A field's name, in quotation marks unless it is a plain word.
fn quote_name(field: &str) -> String {
    let plain = !field.is_empty() && field.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain { shorten(field.into()) } else { quote(&Value::from(field)) }
}

fn shorten(text: String) -> String {
    match text.char_indices().nth(QUOTE_LIMIT) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// An object with its fields in order; one that is given twice is kept twice, so that it can be refused.
enum JsonBody {
    Object(Vec<(String, Value)>),
    Other(Value),
}

impl<'de> Deserialize<'de> for JsonBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<JsonBody, D::Error> {
        deserializer.deserialize_any(JsonBodyVisitor)
    }
}

struct JsonBodyVisitor;

impl<'de> Visitor<'de> for JsonBodyVisitor {
    type Value = JsonBody;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JsonBody, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(JsonBody::Object(fields))
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<JsonBody, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(JsonBody::Other(Value::Array(items)))
    }

    fn visit_str<E>(self, text: &str) -> Result<JsonBody, E> {
        Ok(JsonBody::Other(text.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<JsonBody, E> {
        Ok(JsonBody::Other(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<JsonBody, E> {
        Ok(JsonBody::Other(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<JsonBody, E> {
        Ok(JsonBody::Other(number.into()))
    }

    fn visit_bool<E>(self, truth: bool) -> Result<JsonBody, E> {
        Ok(JsonBody::Other(truth.into()))
    }

    fn visit_unit<E>(self) -> Result<JsonBody, E> {
        Ok(JsonBody::Other(Value::Null))
    }
}

/// `{"message":{"N":3,"replicas":[...]},"status":"successful"}`
pub fn successful(message: &impl Serialize) -> String {
    serde_json::to_string(&Successful { message, status: Success::Successful })
        .unwrap_or_else(|error| failure(&error.to_string()))
}

/// The form of every success.
#[derive(Serialize, ToSchema)]
pub struct Successful<M> {
    message: M,
    status: Success,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Success {
    Successful,
}

/// The form of every failure.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it describes what `failure` writes")]
pub struct ErrorBody {
    /// What was wrong, with its value, and what to do.
    #[schema(pattern = "^<Error> ")]
    message: String,
    #[schema(pattern = "^failure$")]
    status: String,
}

/// `{"message":"<Error> ...","status":"failure"}`
pub fn failure(why: &str) -> String {
    format!("{{\"message\":{},\"status\":\"failure\"}}", Value::from(format!("<Error> {why}")))
}

/// `{"N":2,"replicas":["server1","server2"]}`
#[derive(Serialize, ToSchema)]
pub struct ReplicaNames<'a> {
    #[serde(rename = "N")]
    n: usize,
    replicas: Vec<&'a str>,
}

impl<'a> ReplicaNames<'a> {
    pub fn of(names: impl IntoIterator<Item = &'a str>) -> ReplicaNames<'a> {
        let replicas: Vec<&str> = names.into_iter().collect();
        ReplicaNames { n: replicas.len(), replicas }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(body: &str) -> String {
        parse_change(body.as_bytes()).unwrap_err()
    }

    #[test]
    fn a_body_is_parsed() {
        let change = |body: &str| parse_change(body.as_bytes()).unwrap();
        assert_eq!(change(r#"{"n":1}"#), Change { n: 1, hostnames: vec![], dry_run: false });
        assert_eq!(change(r#" {"hostnames":[],"n":7} "#).n, 7);
        assert_eq!(change(r#"{"n":7.0}"#).n, 7);
        assert_eq!(change(r#"{"n":4,"hostnames":["S5","S4"]}"#).hostnames, ["S5", "S4"]);
    }

    #[test]
    fn an_error_names_the_field_and_its_value() {
        for (body, message) in [
            ("", r#"the body is empty: send an object such as {"n":1}"#),
            (" \n", r#"the body is empty: send an object such as {"n":1}"#),
            ("[1]", "the body is [1]: it must be an object"),
            ("3", "the body is 3: it must be an object"),
            ("\"n\"", "the body is \"n\": it must be an object"),
            ("null", "the body is null: it must be an object"),
            ("{}", "n is missing: how many replicas, a whole number from 1"),
            (r#"{"n":0}"#, "n is 0: it must be a whole number from 1"),
            (r#"{"n":-1}"#, "n is -1: it must be a whole number from 1"),
            (r#"{"n":1.5}"#, "n is 1.5: it must be a whole number from 1"),
            (r#"{"n":"3"}"#, "n is \"3\": it must be a whole number from 1"),
            (r#"{"n":null}"#, "n is null: it must be a whole number from 1"),
            (r#"{"n":1,"n":1}"#, "n is given twice"),
            (r#"{"n":1,"hostname":["a"]}"#, "hostname is not a field of this call: it takes n and hostnames"),
            (r#"{"n":1,"a b":1}"#, "\"a b\" is not a field of this call: it takes n and hostnames"),
            (r#"{"n":1,"hostnames":"S5"}"#, "hostnames is \"S5\": it must be a list of names"),
            (r#"{"n":2,"hostnames":["S5",7]}"#, "hostnames[1] is 7: it must be a name in quotes"),
        ] {
            assert_eq!(error(body), message, "{body}");
        }
        for body in ["{", "{\"n\":1}x", "{'n':1}", "n=1", "{\"n\":1,}", "\u{feff}{\"n\":1}"] {
            assert!(error(body).starts_with("the body is not JSON: "), "{body}: {}", error(body));
        }
        assert!(parse_change(b"{\"n\":1,\"hostnames\":[\"\xff\"]}").is_err());
    }

    #[test]
    fn a_patch_is_parsed_and_its_errors_name_field_and_value() {
        let patch = |body: &str| parse_patch(body.as_bytes());
        assert_eq!(patch(r#"{"state":"drain"}"#), Ok((Some(RequestedState::Drain), None)));
        assert_eq!(patch(r#"{"weight":1000,"state":"up"}"#), Ok((Some(RequestedState::Up), Some(1000))));
        for (body, message) in [
            ("", r#"the body is empty: send an object such as {"state":"drain"}"#),
            ("{}", r#"state and weight are missing: give one of them, such as {"state":"drain"}"#),
            (r#"{"state":"down"}"#, r#"state is "down": it must be "drain" or "up""#),
            (r#"{"state":null}"#, r#"state is null: it must be "drain" or "up""#),
            (
                r#"{"weight":0}"#,
                r#"weight is 0: it must be a whole number from 1 to 1000; {"state":"drain"} takes a replica out"#,
            ),
            (r#"{"weight":1001}"#, "weight is 1001: it must be a whole number from 1 to 1000"),
            (r#"{"weight":-1}"#, "weight is -1: it must be a whole number from 1 to 1000"),
            (r#"{"weight":"2"}"#, "weight is \"2\": it must be a whole number from 1 to 1000"),
            (r#"{"weight":4294967297}"#, "weight is 4294967297: it must be a whole number from 1 to 1000"),
            (r#"{"weight":1,"weight":2}"#, "weight is given twice"),
            (r#"{"wait":1}"#, "wait is not a field of this call: it takes state and weight"),
        ] {
            assert_eq!(patch(body), Err(message.into()), "{body}");
        }
    }

    #[test]
    fn a_huge_or_deep_value_is_refused_and_shortened_in_the_message() {
        assert!(error(&format!("{{\"n\":\"{}\"}}", "x".repeat(10_000))).len() < 200);
        assert!(error(&"[".repeat(60_000)).contains("recursion limit"));
        assert!(error(r#"{"n":99999999999999999999999}"#).starts_with("n is 1e+23: it must be"));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused_in_one_short_line(body: Vec<u8>) {
            if let Err(why) = parse_change(&body) {
                assert!(why.len() < 1_000 && !why.contains('\n'), "{why}");
            }
        }

        #[test]
        fn a_serialized_change_is_parsed_back(n in 1u64.., hostnames: Vec<String>) {
            let body = serde_json::json!({"n": n, "hostnames": hostnames}).to_string();
            assert_eq!(parse_change(body.as_bytes()), Ok(Change { n, hostnames, dry_run: false }));
        }
    }

    #[test]
    fn answers_have_the_form_of_the_contract() {
        assert_eq!(
            successful(&ReplicaNames::of(["server1", "server2"])),
            r#"{"message":{"N":2,"replicas":["server1","server2"]},"status":"successful"}"#
        );
        assert_eq!(failure("a \"b\""), r#"{"message":"<Error> a \"b\"","status":"failure"}"#);
    }
}
