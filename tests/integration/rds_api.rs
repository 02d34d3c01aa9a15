//! Servers that nobody configured: AWS's API says which instances a cluster has, and the servers say who writes.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use komainu::sandbox::{Postgres, RDS_FUNCTIONS, StopMode};
use komainu_aws_double::api::{REGION, rds_endpoint};
use komainu_aws_double::{Api, Fault, Proxy};
use tokio::runtime::Runtime;

use super::aurora::{becomes, inserts, servers};
use super::holding::{answer, send};
use super::lost_servers::told;
use super::support::aws::{HERE, moto};
use super::support::*;

const DESCRIBING: [&str; 2] = ["DescribeDBClusters", "DescribeDBInstances"];
const INSERTED: [&str; 2] = ["C INSERT 0 1", "ZI"];

/// Real servers whose names and addresses are those of instances in the double of AWS.
pub struct Account {
    pub cluster: Cluster,
    managed: Managed,
    api: Api,
    pub proxy: Proxy,
    runtime: Runtime,
    /// Of the cluster, and of the first instance where there is none.
    pub id: String,
    pub database: String,
}

impl Account {
    pub fn open(readers: usize) -> Account {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let cluster = Cluster::start(readers);
        let ports: Vec<u16> = cluster.servers().all().iter().map(Postgres::port).collect();
        let managed = Managed::start(&ports);
        let id = format!("it-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let database = cluster.database();
        cluster.prepare(&database, "CREATE TABLE t (n int); GRANT ALL ON t TO PUBLIC");
        let runtime = Runtime::new().unwrap();
        let proxy = runtime.block_on(Proxy::start(HERE, moto().address())).unwrap();
        let account =
            Account { cluster, managed, api: Api { moto: moto().address() }, proxy, runtime, id, database };
        for index in 0..=readers {
            account.managed.point(&rds_endpoint(&account.instance(index)), index);
        }
        account
    }

    /// The name of the server of that number.
    pub fn instance(&self, index: usize) -> String {
        match index {
            0 => self.id.clone(),
            index => format!("{}-{index}", self.id),
        }
    }

    pub fn server(&self, index: usize) -> &Postgres {
        &self.cluster.servers().all()[index]
    }

    fn call(&self, action: &str, parameters: &[(&str, &str)]) {
        let done = self.runtime.block_on(self.api.rds(action, parameters));
        done.unwrap_or_else(|error| panic!("{action}: {error}"));
    }

    /// With the first server.
    fn create_instance(&self) {
        let port = self.managed.port().to_string();
        let parameters = [
            ("DBInstanceIdentifier", &*self.id),
            ("Engine", "postgres"),
            ("DBInstanceClass", "db.m6g.large"),
            ("AllocatedStorage", "20"),
            ("Port", &port),
            ("MasterUsername", "postgres"),
            ("MasterUserPassword", "the%20password"),
        ];
        self.call("CreateDBInstance", &parameters);
    }

    fn add_replica(&self, index: usize) {
        let (id, port) = (self.instance(index), self.managed.port().to_string());
        let parameters =
            [("DBInstanceIdentifier", &*id), ("SourceDBInstanceIdentifier", &self.id), ("Port", &port)];
        self.call("CreateDBInstanceReadReplica", &parameters);
    }

    /// Of this engine, with these of the servers.
    pub fn create_cluster(&self, engine: &str, instances: &[usize]) {
        let port = self.managed.port().to_string();
        let mut parameters = vec![
            ("DBClusterIdentifier", &*self.id),
            ("Engine", engine),
            ("Port", &port),
            ("MasterUsername", "postgres"),
            ("MasterUserPassword", "the%20password"),
        ];
        if engine == "postgres" {
            let more =
                [("DBClusterInstanceClass", "db.m6gd.large"), ("AllocatedStorage", "100"), ("Iops", "1000")];
            parameters.extend(more);
        }
        self.call("CreateDBCluster", &parameters);
        for index in instances {
            self.add_to_cluster(engine, *index);
        }
    }

    fn add_to_cluster(&self, engine: &str, index: usize) {
        let (id, port) = (self.instance(index), self.managed.port().to_string());
        let parameters = [
            ("DBInstanceIdentifier", &*id),
            ("DBClusterIdentifier", &self.id),
            ("Engine", engine),
            // AWS takes the cluster's.
            ("Port", &port),
            ("DBInstanceClass", "db.r6gd.large"),
        ];
        self.call("CreateDBInstance", &parameters);
    }

    fn delete_instance(&self, index: usize) {
        let id = self.instance(index);
        self.call("DeleteDBInstance", &[("DBInstanceIdentifier", &id), ("SkipFinalSnapshot", "true")]);
    }

    /// Which cluster, and nothing else of its servers.
    pub fn config(&self, mode: &str) -> String {
        format!(
            "[failover]\nmode = \"{mode}\"\ncluster_id = \"{}\"\ncluster_refresh_ms = 1000\n\
             [aws]\nendpoint_url = \"{}\"\nregion = \"{REGION}\"\n{}[health]\ntimeout_ms = 1000\n",
            self.id,
            self.proxy.url(),
            self.managed.dns()
        )
    }

    fn node(&self, mode: &str, more: &str) -> KomainuBuilder {
        let builder = Komainu::builder(&self.cluster).config("server = []");
        let mut builder = builder.config(&self.config(mode)).config(more);
        for (name, value) in CREDENTIALS {
            builder = builder.env(name, value);
        }
        builder
    }

    fn rows(&self, server: usize, n: u32) -> String {
        self.server(server).psql(&self.database, &format!("SELECT count(*) FROM t WHERE n = {n}")).unwrap()
    }

    #[track_caller]
    pub fn are(&self, komainu: &Komainu, expected: &[(usize, &str)]) {
        let expected: Vec<_> = expected.iter().map(|&(index, role)| (self.instance(index), role)).collect();
        becomes(komainu, &expected.iter().map(|(id, role)| (id.as_str(), *role)).collect::<Vec<_>>());
    }
}

pub const CREDENTIALS: [(&str, &str); 3] = [
    ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
    ("AWS_SECRET_ACCESS_KEY", "the node's"),
    ("AWS_EC2_METADATA_DISABLED", "true"),
];

fn doctor(komainu: &Komainu) -> String {
    komainu.admin("/doctor").unwrap().body
}

#[test]
fn an_api_that_is_down_at_the_start_is_waited_for_and_later_changes_nothing() {
    let account = Account::open(2);
    account.create_instance();
    account.add_replica(1);
    account.proxy.fault(&DESCRIBING, Fault::Reset, None);
    let komainu = account.node("rds", "").launch();
    eventually(PATIENCE, "it says what it waits for", || {
        komainu.admin("/status").is_ok_and(|status| status.body.contains("instances_unknown"))
    });
    eventually(PATIENCE, "so does doctor", || doctor(&komainu).contains("DescribeDBClusters"));
    assert_eq!(servers(&komainu), []);
    eventually(PATIENCE, "it listens", || komainu.log().contains("komainu is listening"));
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut client = komainu.login(&account.database);
            told(&client.query("INSERT INTO t VALUES (1)"))
        });
        eventually(PATIENCE, "a client waits", || komainu.metric("komainu_clients_held") == Some(1.0));
        account.proxy.heal();
        assert_eq!(client.join().unwrap(), INSERTED);
    });
    account.are(&komainu, &[(0, "primary"), (1, "standby")]);

    let trouble = |reason: &str| komainu.metric(&format!("komainu_instances_trouble{{reason=\"{reason}\"}}"));
    for (fault, reason) in
        [(Fault::Throttle, "throttled"), (Fault::ServerError, "unreachable"), (Fault::Deny, "not_permitted")]
    {
        account.proxy.fault(&DESCRIBING, fault, None);
        eventually(PATIENCE, "it is told", || doctor(&komainu).contains("\"wrong\""));
        eventually(PATIENCE, reason, || trouble(reason) == Some(1.0));
        account.are(&komainu, &[(0, "primary"), (1, "standby")]);
        inserts(&mut komainu.login(&account.database), 2);
        account.proxy.heal();
        eventually(PATIENCE, "it is fine again", || !doctor(&komainu).contains("\"wrong\""));
        assert_eq!(trouble(reason), Some(0.0));
    }

    // One comes and one goes while nobody can ask.
    account.proxy.fault(&DESCRIBING, Fault::Throttle, None);
    account.add_replica(2);
    account.delete_instance(1);
    eventually(PATIENCE, "it is told", || doctor(&komainu).contains("\"wrong\""));
    account.are(&komainu, &[(0, "primary"), (1, "standby")]);
    account.proxy.heal();
    account.are(&komainu, &[(0, "primary"), (2, "standby")]);
    let reads = || {
        let id = account.instance(2);
        komainu.metric(&format!("komainu_queries_total{{server=\"{id}\",class=\"read\"}}")).unwrap_or(0.0)
    };
    eventually(PATIENCE, "the new one serves reads", || {
        komainu.login(&account.database).query_value("SELECT count(*) FROM t");
        reads() > 0.0
    });
    inserts(&mut komainu.login(&account.database), 3);
}

#[test]
fn the_writer_is_who_says_so_whatever_the_api_says() {
    let account = Account::open(1);
    account.create_cluster("postgres", &[0, 1]);
    let komainu = account.node("rds", "").start();
    account.are(&komainu, &[(0, "primary"), (1, "standby")]);
    let mut client = komainu.login(&account.database);
    inserts(&mut client, 1);
    account.cluster.servers().wait_for_replay().unwrap();
    // The API is silent all the while.
    account.proxy.fault(&DESCRIBING, Fault::Throttle, None);
    account.server(0).kill();
    let is_primary = format!("komainu_primary{{server=\"{}\"}}", account.id);
    eventually(PATIENCE, "its loss is seen", || komainu.metric(&is_primary) == Some(0.0));
    send(&mut client, "INSERT INTO t VALUES (2)");
    account.server(1).promote().unwrap();
    assert_eq!(answer(&mut client), INSERTED);
    assert_eq!(account.rows(1, 2), "1");

    // The API still takes the old one for the writer, and has no more of it soon.
    fs::write(account.server(0).data_directory().join("standby.signal"), "").unwrap();
    account.server(0).start().unwrap();
    account.proxy.heal();
    eventually(PATIENCE, "the old one is no primary", || {
        servers(&komainu).iter().any(|(id, role, _)| *id == account.id && role != "primary")
    });
    inserts(&mut client, 3);
    account.delete_instance(1);
    let asked = || account.proxy.calls().len();
    let before = asked();
    eventually(PATIENCE, "it was asked again", || asked() > before + 4);
    inserts(&mut client, 4);
    assert_eq!(account.rows(1, 4), "1", "the writer stays, although the API knows it no more");
}

/// A node that begins with one of them, and two that run.
#[test]
fn members_of_a_multi_az_cluster_are_found_by_their_own_word_while_the_api_is_silent() {
    let account = Account::open(2);
    let all = account.cluster.servers().all();
    account.cluster.primary().psql("postgres", RDS_FUNCTIONS).unwrap();
    account.cluster.servers().wait_for_replay().unwrap();
    let say = |count: usize| {
        let members: Vec<String> = (0..count).map(|index| rds_endpoint(&account.instance(index))).collect();
        for server in all {
            server.configure("rds.members", &members.join(",")).unwrap();
            server.configure("rds.port", &account.managed.port().to_string()).unwrap();
            server.reload().unwrap();
        }
    };
    say(2);
    account.proxy.fault(&DESCRIBING, Fault::Throttle, None);
    let (first, port) = (account.instance(0), account.managed.port());
    let server =
        format!("[[server]]\nid = \"{first}\"\nhost = \"{}\"\nport = {port}\n", rds_endpoint(&first));
    let komainu = account.node("rds", &server).start();
    account.are(&komainu, &[(0, "primary"), (1, "standby")]);
    inserts(&mut komainu.login(&account.database), 1);
    say(3);
    account.are(&komainu, &[(0, "primary"), (1, "standby"), (2, "standby")]);
    // They take nobody out.
    say(1);
    let asked = || account.proxy.calls().len();
    let before = asked();
    eventually(PATIENCE, "it was asked again", || asked() > before + 2);
    account.are(&komainu, &[(0, "primary"), (1, "standby"), (2, "standby")]);

    // A blue/green deployment's green side is no member.
    let green = "CREATE OR REPLACE FUNCTION rds_tools.show_topology(who text DEFAULT NULL) \
        RETURNS TABLE (id text, endpoint text, port integer, role text, status text) LANGUAGE sql STABLE AS \
        $$ SELECT 'db-G', 'shop-green-x1.rds.test', 5432, 'BLUE_GREEN_DEPLOYMENT_TARGET', 'AVAILABLE' $$";
    let drop = "DROP FUNCTION rds_tools.show_topology(text)";
    account.cluster.primary().psql("postgres", &format!("{drop}; {green}")).unwrap();
    let before = asked();
    eventually(PATIENCE, "it was asked again", || asked() > before + 2);
    account.are(&komainu, &[(0, "primary"), (1, "standby"), (2, "standby")]);

    // What the API says is the list again.
    account.create_cluster("postgres", &[0, 1]);
    account.proxy.heal();
    account.are(&komainu, &[(0, "primary"), (1, "standby")]);
    inserts(&mut komainu.login(&account.database), 2);
    assert_eq!(account.rows(0, 2), "1");
}

#[test]
fn three_nodes_begin_with_one_member_and_find_the_others_without_the_api() {
    let account = Account::open(1);
    account.cluster.primary().psql("postgres", RDS_FUNCTIONS).unwrap();
    account.cluster.servers().wait_for_replay().unwrap();
    let members = [0, 1].map(|index| rds_endpoint(&account.instance(index))).join(",");
    for server in account.cluster.servers().all() {
        server.configure("rds.members", &members).unwrap();
        server.configure("rds.port", &account.managed.port().to_string()).unwrap();
        server.reload().unwrap();
    }
    account.proxy.fault(&DESCRIBING, Fault::Reset, None);
    let (first, port) = (account.instance(0), account.managed.port());
    let server =
        format!("[[server]]\nid = \"{first}\"\nhost = \"{}\"\nport = {port}\n", rds_endpoint(&first));
    let mut builder = Nodes::builder(3).config(&account.config("rds")).config(&server);
    for (name, value) in CREDENTIALS {
        builder = builder.env(name, value);
    }
    let nodes = builder.start(&account.cluster);
    for id in &nodes.ids() {
        account.are(nodes.node(id), &[(0, "primary"), (1, "standby")]);
    }
    account.server(0).kill();
    account.server(1).promote().unwrap();
    for id in &nodes.ids() {
        inserts(&mut nodes.node(id).login(&account.database), 1);
    }
    assert_eq!(account.rows(1, 1), "3");
}

#[test]
fn three_nodes_keep_the_instances_for_a_start_without_the_api() {
    let account = Account::open(1);
    account.create_instance();
    account.add_replica(1);
    let mut builder = Nodes::builder(3).finds_servers().config(&account.config("rds"));
    for (name, value) in CREDENTIALS {
        builder = builder.env(name, value);
    }
    let nodes = builder.start(&account.cluster);
    let ids = nodes.ids();
    for id in &ids {
        account.are(nodes.node(id), &[(0, "primary"), (1, "standby")]);
    }
    let events = nodes.node(&nodes.leader()).admin("/events").unwrap().body;
    assert!(events.contains("instances_found"), "{events}");
    account.proxy.fault(&[], Fault::Reset, None);
    ids.iter().for_each(|id| nodes.node(id).kill());
    ids.iter().for_each(|id| nodes.node(id).start_again());
    nodes.wait_until_ready(&ids);
    for id in &ids {
        account.are(nodes.node(id), &[(0, "primary"), (1, "standby")]);
        inserts(&mut nodes.node(id).login(&account.database), 1);
    }
    assert_eq!(account.rows(0, 1), "3");
    let refused = nodes.post(&nodes.leader(), "/server/remove", &serde_json::json!({ "id": account.id }));
    assert!(refused.body.contains("AWS says which instances there are"), "{}", refused.body);
}

#[test]
fn instances_of_aurora_begin_with_the_api_and_are_as_the_writer_says() {
    let account = Account::open(2);
    let names: Vec<String> = (0..3).map(|index| account.instance(index)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    dress_as_aurora_called(&account.cluster, &names);
    let all_say =
        |instances: &str| account.cluster.servers().all().iter().for_each(|one| say(one, instances));
    all_say(&format!("{}*,{}", names[0], names[1]));
    // The API is behind: it does not have the second one, and still has the third.
    account.create_cluster("aurora-postgresql", &[0, 2]);
    let komainu = account.node("aurora", "").start();
    account.are(&komainu, &[(0, "primary"), (1, "standby")]);
    inserts(&mut komainu.login(&account.database), 1);
    all_say(&format!("{}*,{},{}", names[0], names[1], names[2]));
    account.are(&komainu, &[(0, "primary"), (1, "standby"), (2, "standby")]);
    // No writer proves itself: what the API has is asked, too.
    all_say(&format!("{}*", names[0]));
    account.are(&komainu, &[(0, "primary")]);
    account.cluster.servers().wait_for_replay().unwrap();
    account.server(0).stop(StopMode::Immediate).unwrap();
    account.server(2).promote().unwrap();
    say(account.server(2), &format!("{},{}*", names[1], names[2]));
    account.add_to_cluster("aurora-postgresql", 1);
    eventually(PATIENCE, "the new writer is found by the API", || {
        servers(&komainu).iter().any(|(id, role, _)| id == names[2] && role == "primary")
    });
    inserts(&mut komainu.login(&account.database), 2);
    assert_eq!(account.rows(2, 2), "1");
}

#[test]
fn an_instance_that_the_configuration_calls_otherwise_is_there_once() {
    let account = Account::open(1);
    let (first, second) = (account.instance(0), account.instance(1));
    dress_as_aurora_called(&account.cluster, &[&first, &second]);
    account.create_cluster("aurora-postgresql", &[0, 1]);
    let port = account.managed.port();
    let server = format!("[[server]]\nid = \"First\"\nhost = \"{}\"\nport = {port}\n", rds_endpoint(&first));
    for more in [String::new(), format!("[aurora]\ninstance_endpoint = \"{}\"\n", rds_endpoint("?"))] {
        let komainu = account.node("aurora", &format!("{server}{more}")).start();
        becomes(&komainu, &[("First", "primary"), (&second, "standby")]);
        inserts(&mut komainu.login(&account.database), 1);
        // By the writer's own word as well.
        say(account.server(0), &format!("{first}*"));
        becomes(&komainu, &[("First", "primary")]);
        say(account.server(0), &format!("{first}*,{second}"));
        becomes(&komainu, &[("First", "primary"), (&second, "standby")]);
        assert!(!komainu.log().contains("two_primaries"), "{}", komainu.log());
    }
}
