//! The admin API's JSON: bodies read strictly, answers written as the contract says. Pure, and fuzzed.

use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::registry::Change;

/// The body of `/add` and `/rm` in bytes.
pub const BODY_LIMIT: usize = 64 * 1024;
/// How much of a wrong value a message repeats.
const SHOWN_LIMIT: usize = 64;

/// Reads `{"n":3,"hostnames":["S5"]}`. `Err` names the field and the value that are wrong.
pub fn parse_change(body: &[u8], dry_run: bool) -> Result<Change, String> {
    if body.trim_ascii().is_empty() {
        return Err(r#"the body is empty: send an object such as {"n":1}"#.into());
    }
    let body: Body = serde_json::from_slice(body).map_err(|error| format!("the body is not JSON: {error}"))?;
    let fields = match body {
        Body::Object(fields) => fields,
        Body::Other(value) => return Err(format!("the body is {}: it must be an object", shown(&value))),
    };
    let (mut n, mut hostnames) = (None, None);
    for (at, (field, value)) in fields.iter().enumerate() {
        if fields[..at].iter().any(|(earlier, _)| earlier == field) {
            return Err(format!("{} is given twice", shown_name(field)));
        }
        match field.as_str() {
            "n" => n = Some(count(value)?),
            "hostnames" => hostnames = Some(names(value)?),
            _ => return Err(format!("{} is not a field of this call: it takes n and hostnames", shown_name(field))),
        }
    }
    let n = n.ok_or("n is missing: how many replicas, a whole number from 1")?;
    Ok(Change { n, hostnames: hostnames.unwrap_or_default(), dry_run })
}

fn count(value: &Value) -> Result<u64, String> {
    match value.as_u64() {
        Some(n) if n >= 1 => Ok(n),
        _ => Err(format!("n is {}: it must be a whole number from 1", shown(value))),
    }
}

fn names(value: &Value) -> Result<Vec<String>, String> {
    let Value::Array(items) = value else {
        return Err(format!("hostnames is {}: it must be a list of names", shown(value)));
    };
    let name = |(at, item): (usize, &Value)| match item {
        Value::String(name) => Ok(name.clone()),
        other => Err(format!("hostnames[{at}] is {}: it must be a name in quotes", shown(other))),
    };
    items.iter().enumerate().map(name).collect()
}

fn shown(value: &Value) -> String {
    shorten(value.to_string())
}

/// A field's name as it was given, quoted where it is not plain.
fn shown_name(field: &str) -> String {
    let plain = !field.is_empty() && field.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain { shorten(field.into()) } else { shown(&Value::from(field)) }
}

fn shorten(text: String) -> String {
    match text.char_indices().nth(SHOWN_LIMIT) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// An object with its fields in order and doubles kept, so that they can be refused.
enum Body {
    Object(Vec<(String, Value)>),
    Other(Value),
}

impl<'de> Deserialize<'de> for Body {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Body, D::Error> {
        deserializer.deserialize_any(BodyVisitor)
    }
}

struct BodyVisitor;

impl<'de> Visitor<'de> for BodyVisitor {
    type Value = Body;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Body, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Body::Object(fields))
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Body, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Body::Other(Value::Array(items)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Body, E> {
        Ok(Body::Other(text.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Body, E> {
        Ok(Body::Other(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Body, E> {
        Ok(Body::Other(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Body, E> {
        Ok(Body::Other(number.into()))
    }

    fn visit_bool<E>(self, truth: bool) -> Result<Body, E> {
        Ok(Body::Other(truth.into()))
    }

    fn visit_unit<E>(self) -> Result<Body, E> {
        Ok(Body::Other(Value::Null))
    }
}

/// `{"message":{"N":3,"replicas":[...]},"status":"successful"}`
pub fn successful(message: &impl Serialize) -> String {
    #[derive(Serialize)]
    struct Reply<'a, M> {
        message: &'a M,
        status: &'static str,
    }
    serde_json::to_string(&Reply { message, status: "successful" }).unwrap_or_else(|error| failure(&error.to_string()))
}

/// `{"message":"<Error> ...","status":"failure"}`
pub fn failure(why: &str) -> String {
    format!("{{\"message\":{},\"status\":\"failure\"}}", Value::from(format!("<Error> {why}")))
}

#[derive(Serialize)]
pub struct Roster<'a> {
    #[serde(rename = "N")]
    n: usize,
    replicas: Vec<&'a str>,
}

impl<'a> Roster<'a> {
    pub fn of(names: impl IntoIterator<Item = &'a str>) -> Roster<'a> {
        let replicas: Vec<&str> = names.into_iter().collect();
        Roster { n: replicas.len(), replicas }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(body: &str) -> String {
        parse_change(body.as_bytes(), false).unwrap_err()
    }

    #[test]
    fn a_body_is_read() {
        let change = |body: &str| parse_change(body.as_bytes(), false).unwrap();
        assert_eq!(change(r#"{"n":1}"#), Change { n: 1, hostnames: vec![], dry_run: false });
        assert_eq!(change(r#" {"hostnames":[],"n":7} "#).n, 7);
        assert_eq!(change(r#"{"n":4,"hostnames":["S5","S4"]}"#).hostnames, ["S5", "S4"]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_value() {
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
            assert_eq!(wrong(body), message, "{body}");
        }
        for body in ["{", "{\"n\":1}x", "{'n':1}", "n=1", "{\"n\":1,}", "\u{feff}{\"n\":1}"] {
            assert!(wrong(body).starts_with("the body is not JSON: "), "{body}: {}", wrong(body));
        }
        assert!(parse_change(b"{\"n\":1,\"hostnames\":[\"\xff\"]}", false).is_err());
    }

    #[test]
    fn a_huge_or_deep_value_is_refused_and_cut_in_the_message() {
        assert!(wrong(&format!("{{\"n\":\"{}\"}}", "x".repeat(10_000))).len() < 200);
        assert!(wrong(&"[".repeat(60_000)).contains("recursion limit"));
        assert!(wrong(r#"{"n":99999999999999999999999}"#).starts_with("n is 1e+23: it must be"));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_in_one_short_line(body: Vec<u8>) {
            if let Err(why) = parse_change(&body, false) {
                assert!(why.len() < 1_000 && !why.contains('\n'), "{why}");
            }
        }

        #[test]
        fn what_is_read_is_what_was_meant(n in 1u64.., hostnames: Vec<String>) {
            let body = serde_json::json!({"n": n, "hostnames": hostnames}).to_string();
            assert_eq!(parse_change(body.as_bytes(), true), Ok(Change { n, hostnames, dry_run: true }));
        }
    }

    #[test]
    fn answers_are_the_contracts() {
        assert_eq!(
            successful(&Roster::of(["server1", "server2"])),
            r#"{"message":{"N":2,"replicas":["server1","server2"]},"status":"successful"}"#
        );
        assert_eq!(failure("a \"b\""), r#"{"message":"<Error> a \"b\"","status":"failure"}"#);
    }
}
