//! The former primary comes back, in each state in which one can.

use std::fs;
use std::io::Write as _;

use komainu::sandbox::{Installation, Postgres, StopMode};
use serde_json::Value;

use super::candidates::hold_back;
use super::writing::*;
use crate::lost_servers::told;
use crate::support::*;

/// Its data, and nothing that runs in it.
fn empty(server: &Postgres) {
    for entry in fs::read_dir(server.data_directory()).unwrap() {
        let path = entry.unwrap().path();
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.unwrap();
    }
}

fn report_directory(report: &Value) -> String {
    report["kept_in"].as_str().expect("its WAL is kept").to_owned()
}

/// As its agent's log has them.
fn ways(failover: &Failover, server: &str) -> Vec<String> {
    let log = fs::read_to_string(failover.agent(server).log_file()).unwrap();
    let ways = log.lines().filter(|line| line.contains("how the server rejoins"));
    ways.filter_map(|line| Some(line.split_once("way=")?.1.split_once(' ')?.0.to_owned())).collect()
}

/// The primary is lost in that way, and while another one is in its place its agent does nothing. How it rejoins when
/// the agent works again.
#[track_caller]
fn lost_and_back(
    failover: &Failover,
    database: &str,
    lose: impl FnOnce(&Postgres),
    meanwhile: impl FnOnce(&Postgres, &Postgres),
) -> String {
    let (id, epoch) = failover.primary();
    let (server, agent) = (failover.server(&id), failover.agent(&id));
    let before = ways(failover, &id).len();
    agent.kill();
    lose(server);
    let (new, now) = failover.primary_above(epoch, &failover.nodes.ids());
    assert!(new != id && now == epoch + 1, "{new} in epoch {now} after {id} in {epoch}");
    meanwhile(server, failover.server(&new));
    agent.start().unwrap();
    failover.wait_until_whole();
    assert_eq!(failover.primary(), (new.clone(), now));
    assert!(is_standby(failover, &id) && !is_standby(failover, &new));
    let rows = "SELECT count(*), coalesce(sum(n), 0) FROM t";
    let row = format!("INSERT INTO t VALUES ({now})");
    let mut wire = failover.nodes.node("node1").login(database);
    assert_eq!(told(&wire.query(&row)), ["C INSERT 0 1", "ZI"]);
    let ask = |id: &str| failover.server(id).psql(database, rows).unwrap();
    eventually(PATIENCE, "it has what the primary has", || ask(&id) == ask(&new));
    let mut ways = ways(failover, &id).split_off(before);
    assert!(!ways.is_empty(), "it came back without its agent");
    ways.remove(0)
}

/// What only that server has.
fn alone(failover: &Failover, server: &Postgres, database: &str) {
    for standby in failover.cluster.servers().all() {
        if is_standby(failover, standby.id()) {
            hold_back(server, standby.id());
        }
    }
    server.psql(database, "INSERT INTO t VALUES (-1)").unwrap();
}

fn alone_rows(server: &Postgres, database: &str) -> String {
    server.psql(database, "SELECT count(*) FROM t WHERE n = -1").unwrap()
}

/// No statement of any client ends there.
#[track_caller]
fn nobody_is_sent_there(failover: &Failover, server: &Postgres, database: &str) {
    for node in failover.nodes.ids() {
        let mut wire = failover.nodes.node(&node).login(database);
        for sql in ["SELECT inet_server_port()", "SELECT inet_server_port() FOR UPDATE"] {
            for _ in 0..20 {
                assert_ne!(wire.query_value(sql), server.port().to_string(), "{node}: {sql}");
            }
        }
    }
}

#[track_caller]
fn is_quarantined(failover: &Failover, id: &str) {
    for node in failover.nodes.ids() {
        eventually(PATIENCE, &format!("{node} sees {id} and leaves it out"), || {
            let server = failover.server_by(&node, id);
            server["says"] == "primary" && server["administrative"] == "quarantined"
        });
    }
}

#[test]
fn a_former_primary_comes_back_as_a_standby_in_whatever_state_it_is() {
    let _one = one_at_a_time();
    let failover = Failover::builder().start();
    let database = with_table(&failover);
    let back = |lose: &dyn Fn(&Postgres), meanwhile: &dyn Fn(&Postgres, &Postgres)| {
        lost_and_back(&failover, &database, lose, meanwhile)
    };

    let stopped = back(&|server| server.stop(StopMode::Fast).unwrap(), &|_, _| ());
    assert_eq!(stopped, "Follow", "it had sent everything");

    // Its service manager has it back, with what nobody else has, before its agent knows.
    let (id, epoch) = failover.primary();
    let with_more = |server: &Postgres| {
        alone(&failover, server, &database);
        server.kill();
    };
    let restarted = back(&with_more, &|server, new| {
        server.start().unwrap();
        is_quarantined(&failover, server.id());
        nobody_is_sent_there(&failover, server, &database);
        assert_eq!((alone_rows(server, &database), alone_rows(new, &database)), ("1".into(), "0".into()));
    });
    assert_eq!(restarted, "Rewind");
    assert_eq!(alone_rows(failover.server(&id), &database), "0");
    let kept = failover.server(&id).directory().join("agent/kept");
    let kept = fs::read_dir(&kept).unwrap().map(|entry| entry.unwrap().path());
    let of_this = format!("epoch-{:010}-", epoch + 1);
    let kept = kept.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(&of_this));
    let report = kept.map(|path| fs::read_to_string(path.join("report.json")).unwrap()).next().unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    assert!(report["commits"].as_u64() >= Some(1), "{report}");
    let kept_in = report_directory(&report);
    let is_told = |event: &Value| {
        let text = event["text"].as_str().unwrap_or_default();
        event["reason"] == "has_more" && event["subject"] == id && text.contains(&kept_in)
    };
    eventually(PATIENCE, "the timeline tells what it had", || {
        let events = failover.nodes.node("node1").admin("/events?limit=1000").unwrap().body;
        let events: Value = serde_json::from_str(&events).unwrap();
        let told = events["events"].as_array().unwrap().iter().filter(|event| is_told(event)).count();
        assert!(told <= 1, "it is told once: {events}");
        told == 1
    });

    let lose_all = |server: &Postgres| {
        server.kill();
        empty(server);
    };
    let emptied = back(&lose_all, &|_, _| ());
    assert_eq!(emptied, "Rebuild");

    // Somebody promotes it apart from the others, which makes a timeline of the same number.
    let apart = back(&Postgres::kill, &|server, new| {
        let signal = server.data_directory().join("standby.signal");
        fs::write(&signal, "").unwrap();
        Installation::find().unwrap().give(&signal).unwrap();
        let settings = server.data_directory().join("postgresql.auto.conf");
        let mut settings = fs::File::options().append(true).open(settings).unwrap();
        settings.write_all(b"primary_conninfo = ''\n").unwrap();
        server.start().unwrap();
        server.promote().unwrap();
        assert_eq!(timeline(&failover, server.id()), timeline(&failover, new.id()));
        server.psql(&database, "INSERT INTO t VALUES (-1)").unwrap();
        is_quarantined(&failover, server.id());
        nobody_is_sent_there(&failover, server, &database);
    });
    assert_eq!(apart, "Rebuild");

    // Another cluster's data is in its place: it is left alone until somebody has taken it away.
    let foreign = back(&lose_all, &|server, _| {
        let data = server.data_directory();
        let mut initdb = Installation::find().unwrap().server_command("initdb", "KILL");
        run(initdb.arg("--no-sync").arg("--pgdata").arg(&data)).output();
        failover.agent(server.id()).start().unwrap();
        let is_told = |event: &Value| {
            event["reason"] == "rejoin_failed"
                && event["text"].as_str().unwrap().contains("system identifier")
        };
        eventually(PATIENCE, "it is told", || {
            let events = failover.nodes.node("node1").admin("/events").unwrap().body;
            let events: Value = serde_json::from_str(&events).unwrap();
            events["events"].as_array().unwrap().iter().any(is_told)
        });
        assert!(data.join("PG_VERSION").exists() && !server.is_running(), "it was not touched");
        assert_eq!(failover.server_by("node1", server.id())["administrative"], "quarantined");
        empty(server);
    });
    assert_eq!(foreign, "Rebuild");
}
