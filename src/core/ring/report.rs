//! Reports on a ring with the names of its members, as text and as JSON. Exact: nothing is sampled.

use std::fmt::{Display, Formatter, Result};

use serde::Serialize;
use utoipa::ToSchema;

use super::{Member, Ring, RingKind};

/// The share of each replica.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct RingReport {
    pub ring: &'static str,
    pub points: usize,
    pub replicas: Vec<ReplicaShare>,
    /// The largest quotient of share and ideal share: 1 is perfect.
    pub max_over_ideal: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ReplicaShare {
    pub name: String,
    pub weight: u32,
    pub points: usize,
    /// Fraction of all keys.
    pub share: f64,
    /// Its weight over the sum of all weights.
    pub ideal: f64,
}

/// The replica of a key, and how it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct KeyReport {
    pub ring: &'static str,
    pub key: String,
    /// The CRC-32 of the key; on the ring of the exercise, the number of a request.
    pub hash: u32,
    /// Places on the circle: `position` and `point` are two of them.
    pub size: u64,
    pub position: u32,
    /// The first point at or after the position.
    pub point: u32,
    pub replica: String,
    /// In the order in which they are tried.
    pub fallbacks: Vec<String>,
}

/// The keys that a change of members moves.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ChangeReport {
    pub ring: &'static str,
    /// The fraction of all keys that change their replica.
    pub moved: f64,
    /// The fraction that would move if all shares were ideal.
    pub ideal: f64,
    /// The part of `moved` between two replicas that are members before and after: avoidable.
    pub innocent: f64,
    pub flows: Vec<NamedFlow>,
    pub after: Vec<ReplicaShare>,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct NamedFlow {
    pub from: String,
    pub to: String,
    /// Fraction of all keys.
    pub share: f64,
}

pub fn show(kind: RingKind, members: &[Member]) -> RingReport {
    let replicas = rows(&Ring::build(kind, members), members);
    let max_over_ideal = replicas.iter().filter(|r| r.ideal > 0.0).map(|r| r.share / r.ideal).fold(0.0, f64::max);
    RingReport { ring: name(kind), points: replicas.iter().map(|r| r.points).sum(), replicas, max_over_ideal }
}

/// `None`: no member has a weight.
pub fn explain(kind: RingKind, members: &[Member], key: &str) -> Option<KeyReport> {
    let hash = hash(kind, key);
    let found = Ring::build(kind, members).explain(hash)?;
    let named = |member: usize| members[member].name.clone();
    Some(KeyReport {
        ring: name(kind),
        key: key.into(),
        hash,
        size: kind.size(),
        position: kind.place(found.position),
        point: kind.place(found.point),
        replica: named(found.member),
        fallbacks: found.fallbacks.into_iter().map(named).collect(),
    })
}

/// The change from `before` to `after`. Members are matched by name.
pub fn what_if(kind: RingKind, before: &[Member], after: &[Member]) -> ChangeReport {
    let (old, new) = (Ring::build(kind, before), Ring::build(kind, after));
    let whole = old.shares().whole as f64;
    let stays = |name: &str, members: &[Member]| members.iter().any(|m| m.name == name && m.weight > 0);
    let mut flows = Vec::new();
    let mut innocent = 0.0;
    for flow in old.flows(&new) {
        let (from, to, share) = (&before[flow.from].name, &after[flow.to].name, flow.keys as f64 / whole);
        if from == to {
            continue;
        }
        if stays(from, after) && stays(to, before) {
            innocent += share;
        }
        flows.push(NamedFlow { from: from.clone(), to: to.clone(), share });
    }
    flows.sort_by(|a, b| b.share.total_cmp(&a.share).then_with(|| (&a.from, &a.to).cmp(&(&b.from, &b.to))));
    ChangeReport {
        ring: name(kind),
        moved: flows.iter().map(|flow| flow.share).sum(),
        ideal: least_moved(before, after),
        innocent,
        flows,
        after: rows(&new, after),
    }
}

/// What the ring is asked with for the text of a key.
pub fn hash(kind: RingKind, key: &str) -> u32 {
    match (kind, key.parse()) {
        (RingKind::Exercise, Ok(number)) => number,
        _ => crc32fast::hash(key.as_bytes()),
    }
}

pub fn name(kind: RingKind) -> &'static str {
    match kind {
        RingKind::Ketama => "ketama",
        RingKind::Maglev => "maglev",
        RingKind::Exercise => "exercise",
    }
}

fn rows(ring: &Ring, members: &[Member]) -> Vec<ReplicaShare> {
    let shares = ring.shares();
    let mut points = vec![0; members.len()];
    ring.points().for_each(|(_, member)| points[member] += 1);
    let row = |i: usize, m: &Member| ReplicaShare {
        name: m.name.clone(),
        weight: m.weight,
        points: points[i],
        share: shares.of(i),
        ideal: entitled(m, members),
    };
    members.iter().enumerate().map(|(i, member)| row(i, member)).collect()
}

fn entitled(member: &Member, members: &[Member]) -> f64 {
    let total: u64 = members.iter().map(|m| u64::from(m.weight)).sum();
    f64::from(member.weight) / total.max(1) as f64
}

/// The sum of what members are entitled to more than before.
fn least_moved(before: &[Member], after: &[Member]) -> f64 {
    let had = |name: &str| before.iter().find(|m| m.name == name).map_or(0.0, |m| entitled(m, before));
    after.iter().map(|m| (entitled(m, after) - had(&m.name)).max(0.0)).sum()
}

impl Display for RingReport {
    fn fmt(&self, f: &mut Formatter) -> Result {
        write!(f, "ring {}: {} points, {} replicas", self.ring, self.points, self.replicas.len())?;
        write_rows(f, &self.replicas)?;
        write!(f, "\nthe largest has {:.2} times its ideal share", self.max_over_ideal)
    }
}

impl Display for KeyReport {
    fn fmt(&self, f: &mut Formatter) -> Result {
        writeln!(f, "key       {}", self.key)?;
        if self.size > u64::from(u32::MAX) {
            writeln!(f, "hash      {:#010x}", self.hash)?;
            writeln!(f, "position  {:#010x}", self.position)?;
            writeln!(f, "point     {:#010x}, the first at or after it", self.point)?;
        } else {
            writeln!(f, "request   {}", self.hash)?;
            writeln!(f, "slot      {} of {}", self.position, self.size)?;
            writeln!(f, "point     {}, the first at or after it", self.point)?;
        }
        writeln!(f, "replica   {}", self.replica)?;
        let fallbacks = self.fallbacks.join(", ");
        write!(f, "fallbacks {}", if fallbacks.is_empty() { "none" } else { &fallbacks })
    }
}

impl Display for ChangeReport {
    fn fmt(&self, f: &mut Formatter) -> Result {
        writeln!(f, "ring {}: {} of all keys move (ideal: {})", self.ring, percent(self.moved), percent(self.ideal))?;
        writeln!(f, "between replicas that stay: {}", percent(self.innocent))?;
        let width = self.flows.iter().map(|flow| flow.from.len()).max().unwrap_or(0);
        for flow in &self.flows {
            writeln!(f, "  {:width$} -> {}  {}", flow.from, flow.to, percent(flow.share))?;
        }
        write!(f, "afterwards:")?;
        write_rows(f, &self.after)
    }
}

fn write_rows(f: &mut Formatter, rows: &[ReplicaShare]) -> Result {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    for ReplicaShare { name, weight, points, share, ideal } in rows {
        let (share, ideal) = (percent(*share), percent(*ideal));
        write!(f, "\n  {name:width$}  weight {weight:<3} {points:>5} points   share {share:>8}   ideal {ideal:>8}")?;
    }
    Ok(())
}

fn percent(fraction: f64) -> String {
    format!("{:.2} %", fraction * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(count: usize) -> Vec<Member> {
        (1..=count).map(|i| Member::new(format!("server{i}"), 1)).collect()
    }

    #[test]
    fn shares_have_names_and_sum_to_one() {
        let mut members = servers(3);
        members[0].weight = 2;
        let shown = show(RingKind::Ketama, &members);
        assert_eq!((shown.points, shown.replicas[0].points), (640, 320));
        assert_eq!(shown.replicas[0].ideal, 0.5);
        let sum: f64 = shown.replicas.iter().map(|row| row.share).sum();
        assert!((sum - 1.0).abs() < 1e-12);
        assert!(shown.to_string().contains("server1"));
        assert_eq!((shown.ring, show(RingKind::Exercise, &members).ring), ("ketama", "exercise"));
    }

    #[test]
    fn an_explanation_names_the_replica_and_all_fallbacks() {
        let found = explain(RingKind::Ketama, &servers(3), "k0").unwrap();
        assert_eq!(found.hash, crc32fast::hash(b"k0"));
        assert_eq!(found.fallbacks.len(), 2);
        assert_eq!(explain(RingKind::Ketama, &[], "k0"), None);
        assert_eq!(explain(RingKind::Exercise, &servers(3), "1000").unwrap().hash, 1000);
    }

    /// H(7) = 49 + 14 + 17.
    #[test]
    fn the_ring_of_the_exercise_is_explained_by_its_slots() {
        let found = explain(RingKind::Exercise, &servers(3), "7").unwrap();
        assert_eq!((found.size, found.position, found.point), (512, 80, 82));
        let text = found.to_string();
        assert!(text.contains("request   7\nslot      80 of 512\npoint     82, "), "{text}");
    }

    #[test]
    fn ketama_moves_only_the_keys_of_the_removed_member() {
        let before = servers(4);
        let after: Vec<Member> = before.iter().filter(|m| m.name != "server2").cloned().collect();
        let moved = what_if(RingKind::Ketama, &before, &after);
        assert_eq!(moved.innocent, 0.0);
        assert!(moved.flows.iter().all(|flow| flow.from == "server2"));
        assert!((moved.moved - show(RingKind::Ketama, &before).replicas[1].share).abs() < 1e-12);
        assert!((moved.ideal - 0.25).abs() < 1e-12);
        let back = what_if(RingKind::Ketama, &after, &before);
        assert!((back.moved - moved.moved).abs() < 1e-12);
        assert_eq!(back.innocent, 0.0);
    }

    #[test]
    fn the_exercise_moves_keys_between_members_that_stay() {
        let (before, mut after) = (servers(20), servers(20));
        after[1].weight = 0;
        let moved = what_if(RingKind::Exercise, &before, &after);
        let between = |flow: &&NamedFlow| flow.from != "server2" && flow.to != "server2";
        let innocent: f64 = moved.flows.iter().filter(between).map(|flow| flow.share).sum();
        assert!(innocent > 0.0 && (moved.innocent - innocent).abs() < 1e-12, "{innocent} {}", moved.innocent);
    }
}
