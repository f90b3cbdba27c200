//! `ringway ring`: questions about a ring and their answers, as text or JSON. Pure.

use std::fmt::Display;

use serde::Serialize;

use crate::core::ring::{Member, RingKind, lint, report};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    pub ask: Ask,
    pub kind: RingKind,
    pub members: Vec<Member>,
    pub json: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    Show,
    Explain { key: String },
    WhatIf { remove: Vec<String>, add: Vec<Member> },
    Lint,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub text: String,
    /// A lint that found a flaw: the answer is there, and the exit status says no.
    pub flawed: bool,
}

/// Err: one line on what is wrong with the question.
pub fn answer(question: &Question) -> Result<Answer, String> {
    let Question { kind, members, json, .. } = question;
    distinct(members)?;
    match &question.ask {
        Ask::Show => said(&report::show(*kind, members), *json),
        Ask::Explain { key } => match report::explain(*kind, members, key) {
            Some(explained) => said(&explained, *json),
            None => Err("no replica has a weight: there is nowhere to go".into()),
        },
        Ask::WhatIf { remove, add } => said(&report::what_if(*kind, members, &changed(members, remove, add)?), *json),
        Ask::Lint => {
            let found = lint::lint(*kind, members);
            Ok(Answer { flawed: found.has_flaws(), ..said(&found, *json)? })
        }
    }
}

fn said(report: &(impl Display + Serialize), json: bool) -> Result<Answer, String> {
    let text = if json { serde_json::to_string(report).map_err(|why| why.to_string())? } else { report.to_string() };
    Ok(Answer { text, flawed: false })
}

fn distinct(members: &[Member]) -> Result<(), String> {
    let mut names: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(format!("replica {} is there twice: names are places on the ring", pair[0])),
        None => Ok(()),
    }
}

fn changed(members: &[Member], remove: &[String], add: &[Member]) -> Result<Vec<Member>, String> {
    if remove.is_empty() && add.is_empty() {
        return Err("what if what? Say --remove NAME, --add NAME or both".into());
    }
    if let Some(stranger) = remove.iter().find(|name| members.iter().all(|member| member.name != **name)) {
        let names: Vec<&str> = members.iter().map(|member| member.name.as_str()).take(8).collect();
        return Err(format!("--remove {stranger}: no such replica; there are {}", names.join(", ")));
    }
    let stay = members.iter().filter(|member| !remove.contains(&member.name));
    let after: Vec<Member> = stay.chain(add).cloned().collect();
    distinct(&after)?;
    if after.iter().all(|member| member.weight == 0) {
        return Err("nobody would be left on the ring".into());
    }
    Ok(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(ask: Ask, kind: RingKind, json: bool) -> Result<Answer, String> {
        let members = (1..=3).map(|i| Member::new(format!("server{i}"), 1)).collect();
        answer(&Question { ask, kind, members, json })
    }

    fn what_if(remove: &[&str], add: &[&str]) -> Result<Answer, String> {
        let remove = remove.iter().map(|name| name.to_string()).collect();
        let add = add.iter().map(|name| Member::new(*name, 1)).collect();
        ask(Ask::WhatIf { remove, add }, RingKind::Ketama, true)
    }

    #[test]
    fn json_is_json() {
        let shown: serde_json::Value =
            serde_json::from_str(&ask(Ask::Show, RingKind::Ketama, true).unwrap().text).unwrap();
        assert_eq!(shown["replicas"][0]["name"], "server1");
        assert_eq!(shown["points"], 480);
        let moved: serde_json::Value = serde_json::from_str(&what_if(&["server2"], &[]).unwrap().text).unwrap();
        assert_eq!(moved["innocent"], 0.0);
        assert_eq!(moved["flows"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn only_a_flawed_ring_is_flawed() {
        assert!(ask(Ask::Lint, RingKind::Exercise, false).unwrap().flawed);
        assert!(!ask(Ask::Lint, RingKind::Ketama, false).unwrap().flawed);
    }

    #[test]
    fn what_cannot_be_asked_says_why() {
        assert!(what_if(&["server9"], &[]).unwrap_err().contains("server9"));
        assert!(what_if(&[], &["server1"]).unwrap_err().contains("twice"));
        assert!(what_if(&["server1", "server2", "server3"], &[]).unwrap_err().contains("nobody"));
        assert!(what_if(&[], &[]).unwrap_err().contains("--remove"));
        assert!(what_if(&["server1"], &["server1"]).is_ok());
    }
}
