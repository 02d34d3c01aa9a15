//! A panic in what decides ends the node: one that leads and decides nothing would keep the lead for ever.

use std::fs;

use komainu::sandbox::Scratch;

use super::support::*;

#[test]
fn a_leader_that_can_decide_no_more_ends_and_another_one_decides() {
    let scratch = Scratch::create("komainu-vital-").unwrap();
    let point = scratch.path().join("point");
    let nodes = Nodes::builder(3)
        .endpoint("app")
        .patient()
        .env("KOMAINU_DEBUG_DIE_AT", point.to_str().unwrap())
        .start(Cluster::shared());
    let leader = nodes.leader();
    let others = nodes.others(&leader);
    let owner = nodes.owner_of(&nodes.ids(), "app");
    let to = others.iter().find(|id| **id != owner).unwrap();
    // Whole at once: it is read at any moment.
    fs::write(point.with_extension("new"), "panic log OpenFence").unwrap();
    fs::rename(point.with_extension("new"), &point).unwrap();
    let order = serde_json::json!({ "endpoint": "app", "to": to, "cause": "operator:test" });
    assert_eq!(nodes.post(to, "/endpoint/move", &order).status, 200);

    let ended = nodes.node(&leader).wait(PATIENCE);
    assert!(!ended.success() && !point.exists(), "{ended}");
    let log = nodes.node(&leader).log();
    assert!(log.contains("what keeps decisions has ended"), "{log}");
    assert!(others.contains(&nodes.leader_of(&others)));
    assert!(others.contains(&nodes.owner_of(&others, "app")), "the fence that was left open is dealt with");
}
