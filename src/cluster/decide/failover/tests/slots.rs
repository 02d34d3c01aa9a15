//! The slots of standbys, one of which may be the primary next.

use super::*;

fn unused(id: &str, restart_lsn: u64) -> Slot {
    Slot { active: false, restart_lsn: Some(Lsn(restart_lsn)), ..slot(id) }
}

impl World {
    /// All standbys have received and replayed this much, and pg2 has these slots.
    fn slots_of_pg2(&mut self, lsn: u64, slots: Vec<Slot>) -> Vec<Action> {
        self.streams("pg3", "pg1", 1, lsn);
        self.streams("pg2", "pg1", 1, lsn);
        let index = SERVERS.iter().position(|id| *id == "pg2").unwrap();
        Arc::make_mut(self.view.details[index].facts.as_mut().unwrap()).slots = slots;
        self.settle().1
    }
}

const MB: u64 = 1 << 20;

#[test]
fn a_standby_keeps_log_for_the_other_standbys_and_for_nobody_else() {
    let mut world = World::new();
    let slots = |wanted: &[&str], unwanted: &[&str]| {
        let names = |ids: &[&str]| ids.iter().map(|id| slot_name(id)).collect();
        What::Slots { wanted: names(wanted), unwanted: names(unwanted) }
    };
    assert_eq!(did(&world.slots_of_pg2(5000, vec![])), [("pg2", &slots(&["pg3"], &[]))]);
    let servers = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    world.apply(Change::SetServers { servers: servers(&["pg1", "pg2", "pg3", "gone"]) });
    world.apply(Change::SetServers { servers: servers(&SERVERS) });
    // "new" is about to be added.
    let all = ["pg1", "pg2", "pg3", "gone", "new"].iter().map(|id| unused(id, 1)).collect();
    let actions = world.slots_of_pg2(5000, all);
    assert_eq!(did(&actions), [("pg2", &slots(&[], &["pg1", "pg2", "gone"]))]);
    let foreign = Slot { name: "backup".to_owned(), ..unused("pg1", 1) };
    let cascaded = slot("pg1");
    assert_eq!(world.slots_of_pg2(5000, vec![unused("pg3", 1), foreign, cascaded]), []);
}

#[test]
fn a_slot_that_nobody_uses_follows_its_server_by_some_segments_at_a_time() {
    let mut world = World::new();
    assert_eq!(world.slots_of_pg2(64 * MB, vec![unused("pg3", 1)]), []);
    let actions = world.slots_of_pg2(65 * MB, vec![unused("pg3", 1)]);
    let positions = vec![(slot_name("pg3"), Lsn(65 * MB))];
    assert_eq!(did(&actions), [("pg2", &What::AdvanceSlots { positions })]);
    assert_eq!(world.slots_of_pg2(65 * MB, vec![slot("pg3")]), [], "it is moved by its user");

    // What a slower one lacks stays.
    world.slots_of_pg2(500 * MB, vec![unused("pg3", 50 * MB)]);
    world.streams("pg3", "pg1", 1, 60 * MB);
    assert_eq!(world.settle().1, []);
    world.is_silent("pg3", true);
    assert_eq!(world.settle().1, []);
}

#[test]
fn a_slot_that_keeps_too_much_goes() {
    let mut world = World::new();
    world.policy.failover.max_slot_bytes = 100 * MB;
    world.slots_of_pg2(101 * MB, vec![unused("pg3", 2 * MB)]);
    world.is_silent("pg3", true);
    assert_eq!(world.settle().1, []);
    for lost in [unused("pg3", MB), Slot { restart_lsn: None, ..unused("pg3", 0) }] {
        let index = SERVERS.iter().position(|id| *id == "pg2").unwrap();
        let facts = Arc::make_mut(world.view.details[index].facts.as_mut().unwrap());
        (facts.slots, facts.lsn) = (vec![lost], Lsn(101 * MB + 1));
        let dropped = What::Slots { wanted: vec![], unwanted: vec![slot_name("pg3")] };
        assert_eq!(did(&world.settle().1), [("pg2", &dropped)]);
    }
}

#[test]
fn one_that_streams_by_no_slot_is_told_its_own_once_the_primary_has_it() {
    let mut world = World::new();
    let slots = |world: &mut World, slots: Vec<Slot>| {
        world.is_primary("pg1", 1);
        Arc::make_mut(world.view.details[0].facts.as_mut().unwrap()).slots = slots;
        world.settle().1
    };
    let follow = What::Follow { primary: "pg1".to_owned() };
    let mine = || vec![slot("pg2"), unused("pg3", 1)];
    assert_eq!(did(&slots(&mut world, mine())), [("pg3", &follow)]);
    // One that is not made yet, or that somebody else uses, would only end its stream.
    let missing = What::Slots { wanted: vec![slot_name("pg3")], unwanted: vec![] };
    assert_eq!(did(&slots(&mut world, vec![slot("pg2")])), [("pg1", &missing)]);
    assert_eq!(slots(&mut world, vec![slot("pg2"), slot("pg3")]), []);
    // What somebody has set otherwise stays.
    type Otherwise = fn(&mut Facts);
    let otherwise: [Otherwise; 2] = [
        |facts| facts.slot_name = Some("another".to_owned()),
        |facts| facts.upstream = upstream("pg1.inside"),
    ];
    for change in otherwise {
        world.streams("pg3", "pg1", 1, 5000);
        let index = SERVERS.iter().position(|id| *id == "pg3").unwrap();
        change(Arc::make_mut(world.view.details[index].facts.as_mut().unwrap()));
        assert_eq!(slots(&mut world, mine()), []);
    }
}
