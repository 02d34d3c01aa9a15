//! The commands as a newcomer meets them: exit codes, where output goes, and help that tells the truth.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

fn komainu(args: &[&str], directory: &std::path::Path, input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_komainu"))
        .args(args)
        .current_dir(directory)
        .env_remove("KOMAINU_NODE")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that reads nothing may have ended by now.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

const GOOD: &str = "[listen]\naddresses = [\"127.0.0.1:9999\"]\n[auth]\nhba_file = \"hba.conf\"\n\
                    user_file = \"users.txt\"\n[[server]]\nid = \"s1\"\nhost = \"db1\"\n";

fn directory(config: &str) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("k.toml"), config).unwrap();
    fs::write(directory.path().join("hba.conf"), "local all all scram-sha-256\n").unwrap();
    fs::write(directory.path().join("users.txt"), "\"alice\" \"secret\"\n").unwrap();
    directory
}

#[test]
fn the_version_names_the_commit_that_make_found() {
    // Unset where cargo was called by hand: then the build did not know it either.
    let built_from = std::env::var("KOMAINU_COMMIT").unwrap_or_else(|_| "unknown".to_owned());
    let output = komainu(&["--version"], &std::env::temp_dir(), "");
    let told = format!("komainu {} ({built_from})\n", env!("CARGO_PKG_VERSION"));
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(0), told));

    let found = |directory: &std::path::Path| {
        let mut make = Command::new("make");
        make.args(["-s", "--eval", "commit:;@echo $(KOMAINU_COMMIT)", "commit"]).current_dir(directory);
        let make = make.env_remove("KOMAINU_COMMIT").env_remove("MAKEFLAGS");
        text(&make.output().unwrap().stdout).trim().to_owned()
    };
    let sources = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let head = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(sources).output();
    let head = head.map(|output| text(&output.stdout)).unwrap_or_default();
    match head.get(..12).filter(|_| sources.join(".git").exists()) {
        Some(head) => assert_eq!(found(sources).trim_end_matches('+'), head),
        None => assert_eq!(found(sources), "unknown"),
    }
    let archive = tempfile::tempdir().unwrap();
    fs::copy(sources.join("Makefile"), archive.path().join("Makefile")).unwrap();
    assert_eq!(found(archive.path()), "unknown");
}

#[test]
fn check_config_says_ok_in_one_line_and_warns_on_stderr() {
    let directory = directory(GOOD);
    for args in [&["check-config", "k.toml"][..], &["check-config", "--config", "k.toml"]] {
        let output = komainu(args, directory.path(), "");
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(
            text(&output.stdout),
            "k.toml: ok (listens on 127.0.0.1:9999; 1 server; transaction pools of 20; reads split, session consistency)\n"
        );
        assert!(text(&output.stderr).starts_with("warning: k.toml: health.user: there is no password"));
    }
}

#[test]
fn a_bad_configuration_is_told_whole_on_stderr_by_both_commands_with_64() {
    let directory =
        directory(&GOOD.replace("[auth]", "adresses = 1\n[auth]").replace("id = \"s1\"", "id = 3"));
    for args in [["check-config", "--config", "k.toml"], ["serve", "--config", "k.toml"]] {
        let output = komainu(&args, directory.path(), "");
        assert_eq!(output.status.code(), Some(64));
        assert_eq!(text(&output.stdout), "");
        let stderr = text(&output.stderr);
        assert!(
            stderr.contains("k.toml:3: listen.adresses: there is no such key; did you mean addresses?\n"),
            "{stderr}"
        );
        assert!(
            stderr.contains("k.toml:8: server.id: expected text in quotes, found a whole number; "),
            "{stderr}"
        );
        assert!(stderr.ends_with("k.toml: 2 problems\n"), "{stderr}");
        assert!(!stderr.contains("secret"), "{stderr}");
    }
}

#[test]
fn a_node_of_a_cluster_must_be_told_which_one_it_is() {
    let nodes = ["a", "b", "c"].map(|id| format!("[[node]]\nid = \"{id}\"\nhost = \"h{id}\"\n")).concat();
    let directory = directory(&format!("{GOOD}[cluster]\nname = \"shop\"\n{nodes}"));
    let serve = |more: &[&str]| {
        let output = komainu(&[&["serve", "--config", "k.toml"], more].concat(), directory.path(), "");
        (output.status.code(), text(&output.stderr))
    };
    let (code, stderr) = serve(&["--node", "a"]);
    assert_eq!(code, Some(64), "{stderr}");
    assert!(stderr.contains("k.toml:9: cluster.pki_directory: pki/ca.crt cannot be read"), "{stderr}");
    assert_eq!(
        komainu(&["pki", "init", "--dir", "pki", "--cluster", "shop"], directory.path(), "").status.code(),
        Some(0)
    );
    for (more, expected) in [
        (&[][..], "komainu: this is a node of the cluster shop, but not said to be which: give --node"),
        (
            &["--node", "d"],
            "komainu: the cluster shop has no node \"d\": give --node or KOMAINU_NODE, one of a, b, c",
        ),
    ] {
        let (code, stderr) = serve(more);
        assert_eq!(code, Some(64), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    }
    let output = komainu(&["check-config", "k.toml"], directory.path(), "");
    let stdout = text(&output.stdout);
    assert!(stdout.ends_with("session consistency; cluster shop of a, b, c; no endpoint)\n"), "{stdout}");
}

#[test]
fn a_wrong_command_line_is_64_and_help_is_0() {
    let directory = directory(GOOD);
    for args in [
        &[][..],
        &["frobnicate"],
        &["check-config"],
        &["serve"],
        &["password", "secret"],
        &["serve", "--prot"],
    ] {
        assert_eq!(komainu(args, directory.path(), "").status.code(), Some(64), "{args:?}");
    }
    for command in ["serve", "check-config", "password", "pki", "sandbox", "drill"] {
        let help = komainu(&[command, "--help"], directory.path(), "");
        assert_eq!(help.status.code(), Some(0));
        assert!(
            text(&help.stdout).contains(&format!("  komainu {command}")),
            "no example in {command} --help"
        );
    }
}

#[test]
fn password_prints_a_line_that_check_config_accepts() {
    let directory = directory(GOOD);
    let output =
        komainu(&["password", "--user", "komainu", "--iterations", "5000"], directory.path(), "hunter2\n");
    assert_eq!(output.status.code(), Some(0));
    let line = text(&output.stdout);
    assert!(line.starts_with("\"komainu\" \"SCRAM-SHA-256$5000:") && line.ends_with("\"\n"), "{line}");
    assert_eq!(text(&output.stderr), "");
    fs::write(directory.path().join("users.txt"), line).unwrap();
    assert_eq!(komainu(&["check-config", "k.toml"], directory.path(), "").status.code(), Some(0));

    let output = komainu(&["password"], directory.path(), "hunter2");
    assert!(text(&output.stdout).starts_with("SCRAM-SHA-256$4096:"));
    let output = komainu(&["password"], directory.path(), "");
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), String::new()));
    assert_eq!(
        text(&output.stderr),
        "komainu password: the password is empty; PostgreSQL lets nobody in with one\n"
    );
}

#[test]
fn pki_makes_shows_and_renews_what_openssl_finds_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let pki = |args: &[&str]| {
        let output = komainu(&[&["pki"], args].concat(), directory.path(), "");
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, stdout, stderr) = pki(&["init", "--dir", "p", "--cluster", "shop"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(
        stdout.contains("p/ca.crt   copy to every node") && stdout.contains("p/ca.key   copy nowhere"),
        "{stdout}"
    );
    let (code, stdout, _) =
        pki(&["node", "--dir", "p", "--id", "a", "--name", "db.example.org", "--ip", "192.0.2.1"]);
    assert_eq!(code, Some(0));
    assert!(
        stdout.starts_with("node a of cluster shop, until 20") && stdout.contains("  p/a.key   readable"),
        "{stdout}"
    );
    assert_eq!(pki(&["node", "--dir", "p", "--id", "b", "--days", "20"]).0, Some(0));

    let path = |name: &str| directory.path().join("p").join(name);
    let mode = |name: &str| {
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path(name)).unwrap().permissions())
    };
    assert_eq!((mode("a.key") & 0o777, mode("ca.key") & 0o777), (0o600, 0o600));
    let key = fs::read(path("a.key")).unwrap();
    let (code, stdout, stderr) = pki(&["node", "--dir", "p", "--id", "a"]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert_eq!(
        stderr,
        "komainu pki: p/a.key exists already and is left as it is; `komainu pki renew` replaces it\n"
    );
    assert_eq!(pki(&["init", "--dir", "p", "--cluster", "shop"]).0, Some(1));
    assert_eq!(pki(&["node", "--dir", "p", "--id", "A"]).0, Some(64));
    assert_eq!(pki(&["node", "--dir", "nowhere", "--id", "a"]).0, Some(1));

    let (code, stdout, stderr) = pki(&["show", "--dir", "p"]);
    assert_eq!(code, Some(0));
    let rows: Vec<Vec<&str>> = stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0][..5], ["FILE", "KIND", "CLUSTER", "NODE", "NAMES"]);
    assert_eq!(rows[1][..6], ["a.crt", "node", "shop", "a", "db.example.org", "192.0.2.1"]);
    assert_eq!(rows[2][..5], ["b.crt", "node", "shop", "b", "-"]);
    assert_eq!(rows[3][..5], ["ca.crt", "authority", "shop", "-", "-"]);
    assert_eq!(rows[2].last(), Some(&"19"));
    assert_eq!(stderr, "warning: the certificate of CN=b.shop.komainu ends: 19 days left\n");

    assert_eq!(pki(&["renew", "--dir", "p", "--all"]).0, Some(0));
    assert_ne!(fs::read(path("a.key")).unwrap(), key);
    let (_, stdout, stderr) = pki(&["show", "--dir", "p", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    let shown = &shown["certificates"];
    assert_eq!((&shown[0]["node"], &shown[0]["addresses"][0]), (&"a".into(), &"192.0.2.1".into()));
    assert_eq!((&shown[1]["days_left"], &shown[2]["kind"]), (&364.into(), &"authority".into()));
    assert_eq!(stderr, "");
    assert_eq!(pki(&["renew", "--dir", "p"]).0, Some(64));
    assert_eq!(pki(&["renew", "--dir", "p", "--id", "c"]).0, Some(1));

    for purpose in ["sslserver", "sslclient"] {
        let verified = Command::new("openssl")
            .args(["verify", "-purpose", purpose, "-verify_hostname", "a.shop.komainu", "-CAfile"])
            .args([path("ca.crt"), path("a.crt")])
            .output()
            .unwrap();
        assert!(verified.status.success(), "{}", text(&verified.stderr));
    }
}
