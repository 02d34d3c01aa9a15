//! Encryption on both sides, as libpq's sslmode means it.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use komainu::sandbox::Postgres;
use rustix::process::Signal;

use super::support::{
    APP_PASSWORD, APP_USER, Certificates, Cluster, Komainu, PATIENCE, Wire, eventually, psql, run,
};

fn client_tls(certificates: &Certificates, mode: &str) -> String {
    let (certificate, key) = certificates.server("gate");
    format!(
        "[client_tls]\nmode = \"{mode}\"\ncert_file = {certificate:?}\nkey_file = {key:?}\nclient_ca_file = {:?}\n",
        certificates.authority_file()
    )
}

#[test]
fn client_modes_are_what_they_say() {
    let cluster = Cluster::shared();
    // Which of: no TLS, TLS, TLS with a certificate.
    for (mode, expected) in [
        ("off", [true, false, false]),
        ("allow", [true, true, true]),
        ("require", [false, true, true]),
        ("verify", [false, false, true]),
    ] {
        let builder = Komainu::builder(cluster);
        let certificates = Certificates::create(builder.directory());
        let (client, key) = certificates.client(APP_USER);
        let komainu = builder.config(&client_tls(&certificates, mode)).start();
        let url = komainu.url("postgres");
        let attempts = [
            format!("{url}?sslmode=disable"),
            format!(
                "{url}?sslmode=verify-full&sslrootcert={}&sslcert=/nowhere",
                certificates.authority_file().display()
            ),
            format!(
                "{url}?sslmode=verify-full&sslrootcert={}&sslcert={}&sslkey={}",
                certificates.authority_file().display(),
                client.display(),
                key.display()
            ),
        ];
        for (attempt, expected) in attempts.iter().zip(expected) {
            let finished = psql(attempt, &["SELECT 42"]);
            assert_eq!(finished.success, expected, "{mode} {attempt}: {finished:?}");
        }
        if mode == "allow" {
            let bound = format!("{}&channel_binding=require", attempts[1]);
            assert_eq!(psql(&bound, &["SELECT 43"]).output(), "43");
            let other = Certificates::create(&{
                let path = komainu.directory().join("other");
                fs::create_dir(&path).unwrap();
                path
            });
            let wrong = format!("{url}?sslmode=verify-ca&sslrootcert={}", other.authority_file().display());
            assert!(!psql(&wrong, &["SELECT 1"]).success, "an unknown authority");
            for expired in [certificates.expired_client(APP_USER), other.client(APP_USER)] {
                let url = format!(
                    "{url}?sslmode=require&sslcert={}&sslkey={}",
                    expired.0.display(),
                    expired.1.display()
                );
                assert!(!psql(&url, &["SELECT 1"]).success, "{expired:?}");
            }
        }
    }
}

#[test]
fn direct_tls_needs_our_protocol_in_alpn() {
    let cluster = Cluster::shared();
    let builder = Komainu::builder(cluster);
    let certificates = Certificates::create(builder.directory());
    let komainu = builder.config(&client_tls(&certificates, "allow")).start();
    let address = format!("127.0.0.1:{}", komainu.port());
    let openssl = |alpn: &[&str]| {
        run(Command::new("timeout")
            .args(["10", "openssl", "s_client", "-connect", &address, "-brief"])
            .args(alpn))
    };
    let good = openssl(&["-alpn", "postgresql"]);
    assert!(format!("{}{}", good.stdout, good.stderr).contains("CONNECTION ESTABLISHED"), "{good:?}");
    for alpn in [&["-alpn", "http/1.1"][..], &[]] {
        let bad = openssl(alpn);
        let said = format!("{}{}", bad.stdout, bad.stderr);
        assert!(!said.contains("ALPN protocol: postgresql"), "{alpn:?}: {said}");
    }
    assert_eq!(komainu.login("postgres").query_value("SELECT 1"), "1");
}

#[test]
fn bytes_between_ssl_request_and_handshake_end_the_connection() {
    let cluster = Cluster::shared();
    let builder = Komainu::builder(cluster);
    let certificates = Certificates::create(builder.directory());
    let komainu = builder.config(&client_tls(&certificates, "allow")).start();
    let mut tcp = TcpStream::connect(("127.0.0.1", komainu.port())).unwrap();
    tcp.set_read_timeout(Some(PATIENCE)).unwrap();
    let startup = b"\0\0\0\x1c\0\x03\0\0user\0app\0database\0x\0\0";
    tcp.write_all(&[&[0, 0, 0, 8, 4, 210, 22, 47], &startup[..]].concat()).unwrap();
    let mut said = Vec::new();
    let _ = tcp.read_to_end(&mut said);
    assert!(said.first() != Some(&b'S'), "{said:?}");
    assert!(!said.contains(&b'R'), "{said:?}");
}

#[test]
fn a_new_certificate_is_used_after_sighup() {
    let cluster = Cluster::shared();
    let builder = Komainu::builder(cluster);
    let certificates = Certificates::create(builder.directory());
    let other_directory = builder.directory().join("other");
    fs::create_dir(&other_directory).unwrap();
    let other = Certificates::create(&other_directory);
    let komainu = builder.config(&client_tls(&certificates, "require")).start();
    let url = |authority: &Certificates| {
        format!(
            "{}?sslmode=verify-full&sslrootcert={}",
            komainu.url("postgres"),
            authority.authority_file().display()
        )
    };
    assert_eq!(psql(&url(&certificates), &["SELECT 1"]).output(), "1");
    let mut connected = Wire::tls(komainu.port(), certificates.authority_pem());
    connected.login(APP_USER, APP_PASSWORD, "postgres");
    let (certificate, key) = other.server("gate");
    fs::copy(certificate, komainu.directory().join("gate.crt")).unwrap();
    fs::copy(key, komainu.directory().join("gate.key")).unwrap();
    komainu.signal(Signal::HUP);
    eventually(PATIENCE, "the new certificate is shown", || psql(&url(&other), &["SELECT 1"]).success);
    assert!(!psql(&url(&certificates), &["SELECT 1"]).success);
    assert_eq!(connected.query_value("SELECT 2"), "2", "sessions go on");
    // A broken one is refused, and the old one stays.
    fs::write(komainu.directory().join("gate.crt"), "nonsense").unwrap();
    komainu.signal(Signal::HUP);
    komainu.says("the configuration was not reloaded");
    assert_eq!(psql(&url(&other), &["SELECT 1"]).output(), "1");
}

/// Restarts a server with this certificate and key.
pub fn speak_tls(server: &Postgres, (certificate, key): (PathBuf, PathBuf)) {
    let data = server.data_directory();
    for (from, name) in [(certificate, "server.crt"), (key, "server.key")] {
        let to = data.join(name);
        fs::copy(from, &to).unwrap();
        let owner = fs::metadata(&data).unwrap();
        chown(&to, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    server.configure("ssl_cert_file", "server.crt").unwrap();
    server.configure("ssl_key_file", "server.key").unwrap();
    server.configure("ssl", "on").unwrap();
    server.restart().unwrap();
}

#[test]
fn servers_are_verified_as_the_mode_says() {
    let cluster = Cluster::start(0);
    let scratch = komainu::sandbox::Scratch::create("komainu-server-tls-").unwrap();
    let certificates = Certificates::create(scratch.path());
    let other_directory = scratch.path().join("other");
    fs::create_dir(&other_directory).unwrap();
    let other = Certificates::create(&other_directory);
    // Modes that accept each certificate, of those that verify.
    let authority = certificates.authority_file();
    let cases = [
        ("good", certificates.server("good"), [true, true, true]),
        ("another name", certificates.server_for("elsewhere", &["elsewhere.example"]), [true, true, false]),
        ("expired", certificates.expired_server("expired"), [true, false, false]),
        ("another authority", other.server("other"), [true, false, false]),
    ];
    for (what, files, accepted) in cases {
        speak_tls(cluster.primary(), files);
        for ((mode, with_ca), accepted) in
            [("require", false), ("verify-ca", true), ("verify-full", true)].into_iter().zip(accepted)
        {
            let ca = if with_ca { format!("ca_file = {authority:?}\n") } else { String::new() };
            let config = format!("[server_tls]\nmode = \"{mode}\"\n{ca}[limits]\nhold_timeout_ms = 1500\n");
            let komainu = Komainu::builder(&cluster).config(&config).launch();
            let ready = || komainu.admin("/ready").is_ok_and(|response| response.status == 200);
            if accepted {
                eventually(PATIENCE, &format!("{what} is accepted by {mode}"), ready);
                let mut wire = komainu.login("postgres");
                let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
                assert_eq!(wire.query_value(sql), "t", "{what} {mode}");
            } else {
                eventually(PATIENCE, "komainu runs", || komainu.admin("/live").is_ok());
                std::thread::sleep(Duration::from_millis(700));
                assert!(!ready(), "{what} is accepted by {mode}");
            }
        }
    }
}
