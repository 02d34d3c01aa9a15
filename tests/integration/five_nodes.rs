//! Five nodes: two may be lost at once, a third may not, and one that comes back is enough to go on.

use super::support::*;

/// What only a node with a lease passes on.
const WRITE: &str = "SELECT pg_current_xact_id() IS NOT NULL";

#[test]
fn five_nodes_outlive_two_and_not_three() {
    let nodes = Nodes::builder(5).endpoint("app").start(Cluster::shared());
    let owner = nodes.owner_of(&nodes.ids(), "app");
    let leader = nodes.leader();
    let second = if leader == owner { nodes.others(&owner).swap_remove(0) } else { leader };
    let mut dead = vec![owner, second];
    for id in &dead {
        nodes.node(id).kill();
    }
    let alive = |dead: &[String]| -> Vec<String> {
        nodes.ids().into_iter().filter(|id| !dead.contains(id)).collect()
    };
    let next = nodes.owner_of(&alive(&dead), "app");
    eventually(PATIENCE, "it was told", || nodes.taken_by().is_some_and(|told| told.node == next));
    for id in alive(&dead) {
        eventually(PATIENCE, &format!("{id} writes"), || write(&nodes, &id));
    }

    nodes.node(&next).kill();
    dead.push(next);
    let left = alive(&dead);
    for id in &left {
        eventually(PATIENCE, &format!("{id} has no lease"), || nodes.status(id)["lease_remaining_ms"] == 0);
        assert!(!write(&nodes, id), "{id} has no lease and writes");
    }

    let back = dead.swap_remove(0);
    nodes.node(&back).start_again();
    let alive = alive(&dead);
    nodes.owner_of(&alive, "app");
    for id in &alive {
        eventually(PATIENCE, &format!("{id} writes again"), || write(&nodes, id));
    }
}

fn write(nodes: &Nodes, id: &str) -> bool {
    let mut psql = std::process::Command::new("timeout");
    let program = komainu::sandbox::Installation::find().unwrap().binary("psql");
    psql.arg("5").arg(program).args(["-XAtq", "-c", WRITE, &nodes.node(id).url("postgres")]);
    run(&mut psql).success
}
