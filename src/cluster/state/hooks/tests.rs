use super::super::{Change, ClusterState, Fenced, Member, Outcome};
use super::*;

struct World(ClusterState);

impl World {
    /// pg1 is the primary of epoch 1.
    fn new() -> Self {
        let mut world = World(ClusterState::default());
        let member = Member::voter("a", 1);
        let (cluster_id, configuration) = ("x".to_owned(), String::new());
        world.apply(Change::CreateCluster { cluster_id, members: vec![member], configuration });
        world.apply(Change::SetServers { servers: vec!["pg1".to_owned(), "pg2".to_owned()] });
        world.name(0, "pg1", false);
        world.confirm(1);
        world
    }

    fn try_apply(&mut self, reason: Reason, change: Change) -> Outcome {
        self.0.apply(Command {
            at_ms: 7,
            node: "a".to_owned(),
            cause: "operator:alice".to_owned(),
            reason: reason.code().to_owned(),
            change,
        })
    }

    #[track_caller]
    fn apply_as(&mut self, reason: Reason, change: Change) {
        let outcome = self.try_apply(reason, change);
        assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
        self.0.check().unwrap();
    }

    #[track_caller]
    fn apply(&mut self, change: Change) {
        self.apply_as(Reason::Promoted, change);
    }

    #[track_caller]
    fn name(&mut self, epoch: u64, server: &str, promotes: bool) {
        self.apply(Change::NamePrimary { epoch: Epoch(epoch), server: server.to_owned(), promotes });
    }

    #[track_caller]
    fn confirm(&mut self, epoch: u64) {
        self.apply(Change::ConfirmPrimary { epoch: Epoch(epoch), timeline: epoch as u32 });
    }

    #[track_caller]
    fn fence(&mut self, epoch: u64) {
        let (fenced, epoch) = (Fenced::Primary, Epoch(epoch));
        self.apply(Change::OpenFence { fenced: fenced.clone(), epoch });
        self.apply(Change::PassFence { fenced, epoch });
    }

    #[track_caller]
    fn order(&mut self, reason: Reason, server: &str, state: Administrative) {
        let version = self.0.servers()[server].version;
        self.apply_as(
            reason,
            Change::SetAdministrative { server: server.to_owned(), version, state, within_ms: None },
        );
    }

    fn due(&self) -> Vec<(Hook, &str, &str)> {
        let events = self.0.hooks().events();
        events.map(|event| (event.hook, event.server.as_str(), event.reason.as_str())).collect()
    }
}

#[test]
fn each_change_of_who_serves_is_one_event() {
    let mut world = World::new();
    assert_eq!(world.due(), [], "the first primary replaces nobody");
    let begin = Change::BeginFailover { epoch: Epoch(1), kind: FailoverKind::Automatic, to: None };
    world.apply_as(Reason::PrimaryLost, begin);
    world.apply(Change::PassFence { fenced: Fenced::Primary, epoch: Epoch(1) });
    world.name(1, "pg2", true);
    assert_eq!(world.due(), [(Hook::OnDetach, "pg1", "former_primary")]);
    world.confirm(2);
    world.confirm(2);
    world.order(Reason::Rejoined, "pg1", Administrative::Attached);
    let begin = Change::BeginFailover { epoch: Epoch(2), kind: FailoverKind::Switchover, to: None };
    world.apply_as(Reason::SwitchoverOrdered, begin);
    world.fence(2);
    world.name(2, "pg1", true);
    world.confirm(3);
    let due = world.due();
    let expected = [
        (Hook::OnDetach, "pg1", "former_primary"),
        (Hook::OnFailover, "pg2", "primary_lost"),
        (Hook::OnRecovered, "pg1", "rejoined"),
        (Hook::OnDetach, "pg2", "former_primary"),
        (Hook::OnSwitchover, "pg1", "switchover_ordered"),
    ];
    assert_eq!(due, expected);
    let switchover = world.0.hooks().events().last().unwrap();
    let primaries = (switchover.old_primary.as_deref(), switchover.new_primary.as_deref());
    assert_eq!((primaries, switchover.epoch), ((Some("pg2"), Some("pg1")), Epoch(3)));
    assert_eq!(switchover.cause, "operator:alice");
}

/// pg2 was named in its place, and never became the primary.
#[test]
fn programs_are_told_who_was_the_primary_and_not_who_was_named_in_vain() {
    for (to, expected) in [(1, "pg2"), (2, "pg1")] {
        let mut world = World::new();
        world.apply(Change::SetServers { servers: ["pg1", "pg2", "pg3"].map(str::to_owned).to_vec() });
        world.apply(Change::RaiseLogFormat { from: 0, to });
        for (epoch, server) in [(1, "pg2"), (2, "pg3")] {
            let epoch = Epoch(epoch);
            let begin = Change::BeginFailover { epoch, kind: FailoverKind::Automatic, to: None };
            world.apply_as(Reason::PrimaryLost, begin);
            world.apply(Change::PassFence { fenced: Fenced::Primary, epoch });
            world.name(epoch.0, server, true);
        }
        world.confirm(3);
        let event = world.0.hooks().events().last().unwrap();
        let primaries = (event.old_primary.as_deref(), event.new_primary.as_deref());
        assert_eq!((event.hook, primaries), (Hook::OnFailover, (Some(expected), Some("pg3"))));
    }
}

#[test]
fn one_that_goes_on_after_a_switchover_in_vain_is_no_event_and_one_promoted_elsewhere_is() {
    let mut world = World::new();
    let begin = Change::BeginFailover { epoch: Epoch(1), kind: FailoverKind::Switchover, to: None };
    world.apply_as(Reason::SwitchoverOrdered, begin);
    world.fence(1);
    world.name(1, "pg1", false);
    world.confirm(2);
    assert_eq!(world.due(), []);
    world.fence(2);
    world.name(2, "pg2", false);
    world.confirm(3);
    assert_eq!(world.due(), [(Hook::OnFailover, "pg2", "promoted_elsewhere")]);
    assert_eq!(world.0.hooks().events().next().unwrap().old_primary.as_deref(), Some("pg1"));
}

#[test]
fn orders_are_events_when_they_change_whether_a_server_is_used() {
    use Administrative::{Attached, Detached, Draining, Quarantined};
    let mut world = World::new();
    let steps = [
        (Reason::Draining, Draining, None),
        (Reason::AttachOrdered, Attached, None),
        (Reason::Draining, Draining, None),
        (Reason::Detached, Detached, Some(Hook::OnDetach)),
        (Reason::AttachOrdered, Attached, Some(Hook::OnAttach)),
        (Reason::FalsePrimary, Quarantined, Some(Hook::OnDetach)),
        (Reason::Detached, Detached, None),
        (Reason::Rejoined, Attached, Some(Hook::OnRecovered)),
    ];
    for (number, (reason, state, expected)) in steps.into_iter().enumerate() {
        let before = world.due().len();
        world.order(reason, "pg2", state);
        let new = world.due().get(before).map(|(hook, _, _)| *hook);
        assert_eq!(new, expected, "step {number}");
    }
}

#[test]
fn an_event_is_taken_once_and_those_of_a_hook_one_after_the_other() {
    let mut world = World::new();
    for (reason, state) in [
        (Reason::Detached, Administrative::Detached),
        (Reason::AttachOrdered, Administrative::Attached),
        (Reason::Detached, Administrative::Detached),
    ] {
        world.order(reason, "pg2", state);
    }
    let next = |world: &World, hook| world.0.hooks().next(hook).map(|event| event.id);
    let take = |id| Change::TakeHook { id, deadline_ms: 9 };
    let end = |id, text: Option<&str>| Change::EndHook { id, text: text.map(str::to_owned) };
    assert_eq!((next(&world, Hook::OnDetach), next(&world, Hook::OnAttach)), (Some(1), Some(2)));
    assert_eq!(world.try_apply(Reason::HookRan, end(1, Some("x"))), {
        Outcome::Refused(Refusal::HookNotTaken { id: 1 })
    });
    world.apply(take(1));
    let taken = Outcome::Refused(Refusal::HookTaken { node: "a".to_owned() });
    assert_eq!(world.try_apply(Reason::HookStarted, take(1)), taken);
    assert_eq!(world.try_apply(Reason::HookStarted, end(1, None)), taken);
    assert_eq!((next(&world, Hook::OnDetach), next(&world, Hook::OnAttach)), (None, Some(2)));
    world.apply_as(Reason::HookRan, end(1, Some("it ended")));
    let entry = world.0.incidents().iter().last().unwrap();
    assert_eq!((&*entry.subject, &*entry.text, &*entry.reason), ("pg2", "on_detach: it ended", "hook_ran"));
    assert_eq!(world.try_apply(Reason::HookRan, end(1, Some("again"))), {
        Outcome::Refused(Refusal::NoHookEvent { id: 1 })
    });
    let incidents = world.0.incidents().last_id();
    world.apply(end(2, None));
    assert_eq!(world.0.incidents().last_id(), incidents, "nobody wants to be told of it");
    assert_eq!((next(&world, Hook::OnDetach), next(&world, Hook::OnAttach)), (Some(3), None));
}

#[test]
fn what_nobody_takes_is_forgotten_in_the_end() {
    let mut world = World::new();
    for _ in 0..MAX_HOOK_EVENTS {
        world.order(Reason::Detached, "pg2", Administrative::Detached);
        world.order(Reason::AttachOrdered, "pg2", Administrative::Attached);
    }
    assert_eq!(world.due().len(), MAX_HOOK_EVENTS);
    assert_eq!(world.0.hooks().events().last().unwrap().id, 2 * MAX_HOOK_EVENTS as u64);
}
