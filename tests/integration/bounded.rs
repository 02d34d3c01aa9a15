//! What one client can make komainu keep, and that whatever fits PostgreSQL goes on working within it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::support::*;

fn memory(komainu: &Komainu) -> f64 {
    komainu.metric("process_resident_memory_bytes").unwrap()
}

#[test]
fn of_a_long_name_as_much_counts_as_in_postgresql() {
    let database = Cluster::shared().database();
    let komainu = Komainu::start_with(Cluster::shared(), "pool.size = 1\nsplit.enabled = false");
    let kept = "n".repeat(63);
    let (a, b) = (format!("{kept}aaaaaaa"), format!("{kept}b"));
    let told = same_as_postgresql(&komainu, &database, |wire| {
        let mut all = wire.pipeline(Pipeline::new().parse(&a, "SELECT 'one'").sync());
        for name in [&a, &b, &kept] {
            all.extend(wire.pipeline(Pipeline::new().run(name, &[])));
            all.extend(wire.query(&format!("EXECUTE {name}")));
        }
        all.extend(wire.pipeline(Pipeline::new().describe('S', &b).sync()));
        all.extend(wire.pipeline(Pipeline::new().run(&kept[1..], &[])));
        // Closed under one name it is closed under all, also within one batch.
        let batch = Pipeline::new().close('S', &b).parse(&kept, "SELECT 'two'").bind("", &a, &[]);
        all.extend(wire.pipeline(batch.execute("", 0).sync()));
        all.extend(wire.query(&format!("DEALLOCATE {a}")));
        all.extend(wire.pipeline(Pipeline::new().parse(&b, "SELECT 'three'").run(&kept, &[])));
        all.extend(wire.query(&format!("DEALLOCATE {kept}")));
        all.extend(wire.query(&format!("PREPARE {a} AS SELECT 'four'")));
        all.extend(wire.pipeline(Pipeline::new().run(&b, &[])));
        // Portals, too.
        all.extend(wire.query("BEGIN"));
        let batch = Pipeline::new().parse("", "SELECT n FROM generate_series(1, 3) n").bind(&a, "", &[]);
        all.extend(wire.pipeline(batch.execute(&b, 1).execute(&kept, 1).close('P', &kept).sync()));
        all.extend(wire.pipeline(Pipeline::new().execute(&a, 1).sync()).drain(1..));
        all.extend(wire.query("ROLLBACK"));
        // PostgreSQL says in a notice that a name is cut.
        all.retain(|message| message.tag != 'N');
        all
    });
    assert_eq!((told.matches("one").count(), told.matches("two").count()), (6, 1), "{told}");
    let mut wire = komainu.login(&database);
    wire.pipeline(Pipeline::new().parse(&a, "SELECT 1").sync());
    assert_eq!(wire.pipeline(Pipeline::new().parse(&b, "SELECT 1").sync())[0].sqlstate(), "42P05");
}

#[test]
fn an_error_that_names_a_statement_often_does_not_grow_with_the_name() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let komainu = Komainu::start_with(cluster, "pool.size = 1\nsplit.enabled = false");
    let mut wire = komainu.login(&database);
    wire.pipeline(Pipeline::new().parse(&"n".repeat(4000), "SELECT 'long name'").sync());
    let ours =
        "SELECT name FROM pg_prepared_statements WHERE statement LIKE '%long name''' AND name LIKE '\\_k%'";
    let ours = wire.query_value(ours);
    let error = wire.query(&format!("DO $$ BEGIN RAISE 'of %', repeat('{ours} ', 10000); END $$")).remove(0);
    let text = error.text();
    assert_eq!(text.matches(&"n".repeat(63)).count(), 10_000, "{}", text.len());
    assert_eq!(text.len(), 3 + 10_000 * 64);
}

#[test]
fn portals_that_were_closed_are_not_kept() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let komainu = Komainu::start_with(cluster, "pool.size = 1\nsplit.enabled = false");
    let mut wire = komainu.login(&database);
    wire.pipeline(Pipeline::new().parse("s", "SELECT 1").sync());
    wire.query("BEGIN");
    let pad = "x".repeat(9000);
    let before = memory(&komainu);
    for n in 0..6000 {
        let portal = format!("{n:063}{pad}");
        let done = wire
            .pipeline(Pipeline::new().bind(&portal, "s", &[]).execute(&portal, 0).close('P', &portal).sync());
        assert_eq!(tags(&done), "2DC3Z");
    }
    let grown = memory(&komainu) - before;
    assert!(grown < 20e6, "{grown} bytes for portals that are closed");
    assert_eq!(tags(&wire.query("COMMIT")), "CZ");
}

#[test]
fn a_pipeline_of_any_length_is_answered() {
    let database = Cluster::shared().database();
    let komainu = Komainu::start_with(Cluster::shared(), "pool.size = 1");
    let mut wire = komainu.login(&database);
    // One batch, whose answers the server keeps until somebody asks for them.
    let parse = || Pipeline::new().parse("s", "SELECT $1::int");
    let batch = (0..20_000).fold(parse(), |p, n| p.bind("", "s", &[&n.to_string()]).execute("", 0));
    let answer = wire.pipeline(batch.sync());
    let rows: Vec<_> =
        answer.iter().filter(|m| m.tag == 'D').map(|m| m.columns().remove(0).unwrap()).collect();
    assert!(rows.iter().enumerate().all(|(n, row)| *row == n.to_string()), "in order");
    assert_eq!((rows.len(), answer.len()), (20_000, 60_002));
    // Many small ones, behind a statement that takes its time.
    wire.send_pipeline(
        (0..20_000).fold(Pipeline::new().parse("", "SELECT pg_sleep(0.5)").run("", &[]), |p, _| p.sync()),
    );
    for _ in 0..20_001 {
        wire.until('Z');
    }
    // Descriptions without any row: more of them than are kept of a read that might be asked again.
    let columns: Vec<_> = (0..50).map(|n| format!("{n} AS column_{n}")).collect();
    let sql = format!("SELECT {}", columns.join(", "));
    let describe =
        (0..5000).fold(Pipeline::new().parse("", &sql).bind("", "", &[]), |p, _| p.describe('P', ""));
    let answer = wire.pipeline(describe.execute("", 0).sync());
    assert_eq!(answer.iter().filter(|message| message.tag == 'T').count(), 5000);
    assert_eq!(wire.query_value("SELECT 42"), "42");
}

#[test]
fn what_is_known_of_statements_is_bounded_by_its_size() {
    let database = Cluster::shared().database();
    let komainu = Komainu::start_with(Cluster::shared(), "split.enabled = false");
    let mut wire = komainu.login(&database);
    let names = |n: usize| (0..40_000).map(|i| format!("f{n}_{i}()")).collect::<Vec<_>>().join(",");
    let refused = |wire: &mut Wire, n: usize| {
        assert_eq!(wire.query(&format!("SELECT {}", names(n)))[0].sqlstate(), "42883");
    };
    (0..3).for_each(|n| refused(&mut wire, n));
    let before = memory(&komainu);
    (3..40).for_each(|n| refused(&mut wire, n));
    let grown = memory(&komainu) - before;
    assert!(grown < 40e6, "{grown} bytes for texts that were seen once");
}

#[test]
fn names_of_settings_are_kept_no_longer_than_postgresql_keeps_them() {
    let database = Cluster::shared().database();
    let komainu = Komainu::start_with(Cluster::shared(), "pool.size = 1\nsplit.enabled = false");
    let (mut wire, mut other) = (komainu.login(&database), komainu.login(&database));
    let long = "n".repeat(500_000);
    let before = memory(&komainu);
    for n in 0..60 {
        assert_eq!(tags(&wire.query(&format!("RESET a.{n}{long}"))).chars().last(), Some('Z'));
        assert_eq!(tags(&wire.query(&format!("SET a{n}.{long} = 1"))).chars().last(), Some('Z'));
    }
    let grown = memory(&komainu) - before;
    assert!(grown < 15e6, "{grown} bytes for 120 names");
    assert_eq!(other.query_value("SELECT 42"), "42");
    let mut wire = komainu.login(&database);
    wire.query(&format!("SET my.{long} = 'kept'"));
    assert_eq!(other.query_value(&format!("SELECT current_setting('my.{}', true)", &long[..63])), "");
    assert_eq!(wire.query_value(&format!("SHOW my.{long}")), "kept");
}

/// Sends the same again and again, and hears nothing, until nothing more is taken: how often it was, and whether it was
/// all of it.
fn sent_until_stuck(
    mut wire: Wire,
    message: &'static [u8],
    most: usize,
) -> (usize, bool, thread::JoinHandle<()>) {
    const CHUNK: usize = 10_000;
    let (sent, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let sender = thread::spawn({
        let (sent, over) = (sent.clone(), over.clone());
        let chunk = message.repeat(CHUNK);
        move || {
            while sent.load(Ordering::Relaxed) < most && wire.try_send(&chunk).is_ok() {
                sent.fetch_add(CHUNK, Ordering::Relaxed);
            }
            over.store(true, Ordering::Relaxed);
        }
    });
    let (mut last, mut same) = (0, 0);
    eventually(PATIENCE, "nothing more is taken", || {
        thread::sleep(Duration::from_millis(90));
        let now = sent.load(Ordering::Relaxed);
        same = if now == last { same + 1 } else { 0 };
        last = now;
        same > 10 || over.load(Ordering::Relaxed)
    });
    (last, over.load(Ordering::Relaxed), sender)
}

#[test]
fn a_client_that_hears_nothing_of_what_is_answered_without_a_server_is_not_heard_for_long() {
    let database = Cluster::shared().database();
    let komainu = Komainu::start_with(Cluster::shared(), "split.enabled = false");
    let mut senders = Vec::new();
    for message in [&b"C\0\0\0\x07Sa\0"[..], b"Q\0\0\0\x13DEALLOCATE ALL\0"] {
        let mut wire = komainu.login(&database);
        assert_eq!(tags(&wire.query("BEGIN")), "CZ");
        let before = memory(&komainu);
        let (sent, all, sender) = sent_until_stuck(wire, message, 16_000_000);
        let grown = memory(&komainu) - before;
        assert!(!all, "komainu has taken {sent} messages");
        assert!(grown < 30e6, "{grown} bytes for {sent} messages");
        senders.push(sender);
    }
    assert_eq!(komainu.login(&database).query_value("SELECT 42"), "42");
    komainu.kill();
    senders.into_iter().for_each(|sender| sender.join().unwrap());
}

#[test]
fn a_client_that_sends_and_sends_while_its_statement_runs_is_not_heard_for_long() {
    const SYNCS: usize = 64 * 1024 * 1024 / 5;
    let cluster = Cluster::shared();
    let database = cluster.database();
    let komainu = Komainu::start_with(cluster, "split.enabled = false");
    let mut wire = komainu.login(&database);
    let before = memory(&komainu);
    wire.send_pipeline(Pipeline::new().parse("", "SELECT pg_sleep(600)").run("", &[]));
    let (sent, all, sender) = sent_until_stuck(wire, &[b'S', 0, 0, 0, 4], SYNCS);
    let grown = memory(&komainu) - before;
    assert!(!all, "komainu has taken {sent} messages");
    assert!(grown < 30e6, "{grown} bytes for {sent} messages");
    assert_eq!(komainu.login(&database).query_value("SELECT 42"), "42");
    komainu.kill();
    let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'");
    cluster.primary().psql("postgres", &end).unwrap();
    sender.join().unwrap();
}
