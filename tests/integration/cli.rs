//! The commands as a newcomer meets them: exit codes, where output goes, and help that tells the truth.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

fn komainu(args: &[&str], directory: &std::path::Path, input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_komainu"))
        .args(args)
        .current_dir(directory)
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
    let version = komainu(&["--version"], directory.path(), "");
    assert_eq!(
        (version.status.code(), text(&version.stdout)),
        (Some(0), format!("komainu {}\n", env!("CARGO_PKG_VERSION")))
    );
    for command in ["serve", "check-config", "password", "sandbox"] {
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
