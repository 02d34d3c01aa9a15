//! Primaries that are lost one after the other.

use super::*;

impl World {
    /// The primary is lost after it has been one for so long. True: it is replaced at once.
    fn loses_primary_after(&mut self, ms: u64) -> bool {
        self.pass(ms);
        let id = self.state.primary().server.clone().unwrap();
        self.is_silent(&id, true);
        let timeline = self.state.primary().timeline;
        for other in SERVERS.iter().filter(|other| **other != id) {
            self.is_stopped(other, timeline, 5000);
        }
        self.pass(1);
        self.reasons().contains(&Reason::PrimaryLost)
    }

    /// Goes on until another server is the primary, and all others stream from it.
    fn has_another(&mut self) {
        let epoch = self.state.primary().epoch;
        for _ in 0..20 {
            self.pass(10);
            self.reasons();
            let primary = self.state.primary().clone();
            if primary.epoch > epoch {
                let id = primary.server.unwrap();
                self.is_primary(&id, primary.timeline + 1);
                self.settle();
                let timeline = self.state.primary().timeline;
                for other in SERVERS.iter().filter(|other| **other != id) {
                    self.streams(other, &id, timeline, 5000);
                }
                self.settle();
                return;
            }
        }
        panic!("nobody is the primary");
    }
}

#[test]
fn primaries_that_are_lost_soon_are_replaced_later_and_later() {
    let mut world = World::new();
    for wait in [1_000, 1_000, 2_000, 4_000, 8_000] {
        let lost = world.loses_primary_after(wait - 10);
        assert!(!lost || wait == 1_000 && world.state.primary().epoch == Epoch(1), "after {wait}");
        if !lost {
            let why = if wait == 1_000 { "failover_settling" } else { "failover_damped" };
            assert_eq!(world.state.standstill(), Some(why));
            assert!(world.loses_primary_after(10));
        }
        world.has_another();
    }
    // One that has lived long enough ends the count.
    assert!(world.loses_primary_after(60_000));
    world.has_another();
    assert!(world.loses_primary_after(1_000));
}

#[test]
fn an_order_does_not_wait_and_ends_the_count() {
    let mut world = World::new();
    for ms in [60_000, 1_000, 2_000, 4_000] {
        assert!(world.loses_primary_after(ms));
        world.has_another();
    }
    assert!(!world.loses_primary_after(7_000));
    world.order(FailoverKind::Forced, None);
    world.has_another();
    assert!(world.loses_primary_after(1_000));
}
