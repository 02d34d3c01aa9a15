//! Texts that the server reads by other rules than komainu: with `standard_conforming_strings = off`, and in encodings in
//! which a backslash may be half of a character. And those that it does not, in encodings which komainu does not know.

use super::routing::{route, standbys_read, wait_for_catalog, went_to};
use super::support::*;

/// For komainu's own reader each is one SELECT of strings, with nothing in it.
const SET_EVIL: [(&str, &str); 2] = [
    ("SET standard_conforming_strings = off", "SELECT '\\', '; SET search_path = evil; --'"),
    ("SET client_encoding = 'SJIS'", "SELECT E'\u{3043}\\'; SET search_path = evil; --'"),
];

#[test]
fn what_they_set_is_their_clients_and_nobody_elses() {
    let database = Cluster::shared().database();
    let komainu = Komainu::start_with(Cluster::shared(), "split.enabled = false\npool.size = 1");
    let mut other = komainu.login(&database);
    let path = "SHOW search_path";
    let usual = other.query_value(path);
    for (rules, evil) in SET_EVIL {
        for ahead in [false, true] {
            let mut wire = komainu.login(&database);
            let back = "RESET standard_conforming_strings; RESET client_encoding";
            if ahead {
                // It is read by the new rules before komainu was told of them.
                let mut bytes = bytes::BytesMut::new();
                for sql in [rules, evil, back] {
                    postgres_protocol::message::frontend::query(sql, &mut bytes).unwrap();
                }
                wire.send(&bytes);
                (0..3).for_each(|_| drop(wire.until('Z')));
            } else {
                for sql in [rules, evil] {
                    assert!(!tags(&wire.query(sql)).contains('E'), "{sql}");
                }
            }
            assert_eq!(other.query_value(path), usual, "{evil}, ahead: {ahead}");
            wire.query(back);
            assert_eq!(wire.query_value(path), "evil", "{evil}, ahead: {ahead}");
        }
    }
}

#[test]
fn what_they_lock_is_given_back() {
    let database = Cluster::shared().database();
    let komainu = Komainu::start_with(Cluster::shared(), "split.enabled = false\npool.size = 1");
    let locks = format!(
        "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database \
         WHERE locktype = 'advisory' AND datname = '{database}'"
    );
    let hidden = "SELECT '\\', ' || pg_advisory_lock(1)::text; --'";
    let off = "SET standard_conforming_strings = off";
    for extended in [false, true] {
        let mut wire = komainu.login(&database);
        let batch = Pipeline::new();
        if extended {
            let batch = batch.parse("", off).bind("", "", &[]).execute("", 0).parse("", hidden);
            let batch = batch.bind("", "", &[]).execute("", 0).parse("", "RESET standard_conforming_strings");
            let done = wire.pipeline(batch.bind("", "", &[]).execute("", 0).sync());
            assert!(!tags(&done).contains('E'), "{}", transcript(&done));
        } else {
            wire.query(off);
            assert!(!tags(&wire.query(hidden)).contains('E'));
        }
        assert_eq!(wire.query_value("SHOW komainu.pins"), "advisory_lock");
        drop(wire);
        let mut other = komainu.login(&database);
        eventually(PATIENCE, "the lock is gone", || other.query_value(&locks) == "0");
    }
}

/// Sends a text whatever its encoding.
fn ask(wire: &mut Wire, sql: &[u8]) -> Vec<Message> {
    wire.send_message('Q', &[sql, b"\0"].concat());
    wire.until('Z')
}

/// In these a byte of ASCII is that character, as everywhere but where one may be half of another.
#[test]
fn texts_in_other_encodings_are_looked_into() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let schema = "CREATE SEQUENCE s; CREATE TABLE t (id int); CREATE VIEW vérité AS SELECT nextval('s') AS n; \
                  GRANT ALL ON t, vérité TO PUBLIC; GRANT ALL ON SEQUENCE s TO PUBLIC";
    cluster.prepare(&database, schema);
    let eventual = "[split]\nconsistency = \"eventual\"\nmax_lag_ms = 0\n";
    let komainu = Komainu::builder(cluster).config(eventual).config(&standbys_read(cluster)).start();
    let (mut wire, mut other) = (komainu.login(&database), komainu.login(&database));
    wait_for_catalog(&mut other, "t");
    for encoding in ["LATIN1", "WIN1252", "KOI8R", "ISO_8859_7", "EUC_JP", "EUC_CN"] {
        wire.query(&format!("SET client_encoding = '{encoding}'"));
        let told = ask(&mut wire, b"/* \xb4\xc1 */ SELECT count(*), '\xb4\xc1' FROM t");
        let row = told.iter().find(|message| message.tag == 'D');
        let row = row.unwrap_or_else(|| panic!("{encoding}: {}", transcript(&told)));
        assert!(row.body.ends_with(b"\xb4\xc1"), "{encoding}: {:?}", row.body);
        let (server, reason) = route(&mut wire);
        assert_ne!(server, "pg1", "{encoding}: {reason}");
        assert!(!tags(&wire.query("SHOW komainu.pins")).contains('D'), "{encoding}");
        let (server, reason) = went_to(&mut other, "SELECT count(*) FROM t");
        assert_ne!(server, "pg1", "behind a text in {encoding}: {reason}");
    }
    // What a name beyond ASCII means is not known: it may be the view's.
    wire.query("SET client_encoding = 'LATIN1'");
    for sql in [&b"SELECT n FROM v\xe9rit\xe9"[..], b"SELECT '\xe9'; SELECT nextval('s')"] {
        let told = ask(&mut wire, sql);
        assert!(tags(&told).contains('D'), "{}", transcript(&told));
        assert_eq!(route(&mut wire).0, "pg1");
    }
}

#[test]
fn what_sql_prepares_in_another_encoding_is_kept_as_it_was_said() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let komainu = Komainu::start_with(cluster, "split.enabled = false\npool.size = 1");
    let mut other = komainu.login(&database);
    // Whatever the server connection knows is gone when the next statement comes.
    let mut wipe = || {
        let hidden = "DO $$ BEGIN PERFORM set_config('my.own', 'hidden', false); END $$";
        assert!(!tags(&other.query(hidden)).contains('E'));
    };
    let texts: [&[u8]; 11] = [
        b"PREPARE p (text) AS SELECT $1 || '\xe9'",
        b"EXECUTE p ('\xe8')",
        b"PREPARE \xe9T\xe9 AS SELECT '\xe9'::text",
        b"EXECUTE \xe9t\xe9",
        b"EXECUTE \xe8",
        b"SELECT '\xe9'; EXECUTE p ('\xe9')",
        b"EXPLAIN EXECUTE p ('\xe9')",
        b"DEALLOCATE \xe9t\xe9",
        b"EXECUTE \xe9t\xe9",
        b"SELECT '\xe9'; DEALLOCATE p",
        b"EXECUTE p ('\xe9')",
    ];
    let talk = |wire: &mut Wire, wipe: &mut dyn FnMut()| {
        wire.query("SET client_encoding = 'LATIN1'");
        let mut told: Vec<_> = texts
            .iter()
            .flat_map(|text| {
                wipe();
                ask(wire, text)
            })
            .collect();
        // By the extended protocol, under the name as it was said.
        ask(wire, b"PREPARE \xe9 AS SELECT '\xe9'::text");
        for named in [&b"\0\xe9\0\0\0\0\0\0\0"[..], b"\0\xe8\0\0\0\0\0\0\0"] {
            wipe();
            wire.send_message('B', named);
            wire.send_message('E', b"\0\0\0\0\0");
            wire.send_message('S', b"");
            told.extend(wire.until('Z'));
        }
        wire.send_message('P', b"\0DEALLOCATE \xe9\0\0\0");
        wire.send_message('B', b"\0\0\0\0\0\0\0\0");
        wire.send_message('E', b"\0\0\0\0\0");
        wire.send_message('S', b"");
        told.extend(wire.until('Z'));
        told.extend(ask(wire, b"EXECUTE \xe9"));
        told.retain(|message| message.tag != 'S');
        told
    };
    let mut direct = Wire::connect(cluster.primary().port());
    direct.login(APP_USER, APP_PASSWORD, &database);
    let expected = talk(&mut direct, &mut || ());
    let told = talk(&mut komainu.login(&database), &mut wipe);
    assert_same(&transcript(&told), &transcript(&expected));
    let rows = |messages: &[Message]| -> Vec<_> {
        messages.iter().filter(|message| message.tag == 'D').map(|row| row.body.clone()).collect()
    };
    assert_eq!(rows(&told), rows(&expected));
    assert!(rows(&told).iter().any(|row| row.ends_with(b"\xe8\xe9")));
}

/// What is read alike is looked into as ever.
#[test]
fn other_texts_are_looked_into() {
    let database = Cluster::shared().database();
    let komainu = Komainu::start_with(Cluster::shared(), "split.enabled = false\npool.size = 1");
    let (mut wire, mut other) = (komainu.login(&database), komainu.login(&database));
    wire.query("SET standard_conforming_strings = off");
    wire.query("SET client_encoding = 'SJIS'");
    for n in 0..3 {
        wire.query(&format!("PREPARE s{n} AS SELECT 'one'"));
        assert_eq!(other.query_value("SELECT 1"), "1");
        assert_eq!(wire.query_value(&format!("EXECUTE s{n}")), "one");
        assert!(!tags(&wire.query("SHOW komainu.pins")).contains('D'));
    }
}
