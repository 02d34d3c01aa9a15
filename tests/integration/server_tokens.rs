//! Logins to servers by RDS IAM tokens.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::support::rds_login::{ACCESS_KEY, RdsLogin, SECRET_KEY};
use super::support::*;
use super::tls::speak_tls;

/// As RDS's fifteen minutes, in short; a login of a busy machine must not take as long.
const VALID_FOR: Duration = Duration::from_secs(5);

/// Before the login of RDS, at which both roles log in by token.
fn builder(cluster: &Cluster, port: u16, authority: &Path) -> KomainuBuilder {
    let builder = Komainu::builder(cluster).config(&format!(
        "[server_tls]\nmode = \"verify-full\"\nca_file = {authority:?}\n\
         [[server]]\nid = \"pg1\"\nhost = \"localhost\"\nport = {port}\n\
         [[server_user]]\nname = \"{APP_USER}\"\niam_token = true\nregion = \"eu-central-1\"\n\
         [[server_user]]\nname = \"postgres\"\niam_token = true\nregion = \"eu-central-1\"\n"
    ));
    builder
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        .env("AWS_EC2_METADATA_DISABLED", "true")
}

/// The most that komainu and the SDK would ever log.
pub const ALL_OF_THE_SDK: &str = "info,komainu=debug,komainu::backend=trace,aws_sigv4=trace,aws_runtime=trace,\
    aws_config=trace,aws_smithy_runtime=trace,aws_smithy_runtime_api=trace,aws_smithy_http_client=trace,hyper=trace,hyper_util=trace";

fn part<'a>(token: &'a str, name: &str) -> &'a str {
    let (_, rest) = token.split_once(&format!("{name}=")).unwrap();
    rest.split('&').next().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn new_connections_have_new_tokens_and_open_ones_stay() {
    let cluster = Cluster::shared();
    let scratch = tempfile::tempdir().unwrap();
    let certificates = Certificates::create(scratch.path());
    let (certificate, key) = certificates.server("rds");
    let socket = cluster.primary().socket_directory().join(format!(".s.PGSQL.{}", cluster.primary().port()));
    let rds = RdsLogin::start(socket, &certificate, &key, VALID_FOR).await;
    let komainu = builder(cluster, rds.port(), &certificates.authority_file())
        // Each transaction has a connection of its own, and all that anybody would log is logged.
        .config(&format!("[pool]\nlifetime_ms = 1\n[log]\nlevel = \"{ALL_OF_THE_SDK}\"\n"))
        .start();

    let open = komainu.connect("postgres").await;
    open.batch_execute("BEGIN").await.unwrap();
    let pid = async || open.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get::<_, i32>(0);
    let before = pid().await;
    let others = komainu.connect("postgres").await;
    let dates = || rds.tokens(APP_USER).iter().map(|token| part(token, "X-Amz-Date").to_owned()).collect();
    eventually_async(PATIENCE, "tokens of many seconds", async || {
        others.query_one("SELECT 1", &[]).await.unwrap();
        let dates: BTreeSet<String> = dates();
        // Each is of another second: the last is younger than the first lived.
        dates.len() as u64 > VALID_FOR.as_secs() + 1
    })
    .await;
    assert_eq!(pid().await, before, "a connection outlives its token");
    open.batch_execute("COMMIT").await.unwrap();
    assert_eq!(rds.refused(), [] as [&str; 0], "none was old or of another");
    assert!(!rds.tokens("postgres").is_empty(), "the role that looks has one, too");

    let pages: String =
        ["/status", "/doctor", "/metrics", "/pools"].map(|page| komainu.admin(page).unwrap().body).concat();
    for shown in [komainu.log(), pages] {
        assert!(!shown.contains(SECRET_KEY));
        for token in rds.tokens(APP_USER) {
            assert!(!shown.contains(part(&token, "X-Amz-Signature")), "a token is shown");
        }
    }
    let doctor = komainu.admin("/doctor").unwrap().body;
    assert!(doctor.contains("server_user") && doctor.contains("IAM tokens"), "{doctor}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_a_wrong_certificate_never_sees_a_token() {
    let cluster = Cluster::shared();
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let certificates = Certificates::create(ours.path());
    let strangers = Certificates::create(theirs.path());
    let (of_another_name, of_another_authority) =
        (certificates.server_for("rds", &["db.example.org"]), strangers.server("rds"));
    for (certificate, key) in [of_another_name, of_another_authority] {
        let socket =
            cluster.primary().socket_directory().join(format!(".s.PGSQL.{}", cluster.primary().port()));
        let rds = RdsLogin::start(socket, &certificate, &key, VALID_FOR).await;
        let komainu = builder(cluster, rds.port(), &certificates.authority_file()).launch();
        eventually(PATIENCE, "it says what is wrong", || {
            komainu.admin("/status").is_ok_and(|status| status.body.contains("tls_failed"))
        });
        let status = komainu.admin("/status").unwrap().body;
        assert!(status.contains("certificate"), "{status}");
        assert!(rds.tokens("postgres").is_empty() && rds.tokens(APP_USER).is_empty());
    }
}

/// As the bundle of RDS is made: three authorities for each region.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_verified_by_its_authority_among_more_than_a_hundred() {
    let cluster = Cluster::shared();
    let scratch = tempfile::tempdir().unwrap();
    let authorities: Vec<_> = (0..120)
        .map(|number| Certificates::create_named(scratch.path(), &format!("Amazon RDS {number} Root CA")))
        .collect();
    let all = |left_out: usize| {
        let path = scratch.path().join(format!("without-{left_out}.pem"));
        let kept = authorities.iter().enumerate().filter(|(number, _)| *number != left_out);
        std::fs::write(&path, kept.map(|(_, authority)| authority.authority_pem()).collect::<String>())
            .unwrap();
        path
    };
    let (certificate, key) = authorities[77].server("rds");
    let socket = cluster.primary().socket_directory().join(format!(".s.PGSQL.{}", cluster.primary().port()));
    let rds = RdsLogin::start(socket, &certificate, &key, VALID_FOR).await;
    let komainu = builder(cluster, rds.port(), &all(3)).start();
    assert_eq!(psql(&komainu.url("postgres"), &["SELECT 42"]).output(), "42");
    let komainu = builder(cluster, rds.port(), &all(77)).launch();
    eventually(PATIENCE, "it is not believed without that one", || {
        komainu.admin("/status").is_ok_and(|status| status.body.contains("tls_failed"))
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_rds_iam_is_told_what_it_lacks() {
    let scratch = tempfile::tempdir().unwrap();
    let certificates = Certificates::create(scratch.path());
    let cluster = Cluster::start(0);
    speak_tls(cluster.primary(), certificates.server("rds"));
    let komainu = builder(&cluster, cluster.primary().port(), &certificates.authority_file()).launch();
    eventually(PATIENCE, "it says what is wrong", || {
        komainu.admin("/status").is_ok_and(|status| status.body.contains("authentication_failed"))
    });
    eventually(PATIENCE, "and what to do", || komainu.log().contains("GRANT rds_iam"));
}

/// Who waits for a writer asks for a token only when there is one to show it to.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_end_in_the_middle_of_a_failover_are_not_shown_to_the_new_writer() {
    let cluster = Cluster::start(1);
    let database = cluster.database();
    cluster.prepare(&database, "CREATE TABLE t (n int); GRANT ALL ON t TO PUBLIC");
    let scratch = tempfile::tempdir().unwrap();
    let certificates = Certificates::create(scratch.path());
    let (certificate, key) = certificates.server("rds");
    let mut logins = Vec::new();
    for server in cluster.servers().all() {
        let socket = server.socket_directory().join(format!(".s.PGSQL.{}", server.port()));
        logins.push(RdsLogin::start(socket, &certificate, &key, VALID_FOR).await);
    }
    let at = |id: &str, login: &RdsLogin| {
        format!("[[server]]\nid = \"{id}\"\nhost = \"localhost\"\nport = {}\n", login.port())
    };
    let komainu = builder(&cluster, logins[0].port(), &certificates.authority_file())
        .config(&(at("pg1", &logins[0]) + &at("pg2", &logins[1])))
        .config("[failover]\nmode = \"rds\"\n[health]\ntimeout_ms = 1000\n")
        .start();
    let (idle, open) = (komainu.connect(&database).await, komainu.connect(&database).await);
    idle.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    open.batch_execute("BEGIN; INSERT INTO t VALUES (9)").await.unwrap();
    cluster.servers().wait_for_replay().unwrap();

    cluster.primary().kill();
    // What stands before it may tell a little later.
    eventually_async(PATIENCE, "its loss is seen", async || {
        komainu.metric("komainu_primary{server=\"pg1\"}") == Some(0.0)
    })
    .await;
    let waits = tokio::spawn(async move { idle.batch_execute("INSERT INTO t VALUES (2)").await });
    eventually_async(PATIENCE, "a client waits", async || {
        komainu.metric("komainu_clients_held") == Some(1.0)
    })
    .await;
    // What was signed by now is of no use later.
    let signed = logins[0].tokens(APP_USER);
    tokio::time::sleep(VALID_FOR + Duration::from_secs(1)).await;
    cluster.standby(0).promote().unwrap();
    waits.await.unwrap().unwrap();
    assert!(open.batch_execute("COMMIT").await.is_err(), "its connection is lost");
    for login in &logins {
        assert_eq!(login.refused(), [] as [&str; 0], "none was old, or another server's");
    }
    let shown = logins[1].tokens(APP_USER);
    assert!(!shown.is_empty() && shown.iter().all(|token| !signed.contains(token)));
    let rows = |n: u32| cluster.standby(0).psql(&database, &format!("SELECT count(*) FROM t WHERE n = {n}"));
    assert_eq!(["1", "1", "0"], [1, 2, 9].map(|n| rows(n).unwrap()).each_ref().map(String::as_str));
}
