//! Each transition by itself, and random nights in which the invariant must hold at every moment.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn set(names: &[&str], count: u32) -> SyncSet {
    SyncSet::new(names.iter().copied(), count)
}

fn primary(setting: &str, asked_at_ms: u64, lsn: u64, senders: Vec<Sender>) -> Facts {
    Facts {
        asked_at_ms,
        answered_at_ms: asked_at_ms,
        senders,
        synchronous_standby_names: setting.to_owned(),
        ..Facts::bare(false, 1, lsn)
    }
}

fn sender(name: &str, sync_state: &str, flushed: u64) -> Sender {
    Sender {
        name: name.to_owned(),
        state: "streaming".to_owned(),
        sync_state: sync_state.to_owned(),
        sent_lsn: Some(Lsn(flushed)),
        flush_lsn: Some(Lsn(flushed)),
    }
}

fn standbys(all: &[(&str, bool)]) -> Vec<Standby> {
    all.iter().map(|&(id, is_alive)| Standby { id: id.to_owned(), is_alive }).collect()
}

#[test]
fn what_there_should_be_follows_from_the_mode_and_who_lives() {
    let raft = set(&["a", "b"], 1);
    type Case = (SyncMode, u32, &'static [(&'static str, bool)], Option<SyncSet>);
    let cases: [Case; 9] = [
        (SyncMode::Off, 1, &[("a", true)], None),
        (SyncMode::Prefer, 2, &[("a", true), ("b", false)], Some(set(&["a"], 1))),
        (SyncMode::Prefer, 1, &[("a", false)], Some(SyncSet::default())),
        (SyncMode::Require, 1, &[("a", true), ("b", false)], Some(set(&["a"], 1))),
        (SyncMode::Require, 1, &[("a", false), ("b", false), ("c", false)], Some(raft.clone())),
        (SyncMode::Require, 1, &[("b", false), ("c", false)], Some(set(&["b"], 1))),
        (SyncMode::Require, 2, &[("b", true), ("c", false)], Some(set(&["b", "c"], 2))),
        (SyncMode::Require, 2, &[("b", true)], Some(set(&["b"], 2))),
        (SyncMode::Require, 1, &[], Some(raft.clone())),
    ];
    for (mode, count, all, expected) in cases {
        assert_eq!(target(mode, count, &raft, &standbys(all)), expected, "{mode:?} {count} {all:?}");
    }
}

#[test]
fn it_grows_in_raft_first_and_shrinks_on_the_primary_first() {
    let (one, two) = (set(&["a"], 1), set(&["a", "b"], 1));
    let watch = Watch::begin(0);
    let step = |raft: &SyncSet, target: &SyncSet, on_primary: &SyncSet| {
        next(raft, Some(target), Some(&primary(&on_primary.to_string(), 1, 1, Vec::new())), &watch)
    };
    assert_eq!(step(&one, &two, &one), Transition::SetInRaft(two.clone()));
    assert_eq!(step(&two, &two, &one), Transition::SetOnPrimary(two.to_string()));
    assert_eq!(step(&two, &two, &two), Transition::Nothing);
    assert_eq!(step(&two, &one, &two), Transition::SetOnPrimary(one.to_string()));
    assert_eq!(step(&two, &one, &one), Transition::Wait);
    // A name for another: both at first.
    let other = set(&["b"], 1);
    assert_eq!(step(&one, &other, &one), Transition::SetInRaft(two.clone()));
    // The promise is given up in raft first, and given on the primary first.
    let none = SyncSet::default();
    assert_eq!(step(&two, &none, &two), Transition::SetInRaft(none.clone()));
    assert_eq!(step(&none, &none, &two), Transition::SetOnPrimary(String::new()));
    assert_eq!(step(&none, &two, &none), Transition::SetOnPrimary(two.to_string()));
    assert_eq!(step(&none, &two, &two), Transition::Wait);
    // More to wait for: the primary first; fewer: raft first.
    let both = set(&["a", "b"], 2);
    assert_eq!(step(&two, &both, &two), Transition::SetOnPrimary(both.to_string()));
    assert_eq!(step(&both, &two, &both), Transition::SetInRaft(two.clone()));
    // Nobody's business any more, or nobody there to look at.
    let facts = primary(&two.to_string(), 1, 1, Vec::new());
    assert_eq!(next(&two, None, Some(&facts), &watch), Transition::SetInRaft(none.clone()));
    assert_eq!(next(&none, None, Some(&facts), &watch), Transition::Nothing);
    assert_eq!(next(&two, Some(&one), None, &watch), Transition::Wait);
    assert_eq!(next(&two, Some(&one), Some(&facts), &Watch::begin(2)), Transition::Wait);
}

#[test]
fn while_nothing_is_promised_the_primary_is_told_at_once_to_wait_and_the_promise_comes_later() {
    let (none, target) = (SyncSet::default(), set(&["a"], 1));
    let look = |setting: &str, at_ms| primary(setting, at_ms, 1, vec![sender("a", "quorum", 900)]);
    let others = Watch::begin(1_000);
    let step = |facts: &Facts, watch: &Watch| next(&none, Some(&target), Some(facts), watch);
    assert_eq!(step(&look("", 1), &others), Transition::SetOnPrimary(target.to_string()));
    let mut watch = others.changed(100);
    assert_eq!(step(&look("", 50), &watch), Transition::Wait, "asked before it was set");
    let setting = target.to_string();
    for at_ms in [100, 700, 999] {
        let facts = look(&setting, at_ms);
        watch.saw(&facts);
        assert_eq!(step(&facts, &watch), Transition::Wait, "an earlier leader's may still arrive");
    }
    assert_eq!(step(&look("", 999), &watch), Transition::SetOnPrimary(setting.clone()), "it has");
    for at_ms in [1_000, 1_500] {
        watch.saw(&look(&setting, at_ms));
    }
    assert_eq!(step(&look(&setting, 1_500), &watch), Transition::SetInRaft(target.clone()));
}

#[test]
fn what_somebody_else_set_is_admitted_before_it_is_mended() {
    let raft = set(&["a", "b"], 2);
    let step =
        |setting: &str| next(&raft, Some(&raft), Some(&primary(setting, 1, 1, Vec::new())), &Watch::begin(0));
    assert_eq!(step("ANY 2 (a, b)"), Transition::Nothing);
    assert_eq!(step("FIRST 2 (a, b)"), Transition::SetOnPrimary(raft.to_string()));
    assert_eq!(step("a"), Transition::SetInRaft(set(&["a", "b"], 1)));
    assert_eq!(step("ANY 2 (a, b, c)"), Transition::SetInRaft(set(&["a", "b", "c"], 2)));
    assert_eq!(step("*"), Transition::SetOnPrimary(raft.to_string()));
    assert_eq!(step(""), Transition::SetOnPrimary(raft.to_string()));
}

#[test]
fn names_leave_raft_only_when_the_others_have_what_was_acknowledged_before() {
    let (raft, target) = (set(&["a", "b"], 1), set(&["a"], 1));
    let setting = target.to_string();
    let look = |at_ms, lsn, b: &str, flushed| {
        primary(&setting, at_ms, lsn, vec![sender("a", "quorum", flushed), sender("b", b, 900)])
    };
    let mut watch = Watch::begin(100);
    let mut step = |facts: Facts| {
        watch.saw(&facts);
        next(&raft, Some(&target), Some(&facts), &watch)
    };
    assert_eq!(step(look(50, 10, "async", 900)), Transition::Wait, "asked before it was set");
    assert_eq!(step(look(100, 10, "quorum", 900)), Transition::Wait, "one walsender has not read it yet");
    assert_eq!(step(look(200, 20, "async", 900)), Transition::Wait, "a release may be under way");
    assert_eq!(step(look(699, 25, "async", 900)), Transition::Wait);
    assert_eq!(step(look(700, 30, "async", 29)), Transition::Wait, "not flushed up to there");
    assert_eq!(step(look(800, 99, "quorum", 30)), Transition::SetInRaft(target.clone()));
    let mut elsewhere = Watch::begin(0);
    elsewhere.saw(&primary("", 1, 1, Vec::new()));
    elsewhere.saw(&primary("", 900, 1, Vec::new()));
    let facts = look(1000, 1, "async", 900);
    assert_eq!(next(&raft, Some(&target), Some(&facts), &elsewhere), Transition::Wait, "another setting's");
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// A primary that works off its log and its configuration, standbys that receive, and a leader that may be replaced.
struct Night {
    now_ms: u64,
    raft: SyncSet,
    /// What it says, what its walsenders go by, and when they follow.
    setting: String,
    effective: SyncSet,
    reloaded_at_ms: u64,
    inserted: u64,
    acknowledged: u64,
    flushed: BTreeMap<&'static str, u64>,
    alive: BTreeSet<&'static str>,
    watch: Watch,
    /// The leader's last look, which may be old.
    seen: Option<Facts>,
    /// What was sent to the primary and has not arrived.
    under_way: Vec<(u64, String)>,
    mode: SyncMode,
    count: u32,
}

#[derive(Debug, Clone)]
enum Event {
    Write(u64),
    Receive(usize, u64),
    Crash(usize),
    Return(usize),
    Pass(u64),
    Look,
    Lead,
    Arrive,
    NewLeader,
    Configure(SyncMode, u32),
}

fn events() -> impl Strategy<Value = Event> {
    let mode =
        prop_oneof![1 => Just(SyncMode::Off), 3 => Just(SyncMode::Prefer), 4 => Just(SyncMode::Require)];
    prop_oneof![
        6 => (1..4_u64).prop_map(Event::Write),
        12 => (0..NAMES.len(), 1..9_u64).prop_map(|(index, by)| Event::Receive(index, by)),
        2 => (0..NAMES.len()).prop_map(Event::Crash),
        3 => (0..NAMES.len()).prop_map(Event::Return),
        6 => (1..600_u64).prop_map(Event::Pass),
        12 => Just(Event::Look),
        12 => Just(Event::Lead),
        6 => Just(Event::Arrive),
        1 => Just(Event::NewLeader),
        1 => (mode, 1..4_u32).prop_map(|(mode, count)| Event::Configure(mode, count)),
    ]
}

/// How long what a leader sent may be under way.
const OPERATION_MS: u64 = 300;

impl Night {
    fn new() -> Self {
        Night {
            now_ms: 1,
            raft: SyncSet::default(),
            setting: String::new(),
            effective: SyncSet::default(),
            reloaded_at_ms: 0,
            inserted: 1,
            acknowledged: 1,
            flushed: NAMES.iter().map(|&name| (name, 1)).collect(),
            alive: NAMES.into(),
            watch: Watch::begin(0),
            seen: None,
            under_way: Vec::new(),
            mode: SyncMode::Require,
            count: 1,
        }
    }

    /// What the walsenders release: all that enough members have, by the setting they go by.
    fn acknowledge(&mut self) {
        if self.now_ms >= self.reloaded_at_ms {
            self.effective = SyncSet::parse(&self.setting).unwrap();
        }
        let SyncSet { names, count } = &self.effective;
        let mut positions: Vec<u64> = names.iter().map(|name| self.flushed[name.as_str()]).collect();
        positions.sort_unstable_by(|a, b| b.cmp(a));
        let released = match count {
            0 => self.inserted,
            count => positions.get(*count as usize - 1).copied().unwrap_or(0),
        };
        self.acknowledged = self.acknowledged.max(released);
    }

    fn look(&mut self) {
        let now_shown = self.now_ms >= self.reloaded_at_ms;
        let shown = if now_shown { SyncSet::parse(&self.setting).unwrap() } else { self.effective.clone() };
        let senders = self.alive.iter().map(|&name| {
            sender(name, if shown.names.contains(name) { "quorum" } else { "async" }, self.flushed[name])
        });
        let facts = primary(&self.setting, self.now_ms, self.inserted, senders.collect());
        self.watch.saw(&facts);
        self.seen = Some(facts);
    }

    /// One of them, while more may be under way: the later one first.
    fn arrive(&mut self) {
        if let Some((_, setting)) = self.under_way.pop() {
            self.setting = setting;
            // Walsenders follow in their next turn.
            self.reloaded_at_ms = self.now_ms + RELOADED_AFTER_MS / 2;
        }
    }

    fn lead(&mut self) {
        let all: Vec<Standby> = NAMES
            .iter()
            .map(|&id| Standby { id: id.to_owned(), is_alive: self.alive.contains(id) })
            .collect();
        let target = target(self.mode, self.count, &self.raft, &all);
        match next(&self.raft, target.as_ref(), self.seen.as_ref(), &self.watch) {
            Transition::SetInRaft(set) => self.raft = set,
            Transition::SetOnPrimary(setting) => {
                self.under_way.push((self.now_ms + OPERATION_MS, setting));
                self.watch = self.watch.changed(self.now_ms + OPERATION_MS);
            }
            Transition::Wait | Transition::Nothing => {}
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        while self.under_way.iter().any(|(by_ms, _)| self.now_ms >= *by_ms) {
            self.arrive();
        }
    }

    fn happens(&mut self, event: &Event) {
        match *event {
            Event::Write(by) => self.inserted += by,
            Event::Receive(index, by) => {
                let name = NAMES[index];
                if self.alive.contains(name) {
                    let flushed = (self.flushed[name] + by).min(self.inserted);
                    self.flushed.insert(name, flushed);
                }
            }
            Event::Crash(index) => {
                self.alive.remove(NAMES[index]);
            }
            Event::Return(index) => {
                self.alive.insert(NAMES[index]);
            }
            Event::Pass(ms) => self.pass(ms),
            Event::Look => self.look(),
            Event::Lead => self.lead(),
            Event::Arrive => self.arrive(),
            Event::NewLeader => {
                self.watch = Watch::begin(self.now_ms + OPERATION_MS);
                self.seen = None;
            }
            Event::Configure(mode, count) => (self.mode, self.count) = (mode, count),
        }
        self.acknowledge();
    }

    /// Of any members that are enough, one has every acknowledged commit.
    fn holds(&self) -> bool {
        let having = self.raft.names.iter().filter(|name| self.flushed[name.as_str()] >= self.acknowledged);
        having.count() >= self.raft.count as usize
    }
}

proptest! {
    #![proptest_config(crate::properties::properties_of(400))]

    #[test]
    fn whoever_is_enough_has_every_acknowledged_commit(events in prop::collection::vec(events(), 1..200)) {
        let mut night = Night::new();
        for (index, event) in events.iter().enumerate() {
            night.happens(event);
            prop_assert!(
                night.holds(),
                "after {index}, {event:?}: raft {:?}, primary {:?}, acknowledged {} of {}, flushed {:?}",
                night.raft, night.setting, night.acknowledged, night.inserted, night.flushed
            );
        }
    }

    #[test]
    fn when_faults_stop_it_becomes_what_it_should_be(events in prop::collection::vec(events(), 1..100)) {
        let mut night = Night::new();
        events.iter().for_each(|event| night.happens(event));
        (night.mode, night.count) = (SyncMode::Require, 2);
        night.alive = NAMES.into();
        for _ in 0..40 {
            for index in 0..NAMES.len() {
                night.happens(&Event::Receive(index, u64::MAX / 2));
            }
            [Event::Pass(300), Event::Look, Event::Lead].iter().for_each(|event| night.happens(event));
        }
        prop_assert_eq!(&night.raft, &set(&NAMES, 2));
        prop_assert!(night.raft.is_said_by(&night.setting));
        prop_assert_eq!(night.acknowledged, night.inserted);
    }
}
