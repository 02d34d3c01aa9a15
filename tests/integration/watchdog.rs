//! Three real nodes before real servers: who owns the endpoint, who may write, and what becomes of both when a node
//! dies, hangs, loses its memory or comes back.

use std::fs;

use super::holding::{answer, send};
use super::lost_servers::told;
use super::routing::went_to;
use super::support::*;

/// Writes and reads back, past the client's own pooling; the error's code if it is refused.
fn write(nodes: &Nodes, id: &str, database: &str) -> Result<(), String> {
    let mut wire = nodes.node(id).login(database);
    let answer = wire.query("CREATE TABLE IF NOT EXISTS w (n int); INSERT INTO w VALUES (1)");
    match answer.iter().find(|message| message.tag == 'E') {
        Some(error) => Err(error.sqlstate()),
        None => Ok(()),
    }
}

fn rows(database: &str) -> u64 {
    Cluster::shared().primary().psql(database, "SELECT count(*) FROM w").unwrap().parse().unwrap()
}

fn epoch_of(nodes: &Nodes, asked: &str) -> u64 {
    nodes.status(asked)["endpoints"][0]["epoch"].as_u64().unwrap_or(0)
}

#[test]
fn three_nodes_agree_on_an_owner_and_all_of_them_serve() {
    let nodes = Nodes::builder(3).endpoint("app").patient().start(Cluster::shared());
    let database = Cluster::shared().database();
    let owner = nodes.owner_of(&nodes.ids(), "app");
    eventually(PATIENCE, "its program was told", || nodes.taken_by().is_some_and(|told| told.node == owner));
    assert_ne!(owner, nodes.leader(), "one failure should not be both");
    for id in nodes.ids() {
        eventually(PATIENCE, "it has its lease", || {
            nodes.status(&id)["lease_remaining_ms"].as_u64() > Some(0)
        });
        let status = nodes.status(&id);
        assert_eq!(status["node"], *id);
        assert_eq!(status["epoch"], 1, "{status}");
        assert_eq!(status["nodes"].as_array().map(Vec::len), Some(3), "{status}");
        write(&nodes, &id, &database).unwrap();
    }
    assert_eq!(rows(&database), 3);
}

#[test]
fn the_owner_is_killed_and_another_takes_over_until_it_is_back() {
    let nodes = Nodes::builder(3).endpoint("app").patient().start(Cluster::shared());
    let database = Cluster::shared().database();
    let killed = nodes.owner_of(&nodes.ids(), "app");
    nodes.node(&killed).kill();
    let others = nodes.others(&killed);
    let owner = nodes.owner_of(&others, "app");
    eventually(PATIENCE, "it was told", || nodes.taken_by().is_some_and(|told| told.node == owner));
    assert_eq!(epoch_of(&nodes, &owner), 2);
    for id in &others {
        write(&nodes, id, &database).unwrap();
    }
    nodes.node(&killed).start_again();
    nodes.wait_until_ready(std::slice::from_ref(&killed));
    assert_eq!(nodes.owner_of(&nodes.ids(), "app"), owner, "nothing moves because it is back");
    write(&nodes, &killed, &database).unwrap();
    let released =
        || nodes.told().iter().any(|told| told.node == killed && told.action == "release" && told.epoch == 2);
    eventually(PATIENCE, "it gives up what it may still have", released);
}

#[test]
fn the_leader_is_killed_and_the_owner_stays() {
    let nodes = Nodes::builder(3).endpoint("app").patient().start(Cluster::shared());
    let database = Cluster::shared().database();
    let owner = nodes.owner_of(&nodes.ids(), "app");
    let leader = nodes.leader();
    assert_ne!(leader, owner);
    nodes.node(&leader).kill();
    let others = nodes.others(&leader);
    assert_ne!(nodes.leader_of(&others), leader);
    eventually(PATIENCE, "writes go on", || write(&nodes, &owner, &database).is_ok());
    assert_eq!((nodes.owner_of(&others, "app"), epoch_of(&nodes, &owner)), (owner, 1));
}

/// Leases end with the leader, and come back with the next one.
#[test]
fn what_is_under_way_when_the_leader_dies_waits_for_the_next_one_and_goes_on() {
    const SLEEPS: [&str; 4] = ["2.0", "2.2", "2.4", "3.3"];
    const ROWS: &str = "INSERT INTO w VALUES (1); SELECT n, repeat('x', 9000) \
                        FROM generate_series(1, 25) AS n, LATERAL pg_sleep(0.1 * sign(n)); COMMIT";
    let nodes = Nodes::start(Cluster::shared());
    let primary = Cluster::shared().primary();
    let database = Cluster::shared().database();
    Cluster::shared().prepare(&database, "CREATE TABLE w (n int); GRANT ALL ON w TO PUBLIC");
    let leader = nodes.leader();
    let left = nodes.others(&leader);
    let login = |id: &String| nodes.node(id).login(&database);
    let mut running: Vec<_> = left.iter().flat_map(|id| SLEEPS.map(|_| login(id))).collect();
    let mut open: Vec<_> = left.iter().map(login).collect();
    let mut streaming: Vec<_> = left.iter().map(login).collect();
    for wire in running.iter_mut().chain(&mut open).chain(&mut streaming) {
        assert_eq!(told(&wire.query("BEGIN")), ["C BEGIN", "ZT"]);
    }
    // From now on there is a server connection for each, so that no sleep begins late.
    for wire in &mut running {
        assert_eq!(told(&wire.query("ROLLBACK")), ["C ROLLBACK", "ZI"]);
    }
    for wire in &mut open {
        assert_eq!(told(&wire.query("INSERT INTO w VALUES (2)")), ["C INSERT 0 1", "ZT"]);
    }
    streaming.iter_mut().for_each(|wire| send(wire, ROWS));
    // Some are answered while nobody has a lease.
    for (wire, seconds) in running.iter_mut().zip(SLEEPS.into_iter().cycle()) {
        send(wire, &format!("INSERT INTO w SELECT 3 FROM pg_sleep({seconds})"));
    }
    let sleeping = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND datname = '{database}'"
    );
    eventually(PATIENCE, "all run", || primary.psql("postgres", &sleeping).unwrap() == "10");
    nodes.node(&leader).kill();
    eventually(PATIENCE, "there is no lease, or was none", || {
        let status = nodes.status(&left[0]);
        let leads_next = status["leader"].as_str().is_some_and(|now| now != leader);
        status["lease_remaining_ms"] == 0 || leads_next
    });
    open.iter_mut().for_each(|wire| send(wire, "COMMIT"));

    for wire in &mut open {
        assert_eq!(answer(wire), ["C COMMIT", "ZI"]);
    }
    for wire in &mut running {
        assert_eq!(answer(wire), ["C INSERT 0 1", "ZI"]);
    }
    for wire in &mut streaming {
        assert_eq!(tags(&wire.until('Z')), format!("CT{}CCZ", "D".repeat(25)));
    }
    assert_ne!(nodes.leader_of(&left), leader);
    assert_eq!(rows(&database), 8 + 2 + 2);
}

#[test]
fn an_owner_that_was_frozen_changes_nothing_when_it_goes_on() {
    let nodes = Nodes::start(Cluster::shared());
    let database = Cluster::shared().database();
    let frozen = nodes.owner_of(&nodes.ids(), "app");
    let mut session = nodes.node(&frozen).login(&database);
    session.query("CREATE TABLE IF NOT EXISTS w (n int)");
    session.query("BEGIN; INSERT INTO w VALUES (1)");
    nodes.freeze(&frozen);
    let others = nodes.others(&frozen);
    let owner = nodes.owner_of(&others, "app");
    eventually(PATIENCE, "it was told", || nodes.taken_by().is_some_and(|told| told.node == owner));
    let told = nodes.told().len();
    nodes.go_on(&frozen);
    eventually(PATIENCE, "it knows the owner", || nodes.owner(&frozen, "app").as_deref() == Some(&*owner));
    let released = || nodes.told()[told..].iter().any(|told| told.node == frozen && told.action == "release");
    eventually(PATIENCE, "it gives up", released);
    let since = nodes.told()[told..].to_vec();
    assert!(since.iter().all(|told| told.action != "take"), "{since:?}");
    // Its lease had ended in the middle of the transaction, and the primary is the one it was.
    assert_eq!(tags(&session.query("COMMIT")), "CZ");
    eventually(PATIENCE, "it serves again", || write(&nodes, &frozen, &database).is_ok());
}

#[test]
fn a_leader_that_was_frozen_decides_nothing_when_it_goes_on() {
    let nodes = Nodes::builder(3).endpoint("app").patient().start(Cluster::shared());
    let owner = nodes.owner_of(&nodes.ids(), "app");
    let frozen = nodes.leader();
    nodes.freeze(&frozen);
    let others = nodes.others(&frozen);
    let leader = nodes.leader_of(&others);
    eventually(PATIENCE, "the owner has its lease back", || {
        nodes.status(&owner)["lease_remaining_ms"].as_u64().is_some_and(|ms| ms > 0)
    });
    nodes.go_on(&frozen);
    eventually(PATIENCE, "it follows", || {
        let status = nodes.status(&frozen);
        status["leader"] == *leader && status["lease_remaining_ms"].as_u64().is_some_and(|ms| ms > 0)
    });
    assert_eq!(nodes.leader(), leader);
    // It would have taken the others, of whom it had heard nothing, for silent.
    assert_eq!((nodes.owner_of(&nodes.ids(), "app"), epoch_of(&nodes, &frozen)), (owner, 1));
}

#[test]
fn a_node_alone_writes_nothing_and_reads_from_standbys_only() {
    let nodes = Nodes::builder(3)
        .endpoint("app")
        .patient()
        .config("[limits]\nhold_timeout_ms = 500\n[split]\nconsistency = \"session\"\n")
        .start(Cluster::shared());
    let database = Cluster::shared().database();
    let alone = nodes.ids()[0].clone();
    write(&nodes, &alone, &database).unwrap();
    Cluster::shared().servers().wait_for_replay().unwrap();
    eventually(PATIENCE, "the catalog is known", || {
        went_to(&mut nodes.node(&alone).login(&database), "SELECT count(*) FROM w").0 != "pg1"
    });
    let mut reader = nodes.node(&alone).login(&database);
    let mut inside = nodes.node(&alone).login(&database);
    inside.query("BEGIN; INSERT INTO w VALUES (3)");
    for other in nodes.others(&alone) {
        nodes.node(&other).kill();
    }
    // What it may use is published a moment after the lease has ended.
    eventually(PATIENCE, "it has no lease, and says so", || {
        let status = nodes.status(&alone);
        status["lease_remaining_ms"] == 0 && status["primary"].is_null() && status["reason"] == "no_lease"
    });
    assert_eq!(
        reader.query_value("SELECT count(*) FROM w"),
        "1",
        "a standby has all that this session has seen"
    );
    let refused = reader.query("INSERT INTO w VALUES (2)");
    assert!(refused.iter().any(|message| message.tag == 'E'), "{refused:?}");
    let ended = inside.query("COMMIT");
    assert_eq!((tags(&ended), ended[0].sqlstate()), ("EZ".to_owned(), "08006".to_owned()), "not for ever");
    let ready = nodes.node(&alone).admin("/ready").unwrap();
    assert_eq!(ready.status, 503, "{}", ready.body);
    assert_eq!(rows(&database), 1);
}

#[test]
fn the_whole_cluster_is_restarted_and_knows_what_it_knew() {
    let nodes = Nodes::builder(3).endpoint("app").patient().start(Cluster::shared());
    let database = Cluster::shared().database();
    let (first, asked) = (nodes.owner_of(&nodes.ids(), "app"), nodes.leader());
    let config = || -> serde_json::Value {
        serde_json::from_str(&nodes.node(&asked).admin("/config").unwrap().body).unwrap()
    };
    eventually(PATIENCE, "it has a configuration", || config()["version"] == 1);
    let text = format!("{}\n[pool]\nsize = 7\n", config()["text"].as_str().unwrap());
    let document = serde_json::json!({ "text": text, "cause": "operator:test" });
    assert_eq!(nodes.post(&asked, "/config/apply", &document).status, 200);
    let to = nodes.others(&first)[0].clone();
    let order = serde_json::json!({ "endpoint": "app", "to": to, "cause": "operator:test" });
    assert_eq!(nodes.post(&asked, "/endpoint/move", &order).status, 200);
    eventually(PATIENCE, "it has moved", || nodes.taken_by().is_some_and(|told| told.node == to));

    // What all of them agree on.
    let known = |id: &str| {
        let status = nodes.status(id);
        let members = status["nodes"].as_array().unwrap().iter();
        let members: Vec<_> = members
            .map(|node| (node["id"].clone(), node["incarnation"].clone(), node["role"].clone()))
            .collect();
        let keys = ["epoch", "primary", "configuration_version"];
        (keys.map(|key| status[key].clone()), members)
    };
    let endpoint = |id: &str| (nodes.owner(id, "app").unwrap(), epoch_of(&nodes, id));
    let before = (known(&asked), endpoint(&asked), config(), nodes.events(&asked));
    assert_eq!((&before.0.0[2], before.1.1), (&2.into(), 2), "there is something to remember");
    for id in nodes.ids() {
        nodes.node(&id).kill();
    }
    for id in nodes.ids() {
        nodes.node(&id).start_again();
    }
    nodes.wait_until_ready(&nodes.ids());
    for id in nodes.ids() {
        nodes.owner_of(&nodes.ids(), "app");
        eventually(PATIENCE, "it knows what it knew", || known(&id) == before.0);
        let events = nodes.events(&id);
        assert_eq!(events[..before.3.len()], before.3);
        // It stays where it is, unless its owner is late: then it has a new epoch.
        let told = |event: &&serde_json::Value| {
            event["subject"] == "app" && event["text"].as_str().unwrap().contains(" owns the endpoint")
        };
        let moved = events[before.3.len()..].iter().filter(told).count() as u64;
        let (owner, epoch) = endpoint(&id);
        assert_eq!((owner == to, epoch), (moved == 0, 2 + moved), "{events:?}");
    }
    assert_eq!(config(), before.2);
    write(&nodes, &asked, &database).unwrap();
}

#[test]
fn a_node_that_lost_its_directory_is_replaced() {
    let nodes = Nodes::start(Cluster::shared());
    let database = Cluster::shared().database();
    let lost = nodes.others(&nodes.leader())[0].clone();
    nodes.node(&lost).kill();
    fs::remove_dir_all(nodes.raft_directory(&lost)).unwrap();
    nodes.node(&lost).start_again();
    let waiting = || nodes.status(&lost)["waiting_for"].as_str().unwrap_or_default().to_owned();
    eventually(PATIENCE, "it says what to do", || waiting().contains("replace the node"));
    let others = nodes.others(&lost);
    let owner = nodes.owner_of(&others, "app");
    assert_ne!(owner, lost);
    let replaced =
        nodes.post(&owner, "/node/replace", &serde_json::json!({ "id": lost, "cause": "operator:test" }));
    assert_eq!(replaced.status, 200, "{}", replaced.body);
    nodes.wait_until_ready(std::slice::from_ref(&lost));
    let known = nodes.status(&owner);
    let known = known["nodes"].as_array().unwrap().iter().find(|node| node["id"] == *lost).unwrap().clone();
    assert_eq!((known["incarnation"].as_u64(), known["role"].as_str()), (Some(2), Some("voter")));
    write(&nodes, &lost, &database).unwrap();
    let votes = || {
        let status = nodes.status(&nodes.leader());
        status["nodes"].as_array().is_some_and(|nodes| nodes.iter().all(|node| node["votes"] == true))
    };
    eventually(PATIENCE, "it votes", votes);
    // It counts again: with it and one other there is a majority.
    let leader = nodes.leader();
    nodes.node(&leader).kill();
    let rest = nodes.others(&leader);
    assert!(rest.contains(&nodes.leader_of(&rest)));
}

#[test]
fn a_fourth_voter_is_added_and_counts() {
    let nodes = Nodes::start(Cluster::shared());
    let database = Cluster::shared().database();
    let leader = nodes.leader();
    let get = |path: &str| -> serde_json::Value {
        serde_json::from_str(&nodes.node(&leader).admin(path).unwrap().body).unwrap()
    };
    eventually(PATIENCE, "it has a configuration", || get("/config")["version"] == 1);
    let add = serde_json::json!({ "id": "node4", "cause": "operator:test" });
    let refused = nodes.post(&leader, "/node/add", &add);
    assert!(refused.status == 409 && refused.body.contains("config apply"), "{refused:?}");

    let (newcomer, text) =
        nodes.newcomer(Cluster::shared(), "node4", get("/config")["text"].as_str().unwrap());
    let applied = nodes.post(&leader, "/config/apply", &serde_json::json!({ "text": text }));
    assert_eq!(applied.status, 200, "{}", applied.body);
    let status = || -> serde_json::Value {
        newcomer
            .admin("/status")
            .ok()
            .and_then(|answer| serde_json::from_str(&answer.body).ok())
            .unwrap_or_default()
    };
    eventually(PATIENCE, "it says what to do", || {
        status()["waiting_for"].as_str().is_some_and(|why| why.contains("komainu node add"))
    });
    eventually(PATIENCE, "its configuration is known", || get("/status")["configuration_version"] == 2);
    let added = nodes.post(&leader, "/node/add", &add);
    assert!(added.status == 200 && added.body.contains("add another one"), "{added:?}");
    let again = nodes.post(&leader, "/node/add", &add);
    assert!(again.status == 409 && again.body.contains("already"), "{again:?}");
    let votes = || {
        let known = get("/status")["nodes"].as_array().cloned().unwrap_or_default();
        known.iter().filter(|node| node["votes"] == true).count()
    };
    eventually(PATIENCE, "it votes", || votes() == 4);
    eventually(PATIENCE, "it serves", || newcomer.admin("/ready").is_ok_and(|answer| answer.status == 200));
    // Three of four are a majority, two are not: so the new one counts.
    let others = nodes.others(&leader);
    nodes.node(&others[0]).kill();
    write(&nodes, &leader, &database).unwrap();
    nodes.node(&others[1]).kill();
    eventually(PATIENCE, "nobody leads two of four", || get("/status")["lease_remaining_ms"] == 0);
    nodes.node(&others[1]).start_again();
    eventually(PATIENCE, "three go on", || status()["lease_remaining_ms"].as_u64() > Some(0));
}

#[test]
fn an_endpoint_is_moved_by_order() {
    let nodes = Nodes::builder(3).endpoint("app").endpoint("reports").patient().start(Cluster::shared());
    // Spread over those that lived when the leader gave them away, which may have been one besides the leader.
    let owners = ["app", "reports"].map(|endpoint| nodes.owner_of(&nodes.ids(), endpoint));
    let to = nodes.others(&owners[0]).into_iter().find(|id| *id != owners[1]).unwrap();
    let asked = nodes.ids()[2].clone();
    let order = serde_json::json!({ "endpoint": "app", "to": to, "cause": "operator:test" });
    let answer = nodes.post(&asked, "/endpoint/move", &order);
    assert_eq!(answer.status, 200, "{}", answer.body);
    eventually(PATIENCE, "it has moved", || nodes.owner(&asked, "app").as_deref() == Some(&*to));
    eventually(PATIENCE, "it was told", || {
        nodes.taken_by().is_some_and(|told| told.node == to && told.epoch == 2)
    });
    assert_eq!(nodes.owner(&asked, "reports").as_deref(), Some(&*owners[1]));
    let order = serde_json::json!({ "endpoint": "app", "to": "node9", "cause": "operator:test" });
    let answer = nodes.post(&asked, "/endpoint/move", &order);
    assert!(answer.status >= 400 && answer.body.contains("no node node9"), "{answer:?}");
    let events: serde_json::Value =
        serde_json::from_str(&nodes.node(&asked).admin("/events?after=0").unwrap().body).unwrap();
    let told = events["events"].as_array().unwrap().iter().any(|event| {
        event["reason"] == "endpoint_moved" && event["cause"] == "operator:test" && event["subject"] == "app"
    });
    assert!(told, "{events}");
}

#[test]
fn a_node_that_stops_hands_its_endpoint_over() {
    let nodes = Nodes::start(Cluster::shared());
    let owner = nodes.owner_of(&nodes.ids(), "app");
    nodes.node(&owner).signal(rustix::process::Signal::TERM);
    let status = nodes.node(&owner).wait(PATIENCE);
    assert!(status.success(), "{status}");
    let others = nodes.others(&owner);
    let next = nodes.owner_of(&others, "app");
    let events: serde_json::Value =
        serde_json::from_str(&nodes.node(&next).admin("/events?after=0").unwrap().body).unwrap();
    let planned =
        events["events"].as_array().unwrap().iter().any(|event| event["cause"] == format!("stop:{owner}"));
    assert!(planned, "it was not taken for dead: {events}");
}

#[test]
fn a_node_that_stops_hands_over_to_one_that_lives() {
    let nodes = Nodes::start(Cluster::shared());
    let leader = nodes.leader();
    if nodes.owner_of(&nodes.ids(), "app") != leader {
        let order = serde_json::json!({ "endpoint": "app", "to": leader, "cause": "operator:test" });
        assert_eq!(nodes.post(&leader, "/endpoint/move", &order).status, 200);
    }
    eventually(PATIENCE, "it owns the endpoint", || nodes.owner(&leader, "app").as_deref() == Some(&*leader));
    let others = nodes.others(&leader);
    nodes.node(&others[0]).kill();
    nodes.node(&leader).signal(rustix::process::Signal::TERM);
    assert!(nodes.node(&leader).wait(PATIENCE).success());
    let owns = format!("{} owns", others[1]);
    eventually(PATIENCE, "it is handed over", || {
        nodes.events(&others[1]).iter().any(|event| {
            event["cause"] == format!("stop:{leader}") && event["text"].as_str().unwrap().contains(&owns)
        })
    });
}

#[test]
fn a_node_that_hangs_is_told_of_by_every_other() {
    let nodes = Nodes::start(Cluster::shared());
    let leader = nodes.leader();
    let [frozen, follower] = &nodes.others(&leader)[..] else { panic!("three nodes") };
    let reached = || -> Option<bool> {
        let answer = nodes.node(follower).admin("/status?ask=true").ok()?;
        let status: serde_json::Value = serde_json::from_str(&answer.body).ok()?;
        status["nodes"].as_array()?.iter().find(|node| node["id"] == **frozen)?["reachable"].as_bool()
    };
    eventually(PATIENCE, "it answers", || reached() == Some(true));
    nodes.freeze(frozen);
    assert_eq!(reached(), Some(false), "asked now, it does not answer");
    assert_eq!(reached(), Some(false), "nor over a new connection");
    nodes.go_on(frozen);
    eventually(PATIENCE, "it answers again", || reached() == Some(true));
}

#[test]
fn nodes_tell_each_other_their_versions_and_clocks() {
    let nodes = Nodes::start(Cluster::shared());
    let get = |path: &str| -> serde_json::Value {
        serde_json::from_str(&nodes.all[0].admin(path).unwrap().body).unwrap()
    };
    // A busy one may take longer to answer than it is waited for.
    eventually(PATIENCE, "all have answered", || {
        get("/status?ask=true")["nodes"].as_array().unwrap().iter().all(|node| {
            let is_this = node["id"] == Nodes::id(0);
            let ahead_ms = node["clock_ahead_ms"].as_i64();
            let agrees = is_this || ahead_ms.is_some_and(|ms| ms.abs() < 1_000);
            node["version"] == env!("CARGO_PKG_VERSION") && agrees
        })
    });
    eventually(PATIENCE, "their clocks and versions are fine", || {
        let doctor = get("/doctor");
        let fine = |about: &str| {
            let findings = doctor["findings"].as_array().unwrap().iter();
            findings.filter(|finding| finding["about"] == about && finding["verdict"] == "fine").count()
        };
        (fine("clock"), fine("version")) == (2, 2)
    });
}

#[test]
fn one_configuration_is_applied_everywhere_and_rolled_back() {
    let nodes = Nodes::start(Cluster::shared());
    let asked = nodes.ids()[1].clone();
    let get = |path: &str| -> serde_json::Value {
        serde_json::from_str(&nodes.node(&asked).admin(path).unwrap().body).unwrap()
    };
    eventually(PATIENCE, "it has a configuration", || get("/config")["version"] == 1);
    let text = get("/config")["text"].as_str().unwrap().to_owned();
    let bad = serde_json::json!({ "text": format!("{text}\n[pool]\nsize = 0\n"), "cause": "operator:test" });
    let refused = nodes.post(&asked, "/config/apply", &bad);
    assert!(refused.status == 422 && refused.body.contains("pool.size"), "{refused:?}");
    let good = serde_json::json!({ "text": format!("{text}\n[pool]\nsize = 7\n"), "cause": "operator:test" });
    let applied = nodes.post(&asked, "/config/apply", &good);
    assert_eq!(applied.status, 200, "{}", applied.body);
    for id in nodes.ids() {
        eventually(PATIENCE, "it is live", || nodes.status(&id)["configuration_version"] == 2);
        eventually(PATIENCE, "it says so", || nodes.node(&id).log().contains("pool.size"));
    }
    let back = serde_json::json!({ "to": 1, "cause": "operator:test" });
    assert_eq!(nodes.post(&asked, "/config/rollback", &back).status, 200);
    for id in nodes.ids() {
        eventually(PATIENCE, "it is back", || nodes.status(&id)["configuration_version"] == 3);
    }
    // A node that starts begins with what was agreed on, whatever its own file says.
    let restarted = nodes.ids()[2].clone();
    nodes.node(&restarted).kill();
    nodes.node(&restarted).start_again();
    nodes.wait_until_ready(std::slice::from_ref(&restarted));
    eventually(PATIENCE, "it knows", || nodes.status(&restarted)["configuration_version"] == 3);
}

#[test]
fn an_endpoint_that_is_changed_or_removed_is_given_up_the_old_way_first() {
    let nodes = Nodes::builder(3).endpoint("app").patient().start(Cluster::shared());
    let owner = nodes.owner_of(&nodes.ids(), "app");
    let epoch = epoch_of(&nodes, &owner);
    let get = || -> serde_json::Value {
        serde_json::from_str(&nodes.node(&owner).admin("/config").unwrap().body).unwrap()
    };
    eventually(PATIENCE, "it is taken", || nodes.taken_by().is_some());
    eventually(PATIENCE, "it has a configuration", || get()["version"] == 1);
    let text = get()["text"].as_str().unwrap().to_owned();
    let apply = |text: &str| {
        let document = serde_json::json!({ "text": text, "cause": "operator:test" });
        let applied = nodes.post(&owner, "/config/apply", &document);
        assert_eq!(applied.status, 200, "{}", applied.body);
    };
    let of_owner = || -> Vec<String> {
        let told = nodes.told().into_iter().filter(|told| told.node == owner && told.epoch == epoch);
        told.map(|told| told.action).collect()
    };
    let before = of_owner();
    assert_eq!(before.last().map(String::as_str), Some("take"), "{before:?}");

    // Another program: the first one is told before the second, which takes a moment, begins.
    let changed = text.replacen("\"cat >> ", "\"sleep 0.2; cat >> ", 1);
    assert_ne!(changed, text);
    apply(&changed);
    let after = || of_owner()[before.len()..].to_vec();
    eventually(PATIENCE, "it is taken again", || after().last().is_some_and(|last| last == "take"));
    assert_eq!(after(), ["release", "take"]);

    let mut without: toml::Table = changed.parse().unwrap();
    without.remove("endpoint").unwrap();
    apply(&without.to_string());
    eventually(PATIENCE, "it is given up", || after() == ["release", "take", "release"]);
    eventually(PATIENCE, "nobody owns it", || {
        let status = nodes.status(&owner);
        status["endpoints"].as_array().is_some_and(Vec::is_empty)
    });
    assert_eq!(after(), ["release", "take", "release"]);
}

#[test]
fn a_node_that_does_not_own_the_endpoint_refuses_clients_if_it_is_told_to() {
    let nodes = Nodes::builder(3).refusing_endpoint("app").launch(Cluster::shared());
    nodes.wait_until_ready(&nodes.ids());
    let database = Cluster::shared().database();
    let owner = nodes.owner_of(&nodes.ids(), "app");
    nodes.node(&owner).login(&database);
    for id in nodes.others(&owner) {
        let answer = psql(&nodes.node(&id).url(&database), &["SELECT 1"]);
        assert!(!answer.success && answer.stderr.contains("does not own the endpoint"), "{answer:?}");
    }
}

#[test]
fn a_disk_that_is_full_stops_a_node_and_room_brings_it_back() {
    // The directory is a small file system of its own.
    let nodes = Nodes::builder(3).endpoint("app").on_small_disks().start(Cluster::shared());
    let full = nodes.others(&nodes.leader())[0].clone();
    let filler = nodes.raft_directory(&full).join("filler");
    let _ = fs::write(&filler, vec![0_u8; 64 << 20]);
    let asked = nodes.others(&full)[0].clone();
    let config = nodes.node(&asked).admin("/config").unwrap().body;
    let text =
        serde_json::from_str::<serde_json::Value>(&config).unwrap()["text"].as_str().unwrap().to_owned();
    let mut count = 0;
    let lost = || {
        // Entries long enough that the file must grow.
        count += 1;
        let text = format!("{text}\n# {count} {}\n", "x".repeat(100_000));
        nodes.post(&asked, "/config/apply", &serde_json::json!({ "text": text, "cause": "operator:test" }));
        nodes.status(&full)["waiting_for"].as_str().is_some_and(|why| why.contains("no room"))
    };
    eventually(PATIENCE, "it says that there is no room", lost);
    fs::remove_file(&filler).unwrap();
    eventually(PATIENCE, "it takes part again", || nodes.status(&full)["waiting_for"].is_null());
}
