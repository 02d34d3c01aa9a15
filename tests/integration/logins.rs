//! Logins while all server connections are taken: those that a server has confirmed just now need none.

use super::support::*;

/// As JDBC begins.
fn log_in_as_a_driver(komainu: &Komainu, database: &str, time_zone: &str) -> Message {
    let mut wire = komainu.wire();
    wire.startup(&[
        ("user", APP_USER),
        ("database", database),
        ("TimeZone", time_zone),
        ("extra_float_digits", "2"),
    ]);
    let last = wire.authenticate(APP_USER, APP_PASSWORD);
    if last.tag == 'Z' {
        assert!(
            wire.parameters.contains(&("TimeZone".to_owned(), time_zone.to_owned())),
            "{:?}",
            wire.parameters
        );
    }
    last
}

#[test]
fn a_login_with_settings_known_from_the_last_one_needs_no_server_connection() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let komainu =
        Komainu::start_with(cluster, "split.enabled = false\npool.size = 1\npool.acquire_timeout_ms = 1000");
    let mut holder = komainu.login(&database);
    // A server's word is believed for ten seconds, which a busy machine may miss once.
    let served = (0..5).any(|_| {
        for zone in ["Asia/Tokyo", "Europe/Berlin"] {
            assert_eq!(log_in_as_a_driver(&komainu, &database, zone).tag, 'Z');
        }
        holder.query("BEGIN");
        let zones = ["Asia/Tokyo", "Europe/Berlin", "Asia/Tokyo"];
        let all = zones.iter().all(|zone| log_in_as_a_driver(&komainu, &database, zone).tag == 'Z');
        // Others among them change nothing about that.
        let all = all && !komainu.login(&database).secret_key.is_empty();
        let all = all && log_in_as_a_driver(&komainu, &database, "Asia/Tokyo").tag == 'Z';
        holder.query("ROLLBACK");
        all
    });
    assert!(served);
    // One that asks for something else must wait, and is told for what.
    holder.query("BEGIN");
    let refused = log_in_as_a_driver(&komainu, &database, "America/Lima");
    assert_eq!((refused.tag, refused.sqlstate()), ('E', "53300".to_owned()), "{}", refused.text());
    assert!(refused.text().contains("no server connection became free for the login"), "{}", refused.text());
    holder.query("ROLLBACK");
    assert_eq!(log_in_as_a_driver(&komainu, &database, "America/Lima").tag, 'Z');
    // What a server refuses is refused each time.
    for _ in 0..2 {
        let refused = log_in_as_a_driver(&komainu, &database, "Not/There");
        assert_eq!((refused.tag, refused.sqlstate()), ('E', "22023".to_owned()), "{}", refused.text());
    }
}
