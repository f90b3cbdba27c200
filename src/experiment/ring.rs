//! `ringway ring`: queries about a ring and their output, as text or JSON. Pure: nothing is read, printed or started.

use std::fmt::Display;

use serde::Serialize;

use crate::core::ring::{Member, RingKind, lint, report};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingQuery {
    pub kind: QueryKind,
    pub ring: RingKind,
    pub members: Vec<Member>,
    pub format: OutputFormat,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QueryKind {
    Show,
    Explain { key: String },
    WhatIf { remove: Vec<String>, add: Vec<Member> },
    Lint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputFormat {
    Text,
    Json,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingOutput {
    pub text: String,
    /// A lint found a flaw: the exit status says so.
    pub has_flaws: bool,
}

/// `Err` is one line: what is wrong with the query.
pub fn run_query(query: &RingQuery) -> Result<RingOutput, String> {
    let RingQuery { kind, ring, members, format } = query;
    check_distinct(members)?;
    match kind {
        QueryKind::Show => output(&report::show(*ring, members), *format),
        QueryKind::Explain { key } => match report::explain(*ring, members, key) {
            Some(explained) => output(&explained, *format),
            None => Err("no replica has a weight: no key goes anywhere".into()),
        },
        QueryKind::WhatIf { remove, add } => {
            output(&report::what_if(*ring, members, &changed(members, remove, add)?), *format)
        }
        QueryKind::Lint => {
            let found = lint::lint(*ring, members);
            Ok(RingOutput { has_flaws: found.has_flaws(), ..output(&found, *format)? })
        }
    }
}

fn output(report: &(impl Display + Serialize), format: OutputFormat) -> Result<RingOutput, String> {
    let text = match format {
        OutputFormat::Text => report.to_string(),
        OutputFormat::Json => serde_json::to_string(report).map_err(|why| why.to_string())?,
    };
    Ok(RingOutput { text, has_flaws: false })
}

fn check_distinct(members: &[Member]) -> Result<(), String> {
    let mut names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("replica {} is given twice: a name is a place on the ring", pair[0])),
        None => Ok(()),
    }
}

/// The members after those of `remove` left and those of `add` joined.
fn changed(members: &[Member], remove: &[String], add: &[Member]) -> Result<Vec<Member>, String> {
    if remove.is_empty() && add.is_empty() {
        return Err("no change to examine: give --remove NAME, --add NAME or both".into());
    }
    if let Some(unknown) = remove.iter().find(|name| members.iter().all(|member| member.name != **name)) {
        let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).take(8).collect();
        return Err(format!("--remove {unknown}: no such replica; there are {}", names.join(", ")));
    }
    let stay = members.iter().filter(|member| !remove.contains(&member.name));
    let after: Vec<Member> = stay.chain(add).cloned().collect();
    check_distinct(&after)?;
    if after.iter().all(|member| member.weight == 0) {
        return Err("no replica would be left on the ring".into());
    }
    Ok(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(kind: QueryKind, ring: RingKind, format: OutputFormat) -> Result<RingOutput, String> {
        let members = (1..=3).map(|i| Member::new(format!("server{i}"), 1)).collect();
        run_query(&RingQuery { kind, ring, members, format })
    }

    fn what_if(remove: &[&str], add: &[&str]) -> Result<RingOutput, String> {
        let remove = remove.iter().map(|name| name.to_string()).collect();
        let add = add.iter().map(|name| Member::new(*name, 1)).collect();
        run(QueryKind::WhatIf { remove, add }, RingKind::Ketama, OutputFormat::Json)
    }

    #[test]
    fn the_json_form_parses() {
        let shown = run(QueryKind::Show, RingKind::Ketama, OutputFormat::Json).unwrap().text;
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown["replicas"][0]["name"], "server1");
        assert_eq!(shown["points"], 480);
        let moved: serde_json::Value = serde_json::from_str(&what_if(&["server2"], &[]).unwrap().text).unwrap();
        assert_eq!(moved["innocent"], 0.0);
        assert_eq!(moved["flows"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn lint_finds_flaws_in_the_exercise_ring_only() {
        assert!(run(QueryKind::Lint, RingKind::Exercise, OutputFormat::Text).unwrap().has_flaws);
        assert!(!run(QueryKind::Lint, RingKind::Ketama, OutputFormat::Text).unwrap().has_flaws);
    }

    #[test]
    fn an_impossible_change_is_refused_with_its_reason() {
        assert!(what_if(&["server9"], &[]).unwrap_err().contains("server9"));
        assert!(what_if(&[], &["server1"]).unwrap_err().contains("twice"));
        assert!(what_if(&["server1", "server2", "server3"], &[]).unwrap_err().contains("no replica would be left"));
        assert!(what_if(&[], &[]).unwrap_err().contains("--remove"));
        assert!(what_if(&["server1"], &["server1"]).is_ok());
    }
}
