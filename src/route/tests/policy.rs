//! The choice of a server: by tables, and by a property that restates the rules independently.

use std::sync::Arc;

use proptest::prelude::*;

use crate::config::{Consistency, Preference, PreferenceTarget, Split};
use crate::route::hint::HintTarget;
use crate::route::policy::{LastRead, Policy, Request, SessionView, route};
use crate::route::{Class, Decision, DecisionReason as Why, Target};
use crate::topology::{Epoch, Health, Lsn, Role, ServerIndex, ServerState, Snapshot};

const EPOCH: Epoch = Epoch(7);
const P: ServerIndex = ServerIndex(0);
const A: ServerIndex = ServerIndex(1);
const B: ServerIndex = ServerIndex(2);

fn split() -> Split {
    Split {
        enabled: true,
        consistency: Consistency::Session,
        max_lag_bytes: 0,
        max_lag_ms: 0,
        floor_wait_ms: 0,
        prefer_same_zone: false,
        prefer_least_lag: false,
        preferences: Vec::new(),
        read_only_functions: Vec::new(),
        write_functions: Vec::new(),
        catalog_max_age_ms: 0,
    }
}

const NAMES: [&str; 6] = ["p", "a", "b", "s3", "s4", "s5"];
const ZONES: [Option<&str>; 6] = [Some("z1"), Some("z1"), Some("z2"), None, None, None];

fn state(at: usize, role: Role) -> ServerState {
    ServerState {
        index: ServerIndex(at as u16),
        id: NAMES[at].into(),
        host: "localhost".into(),
        port: 5432,
        weight: if role == Role::Primary { 0 } else { 1 },
        zone: ZONES[at].map(Arc::from),
        role,
        health: Health::Up,
        timeline: 1,
        lsn: Lsn(100),
        lag_bytes: Some(0),
        lag_ms: Some(0),
        observed_at_ms: 1000,
        reason: Arc::from(""),
        admission: Default::default(),
    }
}

/// A primary of weight 0 and two standbys of weight 1, all at position 100, seen at 1000 ms.
fn topology() -> Snapshot {
    let servers = vec![state(0, Role::Primary), state(1, Role::Standby), state(2, Role::Standby)];
    Snapshot { epoch: EPOCH, primary: Some(P), servers }
}

fn session() -> SessionView<'static> {
    SessionView {
        in_transaction: false,
        read_only: false,
        serializable: false,
        floor: None,
        floor_pending: false,
        last_read: None,
        database: "shop",
        user: "alice",
        application_name: "web",
    }
}

const READ: Request<'static> = Request { class: Class::Read, hint: None, may_wait: true };
const WRITE: Request<'static> = Request { class: Class::Write, hint: None, may_wait: true };

fn decide(
    request: Request<'_>,
    session: SessionView<'_>,
    topology: &Snapshot,
    split: &Split,
    seed: u64,
) -> Decision {
    let policy = Policy::new(split, Some("z2"));
    route(&request, &session, topology, &policy, seed, 1100)
}

/// All targets that a hundred seeds give, and the reason, which must be the same.
fn targets(
    request: Request<'_>,
    session: SessionView<'_>,
    topology: &Snapshot,
    split: &Split,
) -> (Vec<Target>, Why) {
    let decisions: Vec<Decision> =
        (0..100).map(|seed| decide(request, session, topology, split, seed)).collect();
    let reason = decisions[0].reason;
    assert!(decisions.iter().all(|decision| decision.reason == reason));
    let mut found = Vec::new();
    for decision in decisions {
        if !found.contains(&decision.target) {
            found.push(decision.target);
        }
    }
    found.sort_by_key(|target| format!("{target:?}"));
    (found, reason)
}

fn on(servers: &[ServerIndex]) -> Vec<Target> {
    servers.iter().map(|index| Target::Server(*index)).collect()
}

fn last_read(server: ServerIndex, at_ms: u64) -> Option<LastRead> {
    Some(LastRead::new(server, EPOCH, at_ms))
}

#[test]
fn rules_that_leave_no_choice() {
    let primary = |reason| (vec![Target::Primary], reason);
    let (topology, split) = (topology(), split());
    assert_eq!(targets(WRITE, session(), &topology, &split), primary(Why::Write));
    let off = Split { enabled: false, ..split.clone() };
    assert_eq!(targets(READ, session(), &topology, &off), primary(Why::SplitOff));
    let view = SessionView { in_transaction: true, ..session() };
    assert_eq!(targets(READ, view, &topology, &split), primary(Why::ReadWriteTransaction));
    let view = SessionView { in_transaction: true, read_only: true, ..session() };
    assert_eq!(targets(READ, view, &topology, &split), (on(&[A, B]), Why::Drawn));
    assert_eq!(targets(WRITE, view, &topology, &split), primary(Why::Write));
    let view = SessionView { serializable: true, ..view };
    assert_eq!(targets(READ, view, &topology, &split), primary(Why::Serializable));
    let view = SessionView { floor_pending: true, ..session() };
    assert_eq!(targets(READ, view, &topology, &split), primary(Why::FloorPending));
    let view = SessionView { floor: Some((Epoch(8), Lsn(1))), ..session() };
    assert_eq!(targets(READ, view, &topology, &split), primary(Why::FloorPending));
    let nobody = Snapshot { primary: None, ..topology };
    assert_eq!(targets(WRITE, session(), &nobody, &split), (vec![Target::None], Why::NoPrimary));
    assert_eq!(targets(READ, session(), &nobody, &split), (on(&[A, B]), Why::Drawn));
}

#[test]
fn weights() {
    let split = Split { consistency: Consistency::Eventual, ..split() };
    let mut topology = topology();
    topology.servers[1].weight = 3;
    let count = |topology: &Snapshot, target| {
        (0..4000).filter(|seed| decide(READ, session(), topology, &split, *seed).target == target).count()
    };
    let share = count(&topology, Target::Server(A));
    assert!((2850..3150).contains(&share), "{share} of 4000 at weight 3 of 4");
    // The primary draws with its own weight.
    topology.servers[0].weight = 4;
    let share = count(&topology, Target::Primary);
    assert!((1850..2150).contains(&share), "{share} of 4000 at weight 4 of 8");
    // A standby of weight 0 serves only if no other does.
    topology.servers[0].weight = 0;
    topology.servers[1].weight = 0;
    assert_eq!(targets(READ, session(), &topology, &split), (on(&[B]), Why::Drawn));
    topology.servers[2].health = Health::Down;
    assert_eq!(targets(READ, session(), &topology, &split), (on(&[A]), Why::Drawn));
    topology.servers[0].weight = 1;
    assert_eq!(targets(READ, session(), &topology, &split), (vec![Target::Primary], Why::Drawn));
    topology.servers[0].weight = 0;
    topology.servers[1].health = Health::Unknown;
    assert_eq!(targets(READ, session(), &topology, &split), (vec![Target::Primary], Why::NoStandby));
}

#[test]
fn lag() {
    let mut topology = topology();
    topology.servers[1].lag_bytes = Some(11);
    topology.servers[2].lag_ms = Some(51);
    let limits = Split { max_lag_bytes: 10, max_lag_ms: 1000, ..split() };
    assert_eq!(targets(READ, session(), &topology, &limits), (on(&[B]), Why::Drawn));
    let limits = Split { max_lag_bytes: 11, max_lag_ms: 50, ..split() };
    assert_eq!(targets(READ, session(), &topology, &limits), (on(&[A]), Why::Drawn));
    let limits = Split { max_lag_bytes: 10, max_lag_ms: 50, ..split() };
    assert_eq!(targets(READ, session(), &topology, &limits), (vec![Target::Primary], Why::Lag));
    // Unknown is beyond a limit, and no matter without one.
    topology.servers[1].lag_bytes = None;
    topology.servers[1].lag_ms = None;
    assert_eq!(targets(READ, session(), &topology, &split()), (on(&[A, B]), Why::Drawn));
    let limits = Split { max_lag_bytes: 10, ..split() };
    assert_eq!(targets(READ, session(), &topology, &limits), (on(&[B]), Why::Drawn));
    // In mode `bounded` the 100 ms since B was seen count.
    let bounded = |max_lag_ms| Split { max_lag_ms, consistency: Consistency::Bounded, ..split() };
    assert_eq!(targets(READ, session(), &topology, &bounded(151)), (on(&[B]), Why::Drawn));
    assert_eq!(targets(READ, session(), &topology, &bounded(150)), (vec![Target::Primary], Why::Lag));
}

#[test]
fn zone_and_least_lag() {
    let near = Split { prefer_same_zone: true, ..split() };
    let mut topology = topology();
    assert_eq!(targets(READ, session(), &topology, &near), (on(&[B]), Why::Drawn));
    topology.servers[2].health = Health::Down;
    assert_eq!(targets(READ, session(), &topology, &near), (on(&[A]), Why::Drawn));
    topology.servers[2].health = Health::Up;
    let least = Split { prefer_least_lag: true, ..split() };
    assert_eq!(targets(READ, session(), &topology, &least), (on(&[A, B]), Why::Drawn));
    topology.servers[2].lag_bytes = Some(5);
    assert_eq!(targets(READ, session(), &topology, &least), (on(&[A]), Why::Drawn));
    topology.servers[1].lag_bytes = None;
    assert_eq!(targets(READ, session(), &topology, &least), (on(&[B]), Why::Drawn));
}

#[test]
fn a_primary_in_this_zone_keeps_reads_from_no_standby_elsewhere() {
    let near = Split { prefer_same_zone: true, ..split() };
    let mut topology = topology();
    topology.servers[0].weight = 1;
    // Where a standby is near, a primary elsewhere leaves it its share.
    assert_eq!(targets(READ, session(), &topology, &near), (on(&[B]), Why::Drawn));
    topology.servers[0].zone = Some("z2".into());
    let both = |standby| [vec![Target::Primary], on(&[standby])].concat();
    assert_eq!(targets(READ, session(), &topology, &near), (both(B), Why::Drawn));
    topology.servers[2].zone = Some("z3".into());
    let all = [vec![Target::Primary], on(&[A, B])].concat();
    assert_eq!(targets(READ, session(), &topology, &near), (all, Why::Drawn));
}

#[test]
fn preferences() {
    let prefer = |target| Preference {
        application_name: Some("web".into()),
        database: Some("shop".into()),
        user: None,
        target,
    };
    let with = |target| Split { preferences: vec![prefer(target)], ..split() };
    let mut topology = topology();
    topology.servers[0].weight = 1000;
    let to_primary = with(PreferenceTarget::Primary);
    assert_eq!(targets(READ, session(), &topology, &to_primary), (vec![Target::Primary], Why::Preference));
    let to_standbys = with(PreferenceTarget::Standbys);
    assert_eq!(targets(READ, session(), &topology, &to_standbys), (on(&[A, B]), Why::Drawn));
    let to_b = with(PreferenceTarget::Servers(vec![("b".into(), 1), ("a".into(), 0), ("gone".into(), 5)]));
    assert_eq!(targets(READ, session(), &topology, &to_b), (on(&[B]), Why::Drawn));
    let stranger = SessionView { database: "other", ..session() };
    assert!(targets(READ, stranger, &topology, &to_b).0.contains(&Target::Primary));
    topology.servers[2].health = Health::Down;
    assert_eq!(targets(READ, session(), &topology, &to_b), (on(&[A]), Why::Drawn));
    topology.servers[1].health = Health::Down;
    assert_eq!(targets(READ, session(), &topology, &to_standbys), (vec![Target::Primary], Why::NoStandby));
}

#[test]
fn hints() {
    let hinted = |hint| Request { hint: Some(hint), ..READ };
    let mut topology = topology();
    topology.servers[0].weight = 1000;
    let split = split();
    let (primary, standby) = (HintTarget::Primary, HintTarget::Standby);
    let (a, p, gone) =
        (HintTarget::Server("a".into()), HintTarget::Server("p".into()), HintTarget::Server("gone".into()));
    assert_eq!(targets(hinted(&primary), session(), &topology, &split), (vec![Target::Primary], Why::Hint));
    assert_eq!(targets(hinted(&standby), session(), &topology, &split), (on(&[A, B]), Why::Drawn));
    assert_eq!(targets(hinted(&a), session(), &topology, &split), (on(&[A]), Why::Hint));
    assert_eq!(targets(hinted(&p), session(), &topology, &split), (vec![Target::Primary], Why::Hint));
    assert_eq!(targets(hinted(&gone), session(), &topology, &split).1, Why::HintUnavailable);
    topology.servers[1].health = Health::Down;
    let (found, why) = targets(hinted(&a), session(), &topology, &split);
    assert!(!found.contains(&Target::Server(A)) && why == Why::HintUnavailable);
    let write = Request { hint: Some(&standby), ..WRITE };
    assert_eq!(targets(write, session(), &topology, &split), (vec![Target::Primary], Why::Write));
}

#[test]
fn floor() {
    let mut topology = topology();
    topology.servers[2].lsn = Lsn(90);
    let view = |lsn| SessionView { floor: Some((EPOCH, Lsn(lsn))), ..session() };
    let waiting = Split { floor_wait_ms: 50, ..split() };
    assert_eq!(targets(READ, view(90), &topology, &split()), (on(&[A, B]), Why::Drawn));
    assert_eq!(targets(READ, view(100), &topology, &split()), (on(&[A]), Why::Drawn));
    assert_eq!(targets(READ, view(101), &topology, &split()), (vec![Target::Primary], Why::FloorNotReached));
    let wait = Target::WaitForFloor { server: A, lsn: Lsn(101) };
    assert_eq!(targets(READ, view(101), &topology, &waiting), (vec![wait], Why::FloorNotReached));
    let again = Request { may_wait: false, ..READ };
    assert_eq!(targets(again, view(101), &topology, &waiting), (vec![Target::Primary], Why::FloorNotReached));
    let eventual = Split { consistency: Consistency::Eventual, ..split() };
    assert_eq!(targets(READ, view(101), &topology, &eventual), (on(&[A, B]), Why::Drawn));
    // A primary that takes reads anyway is not worth waiting for.
    topology.servers[0].weight = 1;
    assert_eq!(targets(READ, view(101), &topology, &waiting), (vec![Target::Primary], Why::Drawn));
}

#[test]
fn monotonic_reads() {
    let view = |server, at_ms| SessionView { last_read: last_read(server, at_ms), ..session() };
    let split = split();
    let mut topology = topology();
    assert_eq!(targets(READ, view(A, 1050), &topology, &split), (on(&[A]), Why::Sticky));
    // A was set back.
    let settled = last_read(A, 999).unwrap().settled(&topology);
    let behind = SessionView { last_read: Some(settled), ..session() };
    topology.servers[1].lsn = Lsn(90);
    assert_eq!(targets(READ, behind, &topology, &split), (on(&[B]), Why::Drawn));
    topology.servers[1].lsn = topology.servers[2].lsn;
    // A is gone and was not seen since the read: nobody knows how far it was.
    topology.servers[1].health = Health::Down;
    assert_eq!(targets(READ, view(A, 1050), &topology, &split), (vec![Target::Primary], Why::NotMonotonic));
    // Lagging, but seen since: B may follow if it is as far.
    topology.servers[1].health = Health::Up;
    topology.servers[1].lag_bytes = Some(50);
    let limits = Split { max_lag_bytes: 10, ..split.clone() };
    assert_eq!(targets(READ, view(A, 999), &topology, &limits), (on(&[B]), Why::Drawn));
    assert_eq!(targets(READ, view(A, 1000), &topology, &limits), (vec![Target::Primary], Why::NotMonotonic));
    topology.servers[2].lsn = Lsn(99);
    assert_eq!(targets(READ, view(A, 999), &topology, &limits), (vec![Target::Primary], Why::NotMonotonic));
    // After a read on the primary.
    topology.servers[1].lag_bytes = Some(0);
    assert_eq!(targets(READ, view(P, 999), &topology, &split), (on(&[A]), Why::Drawn));
    assert_eq!(targets(READ, view(P, 1000), &topology, &split), (vec![Target::Primary], Why::NotMonotonic));
    topology.servers[0].lsn = Lsn(101);
    assert_eq!(targets(READ, view(P, 999), &topology, &split), (vec![Target::Primary], Why::NotMonotonic));
    // In another epoch not even the same server is sure.
    topology.epoch = Epoch(8);
    assert_eq!(targets(READ, view(A, 999), &topology, &split), (vec![Target::Primary], Why::NotMonotonic));
    let eventual = Split { consistency: Consistency::Eventual, ..split };
    assert_eq!(targets(READ, view(P, 1000), &topology, &eventual), (on(&[A, B]), Why::Drawn));
}

#[test]
fn a_session_goes_where_its_draw_leads_as_soon_as_nothing_is_missing_there() {
    let view = |at_ms| SessionView { last_read: last_read(A, at_ms), ..session() };
    let mut topology = topology();
    let to = |view, topology: &Snapshot, seed| decide(READ, view, topology, &split(), seed);
    let drawn = |seed| to(session(), &topology, seed).target;
    let of_b = (0..100).filter(|seed| drawn(*seed) == Target::Server(B)).count();
    assert!((20..80).contains(&of_b), "{of_b}");
    for seed in 0..100 {
        assert_eq!(to(view(999), &topology, seed).target, drawn(seed), "B was seen to have it");
        assert_eq!(to(view(1050), &topology, seed).target, Target::Server(A), "nobody has looked since");
    }
    topology.servers[2].lsn = Lsn(99);
    for seed in 0..100 {
        assert_eq!(to(view(999), &topology, seed).target, Target::Server(A), "B lacks something");
    }
}

/// Under a steady load of writes the primary is ahead in every snapshot: what counts is where it was.
#[test]
fn a_settled_bound_lets_a_session_leave_the_primary() {
    let mut topology = topology();
    topology.servers[0].lsn = Lsn(120);
    let read = last_read(P, 999).unwrap().settled(&topology);
    assert_eq!(read.bound, Some(Lsn(120)));
    topology.servers[0].lsn = Lsn(140);
    topology.servers[1].lsn = Lsn(125);
    assert_eq!(read.settled(&topology).bound, Some(Lsn(120)));
    let view = SessionView { last_read: Some(read), ..session() };
    assert_eq!(targets(READ, view, &topology, &split()), (on(&[A]), Why::Drawn));
    assert_eq!(last_read(P, 1000).unwrap().settled(&topology).bound, None);
    topology.servers[0].health = Health::Down;
    assert_eq!(last_read(P, 999).unwrap().settled(&topology).bound, None);
}

fn any_server() -> impl Strategy<Value = ServerState> {
    let small = 0u64..8;
    let lag = proptest::option::of(0u64..8);
    let health = prop_oneof![4 => Just(Health::Up), 1 => Just(Health::Down), 1 => Just(Health::Unknown)];
    let role = prop_oneof![4 => Just(Role::Standby), 1 => Just(Role::Unknown)];
    (0u32..3, small.clone(), small, lag.clone(), lag, health, role).prop_map(
        |(weight, lsn, seen, lag_bytes, lag_ms, health, role)| ServerState {
            weight,
            lsn: Lsn(lsn),
            observed_at_ms: seen,
            lag_bytes,
            lag_ms,
            health,
            ..state(0, role)
        },
    )
}

prop_compose! {
    fn any_topology()(
        mut servers in proptest::collection::vec(any_server(), 1..6),
        primary in proptest::option::of(0usize..6),
        epoch in 7u64..9,
    ) -> Snapshot {
        let primary = primary.filter(|at| *at < servers.len());
        // A server's number is not its place.
        let number = |at: usize| ServerIndex((NAMES.len() - 1 - at) as u16);
        for (at, server) in servers.iter_mut().enumerate() {
            server.index = number(at);
            (server.id, server.zone) = (NAMES[at].into(), ZONES[at].map(Arc::from));
            if primary == Some(at) {
                server.role = Role::Primary;
            }
        }
        Snapshot { epoch: Epoch(epoch), primary: primary.map(number), servers }
    }
}

prop_compose! {
    fn any_session()(
        in_transaction: bool,
        read_only: bool,
        serializable in proptest::bool::weighted(0.1),
        floor_pending in proptest::bool::weighted(0.1),
        floor in proptest::option::of((7u64..9, 0u64..8)),
        last in proptest::option::of((0u16..5, 7u64..9, 0u64..8, proptest::option::of(0u64..8))),
    ) -> SessionView<'static> {
        SessionView {
            in_transaction,
            read_only,
            serializable,
            floor_pending,
            floor: floor.map(|(epoch, lsn)| (Epoch(epoch), Lsn(lsn))),
            last_read: last.map(|(server, epoch, at_ms, bound)| LastRead {
                server: ServerIndex(server),
                epoch: Epoch(epoch),
                at_ms,
                bound: bound.map(Lsn),
            }),
            ..session()
        }
    }
}

prop_compose! {
    fn any_split()(
        mode in 0u8..3,
        max_lag_bytes in 0u64..6,
        max_lag_ms in 0u64..6,
        floor_wait_ms in 0u64..2,
        prefer_same_zone: bool,
        prefer_least_lag: bool,
        preference in 0u8..4,
    ) -> Split {
        let target = match preference {
            0 => None,
            1 => Some(PreferenceTarget::Primary),
            2 => Some(PreferenceTarget::Standbys),
            _ => Some(PreferenceTarget::Servers(vec![("a".into(), 2), ("p".into(), 1)])),
        };
        let any = |target| Preference { application_name: None, database: None, user: None, target };
        Split {
            consistency: [Consistency::Eventual, Consistency::Bounded, Consistency::Session][usize::from(mode)],
            max_lag_bytes,
            max_lag_ms,
            floor_wait_ms,
            prefer_same_zone,
            prefer_least_lag,
            preferences: target.map(any).into_iter().collect(),
            ..split()
        }
    }
}

/// The rules once more, in other words than `eligible`'s.
fn violation(
    server: ServerIndex,
    topology: &Snapshot,
    session: &SessionView<'_>,
    split: &Split,
    now: u64,
) -> Option<&'static str> {
    let Some(standby) = topology.server(server) else { return Some("no server of the cluster's") };
    if standby.role != Role::Standby || standby.health != Health::Up || topology.primary == Some(server) {
        return Some("not a standby that is up");
    }
    if session.serializable || session.in_transaction && !session.read_only {
        return Some("a transaction that belongs to the primary");
    }
    if split.max_lag_bytes > 0 && standby.lag_bytes.unwrap_or(u64::MAX) > split.max_lag_bytes {
        return Some("lags in bytes");
    }
    let age = if split.consistency == Consistency::Bounded { now - standby.observed_at_ms } else { 0 };
    if split.max_lag_ms > 0 && standby.lag_ms.map_or(u64::MAX, |lag| lag + age) > split.max_lag_ms {
        return Some("lags in time");
    }
    if split.consistency != Consistency::Session {
        return None;
    }
    if session.floor_pending
        || session.floor.is_some_and(|(epoch, lsn)| epoch > topology.epoch || standby.lsn < lsn)
    {
        return Some("below the floor");
    }
    let last = session.last_read?;
    if last.epoch == topology.epoch && last.server == server {
        return None;
    }
    let reader = topology.server(last.server);
    let known = last.bound.or_else(|| {
        let reader = reader?;
        let since = last.epoch == topology.epoch && reader.observed_at_ms > last.at_ms;
        (since && reader.health == Health::Up && reader.role != Role::Unknown).then_some(reader.lsn)
    });
    match known {
        Some(bound) if standby.lsn >= bound && standby.observed_at_ms > last.at_ms => None,
        _ => Some("may show less than the last read"),
    }
}

proptest! {
    #![proptest_config(crate::properties::properties_of(4000))]

    #[test]
    fn no_rule_is_ever_broken(
        topology in any_topology(),
        session in any_session(),
        split in any_split(),
        seed: u64,
        write in proptest::bool::weighted(0.1),
        hint in 0u8..8,
        may_wait: bool,
    ) {
        let hint = match hint {
            0 => Some(HintTarget::Standby),
            1 => Some(HintTarget::Server("a".into())),
            2 => Some(HintTarget::Primary),
            _ => None,
        };
        let class = if write { Class::Write } else { Class::Read };
        let request = Request { class, hint: hint.as_ref(), may_wait };
        let policy = Policy::new(&split, Some("z2"));
        let now = 10;
        let decision = route(&request, &session, &topology, &policy, seed, now);
        let broken = |server| violation(server, &topology, &session, &split, now);
        match decision.target {
            Target::Primary => prop_assert!(topology.primary.is_some()),
            Target::Server(server) => {
                prop_assert!(!write && hint != Some(HintTarget::Primary));
                prop_assert_eq!(broken(server), None);
            }
            Target::WaitForFloor { server, lsn } => {
                prop_assert!(!write && may_wait && split.floor_wait_ms > 0);
                prop_assert_eq!(broken(server), Some("below the floor"));
                prop_assert_eq!(session.floor.map(|(_, floor)| floor), Some(lsn));
            }
            Target::None => prop_assert_eq!(topology.primary, None),
        }
        // The primary of weight 0 takes no plain read while a standby may.
        let plain = !write && hint.is_none() && split.preferences.is_empty();
        let idle = topology.primary_server().is_some_and(|primary| primary.weight == 0);
        if plain && idle && decision.target == Target::Primary {
            for (server, _) in topology.indexed() {
                prop_assert!(broken(server).is_some());
            }
        }
        prop_assert_eq!(route(&request, &session, &topology, &policy, seed, now), decision);
    }
}
