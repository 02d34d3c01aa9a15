//! Whom a failover names, by what, and what it waits for before.

use super::*;

/// The epoch of pg1 has ended, and nobody is named yet.
fn ended() -> World {
    let mut world = World::new();
    world.fence_passes = false;
    world.is_silent("pg1", true);
    world.standbys_hear_nothing();
    assert_eq!(world.reasons(), [Reason::PrimaryLost]);
    world.fence_passes = true;
    world.is_stopped("pg2", 1, 4900);
    world.is_stopped("pg3", 1, 5000);
    assert_eq!(world.reasons(), [Reason::FencePassed]);
    world
}

#[test]
fn one_that_still_receives_is_told_to_stop_and_nobody_is_named_meanwhile() {
    let mut world = ended();
    world.streams("pg2", "pg1", 1, 4900);
    world.pass(10);
    let (reasons, actions) = world.settle();
    assert_eq!(reasons, []);
    assert_eq!(did(&actions), [("pg2", &What::StopReceiving)]);
    // It has received more meanwhile.
    world.is_stopped("pg2", 1, 5100);
    world.pass(10);
    assert_eq!(world.reasons(), [Reason::LacksLeast]);
    assert_eq!(world.state.primary().server.as_deref(), Some("pg2"));
}

#[test]
fn one_on_another_timeline_is_not_named_however_far_it_is() {
    let mut world = ended();
    world.is_stopped("pg2", 2, 9000);
    world.pass(10);
    assert_eq!(world.reasons(), [Reason::LacksLeast]);
    assert_eq!(world.state.primary().server.as_deref(), Some("pg3"));
}

#[test]
fn a_standby_that_was_not_asked_since_is_no_proof_that_the_primary_is_lost() {
    let mut world = World::new();
    world.is_silent("pg1", false);
    let asked_ms_ago = |world: &mut World, ms: u64| {
        for id in ["pg2", "pg3"] {
            // It had heard nothing for a while when it was asked, as between two messages of an idle primary.
            let mut facts = world.facts(true, 1, 5000);
            facts.upstream = upstream("pg1.db");
            facts.receiver = Some(Receiver {
                status: "streaming".to_owned(),
                name: id.to_owned(),
                message_age_ms: Some(2_500),
                timeline: Some(1),
            });
            (facts.asked_at_ms, facts.answered_at_ms) = (world.now_ms - ms, world.now_ms - ms);
            world.see(id, facts);
        }
    };
    asked_ms_ago(&mut world, 1_800);
    world.fence_passes = false;
    assert_eq!(world.reasons(), [Reason::StandbysStillHear]);
    asked_ms_ago(&mut world, 100);
    assert_eq!(world.reasons(), [Reason::PrimaryLost]);
}

/// It hung when it was to be promoted, its epoch was ended for that, and the other one is gone by now.
#[test]
fn one_that_was_named_and_never_became_a_primary_is_named_again_if_there_is_nobody_else() {
    let mut world = ended();
    world.pass(10);
    assert_eq!(world.reasons(), [Reason::LacksLeast]);
    assert_eq!(world.state.primary().server.as_deref(), Some("pg3"));
    world.is_silent("pg3", true);
    world.pass(11_100);
    world.fence_passes = false;
    assert_eq!(world.reasons(), [Reason::PromotionFailed]);
    world.is_silent("pg2", true);
    world.fence_passes = true;
    world.settle();
    world.pass(10);
    world.settle();
    assert_eq!(world.state.standstill(), Some("no_candidate"));
    world.is_stopped("pg3", 1, 5000);
    world.pass(10);
    let (reasons, actions) = world.settle();
    assert_eq!(reasons, [Reason::LacksLeast]);
    assert_eq!(world.state.primary().epoch, Epoch(3));
    assert_eq!(did(&actions), [("pg3", &What::Promote { epoch: Epoch(3) })]);
    assert_eq!(world.administrative("pg3"), Administrative::Attached);
}

#[test]
fn a_message_of_which_a_standby_cannot_say_how_old_it_is_is_no_evidence() {
    let mut world = World::new();
    world.is_silent("pg1", true);
    world.fence_passes = false;
    for (age_ms, reason) in [(Some(0), Reason::StandbysStillHear), (None, Reason::PrimaryLost)] {
        for id in ["pg2", "pg3"] {
            world.streams(id, "pg1", 1, 5000);
            let mut facts = world.facts_of(id);
            facts.receiver.as_mut().unwrap().message_age_ms = age_ms;
            world.see(id, facts);
        }
        assert_eq!(world.reasons(), [reason]);
    }
}
