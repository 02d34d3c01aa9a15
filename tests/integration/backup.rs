//! Base backups are taken from a standby, and are whole or not there.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use komainu::sandbox::{Installation, Postgres, ReservedPort, Scratch, process};
use rustix::process::Signal;
use serde_json::Value;

use crate::support::*;

const BASE_BACKUP: &str = "BASE_BACKUP";

fn command(node: &Komainu, cluster: &Cluster, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_komainu"));
    let replicator = cluster.primary().replicator();
    command.args(["backup", "--user", &replicator.user, "--passfile"]).arg(cluster.primary().passfile());
    command.args(arguments).env("KOMAINU_ADMIN", node.directory().join("admin.sock"));
    command
}

/// Exit code, standard output, standard error.
fn backup(node: &Komainu, cluster: &Cluster, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command(node, cluster, arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

/// One that takes as long as it is let, and has begun to copy.
fn slow_backup(node: &Komainu, cluster: &Cluster, into: &Path) -> Child {
    let arguments = ["--json", "--max-rate", "32k", into.to_str().unwrap()];
    let mut slow = command(node, cluster, &arguments);
    let mut child = slow.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let copies = lines.any(|line| {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        line["phase"] == "copying" && line["bytes_done"].as_u64().unwrap() > 0
    });
    // Whatever it says from here on is heard.
    std::thread::spawn(move || lines.count());
    assert!(copies, "{}", rest(&mut child));
    child
}

fn rest(child: &mut Child) -> String {
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    text
}

fn path(scratch: &Scratch, name: &str) -> PathBuf {
    scratch.path().join(name)
}

fn lag(node: &Komainu, id: &str) -> Option<u64> {
    let status: Value = serde_json::from_str(&node.admin("/status").unwrap().body).unwrap();
    let servers = status["servers"].as_array().unwrap();
    servers.iter().find(|server| server["id"] == id).unwrap()["lag_bytes"].as_u64()
}

fn was_copied(server: &Postgres) -> bool {
    fs::read_to_string(server.log_file()).unwrap().contains(BASE_BACKUP)
}

fn log_copies(cluster: &Cluster) {
    for server in cluster.servers().all() {
        server.configure("log_replication_commands", "on").unwrap();
        server.reload().unwrap();
    }
}

/// A server that was started from a backup, as docs/operations.md says, on a timeline of its own.
struct Restored {
    child: Child,
    socket: PathBuf,
    port: ReservedPort,
    installation: Installation,
}

impl Restored {
    fn start(scratch: &Scratch, data: &Path, like: &Postgres) -> Self {
        let installation = Installation::find().unwrap();
        fs::remove_file(data.join("standby.signal")).unwrap();
        fs::write(data.join("recovery.signal"), "").unwrap();
        let settings = fs::read_to_string(like.directory().join("server.conf")).unwrap();
        fs::write(scratch.path().join("server.conf"), settings).unwrap();
        // It was copied by whoever runs the tests.
        let owner = fs::metadata(like.data_directory()).unwrap();
        let owner = format!("{}:{}", owner.uid(), owner.gid());
        assert!(Command::new("chown").args(["-R", &owner]).arg(scratch.path()).status().unwrap().success());
        let port = ReservedPort::any().unwrap();
        let mut postgres = installation.server_command("postgres", "KILL");
        postgres.arg("-D").arg(data).args(["-p", &port.number().to_string(), "-k"]).arg(scratch.path());
        for setting in ["listen_addresses=", "restore_command=false", "recovery_target_timeline=current"] {
            postgres.args(["-c", setting]);
        }
        postgres.stderr(Stdio::null());
        let child = process::spawn(postgres).unwrap();
        let restored = Restored { child, socket: scratch.path().to_owned(), port, installation };
        let writes = || restored.psql("postgres", "SELECT pg_is_in_recovery()").as_deref() == Some("f");
        eventually(PATIENCE, "the restored server takes writes", writes);
        restored
    }

    fn psql(&self, database: &str, sql: &str) -> Option<String> {
        let mut psql = self.installation.client_command("psql");
        psql.args([
            "-XAtq",
            "-U",
            "postgres",
            "-p",
            &self.port.number().to_string(),
            "-d",
            database,
            "-c",
            sql,
        ]);
        let output = psql.arg("-h").arg(&self.socket).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }
}

impl Drop for Restored {
    fn drop(&mut self) {
        process::signal(self.child.id(), Signal::QUIT);
        let _ = self.child.wait();
    }
}

#[test]
fn the_standby_that_is_least_behind_is_copied_and_a_server_starts_from_the_copy() {
    let cluster = Cluster::start(2);
    log_copies(&cluster);
    let database = cluster.database();
    let node = Komainu::start(&cluster);
    cluster.prepare(&database, "CREATE TABLE t AS SELECT g AS n FROM generate_series(1, 1000) g");
    cluster.standby(0).psql("postgres", "SELECT pg_wal_replay_pause()").unwrap();
    cluster.primary().psql(&database, "INSERT INTO t VALUES (1001)").unwrap();
    eventually(PATIENCE, "pg2 is behind, and pg3 is not", || {
        lag(&node, "pg2").is_some_and(|lag| lag > 0) && lag(&node, "pg3") == Some(0)
    });

    let scratch = Scratch::create("komainu-backup-").unwrap();
    fs::set_permissions(scratch.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let into = path(&scratch, "data");
    let (code, out, err) = backup(&node, &cluster, &["--json", into.to_str().unwrap()]);
    assert_eq!(code, 0, "{err}");
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let phases: Vec<_> = lines.iter().map(|line| line["phase"].as_str().unwrap()).collect();
    assert!(phases.starts_with(&["begun", "checkpoint"]), "{phases:?}");
    assert!(phases.ends_with(&["verifying", "done"]), "{phases:?}");
    let done = lines.last().unwrap();
    assert_eq!((&done["server"], &done["primary"]), (&"pg3".into(), &false.into()), "{done}");
    assert!(done["bytes"].as_u64().unwrap() > 10 << 20 && done["timeline"] == 1, "{done}");
    assert!(was_copied(cluster.standby(1)));
    assert!(!was_copied(cluster.primary()) && !was_copied(cluster.standby(0)), "they are left alone");

    let (code, _, err) = backup(&node, &cluster, &[into.to_str().unwrap()]);
    assert!(code == 64 && err.contains("data is not empty"), "{err}");
    assert!(into.join("backup_manifest").exists());

    let restored = Restored::start(&scratch, &into, cluster.primary());
    assert_eq!(restored.psql(&database, "SELECT count(*) FROM t").unwrap(), "1001");
    restored.psql(&database, "INSERT INTO t VALUES (1002)").unwrap();
    let timeline = "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8)";
    assert_eq!(restored.psql(&database, timeline).unwrap(), "00000002", "its own");
}

#[test]
fn one_that_does_not_come_to_its_end_leaves_nothing_and_the_primary_is_asked_first_if_it_may_be() {
    let cluster = Cluster::start(2);
    log_copies(&cluster);
    let node = Komainu::start(&cluster);
    eventually(PATIENCE, "both follow", || lag(&node, "pg2").is_some() && lag(&node, "pg3").is_some());
    let scratch = Scratch::create("komainu-backup-").unwrap();
    let (into, partial) = (path(&scratch, "b"), path(&scratch, "b.partial"));

    let mut slow = slow_backup(&node, &cluster, &into);
    assert!(partial.join("PG_VERSION").exists() || partial.join("backup_label").exists());
    let (code, _, err) = backup(&node, &cluster, &[into.to_str().unwrap()]);
    assert!(code == 64 && err.contains("b.partial"), "two at a time: {err}");
    process::signal(slow.id(), Signal::TERM);
    let err = rest(&mut slow);
    assert_eq!(slow.wait().unwrap().code(), Some(1));
    assert!(err.contains("interrupted: nothing is left"), "{err}");
    assert!(!into.exists() && !partial.exists());

    let standbys = cluster.servers().standbys();
    eventually(PATIENCE, "the server has noticed", || !standbys.iter().any(is_being_copied));
    let mut slow = slow_backup(&node, &cluster, &into);
    let copied: Vec<_> = standbys.iter().filter(|standby| is_being_copied(standby)).collect();
    assert_eq!(copied.len(), 1);
    copied[0].kill();
    let err = rest(&mut slow);
    assert_eq!(slow.wait().unwrap().code(), Some(1));
    let expected =
        format!("{} could not be copied, and nothing is left of it: pg_basebackup failed", copied[0].id());
    assert!(err.contains(&expected), "{err}");
    assert!(!into.exists() && !partial.exists());

    let other = standbys.iter().find(|standby| standby.id() != copied[0].id()).unwrap();
    eventually(PATIENCE, "the dead one is found down", || lag(&node, copied[0].id()).is_none());
    let (code, out, err) = backup(&node, &cluster, &[into.to_str().unwrap()]);
    assert_eq!(code, 0, "{err}");
    let said = format!("{} holds a verified backup of {}: ", into.display(), other.id());
    assert!(out.starts_with(&said), "{out}");
    assert!(err.contains(&format!("copying {} (", other.id())) && err.contains("\nverifying\n"), "{err}");

    other.kill();
    let next = path(&scratch, "c");
    let mut refusal = String::new();
    eventually(PATIENCE, "both are found down", || {
        let (code, _, err) = backup(&node, &cluster, &[next.to_str().unwrap()]);
        refusal = err;
        code == 1 && refusal.contains("no standby can be copied: pg1 is the primary")
    });
    assert!(refusal.contains("say --allow-primary"), "{refusal}");
    assert!(!was_copied(cluster.primary()) && !next.exists());
    let (code, out, err) = backup(&node, &cluster, &["--allow-primary", next.to_str().unwrap()]);
    assert!(code == 0 && out.contains("a verified backup of pg1: "), "{out}{err}");
    assert!(was_copied(cluster.primary()));
}

fn is_being_copied(server: &Postgres) -> bool {
    let count = "SELECT count(*) FROM pg_stat_progress_basebackup";
    server.psql("postgres", count).unwrap() != "0"
}

#[test]
fn a_copy_that_is_not_as_its_manifest_says_keeps_a_name_that_says_so() {
    let cluster = Cluster::start(1);
    let node = Komainu::start(&cluster);
    let scratch = Scratch::create("komainu-backup-").unwrap();
    let programs = path(&scratch, "bin");
    fs::create_dir(&programs).unwrap();
    let real = |program| Installation::find().unwrap().binary(program).display().to_string();
    let script = |program: &str, text: String| {
        let file = programs.join(program);
        fs::write(&file, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    };
    // A disk that loses a byte.
    let spoil = r#"while [ "$1" != --pgdata ]; do shift; done; printf x >> "$2/PG_VERSION""#;
    script("pg_basebackup", format!("{} \"$@\" || exit\n{spoil}", real("pg_basebackup")));
    script("pg_verifybackup", format!("exec {} \"$@\"", real("pg_verifybackup")));
    let into = path(&scratch, "b");
    let (bin, target) = (programs.to_str().unwrap(), into.to_str().unwrap());
    let mut told = (0, String::new(), String::new());
    eventually(PATIENCE, "a standby is there", || {
        told = backup(&node, &cluster, &["--bin-dir", bin, target]);
        !told.2.contains("no standby can be copied")
    });
    let (code, _, err) = told;
    assert!(code == 1 && err.contains("is not as its manifest says, and was left as"), "{err}");
    assert!(err.contains("PG_VERSION"), "it is told what differs: {err}");
    assert!(!into.exists() && path(&scratch, "b.partial").exists());
}
