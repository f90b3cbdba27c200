//! The guarantees of the ring: the choices of nginx, no effect of the order of members, exact removal, bounded spread.

use proptest::prelude::*;
use ringway::core::ring::{Member, Ring, RingKind, SLOTS};

/// A set of tests/golden/nginx_ring.txt: the choices of a real nginx.
struct Golden<'a> {
    name: &'a str,
    members: Vec<Member>,
    first: Vec<usize>,
    second: Vec<usize>,
}

fn golden() -> Vec<Golden<'static>> {
    let lines: Vec<&str> =
        include_str!("golden/nginx_ring.txt").lines().filter(|line| !line.starts_with('#')).collect();
    lines.chunks(3).map(|set| parse(set[0], set[1], set[2])).collect()
}

fn parse<'a>(set: &'a str, first: &str, second: &str) -> Golden<'a> {
    let mut words = set.split(' ');
    let name = words.next().unwrap();
    let members = words.map(member).collect();
    Golden { name, members, first: digits(first), second: digits(second) }
}

fn member(word: &str) -> Member {
    let (name, weight) = word.split_once('*').unwrap_or((word, "1"));
    Member::new(name, weight.parse().unwrap())
}

fn digits(line: &str) -> Vec<usize> {
    line.chars().map(|c| c.to_digit(36).unwrap() as usize).collect()
}

fn servers(count: usize) -> Vec<Member> {
    (1..=count).map(|i| Member::new(format!("server{i}"), 1)).collect()
}

/// As nginx and the workers compute it.
fn key(text: &str) -> u32 {
    crc32fast::hash(text.as_bytes())
}

fn name<'a>(ring: &Ring, members: &'a [Member], key: u32) -> &'a str {
    &members[ring.walk(key).next().unwrap()].name
}

#[test]
fn every_key_has_the_server_and_fallback_that_nginx_chooses() {
    let sets = golden();
    assert_eq!(sets.len(), 7);
    for set in sets {
        let ring = Ring::build(RingKind::Ketama, &set.members);
        assert_eq!(set.first.len(), 2000);
        for (i, (first, second)) in set.first.iter().zip(&set.second).enumerate() {
            let walked: Vec<usize> = ring.walk(key(&format!("k{i}"))).take(2).collect();
            assert_eq!(walked, [*first, *second], "set {}, key k{i}", set.name);
        }
    }
}

#[test]
fn without_members_or_weights_the_walk_is_empty() {
    for kind in [RingKind::Ketama, RingKind::Maglev, RingKind::Exercise] {
        assert_eq!(Ring::build(kind, &[]).walk(7).next(), None);
        assert_eq!(Ring::build(kind, &[Member::new("a", 0)]).walk(7).next(), None);
        assert_eq!(Ring::build(kind, &[]).explain(7), None);
    }
}

#[test]
fn a_key_behind_the_last_point_belongs_to_the_first_point() {
    let ring = Ring::build(RingKind::Ketama, &servers(3));
    let (first_position, first) = ring.points().next().unwrap();
    let (last_position, last) = ring.points().last().unwrap();
    assert_eq!(ring.walk(u32::MAX).next(), Some(first));
    assert_eq!(ring.walk(last_position + 1).next(), Some(first));
    assert_eq!(ring.walk(last_position).next(), Some(last));
    assert_eq!(ring.walk(0).next(), Some(first));
    assert_eq!(ring.walk(first_position).next(), Some(first));
}

/// The standard deviation of 160 points is about 1/sqrt(160) = 8 % of the mean; the bound is four of them.
#[test]
fn shares_of_equal_weights_differ_by_at_most_32_percent_of_the_mean() {
    for count in [2, 3, 10, 100, 1000] {
        let shares = Ring::build(RingKind::Ketama, &servers(count)).shares();
        let mean = 1.0 / count as f64;
        for member in 0..count {
            let deviation = (shares.of(member) - mean).abs() / mean;
            assert!(deviation < 0.32, "server{} of {count}: {deviation}", member + 1);
        }
    }
}

#[test]
fn shares_equal_counts_over_many_keys() {
    for kind in [RingKind::Ketama, RingKind::Maglev, RingKind::Exercise] {
        let ring = Ring::build(kind, &servers(5));
        let shares = ring.shares();
        assert_eq!(shares.keys.iter().sum::<u64>(), shares.whole);
        let keys = 1 << 20;
        let mut counts = [0; 5];
        (0..keys).for_each(|i: u32| counts[ring.walk(i.wrapping_mul(2_654_435_761)).next().unwrap()] += 1);
        for (member, count) in counts.into_iter().enumerate() {
            let measured = f64::from(count) / f64::from(keys);
            assert!((measured - shares.of(member)).abs() < 0.005, "{kind:?} {member}");
        }
    }
}

#[test]
fn an_explanation_names_the_point_its_member_and_all_fallbacks() {
    let members = servers(4);
    let ring = Ring::build(RingKind::Ketama, &members);
    let explained = ring.explain(key("/home")).unwrap();
    assert_eq!(explained.position, key("/home"));
    let owner = ring.points().find(|(position, _)| *position >= explained.position).unwrap();
    assert_eq!((explained.point, explained.member), owner);
    let members: Vec<usize> = std::iter::once(explained.member).chain(explained.fallbacks).collect();
    assert_eq!(members, ring.walk(key("/home")).collect::<Vec<_>>());
    assert_eq!(members.len(), 4);
}

#[test]
fn flows_count_every_key_once() {
    let three = Ring::build(RingKind::Ketama, &servers(3));
    let four = Ring::build(RingKind::Ketama, &servers(4));
    let flows = three.flows(&four);
    assert_eq!(flows.iter().map(|flow| flow.keys).sum::<u64>(), 1 << 32);
    let to_server4: u64 = flows.iter().filter(|flow| flow.to == 3).map(|flow| flow.keys).sum();
    assert_eq!(to_server4, four.shares().keys[3]);
    assert!(flows.iter().all(|flow| flow.to == 3 || flow.to == flow.from), "a key moved between two members that stay");
}

#[test]
fn the_index_agrees_with_a_binary_search() {
    for count in [1, 2, 3, 17, 100] {
        let ring = Ring::build(RingKind::Ketama, &servers(count));
        let points: Vec<(u32, usize)> = ring.points().collect();
        let around = points.iter().flat_map(|(at, _)| [at.wrapping_sub(1), *at, at.wrapping_add(1)]);
        for key in around.chain([0, u32::MAX]) {
            let i = points.partition_point(|(at, _)| *at < key) % points.len();
            assert_eq!(ring.walk(key).next(), Some(points[i].1), "{key} of {count}");
        }
    }
}

fn kinds() -> impl Strategy<Value = RingKind> {
    prop_oneof![Just(RingKind::Ketama), Just(RingKind::Exercise)]
}

fn members() -> impl Strategy<Value = Vec<Member>> {
    let named = ("[a-z]{1,3}[0-9]{0,3}(:[0-9]{2})?", 0u32..4).prop_map(|(name, weight)| Member::new(name, weight));
    proptest::collection::vec(named, 1..12).prop_map(|mut members| {
        members.sort_by(|a, b| a.name.cmp(&b.name));
        members.dedup_by(|a, b| a.name == b.name);
        members
    })
}

fn ordered() -> impl Strategy<Value = (Vec<Member>, Vec<Member>)> {
    members().prop_flat_map(|members| (Just(members.clone()), Just(members).prop_shuffle()))
}

fn walked(kind: RingKind, members: &[Member], key: u32) -> Vec<String> {
    Ring::build(kind, members).walk(key).map(|member| members[member].name.clone()).collect()
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort_unstable();
    names
}

/// The names of the members with a weight.
fn weighed(members: &[Member]) -> Vec<String> {
    sorted(members.iter().filter(|member| member.weight > 0).map(|member| member.name.clone()).collect())
}

proptest! {
    // A table takes longer to build.
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn the_order_of_members_has_no_effect_on_a_table((sorted, shuffled) in ordered(), key: u32) {
        let walks = [&sorted, &shuffled].map(|members| walked(RingKind::Maglev, members, key));
        prop_assert_eq!(&walks[0], &walks[1]);
        prop_assert_eq!(self::sorted(walks[0].clone()), weighed(&sorted));
    }

    /// Turns are whole, and a turn too few for each may be missing at the end.
    #[test]
    fn a_table_gives_each_member_its_share_by_weight(members in members()) {
        let slots = slots(&Ring::build(RingKind::Maglev, &members));
        let total: u32 = members.iter().map(|member| member.weight).sum();
        for (i, member) in members.iter().enumerate().filter(|_| total > 0) {
            let share = f64::from(member.weight) / f64::from(total);
            let due = slots.len() as f64 * share;
            let has = slots.iter().filter(|member| **member == i).count() as f64;
            let missing_max = members.len() as f64 * share;
            prop_assert!(due - missing_max <= has && has < due + 1.0, "{} has {} of {}", member.name, has, due);
        }
    }
}

proptest! {
    #[test]
    fn the_order_of_members_has_no_effect(kind in kinds(), (sorted, shuffled) in ordered(), key: u32) {
        prop_assert_eq!(walked(kind, &sorted, key), walked(kind, &shuffled, key));
    }

    #[test]
    fn a_walk_yields_each_member_with_a_weight_once(kind in kinds(), members in members(), key: u32) {
        prop_assert_eq!(sorted(walked(kind, &members, key)), weighed(&members));
    }

    /// Ketama only: on the ring of the exercise a removed server frees slots that other servers were displaced from.
    #[test]
    fn removal_moves_only_the_keys_of_the_removed_member_to_their_fallbacks(
        members in members(),
        gone: prop::sample::Index,
        keys in proptest::collection::vec(any::<u32>(), 64),
    ) {
        let gone = gone.index(members.len());
        let mut left = members.clone();
        left.remove(gone);
        let (before, after) = (Ring::build(RingKind::Ketama, &members), Ring::build(RingKind::Ketama, &left));
        for key in keys {
            let mut walk = before.walk(key).filter(|member| *member != gone);
            let expected = walk.next().map(|member| members[member].name.as_str());
            prop_assert_eq!(expected, after.walk(key).next().map(|member| left[member].name.as_str()));
        }
    }

    #[test]
    fn shares_and_flows_sum_to_all_keys(kind in kinds(), one in members(), other in members()) {
        let (one, other) = (Ring::build(kind, &one), Ring::build(kind, &other));
        let (before, after) = (one.shares(), other.shares());
        let placed = |keys: &[u64]| keys.iter().sum::<u64>();
        prop_assert!(placed(&before.keys) == before.whole || placed(&before.keys) == 0);
        if placed(&before.keys) > 0 && placed(&after.keys) > 0 {
            let moved: u64 = one.flows(&other).iter().map(|flow| flow.keys).sum();
            prop_assert_eq!(moved, before.whole);
        }
    }

    #[test]
    fn a_member_whose_weight_rises_keeps_its_keys(members in members(), heavier: prop::sample::Index, key: u32) {
        let i = heavier.index(members.len());
        let mut after = members.clone();
        after[i].weight += 1;
        let before = Ring::build(RingKind::Ketama, &members);
        if before.walk(key).next() == Some(i) {
            prop_assert_eq!(name(&Ring::build(RingKind::Ketama, &after), &after, key), members[i].name.as_str());
        }
    }
}

#[test]
fn the_points_of_the_exercise_are_in_512_slots() {
    let ring = Ring::build(RingKind::Exercise, &servers(3));
    assert_eq!(ring.points().count(), 27);
    assert!(ring.points().all(|(position, _)| position.is_multiple_of(u32::MAX / SLOTS + 1)));
}

fn slots(ring: &Ring) -> Vec<usize> {
    ring.points().map(|(_, member)| member).collect()
}

/// 655 members are the most that a table of 65,537 slots is for.
#[test]
fn shares_of_a_table_differ_by_at_most_1_percent() {
    for (count, size) in [(2, 65_537), (3, 65_537), (10, 65_537), (655, 65_537), (656, 655_373), (1_000, 655_373)] {
        let slots = slots(&Ring::build(RingKind::Maglev, &servers(count)));
        let mut owned = vec![0.0; count];
        slots.iter().for_each(|member| owned[*member] += 1.0);
        let ideal = slots.len() as f64 / count as f64;
        let (least, most) = owned.iter().fold((ideal, ideal), |(least, most), n| (least.min(*n), most.max(*n)));
        assert_eq!(slots.len(), size);
        assert!(most <= 1.01 * ideal && least >= 0.99 * ideal, "{count}: {least} to {most} of {ideal}");
    }
}

/// How the middle one of so many leaves: the members before, and after.
fn departure(count: usize) -> (Vec<Member>, Vec<Member>) {
    let (members, mut left) = (servers(count), servers(count));
    left.remove(count / 2);
    (members, left)
}

/// Of all keys of a table, the part that moves between members that stay when one leaves.
fn innocent(count: usize) -> f64 {
    let (members, left) = departure(count);
    let [before, after] = [&members, &left].map(|members| Ring::build(RingKind::Maglev, members));
    let moved = before.points().filter(|(key, member)| {
        let to = &left[after.walk(*key).next().unwrap()];
        *member != count / 2 && members[*member] != *to
    });
    moved.count() as f64 / before.points().count() as f64
}

#[test]
fn when_one_leaves_a_table_moves_few_keys_of_others_and_ketama_none() {
    for (count, percent) in [(3, "0.02"), (10, "0.22"), (100, "0.56"), (655, "0.71"), (1_000, "0.32")] {
        assert_eq!(format!("{:.2}", innocent(count) * 100.0), percent, "{count}");
    }
    let (members, left) = departure(100);
    let flows = Ring::build(RingKind::Ketama, &members).flows(&Ring::build(RingKind::Ketama, &left));
    assert!(flows.iter().all(|flow| flow.from == 50 || members[flow.from] == left[flow.to]));
}

/// It is why there are no more than two sizes.
#[test]
fn a_table_of_another_size_moves_nearly_all_keys() {
    assert!(innocent(656) > 0.95);
}

/// Each of the others gets a ninth of the keys of a member that is out, within five standard deviations of chance. The
/// slots behind each would not do: of them one member has 400 and another 1,000.
#[test]
fn the_keys_of_one_member_of_a_table_fall_back_to_all_others_evenly() {
    let ring = Ring::build(RingKind::Maglev, &servers(10));
    let keys = (0..1 << 17).map(|i: u32| i.wrapping_mul(2_654_435_761));
    let of_one: Vec<u32> = keys.filter(|key| ring.walk(*key).next() == Some(4)).collect();
    let mean = of_one.len() as f64 / 9.0;
    for fallback in 1..=3 {
        let mut counts = [0u32; 10];
        of_one.iter().for_each(|key| counts[ring.walk(*key).nth(fallback).unwrap()] += 1);
        assert_eq!(counts[4], 0);
        for (member, count) in counts.into_iter().enumerate().filter(|(member, _)| *member != 4) {
            assert!((f64::from(count) - mean).abs() < 5.0 * f64::sqrt(mean), "{member}: {count} of {mean}");
        }
    }
}

/// Another version must not move keys: the members of 32 slots as they are.
#[test]
fn a_table_is_the_same_in_every_version() {
    let ring = Ring::build(RingKind::Maglev, &["a", "b", "10.0.0.7:80"].map(|name| Member::new(name, 1)));
    let slots: String = ring.points().take(32).map(|(_, member)| member.to_string()).collect();
    assert_eq!(slots, "10202101010120101012020121200021");
}
