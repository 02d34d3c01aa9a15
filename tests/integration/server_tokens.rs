//! Logins to servers by RDS IAM tokens.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::support::rds_login::{ACCESS_KEY, RdsLogin, SECRET_KEY};
use super::support::*;
use super::tls::speak_tls;

/// As RDS's fifteen minutes, in short.
const VALID_FOR: Duration = Duration::from_secs(2);

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
        dates.len() as u64 > 2 * VALID_FOR.as_secs()
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
