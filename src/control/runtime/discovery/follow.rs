//! Which servers a source of discovery lists, as far as its answers are believed. Pure: answers, errors and the time go in;
//! servers that joined or left, log lines and the time of the next question come out.
//!
//! A source is listed whole, then followed from a cursor, and lost while it fails. Three rules keep its faults away from
//! requests:
//!
//! - An error changes no member: the last answer that was believed stays, however old it is. Heartbeats find out which of
//!   its servers are dead.
//! - An empty answer after one with servers is believed only when the source was empty [`CONFIRMATIONS`] times in a row,
//!   over at least `confirm_empty`. Registries answer so for seconds while they restart or elect a leader. A service that
//!   is scaled to nothing on purpose loses nothing by the wait, since nothing answers at its addresses.
//! - What an answer says twice, and an answer that says what the last one said, changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use log::Level;
use serde::Serialize;
use utoipa::ToSchema;

use crate::control::registry::readable;
use crate::core::tick::Tick;

/// So many empty answers in a row are believed, if `confirm_empty` has passed from the first to the last. Two could be one
/// fault that is asked twice; more would only add questions, since the time between them is given.
pub const CONFIRMATIONS: u32 = 3;
/// Between two questions while an empty answer is doubted, at least.
const DOUBT_MIN_MS: u64 = 200;
/// Between a failure and the next question; it doubles with each failure in a row, and a random half of it is left out,
/// so that balancers that lost one source at the same time do not ask it at the same time.
const BACKOFF_FIRST_MS: u64 = 500;

/// A server that a source lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundServer {
    /// Its identity on the ring: what the source calls it for good, or its address.
    pub name: Arc<str>,
    pub address: SocketAddr,
    pub weight: u32,
}

/// How long a source is doubted, and left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowPolicy {
    /// From the first of several empty answers in a row to the one that is believed, at least. 0: the first is.
    pub confirm_empty_ms: u64,
    /// The longest pause after failures in a row.
    pub backoff_max_ms: u64,
}

/// What a source calls the state of its list: a Consul index, a Kubernetes resourceVersion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor(pub String);

/// A list in parts that change separately. A source without parts has one, without a name.
pub type ListParts = BTreeMap<Arc<str>, Vec<FoundServer>>;

/// What a source answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceAnswer {
    pub content: AnswerContent,
    /// Where the next question goes on. `None`: it asks for the whole list.
    pub cursor: Option<Cursor>,
    /// When it may be asked again.
    pub again_ms: u64,
    /// What of the answer cannot be used, for the operator.
    pub note: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerContent {
    Whole(ListParts),
    /// This part of the list is this now; no servers: it is gone.
    Part(Arc<str>, Vec<FoundServer>),
    /// The list is what it was at the cursor.
    Unchanged,
}

/// What follows from an answer, an error or the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FollowEvent {
    /// It is listed now, or has another address or weight.
    Joined(FoundServer),
    Left(FoundServer),
    Log(Level, String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum FollowState {
    /// The whole list is wanted.
    Listing,
    /// The list is known, up to this.
    Following(Option<Cursor>),
    /// It fails since then.
    Lost { since: Tick },
}

/// Empty answers in a row that are not believed yet.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    since: Tick,
    answers: u32,
}

/// One source of one service.
#[derive(Debug)]
pub struct Follow {
    policy: FollowPolicy,
    state: FollowState,
    parts: ListParts,
    /// Those of the last answer that was believed.
    members: BTreeMap<Arc<str>, FoundServer>,
    doubt: Option<Doubt>,
    failures_in_a_row: u32,
    due: Tick,
    /// When an answer was believed last.
    answered_at: Option<Tick>,
    errors: u64,
    last_error: Option<Arc<str>>,
    /// What was told last of an answer that cannot be used whole.
    note: Option<String>,
    random: fastrand::Rng,
}

/// What `GET /services` says of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct SourceStatus {
    /// What is asked, and where.
    pub from: String,
    /// One word: listing, following, or lost while it fails.
    pub state: &'static str,
    /// Servers of the last answer that was believed.
    pub listed: usize,
    /// How old that is; `null`: there was none yet.
    pub age_ms: Option<u64>,
    /// Answers that failed, since the start.
    pub errors: u64,
    #[schema(value_type = Option<String>)]
    pub last_error: Option<Arc<str>>,
}

impl FoundServer {
    /// Its address is its name: it stays where it is on the ring when others join and leave.
    pub fn at(address: SocketAddr, weight: u32) -> FoundServer {
        FoundServer { name: address.to_string().into(), address, weight }
    }
}

impl SourceAnswer {
    /// A whole list without parts.
    pub fn whole(servers: Vec<FoundServer>, again_ms: u64) -> SourceAnswer {
        let content = AnswerContent::Whole(BTreeMap::from([("".into(), servers)]));
        SourceAnswer { content, cursor: None, again_ms, note: None }
    }
}

impl Follow {
    pub fn new(policy: FollowPolicy, seed: u64, now: Tick) -> Follow {
        Follow {
            policy,
            state: FollowState::Listing,
            parts: ListParts::new(),
            members: BTreeMap::new(),
            doubt: None,
            failures_in_a_row: 0,
            due: now,
            answered_at: None,
            errors: 0,
            last_error: None,
            note: None,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// The source is another one now, or is asked otherwise. What the last one listed stays until this one answers.
    pub fn restart(&mut self, policy: FollowPolicy, now: Tick) {
        self.policy = policy;
        (self.state, self.doubt, self.failures_in_a_row, self.due) = (FollowState::Listing, None, 0, now);
    }

    /// It is not followed any more.
    pub fn forget(&mut self) {
        self.members.clear();
        self.parts.clear();
        (self.state, self.doubt, self.due) = (FollowState::Listing, None, Tick::NEVER);
        self.answered_at = None;
    }

    /// Where the next question goes on. `None`: it asks for the whole list.
    pub fn cursor(&self) -> Option<&Cursor> {
        match &self.state {
            FollowState::Following(cursor) => cursor.as_ref(),
            FollowState::Listing | FollowState::Lost { .. } => None,
        }
    }

    /// When the source is to be asked again.
    pub fn due(&self) -> Tick {
        self.due
    }

    pub fn members(&self) -> impl Iterator<Item = &FoundServer> {
        self.members.values()
    }

    pub fn answered(&mut self, answer: SourceAnswer, now: Tick) -> Vec<FollowEvent> {
        let SourceAnswer { content, cursor, again_ms, note } = answer;
        let is_unchanged = content == AnswerContent::Unchanged;
        let mut parts = std::mem::take(&mut self.parts);
        match content {
            AnswerContent::Whole(whole) => parts = whole,
            AnswerContent::Part(name, servers) if servers.is_empty() => drop(parts.remove(&name)),
            AnswerContent::Part(name, servers) => drop(parts.insert(name, servers)),
            AnswerContent::Unchanged => {}
        }
        let listed = self.distinct(&parts);
        self.parts = parts;
        let mut events = Vec::new();
        if let FollowState::Lost { since } = self.state {
            let after = readable(now.ms_since(since));
            events.push(FollowEvent::Log(Level::Info, format!("it answers again, after {after}: {}", count(&listed))));
        }
        self.failures_in_a_row = 0;
        self.due = now.after_ms(again_ms);
        if !is_unchanged && self.note != note {
            self.note = note;
            events.extend(self.note.iter().map(|note| FollowEvent::Log(Level::Warn, note.clone())));
        }
        if listed.is_empty() && !self.members.is_empty() && !self.is_confirmed(now, &mut events) {
            self.state = FollowState::Listing;
            let step_ms = self.policy.confirm_empty_ms.div_ceil(u64::from(CONFIRMATIONS - 1));
            self.due = now.after_ms(step_ms.max(DOUBT_MIN_MS));
            return events;
        }
        if self.doubt.take().is_some() && !listed.is_empty() {
            let line = format!("it lists {} again: its empty answer was not believed", count(&listed));
            events.push(FollowEvent::Log(Level::Info, line));
        }
        self.state = FollowState::Following(cursor);
        self.believe(listed, now, &mut events);
        events
    }

    /// The source did not answer, or not with a list: `why` is for the operator.
    pub fn failed(&mut self, why: &str, now: Tick) -> Vec<FollowEvent> {
        let mut events = Vec::new();
        let since = match self.state {
            FollowState::Lost { since } => since,
            _ => {
                let stays = match self.answered_at {
                    None => "it is asked again until it answers".to_owned(),
                    Some(at) => {
                        let age = readable(now.ms_since(at));
                        format!("its last answer, {}, {age} old, stays until it answers", count(&self.members))
                    }
                };
                events.push(FollowEvent::Log(Level::Warn, format!("{why}; {stays}")));
                now
            }
        };
        // An error says nothing about the list: empty answers on both sides of it are not in a row.
        self.doubt = None;
        self.state = FollowState::Lost { since };
        self.errors += 1;
        self.last_error = Some(why.into());
        let pause_ms = (BACKOFF_FIRST_MS << self.failures_in_a_row.min(16)).min(self.policy.backoff_max_ms);
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        self.due = now.after_ms(pause_ms / 2 + self.random.u64(0..=pause_ms / 2));
        events
    }

    pub fn status(&self, from: String, now: Tick) -> SourceStatus {
        SourceStatus {
            from,
            state: match self.state {
                FollowState::Listing => "listing",
                FollowState::Following(_) => "following",
                FollowState::Lost { .. } => "lost",
            },
            listed: self.members.len(),
            age_ms: self.answered_at.map(|at| now.ms_since(at)),
            errors: self.errors,
            last_error: self.last_error.clone(),
        }
    }

    /// The list was empty once more, after it had servers. True when that is believed.
    fn is_confirmed(&mut self, now: Tick, events: &mut Vec<FollowEvent>) -> bool {
        let is_first = self.doubt.is_none();
        let doubt = self.doubt.get_or_insert(Doubt { since: now, answers: 0 });
        doubt.answers += 1;
        let (Doubt { since, answers }, confirm_ms) = (*doubt, self.policy.confirm_empty_ms);
        let confirmed = confirm_ms == 0 || (answers >= CONFIRMATIONS && now.ms_since(since) >= confirm_ms);
        let had = count(&self.members);
        if confirmed {
            let line = format!("it listed nothing {answers} times in {}: {had} leave", readable(now.ms_since(since)));
            events.push(FollowEvent::Log(Level::Warn, line));
        } else if is_first {
            let line = format!(
                "it lists nothing, and had {had}: they stay unless it says so {CONFIRMATIONS} times over {}",
                readable(confirm_ms)
            );
            events.push(FollowEvent::Log(Level::Warn, line));
        }
        confirmed
    }

    /// Those that join come first: what leaves may be needed until they answer.
    fn believe(&mut self, listed: BTreeMap<Arc<str>, FoundServer>, now: Tick, events: &mut Vec<FollowEvent>) {
        let is_first = self.answered_at.replace(now).is_none();
        let before = std::mem::replace(&mut self.members, listed);
        let left: Vec<FoundServer> =
            before.iter().filter(|(name, _)| !self.members.contains_key(*name)).map(|(_, left)| left.clone()).collect();
        if is_first {
            events.push(FollowEvent::Log(Level::Info, format!("it lists {}", count(&self.members))));
        } else if left.len() > 1 && left.len() * 2 >= before.len() && !self.members.is_empty() {
            let line = format!("it lists {} of {} no more", left.len(), count(&before));
            events.push(FollowEvent::Log(Level::Warn, line));
        }
        let joined = self.members.iter().filter(|(name, server)| before.get(*name) != Some(server));
        events.extend(joined.map(|(_, server)| FollowEvent::Joined(server.clone())));
        events.extend(left.into_iter().map(FollowEvent::Left));
    }

    /// One server for each name and each address. Of several addresses of one name the server keeps the one that it has,
    /// or gets the lowest.
    fn distinct(&self, parts: &ListParts) -> BTreeMap<Arc<str>, FoundServer> {
        let mut by_name: BTreeMap<Arc<str>, FoundServer> = BTreeMap::new();
        for server in parts.values().flatten() {
            let now_at = self.members.get(&server.name).map(|member| member.address);
            let rank = |server: &FoundServer| (now_at != Some(server.address), server.address, server.weight);
            by_name
                .entry(server.name.clone())
                .and_modify(|known| {
                    if rank(server) < rank(known) {
                        known.clone_from(server);
                    }
                })
                .or_insert_with(|| server.clone());
        }
        let mut addresses = BTreeSet::new();
        by_name.retain(|_, server| addresses.insert(server.address));
        by_name
    }
}

fn count(servers: &BTreeMap<Arc<str>, FoundServer>) -> String {
    match servers.len() {
        0 => "no server".into(),
        1 => "1 server".into(),
        n => format!("{n} servers"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CONFIRM_MS: u64 = 1_000;
    const POLICY: FollowPolicy = FollowPolicy { confirm_empty_ms: CONFIRM_MS, backoff_max_ms: 10_000 };

    fn server(number: u8) -> FoundServer {
        FoundServer::at(SocketAddr::from(([10, 0, 0, number], 80)), 1)
    }

    fn servers(numbers: &[u8]) -> Vec<FoundServer> {
        numbers.iter().copied().map(server).collect()
    }

    fn whole(numbers: &[u8]) -> SourceAnswer {
        SourceAnswer::whole(servers(numbers), 100)
    }

    fn part(name: &str, numbers: &[u8]) -> SourceAnswer {
        let content = AnswerContent::Part(name.into(), servers(numbers));
        SourceAnswer { content, cursor: Some(Cursor("2".into())), again_ms: 0, note: None }
    }

    fn follow() -> Follow {
        Follow::new(POLICY, 1, Tick(0))
    }

    fn following(numbers: &[u8]) -> Follow {
        let mut follow = follow();
        follow.answered(whole(numbers), Tick(0));
        follow
    }

    fn changes(events: Vec<FollowEvent>) -> Vec<FollowEvent> {
        events.into_iter().filter(|event| !matches!(event, FollowEvent::Log(..))).collect()
    }

    fn lines(events: &[FollowEvent]) -> Vec<&str> {
        let mut lines = Vec::new();
        for event in events {
            if let FollowEvent::Log(_, line) = event {
                lines.push(line.as_str());
            }
        }
        lines
    }

    fn has(follow: &Follow, numbers: &[u8]) -> bool {
        follow.members().cloned().collect::<Vec<_>>() == servers(numbers)
    }

    #[test]
    fn those_that_join_come_before_those_that_leave() {
        let mut follow = following(&[1, 2]);
        let events = changes(follow.answered(whole(&[2, 3]), Tick(100)));
        assert_eq!(events, [FollowEvent::Joined(server(3)), FollowEvent::Left(server(1))]);
    }

    #[test]
    fn what_is_said_twice_changes_nothing() {
        let mut follow = following(&[1, 2]);
        assert_eq!(follow.answered(whole(&[2, 1, 1, 2]), Tick(100)), []);
        assert_eq!(follow.due(), Tick(200));
        let unchanged = SourceAnswer { content: AnswerContent::Unchanged, cursor: None, again_ms: 50, note: None };
        assert_eq!(follow.answered(unchanged, Tick(200)), []);
        assert!(has(&follow, &[1, 2]));
    }

    #[test]
    fn a_name_at_another_address_is_the_same_server() {
        let mut follow = follow();
        let at = |number: u8| FoundServer { name: "web-0".into(), ..server(number) };
        let answer = |numbers: &[u8]| SourceAnswer::whole(numbers.iter().copied().map(at).collect(), 0);
        assert_eq!(changes(follow.answered(answer(&[2]), Tick(0))), [FollowEvent::Joined(at(2))]);
        assert_eq!(changes(follow.answered(answer(&[1, 2]), Tick(1))), [], "it keeps the address that it has");
        assert_eq!(changes(follow.answered(answer(&[3, 1]), Tick(2))), [FollowEvent::Joined(at(1))]);
        let heavier = FoundServer { weight: 3, ..at(1) };
        let events = changes(follow.answered(SourceAnswer::whole(vec![heavier.clone()], 0), Tick(3)));
        assert_eq!(events, [FollowEvent::Joined(heavier)]);
    }

    #[test]
    fn two_names_at_one_address_are_one_server() {
        let mut follow = follow();
        let other = FoundServer { name: "a".into(), ..server(1) };
        let events = follow.answered(SourceAnswer::whole(vec![server(1), other], 0), Tick(0));
        assert_eq!(changes(events), [FollowEvent::Joined(server(1))]);
    }

    #[test]
    fn an_error_keeps_the_last_answer_and_is_told_once() {
        let mut follow = following(&[1, 2]);
        let events = follow.failed("it refused the connection", Tick(4_000));
        let told = "it refused the connection; its last answer, 2 servers, 4.0 s old, stays until it answers";
        assert_eq!(lines(&events), [told]);
        assert_eq!(follow.failed("it is still away", Tick(5_000)), []);
        assert_eq!(follow.cursor(), None, "the next question is for the whole list");
        let status = follow.status(String::new(), Tick(6_000));
        assert_eq!((status.state, status.errors, status.age_ms), ("lost", 2, Some(6_000)));
        let events = follow.answered(whole(&[1, 2]), Tick(38_000));
        assert_eq!(events, [FollowEvent::Log(Level::Info, "it answers again, after 34.0 s: 2 servers".into())]);
    }

    #[test]
    fn failures_in_a_row_are_asked_again_later_and_later_and_not_at_the_same_time() {
        let pauses = |seed| {
            let mut follow = Follow::new(POLICY, seed, Tick(0));
            (0..10)
                .map(|_| {
                    follow.failed("why", Tick(0));
                    follow.due().0
                })
                .collect::<Vec<_>>()
        };
        for (n, pause) in pauses(1).into_iter().enumerate() {
            let longest = (BACKOFF_FIRST_MS << n).min(POLICY.backoff_max_ms);
            assert!((longest / 2..=longest).contains(&pause), "{n}: {pause}");
        }
        assert_ne!(pauses(1), pauses(2));
    }

    #[test]
    fn an_empty_answer_is_believed_when_it_was_given_three_times_over_the_time_to_confirm_it() {
        let mut follow = following(&[1, 2]);
        let events = follow.answered(whole(&[]), Tick(10_000));
        assert_eq!(
            lines(&events),
            ["it lists nothing, and had 2 servers: they stay unless it says so 3 times over 1.0 s"]
        );
        assert_eq!((follow.due(), follow.cursor()), (Tick(10_500), None));
        assert_eq!(follow.answered(whole(&[]), Tick(10_500)), []);
        assert_eq!(follow.answered(whole(&[]), Tick(10_999)), [], "often enough, and too soon");
        assert!(has(&follow, &[1, 2]));
        let events = follow.answered(whole(&[]), Tick(11_000));
        assert_eq!(lines(&events), ["it listed nothing 4 times in 1.0 s: 2 servers leave"]);
        assert!(has(&follow, &[]));
        assert_eq!(follow.answered(whole(&[]), Tick(12_000)), [], "it is known");
    }

    #[test]
    fn an_error_or_a_server_between_empty_answers_begins_the_count_anew() {
        for between_is_error in [false, true] {
            let mut follow = following(&[1]);
            follow.answered(whole(&[]), Tick(0));
            follow.answered(whole(&[]), Tick(900));
            if between_is_error {
                follow.failed("why", Tick(950));
            } else {
                let events = follow.answered(whole(&[1]), Tick(950));
                assert_eq!(lines(&events), ["it lists 1 server again: its empty answer was not believed"]);
            }
            for at in [1_000, 1_500, 1_900] {
                follow.answered(whole(&[]), Tick(at));
                assert!(has(&follow, &[1]), "{at}");
            }
            follow.answered(whole(&[]), Tick(2_000));
            assert!(has(&follow, &[]));
        }
    }

    #[test]
    fn without_a_time_to_confirm_the_first_empty_answer_is_believed() {
        let mut follow = Follow::new(FollowPolicy { confirm_empty_ms: 0, ..POLICY }, 1, Tick(0));
        follow.answered(whole(&[1]), Tick(0));
        follow.answered(whole(&[]), Tick(1));
        assert!(has(&follow, &[]));
    }

    #[test]
    fn a_first_answer_is_believed_whatever_it_is() {
        let mut follow = follow();
        assert_eq!(lines(&follow.answered(whole(&[]), Tick(0))), ["it lists no server"]);
        assert_eq!(follow.status(String::new(), Tick(0)).state, "following");
    }

    #[test]
    fn half_of_the_list_gone_at_once_is_told() {
        let mut follow = following(&[1, 2, 3, 4, 5]);
        assert_eq!(lines(&follow.answered(whole(&[3, 4, 5]), Tick(1))), [""; 0]);
        let events = follow.answered(whole(&[3]), Tick(2));
        assert_eq!(lines(&events), ["it lists 2 of 3 servers no more"]);
    }

    #[test]
    fn a_part_changes_by_itself_and_an_empty_union_is_doubted() {
        let mut follow = follow();
        let parts = ListParts::from([("a".into(), servers(&[1])), ("b".into(), servers(&[1, 2]))]);
        let cursor = Some(Cursor("1".into()));
        follow
            .answered(SourceAnswer { content: AnswerContent::Whole(parts), cursor, again_ms: 0, note: None }, Tick(0));
        assert!(has(&follow, &[1, 2]));
        assert_eq!(follow.cursor(), Some(&Cursor("1".into())));
        follow.answered(part("b", &[3]), Tick(1));
        assert!(has(&follow, &[1, 3]));
        assert_eq!(follow.cursor(), Some(&Cursor("2".into())));
        follow.answered(part("a", &[]), Tick(2));
        assert!(has(&follow, &[3]));
        follow.answered(part("b", &[]), Tick(3));
        assert!(has(&follow, &[3]));
        assert_eq!(follow.cursor(), None, "it is listed again");
    }

    #[derive(Clone, Debug)]
    enum Input {
        Whole(Vec<u8>),
        Part(u8, Vec<u8>),
        Failure,
    }

    fn input() -> impl Strategy<Value = (Input, u64)> {
        let list = || prop::collection::vec(1..6u8, 0..5);
        let input = prop_oneof![
            3 => list().prop_map(Input::Whole),
            2 => Just(Input::Whole(Vec::new())),
            2 => (0..3u8, list()).prop_map(|(part, list)| Input::Part(part, list)),
            2 => Just(Input::Failure),
        ];
        (input, 0..700u64)
    }

    proptest! {
        /// Joins and leaves add up to the members; the members are those of the last answer that was believed; nothing but
        /// three empty answers in a row over the whole time takes the last one.
        #[test]
        fn members_are_those_of_the_last_believed_answer(inputs in prop::collection::vec(input(), 0..40)) {
            let (mut follow, mut now) = (follow(), Tick(0));
            let mut built: BTreeMap<Arc<str>, FoundServer> = BTreeMap::new();
            let mut listed: BTreeMap<String, BTreeSet<u8>> = BTreeMap::new();
            let (mut empty_since, mut empty_times) = (None, 0);
            for (input, pause_ms) in inputs {
                now = now.after_ms(pause_ms);
                let before: Vec<FoundServer> = follow.members().cloned().collect();
                let events = match &input {
                    Input::Whole(numbers) => {
                        listed = BTreeMap::from([(String::new(), numbers.iter().copied().collect())]);
                        follow.answered(whole(numbers), now)
                    }
                    Input::Part(name, numbers) => {
                        listed.insert(name.to_string(), numbers.iter().copied().collect());
                        follow.answered(part(&name.to_string(), numbers), now)
                    }
                    Input::Failure => follow.failed("why", now),
                };
                for event in events {
                    match event {
                        FollowEvent::Joined(server) => drop(built.insert(server.name.clone(), server)),
                        FollowEvent::Left(server) => prop_assert!(built.remove(&server.name).is_some()),
                        FollowEvent::Log(..) => {}
                    }
                }
                let members: Vec<FoundServer> = follow.members().cloned().collect();
                prop_assert_eq!(&built.into_values().collect::<Vec<_>>(), &members);
                built = members.iter().map(|server| (server.name.clone(), server.clone())).collect();
                let union: BTreeSet<u8> = listed.values().flatten().copied().collect();
                let said: Vec<FoundServer> = union.into_iter().map(server).collect();
                if matches!(input, Input::Failure) {
                    (empty_since, empty_times) = (None, 0);
                    prop_assert_eq!(&members, &before, "through an error");
                    prop_assert!(follow.due() > now);
                } else if !said.is_empty() {
                    (empty_since, empty_times) = (None, 0);
                    prop_assert_eq!(&members, &said);
                } else {
                    let since = *empty_since.get_or_insert(now);
                    empty_times += 1;
                    let is_confirmed = empty_times >= CONFIRMATIONS && now.ms_since(since) >= CONFIRM_MS;
                    prop_assert_eq!(members.is_empty(), is_confirmed || before.is_empty());
                }
            }
        }
    }
}
