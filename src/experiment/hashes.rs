//! `hashes`: the exercise's hash functions, the same ring with better ones, ketama and maglev: shares, slots that keys reach,
//! and keys that move. Everything is computed exactly, each key once; nothing is measured.

use plotters::prelude::*;

use super::output::{self, Report, percent};
use super::picture::{self, Area, Axes, BLUE, Caption, Drawn, Figure, LegendMark, ORANGE, RED};
use crate::core::ring::lint::reachable_slots;
use crate::core::ring::{Functions, Member, Ring, RingKind, SLOTS, THE_EXERCISE};

/// One way to lay out a ring.
#[derive(Clone, Copy)]
struct Layout {
    name: &'static str,
    kind: RingKind,
    /// Of the exercise.
    functions: Option<Functions>,
}

/// The exercise's ring with functions that reach every slot: an odd multiple, and a mix of all bits.
const CHANGED: Functions = Functions { request: |i| i.wrapping_mul(167).wrapping_add(17), period: SLOTS, server: mix };

const LAYOUTS: [Layout; 4] = [
    Layout { name: "exercise", kind: RingKind::Exercise, functions: Some(THE_EXERCISE) },
    Layout { name: "changed", kind: RingKind::Exercise, functions: Some(CHANGED) },
    Layout { name: "ketama", kind: RingKind::Ketama, functions: None },
    Layout { name: "maglev", kind: RingKind::Maglev, functions: None },
];
/// As many as the exercise starts with. Their shares are drawn.
const REPLICAS: usize = 3;
/// Enough that servers of the exercise collide in a slot. The keys that move among so many are drawn.
const MOVING: usize = 7;
/// The largest number of replicas in the table.
const REPLICAS_MAX: usize = 10;

/// One layout with one number of replicas.
struct LayoutResult {
    layout: Layout,
    replicas: usize,
    shares: Vec<f64>,
    /// When the middle one leaves: server4 of 7.
    leave: Moved,
    join: Moved,
}

/// Fractions of all keys.
#[derive(Clone, Copy)]
struct Moved {
    ideal: f64,
    all: f64,
    /// Between two replicas that are there before and after.
    innocent: f64,
}

pub fn run() -> Result<Report, String> {
    let found: Vec<LayoutResult> = (2..=REPLICAS_MAX).flat_map(|n| LAYOUTS.map(|layout| compute(layout, n))).collect();
    report(&found)
}

fn report(found: &[LayoutResult]) -> Result<Report, String> {
    let of = |n: usize| -> Vec<&LayoutResult> { found.iter().filter(|finding| finding.replicas == n).collect() };
    let text = summary(&of(REPLICAS), &of(MOVING));
    let picture = picture::paint(&HashesFigure { shared: of(REPLICAS), moved: of(MOVING) })?;
    Ok(Report { name: "hashes", picture, csv: csv(found), text })
}

fn mix(i: u64, j: u64) -> u64 {
    u64::from(crc32fast::hash(&[i.to_le_bytes(), j.to_le_bytes()].concat()))
}

fn compute(layout: Layout, n: usize) -> LayoutResult {
    let (now, more) = (servers(n), servers(n + 1));
    let mut fewer = servers(n);
    fewer.remove(n / 2);
    let shares = layout.build(&now).shares();
    LayoutResult {
        layout,
        replicas: n,
        shares: (0..n).map(|member| shares.of(member)).collect(),
        leave: layout.moved(&now, &fewer, 1.0 / n as f64),
        join: layout.moved(&now, &more, 1.0 / (n + 1) as f64),
    }
}

fn servers(n: usize) -> Vec<Member> {
    (1..=n).map(|i| Member::new(format!("server{i}"), 1)).collect()
}

impl Layout {
    fn build(&self, members: &[Member]) -> Ring {
        match self.functions {
            Some(functions) => Ring::slotted(functions, members),
            None => Ring::build(self.kind, members),
        }
    }

    fn moved(&self, had: &[Member], have: &[Member], ideal: f64) -> Moved {
        let before = self.build(had);
        let whole = before.shares().whole as f64;
        let mut moved = Moved { ideal, all: 0.0, innocent: 0.0 };
        for flow in before.flows(&self.build(have)) {
            let (from, to) = (&had[flow.from], &have[flow.to]);
            if from.name != to.name {
                moved.all += flow.keys as f64 / whole;
                if have.contains(from) && had.contains(to) {
                    moved.innocent += flow.keys as f64 / whole;
                }
            }
        }
        moved
    }

    fn reach(&self) -> String {
        match (self.functions, self.kind) {
            (Some(functions), _) => format!("{} of {SLOTS} slots", reachable_slots(functions)),
            (None, RingKind::Maglev) => "all of 65537 slots".into(),
            (None, _) => "all of 2^32 places".into(),
        }
    }
}

fn csv(found: &[LayoutResult]) -> String {
    let head = [
        "ring",
        "replicas",
        "replica",
        "share",
        "ideal_share",
        "leave_moved",
        "leave_innocent",
        "leave_ideal",
        "join_moved",
        "join_innocent",
        "join_ideal",
    ];
    let number = |fraction: f64| format!("{fraction:.6}");
    let rows = found.iter().flat_map(|finding| {
        finding.shares.iter().enumerate().map(move |(i, share)| {
            let LayoutResult { layout, replicas, leave, join, .. } = finding;
            [
                layout.name.into(),
                replicas.to_string(),
                format!("server{}", i + 1),
                number(*share),
                number(1.0 / *replicas as f64),
                number(leave.all),
                number(leave.innocent),
                number(leave.ideal),
                number(join.all),
                number(join.innocent),
                number(join.ideal),
            ]
        })
    });
    output::csv(head, rows)
}

fn summary(shared: &[&LayoutResult], moved: &[&LayoutResult]) -> String {
    let head =
        ["ring", "keys reach", "largest share of 3", "server4 of 7 leaves: moved", "innocent", "server8 joins: moved"];
    let rows = shared.iter().zip(moved).map(|(shared, moved)| {
        let largest = shared.shares.iter().copied().fold(0.0, f64::max);
        let [a, b, c, d] = [largest, moved.leave.all, moved.leave.innocent, moved.join.all].map(percent);
        [shared.layout.name.into(), shared.layout.reach(), a, b, c, d]
    });
    format!(
        "Four rings, computed exactly: every key counts once. Ideally each of three replicas has {}, and of seven {} of \
         all keys move when one leaves, {} when an eighth joins. A key that moves between two replicas which are there \
         before and after is innocent: neither left or joined. The exercise's H(i) = i^2 + 2i + 17 is a square plus 16 \
         and reaches few slots; with functions that reach all of them the same 512 slots spread better, but servers still \
         push each other out of slots; ketama has 160 points per replica on a circle of 2^32 and moves no innocent key; maglev \
         has a table of equal slots that replicas take by turns: even shares, and a few innocent keys move.\n\n{}",
        percent(1.0 / REPLICAS as f64),
        percent(1.0 / MOVING as f64),
        percent(1.0 / (MOVING + 1) as f64),
        output::table(head, rows)
    )
}

struct HashesFigure<'a> {
    shared: Vec<&'a LayoutResult>,
    moved: Vec<&'a LayoutResult>,
}

impl Figure for HashesFigure<'_> {
    fn name(&self) -> &'static str {
        "hashes"
    }

    fn caption(&self) -> Caption {
        Caption {
            title: "Which hash: the exercise's, the exercise's changed, ketama, maglev".into(),
            subtitle: "Above: how three replicas share all keys. Below: keys that move when one of seven leaves, or an eighth joins."
                .into(),
            legend: vec![
                (LegendMark::Fill(BLUE), "share of keys, or keys that moved".into()),
                (LegendMark::Fill(RED), "of these: innocent keys".into()),
                (LegendMark::Line(ORANGE), "ideal".into()),
            ],
        }
    }

    fn size(&self) -> (u32, u32) {
        (picture::WIDTH, 1060)
    }

    fn body<B: DrawingBackend>(&self, area: &Area<B>) -> Drawn<B> {
        let cells = area.split_evenly((2, self.shared.len()));
        let (top, bottom) = cells.split_at(self.shared.len());
        for (cell, finding) in top.iter().zip(&self.shared) {
            let shares: Vec<KeysBar> =
                finding.shares.iter().enumerate().map(|(i, share)| KeysBar::share(i, *share)).collect();
            bars(cell, &format!("{}: {}", finding.layout.name, finding.layout.reach()), 1.0, &shares)?;
        }
        for (cell, LayoutResult { leave, join, .. }) in bottom.iter().zip(&self.moved) {
            let moves = [KeysBar::moved("one leaves", *leave), KeysBar::moved("one joins", *join)];
            let innocent = [leave, join].map(|moved| percent(moved.innocent)).join(" and ");
            bars(cell, &format!("innocent: {innocent}"), 0.3, &moves)?;
        }
        Ok(())
    }
}

struct KeysBar {
    label: String,
    value: f64,
    innocent: f64,
    ideal: f64,
}

impl KeysBar {
    fn share(i: usize, value: f64) -> KeysBar {
        KeysBar { label: format!("server{}", i + 1), value, innocent: 0.0, ideal: 1.0 / REPLICAS as f64 }
    }

    fn moved(label: &str, moved: Moved) -> KeysBar {
        KeysBar { label: label.into(), value: moved.all, innocent: moved.innocent, ideal: moved.ideal }
    }
}

fn bars<B: DrawingBackend>(area: &Area<B>, title: &str, y_max: f64, bars: &[KeysBar]) -> Drawn<B> {
    let percent_label = |y: &f64| format!("{:.0} %", y * 100.0);
    let axes = Axes {
        title,
        x: 0.0..bars.len() as f64,
        y: 0.0..y_max,
        x_title: "",
        y_title: "",
        y_label_width: 96,
        x_label: None,
        y_label: &percent_label,
        x_labels: 0,
    };
    let mut chart = axes.chart(area)?;
    for (i, bar) in bars.iter().enumerate() {
        let (left, right, middle) = (i as f64 + 0.2, i as f64 + 0.8, i as f64 + 0.5);
        chart.draw_series([
            Rectangle::new([(left, 0.0), (right, bar.value)], BLUE.filled()),
            Rectangle::new([(left, 0.0), (right, bar.innocent)], RED.filled()),
        ])?;
        let ideal = [(i as f64 + 0.08, bar.ideal), (i as f64 + 0.92, bar.ideal)];
        chart.draw_series([PathElement::new(ideal, ORANGE.stroke_width(5))])?;
        // A number is written on its bar, unless the line of the ideal would cross it.
        let base = if bar.value + 0.14 * y_max < bar.ideal { bar.value } else { bar.value.max(bar.ideal) };
        picture::label_above(area, &chart, (middle, base), &percent(bar.value))?;
        picture::label_below(area, &chart, middle, &bar.label)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test of both: what is computed takes seconds in a debug build.
    #[test]
    fn ketama_moves_no_innocent_key_maglev_few_and_the_report_says_so() {
        let mut found = Vec::new();
        for n in [2, REPLICAS, MOVING, REPLICAS_MAX] {
            let [exercise, changed, ketama, maglev] = LAYOUTS.map(|layout| compute(layout, n));
            assert_eq!((ketama.leave.innocent, ketama.join.innocent), (0.0, 0.0));
            assert!(maglev.leave.innocent.max(maglev.join.innocent) < 0.005, "{n}");
            let most = |finding: &LayoutResult| finding.shares.iter().copied().fold(0.0, f64::max);
            assert!(most(&changed) < most(&exercise), "{n}");
            assert!(most(&maglev) < most(&ketama) && most(&maglev) * (n as f64) < 1.001, "{n}");
            let all = [exercise, changed, ketama, maglev];
            for finding in &all {
                assert!((finding.shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            }
            found.extend(all);
        }
        assert_eq!(reachable_slots(CHANGED), 512);
        let report = report(&found).unwrap();
        assert_eq!(report.csv.lines().count(), 1 + 4 * (2 + REPLICAS + MOVING + REPLICAS_MAX));
        assert!(report.text.contains("84.4 %") && report.text.contains("87 of 512"));
        assert!(report.picture.svg.contains("maglev"));
    }
}
