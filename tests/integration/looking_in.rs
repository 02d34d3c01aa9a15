//! What komainu tells of itself: over HTTP, and through an ordinary connection.

use super::support::*;

fn columns(messages: &[Message]) -> Vec<String> {
    let description = messages.iter().find(|message| message.tag == 'T').unwrap();
    let mut rest = &description.body[2..];
    let mut names = Vec::new();
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        names.push(String::from_utf8_lossy(&rest[..end]).into_owned());
        // Behind the name: table, column, type, size, modifier, format.
        rest = &rest[end + 1 + 18..];
    }
    names
}

fn rows(messages: &[Message]) -> Vec<Vec<String>> {
    let rows = messages.iter().filter(|message| message.tag == 'D');
    rows.map(|row| row.columns().into_iter().map(Option::unwrap_or_default).collect()).collect()
}

#[test]
fn show_pool_nodes_tells_the_servers_in_pgpools_columns() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let komainu = Komainu::start(cluster);
    let mut wire = komainu.login(&database);
    let told = wire.query("SHOW POOL_NODES");
    assert_eq!(
        columns(&told),
        [
            "node_id",
            "hostname",
            "port",
            "status",
            "pg_status",
            "lb_weight",
            "role",
            "pg_role",
            "select_cnt",
            "load_balance_node",
            "replication_delay",
            "replication_state",
            "replication_sync_state",
            "last_status_change"
        ]
    );
    let nodes = rows(&told);
    assert_eq!(nodes.len(), 3);
    let servers: Vec<_> = std::iter::once(cluster.primary()).chain(cluster.servers().standbys()).collect();
    for (n, (node, server)) in nodes.iter().zip(servers).enumerate() {
        assert_eq!((node[0].as_str(), &node[2]), (&*n.to_string(), &server.port().to_string()));
        let role = if n == 0 { "primary" } else { "standby" };
        assert_eq!([&node[3], &node[4], &node[6], &node[7]], ["up", "up", role, role]);
    }
    assert!(nodes[1..].iter().all(|node| node[11] == "streaming"), "{nodes:?}");
    // The same by the extended protocol, as a named statement, and in a transaction.
    let extended =
        wire.pipeline(Pipeline::new().parse("nodes", "show pool_nodes;").describe('S', "nodes").sync());
    assert_eq!(columns(&extended), columns(&told));
    assert_eq!(rows(&wire.pipeline(Pipeline::new().run("nodes", &[]))).len(), 3);
    assert!(!tags(&wire.query("BEGIN")).contains('E'));
    assert_eq!(rows(&wire.query("SHOW POOL_NODES")).len(), 3);
    wire.query("COMMIT");

    let counted = |wire: &mut Wire| -> u64 {
        rows(&wire.query("SHOW POOL_NODES")).iter().map(|node| node[8].parse::<u64>().unwrap()).sum()
    };
    let before = counted(&mut wire);
    for _ in 0..10 {
        wire.query("SELECT 1");
    }
    assert!(counted(&mut wire) >= before + 10);
}

#[test]
fn the_other_shows_answer_by_both_protocols() {
    let database = Cluster::shared().database();
    let komainu = Komainu::start(Cluster::shared());
    let mut wire = komainu.login(&database);
    let version = wire.query_value("SHOW POOL_VERSION");
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    wire.query("CREATE TABLE t (n int)");
    let pools = wire.query("SHOW POOL_POOLS");
    assert_eq!(columns(&pools), ["server", "database", "user", "open", "idle", "waiting"]);
    let mine: Vec<_> = rows(&pools).into_iter().filter(|pool| pool[1] == database).collect();
    assert!(mine.iter().any(|pool| pool[0] == "pg1" && pool[2] == APP_USER && pool[3] == "1"), "{mine:?}");
    for show in ["SHOW POOL_NODES", "SHOW POOL_VERSION", "SHOW POOL_POOLS", "SHOW POOL_PROCESSES"] {
        let simple = wire.query(show);
        let extended = wire.pipeline(
            Pipeline::new().parse("", show).bind("", "", &[]).describe('P', "").execute("", 0).sync(),
        );
        assert_eq!(columns(&extended), columns(&simple), "{show}");
        assert_eq!(rows(&extended).len(), rows(&simple).len(), "{show}");
        assert!(tags(&simple).ends_with("CZ"), "{show}");
    }
    // What PostgreSQL has under SHOW is PostgreSQL's.
    assert_eq!(wire.query_value("SHOW server_encoding"), "UTF8");
    assert_eq!(wire.query("SHOW no_such_thing")[0].sqlstate(), "42704");
}

#[test]
fn the_health_pages_say_whether_clients_can_be_served() {
    let cluster = Cluster::start(0);
    let komainu = Komainu::start(&cluster);
    let page = |path: &str| komainu.admin(path).unwrap();
    assert_eq!((page("/live").status, page("/ready").status), (200, 200));
    assert_eq!(page("/nothing").status, 404);
    cluster.primary().kill();
    eventually(PATIENCE, "it is not ready without a primary", || page("/ready").status == 503);
    let body = page("/ready").body;
    assert!(body.contains("\"ready\":false") && body.contains("\"reason\":\""), "{body}");
    assert_eq!(page("/live").status, 200, "komainu itself lives");
    cluster.primary().start().unwrap();
    eventually(PATIENCE, "it is ready again", || page("/ready").status == 200);
    komainu.signal(rustix::process::Signal::TERM);
    eventually(PATIENCE, "a draining one is not ready, or gone", || {
        komainu.admin("/ready").map_or(true, |page| page.status == 503)
    });
}

#[test]
fn the_status_page_shows_the_cluster_as_it_is() {
    let cluster = Cluster::shared();
    let komainu = Komainu::start(cluster);
    let status: serde_json::Value = serde_json::from_str(&komainu.admin("/status").unwrap().body).unwrap();
    assert_eq!(status["primary"], "pg1");
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    let servers = status["servers"].as_array().unwrap();
    let roles: Vec<_> = servers.iter().map(|server| server["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["primary", "standby", "standby"]);
    let identifier =
        cluster.primary().psql("postgres", "SELECT system_identifier FROM pg_control_system()").unwrap();
    for server in servers {
        assert_eq!(server["health"], "up");
        assert_eq!(server["system_identifier"], *identifier);
        assert!(server["postgres_version"].as_u64().unwrap() >= 140_000, "{server}");
    }
    assert_eq!(servers[0]["port"], cluster.primary().port());
}

#[test]
fn statements_are_counted_and_not_connections_got() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    cluster.prepare(&database, &format!("CREATE TABLE t (n int); GRANT ALL ON t TO {APP_USER}"));
    for config in ["", "split.enabled = false", "pool.mode = \"session\""] {
        let komainu = Komainu::start_with(cluster, config);
        let mut wire = komainu.login(&database);
        let count = |class: &str| -> f64 {
            let sample = |id| format!("komainu_queries_total{{server=\"{id}\",class=\"{class}\"}}");
            ["pg1", "pg2", "pg3"].map(|id| komainu.metric(&sample(id)).unwrap()).iter().sum()
        };
        let counts = || (count("read"), count("write"), count("other"));
        let mut so_far = counts();
        let mut grown = |wanted: (f64, f64, f64), what: &str| {
            let now = counts();
            assert_eq!((now.0 - so_far.0, now.1 - so_far.1, now.2 - so_far.2), wanted, "{config} {what}");
            so_far = now;
        };
        wire.query("BEGIN");
        (0..3).for_each(|_| drop(wire.query("INSERT INTO t VALUES (1)")));
        wire.query("SELECT 2");
        wire.query("COMMIT");
        grown((1.0, 3.0, 2.0), "a transaction");
        (0..4).for_each(|_| drop(wire.query("SELECT 1/0")));
        grown((4.0, 0.0, 0.0), "reads that fail");
        let select = |pipeline: Pipeline| pipeline.bind("", "s", &[]).execute("", 0);
        let batch = (0..5).fold(Pipeline::new().parse("s", "SELECT 1"), |batch, _| select(batch));
        wire.pipeline(batch.parse("", "INSERT INTO t VALUES (2)").bind("", "", &[]).execute("", 0).sync());
        grown((5.0, 1.0, 0.0), "a pipeline");
        wire.query("PREPARE p AS INSERT INTO t VALUES ($1)");
        wire.query("EXECUTE p(3)");
        wire.query("SHOW POOL_VERSION");
        grown((0.0, 1.0, 2.0), "by name");
        wire.query("BEGIN");
        (0..70).for_each(|_| drop(wire.query("SELECT 1")));
        assert!(count("read") - so_far.0 >= 63.0, "a long transaction is not seen before it ends");
        drop(wire);
        eventually(PATIENCE, "what was left is counted", || count("read") - so_far.0 == 70.0);
    }
}

#[test]
fn the_metrics_move_with_the_traffic() {
    let database = Cluster::shared().database();
    let komainu = Komainu::start(Cluster::shared());
    let page = komainu.admin("/metrics").unwrap();
    assert_eq!(page.status, 200);
    let metric = |name: &str| komainu.metric(name).unwrap_or_else(|| panic!("{name} is not there"));
    let writes = "komainu_queries_total{server=\"pg1\",class=\"write\"}";
    let reads = || {
        ["pg1", "pg2", "pg3"]
            .iter()
            .map(|id| metric(&format!("komainu_queries_total{{server=\"{id}\",class=\"read\"}}")))
            .sum::<f64>()
    };
    let before = (metric(writes), reads(), metric("komainu_bytes_total{direction=\"to_clients\"}"));
    assert_eq!(metric("komainu_client_connections"), 0.0);
    let mut wires: Vec<_> = (0..3).map(|_| komainu.login(&database)).collect();
    assert_eq!(metric("komainu_client_connections"), 3.0);
    assert_eq!(metric("komainu_client_connections_total"), 3.0);
    wires[0].query("CREATE TABLE t (n int)");
    for _ in 0..5 {
        wires[0].query("INSERT INTO t VALUES (1)");
        wires[1].query("SELECT 'some bytes to be counted'");
    }
    assert_eq!(metric(writes) - before.0, 6.0);
    assert_eq!(reads() - before.1, 5.0);
    assert!(metric("komainu_bytes_total{direction=\"to_clients\"}") - before.2 > 125.0);
    wires[2].query("BEGIN");
    // Those before have their answers already, and may be about to give their connections back.
    let active = || metric("komainu_server_connections{server=\"pg1\",state=\"active\"}");
    eventually(PATIENCE, "only the open transaction has a connection", || active() == 1.0);
    drop(wires);
    eventually(PATIENCE, "they have left", || metric("komainu_client_connections") == 0.0);

    let mut wrong = komainu.wire();
    wrong.startup(&[("user", APP_USER), ("database", &database)]);
    assert_eq!(wrong.authenticate(APP_USER, "wrong").sqlstate(), "28P01");
    eventually(PATIENCE, "it is counted", || {
        metric("komainu_logins_failed_total{reason=\"password\"}") == 1.0
    });
    for (id, value) in [("pg1", 1.0), ("pg2", 0.0), ("pg3", 0.0)] {
        assert_eq!(metric(&format!("komainu_primary{{server=\"{id}\"}}")), value);
        assert_eq!(metric(&format!("komainu_server_up{{server=\"{id}\"}}")), 1.0);
    }
    // No secret is on any page.
    for path in ["/metrics", "/status", "/ready"] {
        let body = komainu.admin(path).unwrap().body;
        assert!(
            !body.contains(APP_PASSWORD) && !body.contains(Cluster::shared().primary().password()),
            "{path}"
        );
    }
}
