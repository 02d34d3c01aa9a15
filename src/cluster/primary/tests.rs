//! Tables of situations and what must come of them, and properties of all situations.

use proptest::prelude::*;

use super::*;
use crate::cluster::aurora::{Instance, Instances};
use crate::cluster::blue_green::BlueGreen;
use crate::cluster::model::{Failure, Receiver, Sender};
use crate::config;

const RETRIES: u32 = 2;

/// A cluster under test: says what servers answer, and looks at the view that follows.
struct Cluster {
    view: View,
    observations: Vec<Observation>,
    named: Option<Named>,
    now_ms: u64,
}

fn servers(count: usize) -> Vec<config::Server> {
    let server = |index| config::Server::at(format!("s{index}"), "localhost", 5432);
    (0..count).map(server).collect()
}

fn facts(in_recovery: bool, timeline: u32, lsn: u64) -> Facts {
    Facts { replay_lag_ms: in_recovery.then_some(7), ..Facts::bare(in_recovery, timeline, lsn) }
}

fn primary(timeline: u32, lsn: u64) -> Facts {
    facts(false, timeline, lsn)
}

fn standby(timeline: u32, lsn: u64) -> Facts {
    facts(true, timeline, lsn)
}

fn of_another_cluster(facts: Facts) -> Facts {
    Facts { system_identifier: 2, ..facts }
}

fn failure(reason: Reason) -> Failure {
    Failure { reason, detail: "it is so".to_owned(), at_ms: 0 }
}

impl Cluster {
    fn of(count: usize) -> Self {
        Cluster {
            view: View::new(&servers(count)),
            observations: vec![Observation::of(RETRIES); count],
            named: None,
            now_ms: 0,
        }
    }

    /// All servers answered once.
    fn with(all: impl IntoIterator<Item = Facts>) -> Self {
        let all: Vec<Facts> = all.into_iter().collect();
        let mut cluster = Cluster::of(all.len());
        for (index, facts) in all.into_iter().enumerate() {
            cluster.says(index, facts);
        }
        cluster
    }

    fn says(&mut self, index: usize, facts: Facts) -> &View {
        self.look(index, Ok(Facts { asked_at_ms: self.now_ms + 10, ..facts }))
    }

    fn fails(&mut self, index: usize) -> &View {
        self.look(index, Err(failure(Reason::Timeout)))
    }

    fn goes_down(&mut self, index: usize) -> &View {
        for _ in 1..RETRIES {
            self.fails(index);
        }
        self.fails(index)
    }

    fn look(&mut self, index: usize, look: Result<Facts, Failure>) -> &View {
        self.now_ms += 10;
        self.observations[index].record(look);
        self.view = next(&self.view, &self.observations, self.named.as_ref(), self.now_ms);
        &self.view
    }

    fn primary(&self) -> Option<u16> {
        self.view.snapshot.primary.map(|index| index.0)
    }

    fn epoch(&self) -> u64 {
        self.view.snapshot.epoch.0
    }

    fn server(&self, index: usize) -> (Health, Role, Option<Reason>) {
        let state = &self.view.snapshot.servers[index];
        (state.health, state.role, self.view.details[index].reason)
    }
}

const UP_STANDBY: (Health, Role, Option<Reason>) = (Health::Up, Role::Standby, None);

fn unused(reason: Reason) -> (Health, Role, Option<Reason>) {
    (Health::Up, Role::Unknown, Some(reason))
}

/// What was sent to it before may be lost, or may have been another server at the same name.
#[test]
fn a_primary_that_was_started_since_it_was_seen_last_begins_an_epoch() {
    let mut cluster = Cluster::with([primary(1, 100), standby(1, 100)]);
    cluster.says(0, primary(1, 200));
    assert_eq!((cluster.primary(), cluster.epoch()), (Some(0), 1));
    cluster.says(0, Facts { started_at_ms: 2, ..primary(1, 300) });
    assert_eq!((cluster.primary(), cluster.epoch()), (Some(0), 2));
    cluster.says(0, Facts { started_at_ms: 2, ..primary(1, 300) });
    assert_eq!(cluster.epoch(), 2, "once");
}

#[test]
fn the_primary_is_the_one_that_is_not_in_recovery() {
    let cluster = Cluster::with([standby(1, 90), primary(1, 100), standby(1, 100)]);
    assert_eq!((cluster.primary(), cluster.epoch(), cluster.view.no_primary), (Some(1), 1, None));
    assert_eq!(cluster.server(0), UP_STANDBY);
    assert_eq!(cluster.server(1), (Health::Up, Role::Primary, None));
    let servers = &cluster.view.snapshot.servers;
    assert_eq!((servers[0].lag_bytes, servers[0].lag_ms), (Some(10), Some(7)));
    assert_eq!((servers[1].lag_bytes, servers[1].lag_ms), (None, None));
    assert_eq!(servers[2].lag_bytes, Some(0));
    assert_eq!(servers[0].observed_at_ms, 10);
    assert_eq!(&*servers[0].reason, "");
}

#[test]
fn lag_counts_what_was_received_beyond_the_primarys_last_known_position() {
    let mut cluster = Cluster::with([primary(1, 100), standby(1, 90)]);
    cluster.says(1, Facts { received_lsn: Some(Lsn(150)), ..standby(1, 120) });
    assert_eq!(cluster.view.snapshot.servers[1].lag_bytes, Some(30));
    cluster.says(1, standby(1, 120));
    assert_eq!(cluster.view.snapshot.servers[1].lag_bytes, Some(0));
}

#[test]
fn a_standby_that_has_all_the_primary_had_is_no_older_than_that() {
    let mut cluster = Cluster::with([primary(1, 100), standby(1, 100)]);
    // The primary was asked at 10; the standby's last transaction is a day old.
    let idle =
        |lsn, answered_at_ms| Facts { replay_lag_ms: Some(86_400_000), answered_at_ms, ..standby(1, lsn) };
    cluster.says(1, idle(100, 60));
    assert_eq!(cluster.view.snapshot.servers[1].lag_ms, Some(50));
    cluster.says(1, idle(99, 60));
    assert_eq!(cluster.view.snapshot.servers[1].lag_ms, Some(86_400_000));
    cluster.says(1, Facts { replay_lag_ms: None, ..idle(99, 60) });
    assert_eq!(cluster.view.snapshot.servers[1].lag_ms, None);
}

#[test]
fn the_first_primary_is_chosen_when_all_were_looked_at() {
    let mut cluster = Cluster::of(3);
    assert_eq!(cluster.says(0, primary(1, 100)).no_primary, Some(Reason::StillLooking));
    assert_eq!(cluster.server(0), unused(Reason::StillLooking));
    cluster.fails(1);
    assert_eq!(cluster.primary(), None);
    cluster.says(2, primary(2, 100));
    assert_eq!((cluster.primary(), cluster.epoch()), (Some(2), 1));
    assert_eq!(cluster.server(0), unused(Reason::OldPrimary));
}

#[test]
fn of_two_primaries_the_higher_timeline_wins_and_a_tie_keeps_the_current_one() {
    let mut cluster = Cluster::with([primary(1, 100), standby(1, 100)]);
    cluster.says(1, primary(1, 200));
    assert_eq!((cluster.primary(), cluster.epoch()), (Some(0), 1));
    assert_eq!(cluster.server(1), unused(Reason::SecondPrimary));
    cluster.says(1, primary(2, 200));
    assert_eq!((cluster.primary(), cluster.epoch()), (Some(1), 2));
    assert_eq!(cluster.server(0), unused(Reason::OldPrimary));

    let nobody = Cluster::with([primary(3, 100), primary(3, 100), standby(3, 100)]);
    assert_eq!((nobody.primary(), nobody.view.no_primary), (None, Some(Reason::TwoPrimaries)));
    assert_eq!(nobody.server(0), unused(Reason::TwoPrimaries));
    assert_eq!(nobody.server(2), UP_STANDBY);
}

#[test]
fn an_instance_of_aurora_by_two_names_is_one_writer_and_two_instances_are_none() {
    let called = |me: &str, started_at_ms| {
        let one = Instance { id: me.to_owned(), writes: true };
        let instances = Instances { me: me.to_owned(), all: vec![one] };
        Facts { aurora: Some(Arc::new(instances)), started_at_ms, ..primary(1, 100) }
    };
    let mut cluster = Cluster::with([called("a", 7), called("a", 7)]);
    assert_eq!((cluster.primary(), cluster.epoch()), (Some(0), 1));
    cluster.says(1, called("b", 7));
    assert_eq!(cluster.view.no_primary, Some(Reason::TwoPrimaries));
    // Another life at the same name is another one's.
    cluster.says(1, called("a", 8));
    assert_eq!(cluster.view.no_primary, Some(Reason::TwoPrimaries));

    let mut cluster = Cluster::with([Facts { in_recovery: true, ..called("a", 7) }, called("a", 7)]);
    assert_eq!(cluster.primary(), Some(1));
    cluster.says(0, called("a", 7));
    assert_eq!((cluster.primary(), cluster.epoch()), (Some(1), 1), "it stays the one that it was");
}

#[test]
fn a_primary_is_lost_only_when_down_and_comes_back_in_a_new_epoch() {
    let mut cluster = Cluster::with([primary(1, 100), standby(1, 100)]);
    cluster.fails(0);
    assert_eq!((cluster.primary(), cluster.server(0).0), (Some(0), Health::Up));
    cluster.fails(0);
    assert_eq!((cluster.primary(), cluster.view.no_primary), (None, Some(Reason::PrimaryDown)));
    assert_eq!(cluster.server(0), (Health::Down, Role::Unknown, Some(Reason::Timeout)));
    assert_eq!(&*cluster.view.snapshot.servers[0].reason, "the server did not answer in time: it is so");
    // Still what it lacks at least.
    assert_eq!(cluster.view.snapshot.servers[1].lag_bytes, Some(0));
    cluster.says(1, standby(1, 100));
    assert_eq!((cluster.epoch(), cluster.view.no_primary), (1, Some(Reason::PrimaryDown)));
    cluster.says(0, primary(1, 100));
    assert_eq!((cluster.primary(), cluster.epoch(), cluster.view.no_primary), (Some(0), 2, None));
}

#[test]
fn a_primary_that_became_a_standby_is_none_at_once() {
    let mut cluster = Cluster::with([primary(1, 100), standby(1, 100)]);
    cluster.says(0, standby(1, 100));
    assert_eq!((cluster.primary(), cluster.view.no_primary), (None, Some(Reason::PrimaryDemoted)));
    assert_eq!(cluster.server(0), UP_STANDBY);
    cluster.says(1, primary(2, 110));
    assert_eq!((cluster.primary(), cluster.epoch()), (Some(1), 2));
    // It has not followed yet.
    assert_eq!(cluster.server(0), unused(Reason::OtherTimeline));
    cluster.says(0, standby(2, 110));
    assert_eq!(cluster.server(0), UP_STANDBY);
}

#[test]
fn an_old_primary_never_comes_back() {
    let mut cluster = Cluster::with([primary(1, 100), standby(1, 100)]);
    cluster.goes_down(0);
    cluster.says(1, primary(2, 110));
    cluster.goes_down(1);
    cluster.says(0, primary(1, 500));
    assert_eq!((cluster.primary(), cluster.view.no_primary), (None, Some(Reason::OldPrimary)));
    assert_eq!(cluster.server(0), unused(Reason::OldPrimary));

    // A standby's timeline tells the same to one who has just started.
    let started = Cluster::with([primary(1, 500), standby(2, 110)]);
    assert_eq!((started.primary(), started.view.no_primary), (None, Some(Reason::OldPrimary)));
}

#[test]
fn the_epoch_rises_when_the_log_became_shorter_or_the_timeline_longer() {
    let mut cluster = Cluster::with([primary(1, 100), standby(1, 100)]);
    cluster.says(0, primary(1, 120));
    assert_eq!(cluster.epoch(), 1);
    cluster.says(0, primary(1, 110));
    assert_eq!((cluster.primary(), cluster.epoch()), (Some(0), 2));
    cluster.says(0, primary(2, 130));
    assert_eq!((cluster.primary(), cluster.epoch()), (Some(0), 3));
}

#[test]
fn a_server_of_another_cluster_is_used_for_nothing() {
    let mut cluster = Cluster::with([primary(1, 100), standby(1, 100), of_another_cluster(primary(9, 900))]);
    assert_eq!(cluster.primary(), Some(0));
    assert_eq!(cluster.server(2), unused(Reason::WrongSystemIdentifier));
    // The identity stays, whoever is left.
    cluster.goes_down(0);
    cluster.says(1, of_another_cluster(primary(9, 900)));
    assert_eq!((cluster.primary(), cluster.view.identity), (None, Identity::Pinned(1)));

    let tie = Cluster::with([primary(1, 100), of_another_cluster(primary(1, 100))]);
    assert_eq!((tie.primary(), tie.view.no_primary), (None, Some(Reason::SystemIdentifiersDiffer)));
    assert_eq!(tie.server(0), unused(Reason::SystemIdentifiersDiffer));

    // A lone stranger is believed only until the others are back.
    let mut alone = Cluster::of(3);
    alone.goes_down(0);
    alone.goes_down(1);
    alone.says(2, of_another_cluster(primary(1, 100)));
    assert_eq!((alone.primary(), alone.view.identity), (Some(2), Identity::Provisional(2)));
    alone.says(0, primary(1, 100));
    assert_eq!(alone.primary(), Some(2));
    alone.says(1, standby(1, 100));
    assert_eq!((alone.primary(), alone.epoch()), (Some(0), 2));
    assert_eq!(alone.server(2), unused(Reason::WrongSystemIdentifier));
}

#[test]
fn changes_are_dated_and_positions_are_none() {
    let mut cluster = Cluster::with([primary(1, 100), standby(1, 100)]);
    let (changed, since) = (cluster.view.changed_at_ms, cluster.view.details[1].since_ms);
    cluster.says(0, primary(1, 200));
    cluster.says(1, standby(1, 150));
    assert_eq!((cluster.view.changed_at_ms, cluster.view.details[1].since_ms), (changed, since));
    assert!(unsettled(&cluster.view, changed + UNSETTLED_MS - 1));
    assert!(!unsettled(&cluster.view, changed + UNSETTLED_MS));
    cluster.goes_down(1);
    let now = cluster.now_ms;
    assert_eq!((cluster.view.changed_at_ms, cluster.view.details[1].since_ms), (now, now));
    assert!(!unsettled(&cluster.view, now + UNSETTLED_MS));
    cluster.goes_down(0);
    assert!(unsettled(&cluster.view, u64::MAX));
}

#[test]
fn a_standbys_sync_state_is_the_row_of_its_name_if_there_is_just_one() {
    let sender = |name: &str, sync_state: &str| Sender {
        name: name.to_owned(),
        state: "streaming".to_owned(),
        sync_state: sync_state.to_owned(),
        sent_lsn: None,
        flush_lsn: None,
    };
    let receiver = |name: &str| {
        Some(Receiver {
            status: "streaming".to_owned(),
            name: name.to_owned(),
            message_age_ms: None,
            timeline: None,
        })
    };
    let senders = vec![sender("a", "sync"), sender("b", "async"), sender("b", "quorum")];
    let cluster = Cluster::with([
        Facts { senders, ..primary(1, 100) },
        Facts { receiver: receiver("a"), ..standby(1, 100) },
        Facts { receiver: receiver("b"), ..standby(1, 100) },
        standby(1, 100),
    ]);
    let details = &cluster.view.details;
    assert_eq!(details[1].sync_state.as_deref(), Some("sync"));
    assert_eq!(
        (details[2].replication_state.as_deref(), details[2].sync_state.as_deref()),
        (Some("streaming"), None)
    );
    assert_eq!(
        (details[3].replication_state.as_deref(), details[3].sync_state.as_deref()),
        (Some("archive"), None),
        "it has nobody to receive from"
    );
}

#[test]
fn a_standby_that_does_not_answer_is_not_read_from_before_it_is_down() {
    let mut cluster = Cluster::with([primary(1, 100), standby(1, 100)]);
    cluster.fails(1);
    assert_eq!(cluster.server(1), unused(Reason::Timeout));
    cluster.says(1, standby(1, 100));
    assert_eq!(cluster.server(1), UP_STANDBY);
    // Nothing that komainu lacks makes it one that hangs.
    cluster.look(1, Err(failure(Reason::CredentialMissing)));
    assert_eq!(cluster.server(1), UP_STANDBY);
}

#[test]
fn a_standby_that_goes_down_again_and_again_is_read_from_when_it_has_been_well_for_a_while() {
    let mut cluster = Cluster::with([primary(1, 100), standby(1, 100)]);
    for _ in 0..2 {
        cluster.goes_down(1);
        cluster.says(1, standby(1, 100));
        assert_eq!(cluster.server(1), UP_STANDBY);
    }
    cluster.goes_down(1);
    let receiver = Receiver {
        status: "streaming".to_owned(),
        name: "s1".to_owned(),
        message_age_ms: Some(1),
        timeline: Some(1),
    };
    cluster.says(1, Facts { receiver: Some(receiver), ..standby(1, 100) });
    assert_eq!(cluster.server(1), unused(Reason::Unsteady));
    assert_eq!(cluster.view.details[1].replication_state.as_deref(), Some("streaming"));
    cluster.now_ms += 4_000;
    cluster.says(0, primary(1, 100));
    assert_eq!(cluster.server(1), unused(Reason::Unsteady));
    cluster.now_ms += 1_000;
    cluster.says(0, primary(1, 100));
    assert_eq!(cluster.server(1), UP_STANDBY);
    // Nobody is kept from being a primary by it.
    cluster.goes_down(1);
    cluster.says(1, primary(2, 200));
    assert_eq!(cluster.primary(), Some(1));
}

#[test]
fn each_change_is_told_once() {
    use crate::cluster::change::{Change, changes};
    let mut cluster = Cluster::with([primary(1, 100), standby(1, 100)]);
    let before = cluster.view.clone();
    cluster.says(0, primary(1, 200));
    assert_eq!(changes(&before, &cluster.view), []);
    cluster.goes_down(0);
    let index = ServerIndex(0);
    let down =
        Change::Server { index, role: Role::Unknown, health: Health::Down, reason: Some(Reason::Timeout) };
    let lost = Change::NoPrimary { from: Some(index), reason: Reason::PrimaryDown };
    assert_eq!(changes(&before, &cluster.view), [down, lost]);
    let lost = cluster.view.clone();
    cluster.fails(0);
    assert_eq!(changes(&lost, &cluster.view), []);
    cluster.says(0, primary(1, 200));
    let up = Change::Server { index, role: Role::Primary, health: Health::Up, reason: None };
    let found = Change::Primary { from: None, to: index, epoch: Epoch(2) };
    assert_eq!(changes(&lost, &cluster.view), [up, found]);
}

fn any_look() -> impl Strategy<Value = Result<Facts, Failure>> {
    let answer = (any::<bool>(), 1..4u32, 0..50u64, 1..3u64, proptest::option::of(0..50u64)).prop_map(
        |(in_recovery, timeline, lsn, system_identifier, received)| {
            let received_lsn = received.filter(|_| in_recovery).map(Lsn);
            Ok(Facts { system_identifier, received_lsn, ..facts(in_recovery, timeline, lsn) })
        },
    );
    prop_oneof![4 => answer, 2 => Just(Err(failure(Reason::Timeout)))]
}

proptest! {
    #![proptest_config(crate::properties::properties())]

    #[test]
    fn whatever_servers_say(looks in proptest::collection::vec((0..4usize, any_look()), 1..60)) {
        let mut cluster = Cluster::of(4);
        for (index, look) in looks {
            let before = cluster.view.clone();
            cluster.look(index, look);
            let view = &cluster.view;
            prop_assert!(view.snapshot.epoch >= before.snapshot.epoch);
            prop_assert!(view.timeline >= before.timeline || before.identity.get() != view.identity.get());
            prop_assert_eq!(view.snapshot.primary.is_none(), view.no_primary.is_some());
            if view.snapshot.primary != before.snapshot.primary && view.snapshot.primary.is_some() {
                prop_assert!(view.snapshot.epoch > before.snapshot.epoch);
            }
            if let Identity::Pinned(_) = before.identity {
                prop_assert_eq!(view.identity, before.identity);
            }
            for (index, state) in view.snapshot.indexed() {
                let observation = &cluster.observations[usize::from(index.0)];
                let is_primary = view.snapshot.primary == Some(index);
                prop_assert_eq!(state.role == Role::Primary, is_primary);
                prop_assert_eq!(state.health == Health::Down, observation.failures >= RETRIES);
                if state.role != Role::Unknown {
                    let facts = observation.facts.as_ref().unwrap();
                    prop_assert_eq!(state.health, Health::Up);
                    prop_assert_eq!(facts.in_recovery, !is_primary);
                    prop_assert_eq!(Some(facts.system_identifier), view.identity.get());
                    prop_assert!(view.timeline == 0 || facts.timeline == view.timeline);
                    prop_assert_eq!(&*state.reason, "");
                } else {
                    prop_assert!(!state.reason.is_empty());
                }
            }
            // The same facts once more change nothing.
            let again = next(view, &cluster.observations, None, cluster.now_ms + 1);
            prop_assert_eq!(&again.snapshot, &view.snapshot);
            prop_assert_eq!(again.changed_at_ms, view.changed_at_ms);
        }
    }
}

/// It was promoted by hand, say, while the primary lives: reads and writes go on as before.
#[test]
fn whom_the_log_has_named_stays_the_primary_whoever_else_claims_to_be_one() {
    let mut cluster = Cluster::with([primary(1, 500), standby(1, 500), standby(1, 500)]);
    cluster.named = Some(Named { server: "s0".to_owned(), timeline: 1, life: None });
    cluster.says(2, primary(2, 900));
    assert_eq!((cluster.primary(), cluster.epoch()), (Some(0), 1));
    assert_eq!(cluster.server(1), UP_STANDBY);
    assert_eq!(cluster.server(2), unused(Reason::SecondPrimary));
    // The log makes it the primary, and the other one still runs.
    cluster.named = Some(Named { server: "s2".to_owned(), timeline: 2, life: None });
    cluster.says(0, primary(1, 600));
    assert_eq!(cluster.primary(), Some(2));
    assert_eq!(cluster.server(0), unused(Reason::OldPrimary));
    // Another timeline than the log knows is no epoch of its.
    cluster.named = Some(Named { server: "s0".to_owned(), timeline: 3, life: None });
    cluster.says(1, standby(1, 600));
    assert_eq!(cluster.primary(), Some(2));
}

/// Connections of the epoch may lead to where the name led before, which may take writes still.
#[test]
fn another_start_at_the_named_writers_name_is_none_until_the_log_has_a_new_epoch() {
    let started = |at_ms| Facts { started_at_ms: at_ms, ..primary(1, 500) };
    let named = |life| Some(Named { server: "s0".to_owned(), timeline: 1, life });
    let mut cluster = Cluster::with([started(5), standby(1, 500)]);
    cluster.named = named(Some(5));
    cluster.says(0, started(5));
    assert_eq!(cluster.primary(), Some(0));
    cluster.says(0, started(6));
    assert_eq!((cluster.primary(), cluster.view.no_primary), (None, Some(Reason::WriterReplaced)));
    assert_eq!(cluster.server(0), unused(Reason::WriterReplaced));
    assert_eq!(cluster.view.details[0].says, Role::Primary, "the leader is to hear of it");
    cluster.named = named(Some(6));
    cluster.says(0, started(6));
    assert_eq!(cluster.primary(), Some(0));
    // Where a restart is none.
    cluster.named = named(None);
    cluster.says(0, started(7));
    assert_eq!(cluster.primary(), Some(0));
}

/// The writer's name leads to the green side, which is of another cluster of PostgreSQL's.
#[test]
fn another_system_identifier_is_taken_at_the_writers_name_if_it_was_announced() {
    let tells = |blue_green: BlueGreen, facts: Facts| Facts {
        blue_green,
        given_away: blue_green.gives_away(),
        ..facts
    };
    let green = Facts { started_at_ms: 9, ..of_another_cluster(primary(1, 50)) };
    let mut unannounced = Cluster::with([primary(3, 100), standby(3, 100)]);
    unannounced.says(0, green.clone());
    assert_eq!(unannounced.primary(), None);
    assert_eq!(unannounced.server(0), unused(Reason::WrongSystemIdentifier));

    let mut cluster = Cluster::with([primary(3, 100), standby(3, 100)]);
    cluster.says(0, tells(BlueGreen::Initiated, primary(3, 110)));
    assert_eq!((cluster.primary(), cluster.view.exchanged), (Some(0), Some(ServerIndex(0))));
    assert!(unsettled(&cluster.view, u64::MAX), "looked at more often");
    cluster.says(0, tells(BlueGreen::InProgress, primary(3, 120)));
    assert_eq!((cluster.primary(), cluster.view.no_primary), (None, Some(Reason::SwitchingOver)));
    assert_eq!(cluster.server(0), unused(Reason::SwitchingOver));
    // Not at another name, and not before it takes writes.
    cluster.says(1, of_another_cluster(primary(1, 50)));
    assert_eq!(cluster.primary(), None);
    cluster.says(0, of_another_cluster(standby(1, 50)));
    assert_eq!(cluster.primary(), None);
    cluster.says(1, standby(3, 120));
    let before = cluster.epoch();
    cluster.says(0, tells(BlueGreen::Completed, green));
    assert_eq!((cluster.primary(), cluster.epoch(), cluster.view.timeline), (Some(0), before + 1, 1));
    assert_eq!(cluster.server(1), unused(Reason::WrongSystemIdentifier), "until its name has moved as well");
    assert_eq!(cluster.view.exchanged, None, "it is over");
}
