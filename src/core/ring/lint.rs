//! Finds the flaws of a ring: slots that no key reaches, members without keys, collisions, skew.

use std::fmt::{Display, Formatter, Result};

use serde::Serialize;

use super::report::{self, ReplicaShare};
use super::{Member, Ring, RingKind, SLOTS, THE_EXERCISE, exercise};

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lint {
    pub ring: &'static str,
    /// Worst first.
    pub findings: Vec<LintFinding>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LintFinding {
    pub level: Level,
    pub rule: &'static str,
    pub says: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Requests are distributed worse than the weights ask for.
    Flaw,
    /// Expected, reported for information.
    Note,
}

/// A share of more than this many times the ideal share is skew. The standard deviation of 160 points is 8 %; this is 5 of
/// them.
const SKEW_LIMIT: f64 = 1.4;

pub fn lint(kind: RingKind, members: &[Member]) -> Lint {
    let shown = report::show(kind, members);
    let mut findings = Vec::new();
    findings.extend(reach(kind));
    findings.extend(shown.replicas.iter().filter_map(without_keys));
    findings.extend(collisions(kind, members));
    findings.extend(skew(&shown.replicas));
    findings.sort_by_key(|finding| finding.level);
    Lint { ring: shown.ring, findings }
}

impl Lint {
    pub fn has_flaws(&self) -> bool {
        self.findings.iter().any(|finding| finding.level == Level::Flaw)
    }
}

/// How many slots are the first choice of a key, over one period of H.
pub fn reachable_slots(functions: super::Functions) -> usize {
    let mut reached = [false; SLOTS as usize];
    (0..functions.period).for_each(|request| reached[functions.slot(request) as usize] = true);
    reached.into_iter().filter(|reached| *reached).count()
}

fn reach(kind: RingKind) -> Option<LintFinding> {
    let reached = match kind {
        RingKind::Ketama | RingKind::Maglev => return None,
        RingKind::Exercise => reachable_slots(THE_EXERCISE),
    };
    let says = format!("requests reach {reached} of the {SLOTS} slots: i^2 + 2i + 17 is a square plus 16");
    (reached < SLOTS as usize).then(|| flaw("unreachable", says))
}

fn without_keys(row: &ReplicaShare) -> Option<LintFinding> {
    let ReplicaShare { name, points, .. } = row;
    match (row.weight, *points, row.share) {
        (0, _, _) => Some(note("weight", format!("{name} has weight 0 and gets no requests"))),
        (_, 0, _) => Some(flaw("no-room", format!("{name} has no point: the ring is full"))),
        (_, _, 0.0) => Some(flaw("no-keys", format!("{name} has {points} points and no key reaches one"))),
        _ => None,
    }
}

fn collisions(kind: RingKind, members: &[Member]) -> Option<LintFinding> {
    match kind {
        RingKind::Ketama => {
            let ring = Ring::build(kind, members);
            let positions: Vec<u32> = ring.points().map(|(position, _)| position).collect();
            let shared = positions.windows(2).filter(|pair| pair[0] == pair[1]).count();
            let says = format!("{shared} of {} points lie where another lies: the lesser name wins", positions.len());
            (shared > 0).then(|| note("collision", says))
        }
        RingKind::Maglev => None,
        RingKind::Exercise => {
            let (displaced, copies) = exercise::displaced(THE_EXERCISE, members);
            let says = format!("{displaced} of {copies} server copies found their slot taken and went to another");
            (displaced > 0).then(|| flaw("collision", says))
        }
    }
}

fn skew(rows: &[ReplicaShare]) -> Option<LintFinding> {
    let over = |row: &&ReplicaShare| row.ideal > 0.0 && row.share > SKEW_LIMIT * row.ideal;
    let worst = rows.iter().filter(over).max_by(|a, b| (a.share / a.ideal).total_cmp(&(b.share / b.ideal)))?;
    let (share, ideal) = (worst.share * 100.0, worst.ideal * 100.0);
    Some(flaw("skew", format!("{} gets {share:.1} % of requests, its weight entitles it to {ideal:.1} %", worst.name)))
}

fn flaw(rule: &'static str, says: String) -> LintFinding {
    LintFinding { level: Level::Flaw, rule, says }
}

fn note(rule: &'static str, says: String) -> LintFinding {
    LintFinding { level: Level::Note, rule, says }
}

impl Display for Lint {
    fn fmt(&self, f: &mut Formatter) -> Result {
        if self.findings.is_empty() {
            return write!(f, "ring {}: nothing to find fault with", self.ring);
        }
        write!(f, "ring {}:", self.ring)?;
        for LintFinding { level, rule, says } in &self.findings {
            write!(f, "\n  {:4} {rule}: {says}", if *level == Level::Flaw { "flaw" } else { "note" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(count: usize) -> Vec<Member> {
        (1..=count).map(|i| Member::new(format!("server{i}"), 1)).collect()
    }

    fn rules(kind: RingKind, members: &[Member]) -> Vec<&'static str> {
        lint(kind, members).findings.into_iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn the_flaws_of_the_exercise_are_found() {
        let found = lint(RingKind::Exercise, &servers(3));
        assert!(found.has_flaws());
        let text = found.to_string();
        assert!(text.contains("87 of the 512 slots") && text.contains("84.4 %"), "{text}");
        assert!(text.contains("3 of 27 server copies found their slot taken"), "{text}");
    }

    #[test]
    fn the_replica_with_the_most_keys_for_its_weight_is_named() {
        let row = |name: &str, ideal, share| ReplicaShare { name: name.into(), weight: 1, points: 1, ideal, share };
        let rows = [row("large", 0.5, 0.8), row("small", 0.05, 0.17), row("none", 0.0, 0.0), row("fair", 0.45, 0.03)];
        let found = skew(&rows).expect("two are over");
        assert!(
            found.says.starts_with("small gets 17.0 % of requests, its weight entitles it to 5.0 %"),
            "{}",
            found.says
        );
        assert_eq!(skew(&rows[2..]), None);
    }

    #[test]
    fn ketama_has_no_flaws() {
        for count in [2, 3, 10, 100] {
            assert!(!lint(RingKind::Ketama, &servers(count)).has_flaws(), "{count}");
        }
        assert_eq!(rules(RingKind::Ketama, &servers(3)), [""; 0]);
    }

    #[test]
    fn a_full_ring_and_a_member_of_weight_0_are_reported() {
        assert!(rules(RingKind::Exercise, &servers(64)).contains(&"no-room"));
        assert_eq!(rules(RingKind::Ketama, &[Member::new("a", 1), Member::new("b", 0)]), ["weight"]);
    }
}
