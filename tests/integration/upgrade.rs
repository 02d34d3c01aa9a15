//! Nodes and agents become another version, one after the other, while clients write through all of them; and they come
//! back to the one before.
//!
//! `make test-upgrade` gives the komainu of the commit before in `KOMAINU_TEST_PREVIOUS`. Without it the two versions are
//! the same, and what is tested is that nodes are restarted one by one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use komainu::cluster::state::LOG_FORMAT;
use komainu::sandbox::{Installation, program_for_servers};
use rustix::process::Signal;
use serde_json::json;
use tokio_postgres::Client;

use super::failover::one_at_a_time;
use super::failover::writing::with_table;
use crate::support::*;

/// A drain waits for transactions, of which there are none that last.
const STOPPED_WITHIN: Duration = Duration::from_secs(20);
/// Between two rows of a writer.
const PAUSE: Duration = Duration::from_millis(5);

fn previous() -> PathBuf {
    std::env::var_os("KOMAINU_TEST_PREVIOUS").map_or_else(|| this_version().to_owned(), PathBuf::from)
}

/// A client that writes one row after the other and reads it back. When its node ends the connection it goes to the
/// next one, as a client does that knows all three.
struct Writer {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: JoinHandle<Written>,
}

#[derive(Default)]
struct Written {
    acknowledged: Vec<i64>,
    /// Sent on a connection that was ended instead of answered: 57P01, or nothing more at all.
    ended: Vec<i64>,
    /// What no client may see.
    otherwise: Vec<String>,
}

impl Writer {
    fn start(ports: Vec<u16>, database: &str, first: i64) -> Self {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stops, counts, database) = (stop.clone(), count.clone(), database.to_owned());
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(write(&ports, &database, first, &stops, &counts))
        });
        Writer { stop, count, thread }
    }

    #[track_caller]
    fn goes_on(&self) {
        let before = self.count.load(Ordering::Relaxed);
        eventually(PATIENCE, "rows are written", || self.count.load(Ordering::Relaxed) > before + 10);
    }
}

async fn write(ports: &[u16], database: &str, first: i64, stop: &AtomicBool, count: &AtomicU64) -> Written {
    let mut written = Written::default();
    let (mut n, mut at) = (first, 0);
    'connections: loop {
        let client = reach(ports, &mut at, database).await;
        while !stop.load(Ordering::Relaxed) {
            n += 1;
            match client.execute("INSERT INTO t VALUES ($1)", &[&n]).await {
                Ok(_) => written.acknowledged.push(n),
                Err(error) if is_ended(&error) => {
                    written.ended.push(n);
                    continue 'connections;
                }
                Err(error) => written.otherwise.push(format!("{n}: {error:?}")),
            }
            match client.query("SELECT n FROM t WHERE n = $1", &[&n]).await {
                Ok(rows) if rows.len() == 1 => {}
                Ok(rows) => written.otherwise.push(format!("{n} is there {} times", rows.len())),
                Err(error) if is_ended(&error) => continue 'connections,
                Err(error) => written.otherwise.push(format!("reading {n}: {error:?}")),
            }
            count.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
        }
        return written;
    }
}

/// A connection to the first of the nodes that takes it, from this one on.
async fn reach(ports: &[u16], at: &mut usize, database: &str) -> Client {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match connect(ports[*at], APP_USER, APP_PASSWORD, database).await {
            Ok(client) => return client,
            Err(error) => assert!(Instant::now() < deadline, "no node lets a client in: {error:?}"),
        }
        *at = (*at + 1) % ports.len();
        tokio::time::sleep(PAUSE).await;
    }
}

fn is_ended(error: &tokio_postgres::Error) -> bool {
    error.is_closed() || error.code().is_some_and(|code| code.code() == "57P01")
}

/// As `systemctl restart` does after the package was installed. The leader last, so that there is one new leader only.
fn replace_nodes(failover: &Failover, program: &Path, writers: &[Writer]) {
    let leader = failover.nodes.leader();
    let order = failover.nodes.others(&leader).into_iter().chain([leader]);
    for id in order {
        let node = failover.nodes.node(&id);
        node.signal(Signal::TERM);
        let ended = node.wait(STOPPED_WITHIN);
        assert!(ended.success(), "{id}: {ended}");
        node.start_again_as(program);
        failover.nodes.wait_until_ready(std::slice::from_ref(&id));
        // The gate before the next one, as the manual has it: `komainu status` on every node says that all is well.
        eventually(PATIENCE, "all nodes are well", || {
            failover.nodes.ids().iter().all(|id| is_well(failover, id))
        });
        writers.iter().for_each(Writer::goes_on);
    }
}

fn is_well(failover: &Failover, id: &str) -> bool {
    let status = failover.nodes.status(id);
    let all = |list: &str, well: &dyn Fn(&serde_json::Value) -> bool| {
        status[list].as_array().is_some_and(|list| list.len() == 3 && list.iter().all(well))
    };
    status["leader"].is_string()
        && status["primary"].is_string()
        && status["endpoints"][0]["owner"].is_string()
        && all("nodes", &|node| node["reachable"] == true && node["votes"] == true)
        && all("servers", &|server| server["health"] == "up" && server["administrative"] == "attached")
}

fn replace_agents(failover: &mut Failover, program: &Path) {
    let installation = Installation::find().unwrap();
    let directory = failover.cluster.directory().join(format!("agents-{}", program == this_version()));
    std::fs::create_dir_all(&directory).unwrap();
    let program = program_for_servers(&installation, program, &directory).unwrap();
    for agent in &mut failover.agents {
        agent.kill();
        agent.becomes(&program);
        agent.start().unwrap();
        let is_ready = agent.wait_until_ready(Instant::now() + PATIENCE);
        assert!(is_ready, "{} is not ready:\n{}", agent.id(), agent.log_tail());
    }
}

#[test]
fn nodes_become_another_version_one_by_one_and_the_one_before_again_under_clients_that_reconnect() {
    let _one = one_at_a_time();
    let previous = previous();
    let builder = Failover::builder().patient().program(&previous);
    let mut failover = builder.failover("sync_mode = \"require\"").start();
    let database = with_table(&failover);
    failover.wait_until_promised();
    let before = failover.primary();
    let ids = failover.nodes.ids();
    let known_before = failover.nodes.status("node1")["log_format_known"].as_u64().unwrap_or(0);

    let ports: Vec<u16> = ids.iter().map(|id| failover.nodes.node(id).port()).collect();
    let writer = |index: usize| {
        let mut ports = ports.clone();
        ports.rotate_left(index);
        Writer::start(ports, &database, 1_000_000 * (index as i64 + 1))
    };
    let writers: Vec<_> = (0..ids.len()).map(writer).collect();
    writers.iter().for_each(Writer::goes_on);

    replace_nodes(&failover, this_version(), &writers);
    replace_agents(&mut failover, this_version());
    for id in &ids {
        let status = failover.nodes.status(id);
        assert_eq!(status["log_format_known"], LOG_FORMAT, "{id} is of this version");
        assert!(status["log_format"].as_u64() <= Some(known_before), "the way back is open");
    }
    replace_nodes(&failover, &previous, &writers);
    replace_agents(&mut failover, &previous);
    // Mixed versions do more than stand beside each other.
    replace_nodes(&failover, this_version(), &writers);
    let ordered = failover.nodes.post("node1", "/switchover", &json!({ "cause": "operator:test" }));
    assert_eq!(ordered.status, 200, "{}", ordered.body);
    let (primary, epoch) = failover.primary_above(before.1, &ids);
    assert!(primary != before.0 && epoch == before.1 + 1, "nothing else has moved it: {before:?}, {epoch}");
    writers.iter().for_each(Writer::goes_on);
    failover.wait_until_whole();

    writers.iter().for_each(|writer| writer.stop.store(true, Ordering::Relaxed));
    let all: Vec<_> = writers.into_iter().map(|writer| writer.thread.join().unwrap()).collect();
    let rows = failover.server(&primary).psql(&database, "SELECT n FROM t ORDER BY n").unwrap();
    let rows: Vec<i64> = rows.lines().map(|row| row.parse().unwrap()).collect();
    assert!(rows.is_sorted_by(|a, b| a < b), "a row is there twice");
    let mut acknowledged = 0;
    for written in all {
        assert!(written.otherwise.is_empty(), "{:?}", written.otherwise);
        let lost: Vec<_> = written.acknowledged.iter().filter(|n| rows.binary_search(n).is_err()).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
        let silently: Vec<_> = written.ended.iter().filter(|n| rows.binary_search(n).is_ok()).collect();
        assert!(silently.is_empty(), "done, and the client was not told: {silently:?}");
        acknowledged += written.acknowledged.len();
    }
    assert_eq!(rows.len(), acknowledged, "rows that nobody wrote");
    no_way_back(&failover, &previous, known_before);
}

/// Once the log is in a format that the version before does not know, that version is told so and the others go on.
fn no_way_back(failover: &Failover, previous: &Path, known_before: u64) {
    let nodes = &failover.nodes;
    let answer = nodes.node("node1").admin("/config").unwrap();
    let config: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    let text = config["text"].as_str().unwrap();
    let text = text.replacen("[cluster]\n", "[cluster]\nraise_log_format_after_ms = 0\n", 1);
    let apply = json!({ "text": text, "cause": "operator:test" });
    let applied = nodes.post("node1", "/config/apply", &apply);
    assert_eq!(applied.status, 200, "{}", applied.body);
    eventually(PATIENCE, "every node has the log in the newest format", || {
        nodes.ids().iter().all(|id| nodes.status(id)["log_format"] == LOG_FORMAT)
    });
    if known_before >= u64::from(LOG_FORMAT) {
        return;
    }
    let back = nodes.others(&nodes.leader()).remove(0);
    nodes.node(&back).kill();
    nodes.node(&back).start_again_as(previous);
    let told = || {
        let others = nodes.others(&back);
        let say = |id: &String| nodes.status(id)["nodes"].to_string().contains("knows the log up to format");
        others.iter().any(say) || nodes.node(&back).log().contains("knows the log up to format")
    };
    eventually(PATIENCE, "it is said why it cannot take part", told);
    nodes.node(&back).kill();
    nodes.node(&back).start_again_as(this_version());
    nodes.wait_until_ready(std::slice::from_ref(&back));
    eventually(PATIENCE, "all nodes are well", || nodes.ids().iter().all(|id| is_well(failover, id)));
}
