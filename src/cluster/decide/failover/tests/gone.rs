//! A writer of AWS's whose process has ended.

use super::*;

/// pg1 is the writer.
fn managed(mode: FailoverMode) -> World {
    let mut world = World::new();
    world.policy.failover.mode = mode;
    world
}

fn refuses(world: &mut World, id: &str) {
    world.is_silent(id, true);
    let index = SERVERS.iter().position(|known| *known == id).unwrap();
    world.view.details[index].failure = Some(Reason::ConnectRefused);
}

#[test]
fn the_epoch_of_a_writer_that_refuses_ends_while_the_service_still_works() {
    for mode in [FailoverMode::Rds, FailoverMode::Aurora] {
        let mut world = managed(mode);
        refuses(&mut world, "pg1");
        assert_eq!(world.reasons(), [Reason::WriterGone, Reason::FencePassed], "{mode:?}");
        world.pass(60_000);
        assert_eq!(world.reasons(), [], "until there is another one");
        world.is_primary("pg2", 2);
        assert_eq!(world.reasons()[0], Reason::PrimaryFound);
        assert_eq!(world.state.primary().server.as_deref(), Some("pg2"));
        assert_eq!(world.state.primary().epoch.0, 2);
    }
}

#[test]
fn who_comes_back_as_the_writer_goes_on_in_another_epoch() {
    let mut world = managed(FailoverMode::Rds);
    refuses(&mut world, "pg1");
    world.settle();
    world.is_primary("pg1", 1);
    assert_eq!(world.reasons()[0], Reason::PrimaryFound);
    let primary = world.state.primary();
    assert_eq!((primary.server.as_deref(), primary.epoch.0), (Some("pg1"), 2));
}

#[test]
fn silence_of_a_writer_ends_nothing_nor_does_what_only_some_are_refused() {
    let mut world = managed(FailoverMode::Rds);
    world.is_silent("pg1", true);
    assert_eq!(world.reasons(), [], "connections may outlive it");

    let mut world = managed(FailoverMode::Rds);
    refuses(&mut world, "pg1");
    for node in ["b", "c"] {
        world.claim_as(
            node,
            "pg1",
            Claim { observed: Observed::Up, primary_on: Some(1), ..Claim::default() },
        );
    }
    assert_eq!(world.reasons(), []);

    // Nobody tells there whether connections have outlived it.
    let mut world = managed(FailoverMode::Redshift);
    refuses(&mut world, "pg1");
    assert_eq!(world.reasons(), []);
}
