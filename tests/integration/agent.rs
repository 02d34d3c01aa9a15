//! An agent beside a real server: what it does with it, and what it refuses to do.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use komainu::agent::wire::{Outcome, Phase, Refusal, Rejoin, StopMode, Way};
use komainu::agent::{AgentCallError, Within};
use komainu::consensus::peer::CallError;
use komainu::sandbox::{Installation, Postgres, process};

use super::support::*;

fn cluster(standbys: usize) -> Cluster {
    let cluster = Cluster::start_with(standbys, |options| {
        options.settings.push(("wal_log_hints".into(), "on".into()));
    });
    Agent::create_rewinder(&cluster);
    cluster.primary().psql("postgres", "CREATE TABLE kept (n int)").unwrap();
    cluster.servers().wait_for_replay().unwrap();
    cluster
}

/// That what is written on the primary arrives on the standby, which says that it is one.
#[track_caller]
fn assert_follows(standby: &Postgres, primary: &Postgres, mark: u32) {
    primary.psql("postgres", &format!("INSERT INTO kept VALUES ({mark})")).unwrap();
    eventually(PATIENCE, "the row arrives", || {
        standby
            .psql("postgres", &format!("SELECT count(*), pg_is_in_recovery() FROM kept WHERE n = {mark}"))
            .is_ok_and(|row| row == "1|t")
    });
    let name = primary
        .psql("postgres", "SELECT application_name, slot_name FROM pg_stat_replication r JOIN pg_replication_slots s ON r.pid = s.active_pid")
        .unwrap();
    let expected = format!("{}|komainu_{}", standby.id(), standby.id());
    assert!(name.lines().any(|line| line == expected), "{name}");
}

/// What lies beside a server's data under a name of an agent's.
fn beside(server: &Postgres) -> Vec<String> {
    let data = server.data_directory();
    let entries = fs::read_dir(data.parent().unwrap()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains("komainu-")).collect()
}

fn refusal<T: std::fmt::Debug>(outcome: Result<T, AgentCallError>) -> Refusal {
    outcome.unwrap_err().refusal().expect("it is refused").clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_former_primary_is_rewound_and_what_it_had_alone_is_kept() {
    let cluster = cluster(1);
    let (old, new) = (cluster.primary(), cluster.standby(0));
    let mut agent = Agent::start(&cluster, old);
    let node = agent.asked_by("n1");
    let status = node.status().await;
    assert_eq!((status.pid, status.ready, status.highest_epoch), (old.pid(), true, 0), "{status:?}");
    assert!(!status.data.unwrap().standby);

    new.promote().unwrap();
    old.psql("postgres", "CREATE TABLE lost AS SELECT generate_series(1, 1000) AS n").unwrap();
    old.psql("postgres", "INSERT INTO kept VALUES (-1)").unwrap();
    old.kill();
    let request = rejoin(2, new);
    let job = node.succeeds(&request).await;
    assert_eq!((job.way, job.phase), (Some(Way::Rewind), Phase::Done), "{job:?}");
    let lost = job.lost.expect("it had more");
    assert!(lost.complete && lost.commits >= 2 && lost.relations >= 2 && lost.records > 1000, "{lost:?}");
    assert_eq!(lost.timeline, 1);
    let kept = PathBuf::from(lost.kept_in.expect("its WAL is kept"));
    let names: Vec<_> = fs::read_dir(&kept).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().any(|name| name.to_string_lossy().starts_with("00000001")), "{names:?}");
    assert!(kept.starts_with(agent.directory()) && kept.join("report.json").exists());

    assert_follows(old, new, 1);
    assert_eq!(old.psql("postgres", "SELECT to_regclass('lost') IS NULL").unwrap(), "t");
    assert_eq!(old.psql("postgres", "SELECT count(*) FROM kept WHERE n = -1").unwrap(), "0");
    assert!(!node.rejoin(&request).await.unwrap(), "it is done already");
    let status = node.status().await;
    assert!(status.ready && status.data.unwrap().standby && beside(old).is_empty());

    // The server lives on without the agent, and the next one finds it.
    agent.start_again();
    let again = node.status().await;
    assert_eq!((again.pid, again.highest_epoch), (status.pid, 2));
    let stopped = node.agents.stop(node.beside(), 2, StopMode::Fast, PATIENCE).await.unwrap();
    assert!(stopped.clean && stopped.timeline == 2 && !old.is_running(), "{stopped:?}");
    let started = node.agents.start_server(node.beside(), 2, PATIENCE).await.unwrap();
    assert!(started.ready);
    assert_follows(old, new, 2);
    let since = "SELECT floor(1000 * extract(epoch FROM pg_postmaster_start_time()))::int8";
    let since: u64 = old.psql("postgres", since).unwrap().parse().unwrap();
    let restart = |by| node.agents.restart_server(node.beside(), 2, by, PATIENCE);
    // It says the second in which it was started.
    assert_eq!(restart(Some(since - 2_000)).await.unwrap().pid, started.pid, "it was started later");
    let restarted = restart(Some(since)).await.unwrap();
    assert!(restarted.ready && restarted.pid != started.pid);
    assert_follows(old, new, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_was_stopped_cleanly_only_has_to_follow() {
    let cluster = cluster(1);
    let (old, new) = (cluster.primary(), cluster.standby(0));
    let agent = Agent::start(&cluster, old);
    let node = agent.asked_by("n1");
    let stopped = node.agents.stop(node.beside(), 2, StopMode::Fast, PATIENCE).await.unwrap();
    assert!(stopped.clean && stopped.timeline == 1, "{stopped:?}");
    let received = format!("SELECT pg_last_wal_receive_lsn() > '{}'", stopped.checkpoint);
    eventually(PATIENCE, "all of it arrives", || new.psql("postgres", &received).is_ok_and(|row| row == "t"));
    new.promote().unwrap();
    let job = node.succeeds(&rejoin(2, new)).await;
    assert_eq!((job.way, job.lost), (Some(Way::Follow), None));
    assert_follows(old, new, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_another_timeline_of_the_same_number_is_rebuilt_even_if_the_agent_dies_meanwhile() {
    let cluster = cluster(1);
    let (old, new) = (cluster.primary(), cluster.standby(0));
    let programs = Programs::with("pg_basebackup", COPIES_FOR_EVER);
    let keys = format!("bin_directory = \"{}\"", programs.directory.display());
    let mut agent = Agent::start_with(&cluster, old, &keys);
    let node = agent.asked_by("n1");
    new.promote().unwrap();
    old.kill();
    fs::write(old.data_directory().join("standby.signal"), "").unwrap();
    old.start().unwrap();
    old.promote().unwrap();
    old.psql("postgres", "CREATE TABLE lost (n int)").unwrap();
    let pid = old.pid();

    // Cut off in the middle of the copy.
    let request = rejoin(2, new);
    assert!(node.rejoin(&request).await.unwrap());
    node.wait_for("it is being copied", |status| {
        status.job.as_ref().is_some_and(|job| job.phase == Phase::Copying) && programs.begun()
    })
    .await;
    assert!(!node.rejoin(&request).await.unwrap(), "it is under way");
    let busy = node.agents.start_server(node.beside(), 2, PATIENCE).await;
    assert!(matches!(refusal(busy), Refusal::Busy(_)));
    agent.kill();
    assert!(!old.is_running() && old.pid() != pid);
    assert_eq!(beside(old).len(), 1, "what was begun");
    old.start().unwrap();
    assert_eq!(
        old.psql("postgres", "SELECT to_regclass('lost') IS NOT NULL").unwrap(),
        "t",
        "all is as it was"
    );

    // Fails.
    programs.now("exit 1");
    agent.start_again();
    assert_eq!(node.job().await.outcome, Some(Outcome::Interrupted));
    let job = node.done(&request).await;
    assert!(matches!(job.outcome, Some(Outcome::Failed(_))), "{job:?}");
    assert_eq!(beside(old), [""; 0]);
    assert!(node.agents.start_server(node.beside(), 2, PATIENCE).await.unwrap().ready);
    assert_eq!(
        old.psql("postgres", "SELECT to_regclass('lost') IS NOT NULL").unwrap(),
        "t",
        "all is as it was"
    );

    let rests = refusal(node.rejoin(&request).await);
    assert!(matches!(rests, Refusal::Rests { failures: 1, .. }), "{rests:?}");

    // Works, with a server that runs again.
    programs.now("exec \"$REAL\" \"$@\"");
    let job = node.succeeds(&Rejoin { order: 1, ..request.clone() }).await;
    assert_eq!(job.way, Some(Way::Rebuild), "{job:?}");
    assert!(job.because.contains("on the primary's timeline"), "{job:?}");
    assert!(job.lost.is_some_and(|lost| lost.timeline == 2 && lost.commits > 0));
    assert_follows(old, new, 1);
    assert_eq!(old.psql("postgres", "SELECT to_regclass('lost') IS NULL").unwrap(), "t");
    eventually(PATIENCE, "the old directory is removed", || beside(old).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_higher_epoch_takes_the_place_of_what_is_under_way() {
    let cluster = cluster(1);
    let (old, new) = (cluster.primary(), cluster.standby(0));
    let programs = Programs::with("pg_basebackup", COPIES_FOR_EVER);
    let keys =
        format!("bin_directory = \"{}\"\nkeep_replaced_directory = true", programs.directory.display());
    let agent = Agent::start_with(&cluster, old, &keys);
    let node = agent.asked_by("n1");
    new.promote().unwrap();
    let first = Rejoin { allow_rewind: false, ..rejoin(2, new) };
    assert!(node.rejoin(&first).await.unwrap());
    eventually(PATIENCE, "it is being copied", || programs.begun());
    programs.now("exec \"$REAL\" \"$@\"");
    let job = node.succeeds(&Rejoin { epoch: 3, ..first.clone() }).await;
    assert_eq!((job.way, job.request.epoch), (Some(Way::Rebuild), 3));
    assert_follows(old, new, 1);
    assert_eq!(refusal(node.rejoin(&first).await), Refusal::Stale { highest_epoch: 3 });
    assert_eq!(beside(old).len(), 1, "the old one is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_data_is_copied_from_a_standby() {
    let cluster = cluster(2);
    let (primary, lost, standby) = (cluster.primary(), cluster.standby(0), cluster.standby(1));
    lost.kill();
    fs::remove_dir_all(lost.data_directory()).unwrap();
    let agent = Agent::start(&cluster, lost);
    let node = agent.asked_by("n1");
    assert_eq!(node.status().await.data, None);
    let request = Rejoin { rebuild_from: Some(source(standby)), ..rejoin(1, primary) };
    let job = node.succeeds(&request).await;
    assert_eq!(job.way, Some(Way::Rebuild));
    let told = || agent.log().contains("taking a base backup from=\"pg3\"");
    eventually(PATIENCE, "it says where from", told);
    assert_follows(lost, primary, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_time_has_passed_is_not_obeyed() {
    let cluster = cluster(0);
    let server = cluster.primary();
    let mut agent = Agent::start(&cluster, server);
    let node = agent.asked_by("n1");
    // One that is frozen does not stop, and the next order waits for its turn.
    server.freeze();
    let begun = Duration::from_millis(500);
    let late = async {
        eventually_async(PATIENCE, "it is being stopped", async || agent.log().contains("order=Stop")).await;
        let within = Within { begun, answered: PATIENCE };
        node.agents.start_server(node.beside(), 5, within).await
    };
    let thawed = async {
        eventually_async(PATIENCE, "it waits for its turn", async || agent.log().contains("order=Start"))
            .await;
        tokio::time::sleep(begun * 2).await;
        server.thaw();
    };
    let stop = node.agents.stop(node.beside(), 5, StopMode::Fast, PATIENCE);
    let (stopped, late, ()) = tokio::join!(stop, late, thawed);
    assert!(stopped.unwrap().clean);
    assert_eq!(refusal(late), Refusal::Late);
    assert!(!server.is_running());
    assert!(node.agents.start_server(node.beside(), 5, PATIENCE).await.unwrap().ready, "in its time");

    let before = node.agents.clock(node.beside(), PATIENCE).await.unwrap();
    agent.start_again();
    let now = node.agents.clock(node.beside(), PATIENCE).await.unwrap();
    assert!(now.life > before.life, "what was said in another life is past");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_not_be_done_is_refused() {
    let cluster = cluster(1);
    let (server, primary) = (cluster.standby(0), cluster.primary());
    let agent = Agent::start(&cluster, server);
    let (node, pid) = (agent.asked_by("n1"), server.pid());
    let good = rejoin(5, primary);

    let other = Rejoin { system_identifier: 7, ..good.clone() };
    let found = good.system_identifier;
    assert_eq!(refusal(node.rejoin(&other).await), Refusal::OtherSystem { expected: 7, found });
    let itself = Rejoin { primary: source(server), ..good.clone() };
    assert!(refusal(node.rejoin(&itself).await).to_string().contains("cannot follow itself"));
    let late = node.agents.stop(node.beside(), 4, StopMode::Immediate, PATIENCE).await;
    assert_eq!(refusal(late), Refusal::Stale { highest_epoch: 5 });
    assert_eq!(server.pid(), pid, "it was not touched");

    // A primary that is not what it should be costs no stop either.
    let higher = Rejoin { timeline: 9, ..good.clone() };
    let job = node.done(&higher).await;
    assert!(
        matches!(&job.outcome, Some(Outcome::Failed(why)) if why.contains("is on timeline 1")),
        "{job:?}"
    );
    assert_eq!(server.pid(), pid, "it was not touched");

    let stranger = agent.asked_by("stranger");
    let refused = stranger.agents.status(stranger.beside(), PATIENCE).await;
    let Err(AgentCallError::Call(CallError::Refused { reason, .. })) = refused else { panic!("{refused:?}") };
    assert_eq!(reason, "stranger is no [[node]] of the agent's configuration");
    let elsewhere = Agent::start(&cluster, primary);
    let foreign = elsewhere.asked_by("n1");
    let refused = foreign.agents.status(agent.asked_by("n1").beside(), PATIENCE).await;
    assert!(matches!(refused, Err(AgentCallError::Call(_))), "another cluster's authority: {refused:?}");
}

/// A former primary that has to be rewound, by a `pg_rewind` of the test's.
async fn with_rewind(
    script: &str,
    then: impl AsyncFnOnce(&mut Agent, &Asking, &Programs, &Postgres, Rejoin),
) {
    let cluster = cluster(1);
    let (old, new) = (cluster.primary(), cluster.standby(0));
    let programs = Programs::with("pg_rewind", script);
    let keys = format!("bin_directory = \"{}\"", programs.directory.display());
    let mut agent = Agent::start_with(&cluster, old, &keys);
    let node = agent.asked_by("n1");
    new.promote().unwrap();
    old.psql("postgres", "CREATE TABLE lost (n int)").unwrap();
    then(&mut agent, &node, &programs, old, rejoin(2, new)).await;
    assert_follows(old, new, 1);
    assert_eq!(old.psql("postgres", "SELECT to_regclass('lost') IS NULL").unwrap(), "t");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewind_that_claims_to_have_nothing_to_do_is_not_believed() {
    with_rewind("echo 'pg_rewind: no rewind required' >&2", async |_, node, _, _, request| {
        let job = node.succeeds(&request).await;
        assert_eq!(job.way, Some(Way::Rebuild));
        assert!(job.because.contains("no rewind required"), "{job:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_rewind_was_cut_short_is_not_started_but_rebuilt() {
    with_rewind(FORKS, async |agent, node, programs, old, request| {
        // What the program may have brought already.
        let settings = old.data_directory().join("postgresql.conf");
        let own = fs::read_to_string(&settings).unwrap() + "work_mem = '5MB'\n";
        fs::write(&settings, own).unwrap();
        assert!(node.rejoin(&request).await.unwrap());
        eventually(PATIENCE, "it is being rewound", || programs.begun());
        fs::write(&settings, "port = 1\n").unwrap();
        let forked = programs.forked();
        agent.start_again();
        eventually(PATIENCE, "what it has forked is ended", || !process::is_alive(forked));
        let refused = refusal(node.agents.start_server(node.beside(), 2, PATIENCE).await);
        assert!(refused.to_string().contains("a rewind of its data was begun and not finished"), "{refused}");
        let job = node.succeeds(&request).await;
        assert_eq!(job.way, Some(Way::Rebuild), "{job:?}");
        assert_eq!(old.psql("postgres", "SHOW work_mem").unwrap(), "5MB", "its own configuration");
    })
    .await;
}

#[test]
fn an_agent_does_not_run_as_root() {
    let data = tempfile::tempdir().unwrap();
    let config = format!(
        "[listen]\naddresses = ['127.0.0.1:9']\n[auth]\nhba_file = 'hba'\nuser_file = 'users'\n\
         [[server]]\nid = 'pg1'\nhost = 'db1'\n[cluster]\nname = 'test'\n[[node]]\nid = 'n1'\nhost = 'h1'\n\
         [agent]\ndata_directory = '{}'\n",
        data.path().display()
    );
    let path = data.path().join("komainu.toml");
    fs::write(&path, config).unwrap();
    let run = |server: &str| {
        let mut komainu = std::process::Command::new(env!("CARGO_BIN_EXE_komainu"));
        let output =
            komainu.arg("agent").arg("--config").arg(&path).args(["--server", server]).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = run("pg1");
    // Whoever else may go on, and is told what lacks next.
    let expected = match rustix::process::geteuid().is_root() {
        true => "as PostgreSQL's own user and not as root",
        false => "agent-pg1.crt",
    };
    assert!(code.is_some_and(|code| code > 0) && said.contains(expected), "{said}");
    let (code, said) = run("pg9");
    assert!(code == Some(64) && said.contains("its servers are pg1"), "{said}");
}

/// What has begun a copy and does not end it.
const COPIES_FOR_EVER: &str = "mkdir \"$2\"; touch \"$2/part\"; touch \"${0%/*}/begun\"; exec sleep 1000";

/// What ends with its parent only if somebody sees to it.
const FORKS: &str = "sleep 1000 & echo $! > \"${0%/*}/forked\"; touch \"${0%/*}/begun\"; wait";

/// PostgreSQL's programs, of which one does what a test wants.
struct Programs {
    directory: PathBuf,
    _scratch: komainu::sandbox::Scratch,
}

impl Programs {
    fn with(program: &str, script: &str) -> Self {
        let scratch = komainu::sandbox::Scratch::create("komainu-programs-").unwrap();
        let installation = Installation::find().unwrap();
        let directory = scratch.path().join("bin");
        installation.create_directory(&directory).unwrap();
        let real = installation.binary(program);
        for entry in fs::read_dir(real.parent().unwrap()).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name() != program {
                symlink(entry.path(), directory.join(entry.file_name())).unwrap();
            }
        }
        let at = directory.display();
        let wrapper = format!("#!/bin/sh\nREAL={}\n. {at}/now\n", real.display());
        executable(&directory.join(program), &wrapper);
        let programs = Self { directory, _scratch: scratch };
        programs.now(script);
        programs
    }

    fn now(&self, script: &str) {
        executable(&self.directory.join("now"), &format!("{script}\n"));
    }

    /// By [`FORKS`].
    fn forked(&self) -> u32 {
        let mut pid = None;
        eventually(PATIENCE, "it has forked", || {
            pid = fs::read_to_string(self.directory.join("forked"))
                .ok()
                .and_then(|pid| pid.trim().parse().ok());
            pid.is_some()
        });
        pid.unwrap()
    }

    /// By [`COPIES_FOR_EVER`] and [`FORKS`], behind what they do.
    fn begun(&self) -> bool {
        self.directory.join("begun").exists()
    }
}

fn executable(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
