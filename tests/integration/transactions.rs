//! Transactions that PostgreSQL treats in its own way: prepared ones, large objects, deferrable snapshots.

use super::support::*;

fn server(wire: &mut Wire) -> String {
    wire.query_value("SELECT inet_server_port()")
}

#[test]
fn a_prepared_transaction_leaves_its_connection_and_anybody_commits_it() {
    let cluster = Cluster::start_with(1, |options| {
        options.settings.push(("max_prepared_transactions".into(), "5".into()));
    });
    let database = cluster.database();
    let komainu = Komainu::start_with(&cluster, "pool.size = 1\npool.acquire_timeout_ms = 5000");
    let (mut first, mut next) = (komainu.login(&database), komainu.login(&database));
    first.query("CREATE TABLE t (n int)");
    first.query("BEGIN");
    let backend = first.query_value("SELECT pg_backend_pid()");
    first.query("INSERT INTO t VALUES (1)");
    let prepared = first.query("PREPARE TRANSACTION 'one'");
    assert_eq!((tags(&prepared).as_str(), prepared[1].body.as_slice()), ("CZ", &b"I"[..]));
    assert!(!tags(&first.query("SHOW komainu.pins")).contains('D'), "pinned");
    // The only connection serves the next client, who is on the primary for this.
    let all = next.query("SELECT count(*), pg_backend_pid() FROM t; SELECT 1 FROM t FOR UPDATE");
    assert_eq!(
        all.iter().find(|message| message.tag == 'D').unwrap().columns(),
        [Some("0".into()), Some(backend)]
    );
    assert_eq!(tags(&next.query("COMMIT PREPARED 'one'")), "CZ");
    assert_eq!(next.query_value("SELECT count(*) FROM t"), "1", "it reads what it has committed");
    // And so that it is rolled back.
    first.query("BEGIN");
    first.query("INSERT INTO t VALUES (2)");
    first.query("PREPARE TRANSACTION 'two'");
    assert_eq!(tags(&next.query("ROLLBACK PREPARED 'two'")), "CZ");
    assert_eq!(next.query("COMMIT PREPARED 'two'")[0].sqlstate(), "42704");
    assert_eq!(first.query_value("SELECT count(*) FROM t"), "1");
}

#[test]
fn large_objects_are_read_and_written_in_one_transaction_on_the_primary() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let komainu = Komainu::start(cluster);
    let mut wire = komainu.login(&database);
    let primary = cluster.primary().port().to_string();
    wire.query("BEGIN");
    let object = wire.query_value("SELECT lo_create(0)");
    let descriptor = wire.query_value(&format!("SELECT lo_open({object}, 393216)"));
    assert_eq!(server(&mut wire), primary);
    assert_eq!(wire.query_value(&format!("SELECT lowrite({descriptor}, 'a large object')")), "14");
    assert_eq!(wire.query_value(&format!("SELECT lo_lseek({descriptor}, 2, 0)")), "2");
    assert_eq!(wire.query_value(&format!("SELECT convert_from(loread({descriptor}, 5), 'UTF8')")), "large");
    wire.query(&format!("SELECT lo_close({descriptor})"));
    assert_eq!(tags(&wire.query("COMMIT")), "CZ");
    // Alone they are writes too, and go there.
    for sql in [format!("SELECT lo_open({object}, 262144)"), format!("SELECT lo_put({object}, 0, 'A')")] {
        assert!(!tags(&wire.query(&sql)).contains('E'), "{sql}");
        let route = wire.query("SHOW ROUTE");
        assert_eq!(
            route.iter().find(|message| message.tag == 'D').unwrap().columns()[0].as_deref(),
            Some("pg1"),
            "{sql}"
        );
    }
    assert_eq!(wire.query_value(&format!("SELECT convert_from(lo_get({object}), 'UTF8')")), "A large object");
    assert_eq!(wire.query_value(&format!("SELECT lo_unlink({object})")), "1");
}

#[test]
fn a_deferrable_snapshot_is_taken_on_the_primary() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let komainu = Komainu::start_with(cluster, "split.consistency = \"eventual\"");
    let mut wire = komainu.login(&database);
    let primary = cluster.primary().port().to_string();
    for begin in [
        "BEGIN TRANSACTION ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE",
        "START TRANSACTION READ ONLY, ISOLATION LEVEL SERIALIZABLE, DEFERRABLE",
    ] {
        // A standby would refuse it, and now and then be drawn.
        for _ in 0..8 {
            assert_eq!(tags(&wire.query(begin)), "CZ", "{begin}");
            assert_eq!(server(&mut wire), primary, "{begin}");
            assert_eq!(wire.query_value("SHOW transaction_deferrable"), "on", "{begin}");
            assert_eq!(tags(&wire.query("COMMIT")), "CZ", "{begin}");
        }
    }
}
