//! Operations on real servers, with the grants that the manual names and with none.

use std::sync::Arc;
use std::time::Duration;

use komainu::backend::connect::Secret;
use komainu::clock;
use komainu::cluster::conninfo::NOWHERE;
use komainu::cluster::decide::sync_standby::{Transition, Watch, next};
use komainu::cluster::model::Facts;
use komainu::cluster::observe::credential::{OwnLogin, PlainSecret};
use komainu::cluster::observe::question::QUESTION;
use komainu::cluster::observe::{Observer, Settings};
use komainu::cluster::operate::privilege::Privilege;
use komainu::cluster::operate::slots::slot_name;
use komainu::cluster::operate::{Done, Fault, Followed, OperateError, Operation, Operator};
use komainu::cluster::sync_set::SyncSet;
use komainu::config;
use komainu::net::tls::ServerTlsContext;
use komainu::sandbox::Postgres;
use komainu::topology::Lsn;

use crate::support::{Cluster, PATIENCE, eventually};

const PASSWORD: &str = "operator's secret";
const PRIVILEGES: &str = include_str!("../../docs/privileges.md");

/// As the manual has it.
fn grants() -> String {
    let blocks = PRIVILEGES.split("```sql\n").skip(1).filter_map(|rest| rest.split("```").next());
    let mut of_operator = blocks.filter(|block| block.contains("CREATE ROLE komainu_operator"));
    let block = of_operator.next().expect("the manual has a block for the operating role");
    block.replace("'…'", &format!("'{}'", PASSWORD.replace('\'', "''")))
}

fn config(text: &str) -> config::Config {
    let smallest =
        "[listen]\naddresses = ['127.0.0.1:1']\n[auth]\nhba_file = 'h'\n[[server]]\nid = 'x'\nhost = 'h'\n";
    let parsed = config::file::parse(&format!("{smallest}{text}"), std::path::Path::new("k.toml"), 1);
    parsed.unwrap_or_else(|report| panic!("{report}")).0
}

fn secret() -> PlainSecret {
    Arc::new(|_: &str| Some(Secret::new(PASSWORD)))
}

fn described(server: &Postgres) -> config::Server {
    config::Server::at(server.id().to_owned(), server.host().to_owned(), server.port())
}

struct Operating {
    operator: Operator,
    runtime: tokio::runtime::Runtime,
}

impl Operating {
    fn as_role(user: &str) -> Self {
        let failover = config(&format!("[failover]\nuser = '{user}'\n")).failover;
        let secret = secret();
        let tls = Arc::new(ServerTlsContext::disabled());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Operating { operator: Operator::new(&failover, secret, tls, clock::process()), runtime }
    }

    fn within(&self, ms: u64, server: &Postgres, operation: Operation) -> Result<Done, OperateError> {
        let server = described(server);
        let deadline_ms = clock::now_ms() + ms;
        self.runtime.block_on(self.operator.perform(&server, &operation, deadline_ms))
    }

    fn perform(&self, server: &Postgres, operation: Operation) -> Result<Done, OperateError> {
        self.within(20_000, server, operation)
    }

    /// It is done, and once more changes nothing.
    #[track_caller]
    fn twice(&self, server: &Postgres, operation: Operation) {
        assert_eq!(self.perform(server, operation.clone()).unwrap(), Done::Now, "{operation:?}");
        assert_eq!(self.perform(server, operation.clone()).unwrap(), Done::Already, "{operation:?}");
    }

    #[track_caller]
    fn lacks(&self, server: &Postgres) -> Vec<Privilege> {
        self.runtime.block_on(self.operator.lacks(&described(server), PATIENCE)).unwrap()
    }

    #[track_caller]
    fn refused(&self, server: &Postgres, operation: Operation) -> String {
        self.perform(server, operation).expect_err("it is not allowed").to_string()
    }
}

fn ask(server: &Postgres, sql: &str) -> String {
    server.psql("postgres", sql).unwrap()
}

fn becomes(server: &Postgres, sql: &str, wanted: &str) {
    eventually(PATIENCE, &format!("{}: {sql} is {wanted}", server.id()), || ask(server, sql) == wanted);
}

fn synchronous(names: &str) -> Operation {
    Operation::SetSynchronousStandbys { names: names.to_owned() }
}

fn slots(wanted: &[&str], unwanted: &[&str]) -> Operation {
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    Operation::Slots { wanted: owned(wanted), unwanted: owned(unwanted) }
}

fn follow(upstream: &Postgres) -> Operation {
    let (id, host) = (upstream.id().to_owned(), upstream.host().to_owned());
    Operation::Follow { upstream: Followed { id, host, port: upstream.port() } }
}

const IN_RECOVERY: &str = "SELECT pg_is_in_recovery()";
const RECEIVERS: &str = "SELECT count(*) FROM pg_stat_wal_receiver";

/// As one leaves it that is cut off behind the first of its two statements.
#[test]
fn a_value_that_was_written_and_not_read_does_not_come_back() {
    let cluster = Cluster::start(0);
    let server = cluster.primary();
    ask(server, &grants());
    let operating = Operating::as_role("komainu_operator");
    assert!(operating.lacks(server).is_empty(), "the manual names all of it");
    ask(server, "ALTER SYSTEM SET synchronous_standby_names = 'gone'");
    assert_eq!(operating.perform(server, synchronous("")).unwrap(), Done::Already);
    let file =
        "SELECT count(*) FROM pg_file_settings WHERE name = 'synchronous_standby_names' AND setting = 'gone'";
    assert_eq!(ask(server, file), "0");
    ask(server, "SELECT pg_reload_conf()");
    becomes(server, "SHOW synchronous_standby_names", "");
}

#[test]
fn a_failover_is_done_with_the_grants_of_the_manual() {
    let cluster = Cluster::start(2);
    ask(cluster.primary(), &grants());
    cluster.servers().wait_for_replay().unwrap();
    let operating = Operating::as_role("komainu_operator");
    let (old, candidate, other) = (cluster.primary(), cluster.standby(0), cluster.standby(1));

    // Slots, on standbys too.
    let own = slot_name(other.id());
    ask(candidate, "SELECT pg_create_physical_replication_slot('backup')");
    operating.twice(candidate, slots(&[&own, "komainu_gone"], &[]));
    operating.twice(candidate, slots(&[&own], &["komainu_gone", "backup"]));
    let names = "SELECT string_agg(slot_name, ' ' ORDER BY slot_name) FROM pg_replication_slots";
    assert_eq!(ask(candidate, names), format!("backup {own}"), "what is not komainu's stays");
    assert_eq!(operating.perform(old, slots(&[], &[&own])).unwrap(), Done::Already, "it is in use");
    ask(old, "CREATE TABLE t AS SELECT generate_series(1, 10000)");
    cluster.servers().wait_for_replay().unwrap();
    let replayed: Lsn = ask(candidate, "SELECT pg_last_wal_replay_lsn()").parse().unwrap();
    operating.twice(candidate, Operation::AdvanceSlots { positions: vec![(own.clone(), replayed)] });
    let restart = format!("SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = '{own}'");
    assert_eq!(ask(candidate, &restart), replayed.to_string());

    // Whom commits wait for: a commit that waits in vain goes on as soon as the names change.
    operating.twice(old, synchronous("FIRST 1 (nobody)"));
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| ask(old, "INSERT INTO t VALUES (0)"));
        becomes(old, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'", "1");
        let began = std::time::Instant::now();
        operating.twice(old, synchronous(&format!("ANY 1 ({}, {})", candidate.id(), other.id())));
        waits.join().unwrap();
        assert!(began.elapsed() < Duration::from_secs(10), "it waited {:?}", began.elapsed());
    });
    operating.twice(candidate, synchronous(&format!("ANY 1 ({})", other.id())));

    // Nothing is received any more, so positions can be compared.
    for standby in [candidate, other] {
        operating.twice(standby, Operation::StopReceiving);
        becomes(standby, RECEIVERS, "0");
        assert!(ask(standby, "SHOW primary_conninfo").contains(&format!("host={NOWHERE}")));
    }
    let received = "SELECT pg_last_wal_receive_lsn()";
    let before = ask(candidate, received);
    ask(old, "SET synchronous_commit = local; INSERT INTO t VALUES (1)");
    assert_eq!(ask(candidate, received), before);
    assert_eq!(operating.perform(old, Operation::StopReceiving).unwrap(), Done::Already, "a primary");

    // Too late is not at all.
    let by = |server_ms: &str| komainu::cluster::operate::PROMOTE.replace("$1", server_ms);
    let now = "floor(1000 * date_part('epoch', clock_timestamp()))";
    assert_eq!(ask(candidate, &by(&format!("({now} - 1)"))), "");
    candidate.freeze();
    let late = operating.within(500, candidate, Operation::Promote { within_ms: 60_000 });
    assert!(matches!(*late.unwrap_err().fault, Fault::Timeout));
    candidate.thaw();
    let late = operating.within(20_000, candidate, Operation::Promote { within_ms: 0 });
    assert!(late.is_err());
    assert_eq!(ask(candidate, IN_RECOVERY), "t");

    let promote = Operation::Promote { within_ms: 20_000 };
    assert_eq!(operating.perform(candidate, promote.clone()).unwrap(), Done::Now);
    becomes(candidate, IN_RECOVERY, "f");
    assert_eq!(operating.perform(candidate, promote).unwrap(), Done::Already);
    assert_eq!(operating.perform(candidate, Operation::Checkpoint).unwrap(), Done::Now);

    let passfile = "SELECT current_setting('primary_conninfo') LIKE '%passfile=%'";
    let had_passfile = ask(other, passfile);
    operating.twice(other, follow(candidate));
    let row = format!(
        "SELECT r.state || ' ' || s.slot_name FROM pg_stat_replication r \
           JOIN pg_replication_slots s ON s.active_pid = r.pid WHERE r.application_name = '{}'",
        other.id()
    );
    becomes(candidate, &row, &format!("streaming {own}"));
    assert_eq!(ask(other, passfile), had_passfile, "its other options stay");
    ask(candidate, "INSERT INTO t VALUES (-2)");
    becomes(other, "SELECT count(*) FROM t WHERE generate_series = -2", "1");
    let no_standby = operating.perform(candidate, follow(other)).unwrap_err();
    assert!(matches!(*no_standby.fault, Fault::NoStandby) && no_standby.fault.is_harmless());
}

#[test]
fn what_is_not_granted_is_named_with_the_server_and_the_statement_that_mends_it() {
    let cluster = Cluster::shared();
    let (primary, standby) = (cluster.primary(), cluster.standby(0));
    let password = PASSWORD.replace('\'', "''");
    cluster.prepare("postgres", &format!("CREATE ROLE powerless LOGIN PASSWORD '{password}'"));
    let operating = Operating::as_role("powerless");
    for server in [primary, standby] {
        assert_eq!(operating.lacks(server), Privilege::ALL, "{}", server.id());
    }
    let refused = |server, operation| operating.refused(server, operation);
    let promote = Operation::Promote { within_ms: 20_000 };
    assert_eq!(
        refused(standby, promote),
        format!(
            "cannot promote on {}: powerless may not do that; a superuser can allow it: \
             GRANT EXECUTE ON FUNCTION pg_catalog.pg_promote(boolean, integer) TO powerless;",
            standby.id()
        )
    );
    assert!(refused(standby, follow(primary)).ends_with("GRANT pg_monitor TO powerless;"));
    assert!(refused(primary, slots(&["komainu_new"], &[])).ends_with("ALTER ROLE powerless REPLICATION;"));
    assert!(refused(primary, Operation::Checkpoint).ends_with("GRANT pg_checkpoint TO powerless;"));
    let names = refused(primary, synchronous("nobody"));
    assert!(names.ends_with("GRANT ALTER SYSTEM ON PARAMETER synchronous_standby_names TO powerless;"));
    cluster.prepare("postgres", "GRANT pg_monitor TO powerless");
    let repoint = refused(standby, Operation::StopReceiving);
    assert!(repoint.ends_with("GRANT ALTER SYSTEM ON PARAMETER primary_conninfo TO powerless;"), "{repoint}");
    assert_eq!(ask(standby, IN_RECOVERY), "t");
    assert_eq!(operating.lacks(primary), Privilege::ALL[1..], "what was granted is not among them");

    let gone = Operating::as_role("nobody_at_all").refused(primary, Operation::Checkpoint);
    assert!(gone.starts_with(&format!("cannot checkpoint on {}: ", primary.id())), "{gone}");
}

/// Looks at all servers of a cluster, as the operating role, which may.
fn observe(cluster: &Cluster) -> Observer {
    let health = config("[health]\nuser = 'komainu_operator'\nperiod_ms = 50\n").health;
    Observer::start(Settings {
        servers: cluster.servers().all().iter().map(described).collect(),
        login: OwnLogin::health(&health, secret()),
        health,
        tls: Arc::new(ServerTlsContext::disabled()),
        clock: clock::process(),
        in_cluster: false,
        mode: komainu::config::FailoverMode::Off,
        addresses: None,
    })
    .unwrap()
}

fn facts(observer: &Observer, server: usize) -> Option<Arc<Facts>> {
    observer.view.borrow().details[server].facts.clone()
}

#[test]
fn a_look_tells_what_a_failover_must_know_and_no_password() {
    let cluster = Cluster::start(1);
    ask(cluster.primary(), &grants());
    cluster.servers().wait_for_replay().unwrap();
    let (primary, standby) = (cluster.primary(), cluster.standby(0));
    let observer = observe(&cluster);
    let slot = slot_name(standby.id());
    eventually(PATIENCE, "both are seen", || facts(&observer, 0).is_some() && facts(&observer, 1).is_some());

    let seen = facts(&observer, 1).unwrap();
    let upstream = seen.upstream.as_ref().unwrap();
    assert_eq!((upstream.host.as_str(), upstream.port), (primary.host(), primary.port()));
    assert_eq!(upstream.application_name.as_deref(), Some(standby.id()));
    assert_eq!(seen.slot_name.as_deref(), Some(&*slot));
    let receiver = seen.receiver.as_ref().unwrap();
    assert_eq!((receiver.timeline, receiver.name.as_str()), (Some(1), standby.id()));
    assert!(receiver.message_age_ms.is_some());

    let all_flushed = || {
        let seen = facts(&observer, 0).unwrap();
        let sender = seen.senders.iter().find(|sender| sender.name == standby.id());
        sender.is_some_and(|sender| sender.flush_lsn == Some(seen.lsn) && sender.sent_lsn == Some(seen.lsn))
    };
    eventually(PATIENCE, "the standby has flushed everything", all_flushed);
    let seen = facts(&observer, 0).unwrap();
    assert!(seen.slots.iter().any(|known| known.name == slot && known.active && known.restart_lsn.is_some()));
    assert_eq!((seen.upstream.clone(), seen.wal_log_hints), (None, true));

    for conninfo in [
        "host=h1 password=''s3cret o\\''ne'' port=7",
        "password = s3cret host=h1 port=7 sslpassword=s3cret",
        "postgres://u:s3cret@h1:7/?application_name=x&password=s3cret",
    ] {
        ask(standby, &format!("ALTER SYSTEM SET primary_conninfo = '{conninfo}'"));
        standby.reload().unwrap();
        let upstream = || facts(&observer, 1)?.upstream.clone();
        eventually(PATIENCE, conninfo, || upstream().is_some_and(|to| (&*to.host, to.port) == ("h1", 7)));
        let row = ask(standby, QUESTION);
        assert!(row.contains("h1") && !row.contains("s3cret") && !row.contains("ne'"), "{row}");
        ask(standby, "ALTER SYSTEM SET primary_conninfo = 'host=elsewhere'");
        standby.reload().unwrap();
        eventually(PATIENCE, "elsewhere", || upstream().is_some_and(|to| to.host == "elsewhere"));
    }
}

/// What a leader does about synchronous standbys, as long as it has something to do.
struct Keeping<'a> {
    operating: Operating,
    observer: Observer,
    primary: &'a Postgres,
    raft: SyncSet,
    watch: Watch,
}

impl Keeping<'_> {
    /// In which order it came to be so.
    fn until(&mut self, target: &SyncSet) -> Vec<Transition> {
        let mut done = Vec::new();
        eventually(PATIENCE, &format!("{target} is kept"), || {
            let seen = facts(&self.observer, 0);
            seen.iter().for_each(|seen| self.watch.saw(seen));
            let step = next(&self.raft, Some(target), seen.as_deref(), &self.watch);
            match &step {
                Transition::Nothing => return true,
                Transition::Wait => return false,
                Transition::SetInRaft(set) => self.raft = set.clone(),
                Transition::SetOnPrimary(names) => {
                    self.operating.perform(self.primary, synchronous(names)).unwrap();
                    self.watch = Watch::begin(clock::now_ms());
                }
            }
            done.push(step);
            false
        });
        // By a look from before it was carried out, what takes nothing back is ordered once more.
        done.dedup();
        done
    }
}

#[test]
fn synchronous_standbys_change_in_the_safe_order_while_they_hang_and_return() {
    let cluster = Cluster::start(2);
    ask(cluster.primary(), &grants());
    cluster.servers().wait_for_replay().unwrap();
    let (primary, one, other) = (cluster.primary(), cluster.standby(0), cluster.standby(1));
    let set = |members: &[&Postgres]| SyncSet::new(members.iter().map(|member| member.id()), 1);
    let (both, first, none) = (set(&[one, other]), set(&[one]), SyncSet::default());
    let on_primary = |set: &SyncSet| Transition::SetOnPrimary(set.to_string());
    let in_raft = |set: &SyncSet| Transition::SetInRaft(set.clone());
    let mut keeping = Keeping {
        operating: Operating::as_role("komainu_operator"),
        observer: observe(&cluster),
        primary,
        raft: none.clone(),
        watch: Watch::begin(clock::now_ms()),
    };
    assert_eq!(keeping.until(&both), [on_primary(&both), in_raft(&both)]);
    ask(primary, "CREATE TABLE t (n int)");

    other.freeze();
    ask(primary, "INSERT INTO t VALUES (1)");
    assert_eq!(keeping.until(&first), [on_primary(&first), in_raft(&first)]);

    one.freeze();
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| ask(primary, "INSERT INTO t VALUES (2)"));
        becomes(primary, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'", "1");
        assert_eq!(keeping.until(&none), [in_raft(&none), on_primary(&none)]);
        waits.join().unwrap();
    });

    one.thaw();
    other.thaw();
    assert_eq!(keeping.until(&both), [on_primary(&both), in_raft(&both)]);
    for standby in [one, other] {
        becomes(standby, "SELECT count(*) FROM t", "2");
    }
}
