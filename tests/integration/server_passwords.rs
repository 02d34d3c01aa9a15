//! Logins to servers with passwords out of Secrets Manager.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use komainu_aws_double::{Api, Fault, Proxy};

use super::server_tokens::ALL_OF_THE_SDK;
use super::support::aws::{HERE, moto};
use super::support::*;

const CLIENTS: usize = 8;

/// A role whose password is in a secret.
struct Role {
    name: String,
    arn: String,
    api: Api,
    cluster: &'static Cluster,
}

impl Role {
    async fn create(password: &str) -> Role {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("rotated_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let (api, cluster) = (Api { moto: moto().address() }, Cluster::shared());
        cluster.prepare(
            "postgres",
            &format!("CREATE ROLE {name} LOGIN PASSWORD '{password}' IN ROLE pg_monitor"),
        );
        let secret = format!("{name}-{}", std::process::id());
        let body = serde_json::json!({
            "Name": secret, "SecretString": value(&name, password), "ClientRequestToken": format!("{:032}", 1)
        });
        let answer = api.secrets_manager("CreateSecret", &body.to_string()).await.unwrap();
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        Role { name, arn: answer["ARN"].as_str().unwrap().to_owned(), api, cluster }
    }

    /// A new version in Secrets Manager, pending.
    async fn put(&self, version: u32, password: &str) {
        let body = serde_json::json!({
            "SecretId": self.arn, "SecretString": value(&self.name, password),
            "ClientRequestToken": format!("{version:032}"), "VersionStages": ["AWSPENDING"]
        });
        self.api.secrets_manager("PutSecretValue", &body.to_string()).await.unwrap();
    }

    /// The pending version becomes the current one.
    async fn finish(&self, version: u32, before: u32) {
        let body = serde_json::json!({
            "SecretId": self.arn, "VersionStage": "AWSCURRENT",
            "MoveToVersionId": format!("{version:032}"), "RemoveFromVersionId": format!("{before:032}")
        });
        self.api.secrets_manager("UpdateSecretVersionStage", &body.to_string()).await.unwrap();
    }

    async fn delete(&self) {
        let body = serde_json::json!({ "SecretId": self.arn });
        self.api.secrets_manager("DeleteSecret", &body.to_string()).await.unwrap();
    }

    fn set_on_servers(&self, password: &str) {
        self.cluster.prepare("postgres", &format!("ALTER ROLE {} PASSWORD '{password}'", self.name));
    }

    /// Clients log in as it with a password of their own; each transaction opens a connection to a server.
    fn komainu(&self, proxy: &Proxy, config: &str) -> Komainu {
        Komainu::builder(self.cluster)
            .user(&self.name, CLIENTS_OWN)
            .config(&format!(
                "[aws]\nendpoint_url = \"{}\"\n[pool]\nlifetime_ms = 1\nconnect_rate = 1000\n\
                 [[server_user]]\nname = \"{}\"\nsecret_arn = \"{}\"\n",
                proxy.url(),
                self.name,
                self.arn
            ))
            .config(config)
            .env("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
            .env("AWS_SECRET_ACCESS_KEY", "the node's")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .start()
    }
}

const CLIENTS_OWN: &str = "what clients know";

fn value(user: &str, password: &str) -> String {
    serde_json::json!({ "username": user, "password": password, "engine": "postgres" }).to_string()
}

/// Clients that ask on and on, until `stop`.
struct Load {
    done: Arc<AtomicU64>,
    stops: Arc<AtomicBool>,
    clients: tokio::task::JoinSet<()>,
}

impl Load {
    async fn start(komainu: &Komainu, role: &Role) -> Load {
        let (done, stops) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..CLIENTS {
            let client = komainu.connect_as(&role.name, CLIENTS_OWN, "postgres").await.unwrap();
            let (done, stops) = (done.clone(), stops.clone());
            clients.spawn(async move {
                while !stops.load(Ordering::Relaxed) {
                    client.query_one("SELECT 1", &[]).await.unwrap();
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Load { done, stops, clients }
    }

    async fn goes_on(&self) {
        let before = self.done.load(Ordering::Relaxed);
        eventually_async(PATIENCE, "clients go on", async || {
            self.done.load(Ordering::Relaxed) > before + 10 * CLIENTS as u64
        })
        .await;
    }

    /// An error of any client is a panic here.
    async fn stop(mut self) {
        self.stops.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.unwrap();
        }
    }
}

async fn proxy() -> Proxy {
    Proxy::start(HERE, moto().address()).await.unwrap()
}

fn troubles(komainu: &Komainu, reason: &str) -> Option<f64> {
    komainu.metric(&format!("komainu_password_troubles{{reason=\"{reason}\"}}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_under_load_shows_no_client_an_error() {
    let (role, proxy) = (Role::create("first secret").await, proxy().await);
    let komainu = role.komainu(&proxy, &format!("[log]\nlevel = \"{ALL_OF_THE_SDK}\"\n"));
    let load = Load::start(&komainu, &role).await;
    load.goes_on().await;

    // As AWS's rotation function does it: the server first, and only then is it the current version.
    role.put(2, "second secret").await;
    role.set_on_servers("second secret");
    load.goes_on().await;
    role.finish(2, 1).await;
    load.goes_on().await;

    // By hand, the other way round.
    role.put(3, "third secret").await;
    role.finish(3, 2).await;
    load.goes_on().await;
    role.set_on_servers("third secret");
    load.goes_on().await;
    load.stop().await;

    let pages = ["/status", "/doctor", "/metrics", "/pools", "/sessions"];
    let pages: String = pages.map(|page| komainu.admin(page).unwrap().body).concat();
    for secret in ["first secret", "second secret", "third secret", "the node's"] {
        assert!(!komainu.log().contains(secret) && !pages.contains(secret), "{secret} is shown");
    }
    komainu.says("the secret was rotated");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_api_or_the_secret_clients_go_on_and_it_is_told() {
    let (role, proxy) = (Role::create("kept secret").await, proxy().await);
    let komainu = role.komainu(&proxy, "");
    let load = Load::start(&komainu, &role).await;
    load.goes_on().await;
    load.stop().await;
    // A refusal has it fetched again.
    let is_refused = || {
        role.set_on_servers("set by hand");
        let url = komainu.url_as(&role.name, CLIENTS_OWN, "postgres");
        eventually(PATIENCE, "it is refused", || !psql(&url, &["SELECT 1"]).success);
    };
    let mended = || {
        role.set_on_servers("kept secret");
        let url = komainu.url_as(&role.name, CLIENTS_OWN, "postgres");
        eventually(PATIENCE, "it is taken again", || psql(&url, &["SELECT 1"]).success);
    };

    for (fault, reason) in [
        (Fault::Throttle, "throttled"),
        (Fault::ServerError, "unreachable"),
        (Fault::Deny, "not_permitted"),
        (Fault::Delay(Duration::from_secs(5)), "unreachable"),
    ] {
        proxy.fault(&["GetSecretValue"], fault.clone(), None);
        is_refused();
        eventually(PATIENCE, reason, || troubles(&komainu, reason) == Some(1.0));
        mended();
        // Komainu has kept what the servers take again.
        let load = Load::start(&komainu, &role).await;
        load.goes_on().await;
        assert_eq!(troubles(&komainu, reason), Some(1.0), "{fault:?} was there all the time");
        load.stop().await;
        proxy.heal();
        eventually(PATIENCE, "it is fetched again", || troubles(&komainu, reason) == Some(0.0));
    }

    role.delete().await;
    is_refused();
    mended();
    eventually(PATIENCE, "its end is told", || troubles(&komainu, "secret_missing") == Some(1.0));
    let doctor = komainu.admin("/doctor").unwrap().body;
    assert!(doctor.contains(&role.arn) && doctor.contains("marked for deletion"), "{doctor}");
    komainu.says("secret_missing");
    let load = Load::start(&komainu, &role).await;
    load.goes_on().await;
    load.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_that_looks_has_its_password_there_too() {
    let (role, proxy) = (Role::create("first secret").await, proxy().await);
    let komainu = role.komainu(&proxy, &format!("[health]\nuser = \"{}\"\n", role.name));
    assert_eq!(psql(&komainu.url("postgres"), &["SELECT 42"]).output(), "42");
    role.put(2, "second secret").await;
    role.finish(2, 1).await;
    role.set_on_servers("second secret");
    // Its kept connections are ended, so that it has to log in again.
    let end =
        format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{}'", role.name);
    role.cluster.prepare("postgres", &end);
    eventually(PATIENCE, "it fetched the new one", || komainu.log().contains("the secret was rotated"));
    eventually(PATIENCE, "the primary is up", || psql(&komainu.url("postgres"), &["SELECT 42"]).success);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_given_a_secret_by_a_reload_uses_it() {
    let (role, proxy) = (Role::create("the secret").await, proxy().await);
    let komainu = role.komainu(
        &proxy,
        "[[server_user]]\nname = \"nobody\"\nsecret_arn = \"arn:aws:secretsmanager:us-east-1:1:secret:x\"\n",
    );
    assert!(
        komainu.connect_as(&role.name, CLIENTS_OWN, "postgres").await.is_err(),
        "its own is not the servers'"
    );
    komainu.reload("komainu.toml", "\"nobody\"", &format!("\"{}\"", role.name));
    komainu.reload("komainu.toml", "arn:aws:secretsmanager:us-east-1:1:secret:x", &role.arn);
    eventually_async(PATIENCE, "it is used", async || {
        komainu.connect_as(&role.name, CLIENTS_OWN, "postgres").await.is_ok()
    })
    .await;
}
