//! The commands that ask a running node, on one that is on its own: what they print, and their exit codes.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output};

use komainu::pki::{AUTHORITY_DAYS, Authority, NODE_DAYS};
use komainu::sandbox::ReservedPort;

use super::support::*;

pub fn komainu(arguments: &[&str], socket: Option<&Path>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_komainu"));
    command.args(arguments).env_remove("KOMAINU_ADMIN");
    if let Some(socket) = socket {
        command.env("KOMAINU_ADMIN", socket);
    }
    command.output().unwrap()
}

/// Exit code, standard output, standard error.
pub fn ask(node: &Komainu, arguments: &[&str]) -> (i32, String, String) {
    let output = komainu(arguments, Some(&node.directory().join("admin.sock")));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn refuses(node: &Komainu) -> bool {
    TcpStream::connect(("127.0.0.1", node.port())).is_err()
}

#[test]
fn status_and_doctor_tell_of_a_node_and_of_the_lack_of_one() {
    let node = Komainu::start(Cluster::shared());
    let (code, out, err) = ask(&node, &["status"]);
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert!(
        out.starts_with("a node of its own, komainu ") && out.contains("\nprimary pg1, epoch 1\n"),
        "{out}"
    );
    let (code, out, _) = ask(&node, &["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &status["primary"], &status["node"]), (0, &"pg1".into(), &serde_json::Value::Null));
    eventually(PATIENCE, "nothing is wrong", || ask(&node, &["doctor"]).0 == 0);
    assert!(ask(&node, &["doctor", "--all"]).1.contains("it is the primary of epoch 1"));

    let nobody = node.directory().join("nobody.sock");
    let output = komainu(&["status"], Some(&nobody));
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(err.contains("nobody.sock") && err.contains("is it running"), "{err}");
    let help = String::from_utf8(komainu(&["status", "--help"], None).stdout).unwrap();
    assert!(help.contains("[default: /run/komainu/admin.sock]"), "where the package's unit has it: {help}");
}

#[test]
fn sessions_and_pools_show_who_has_what_and_who_waits() {
    let database = Cluster::shared().database();
    let node = Komainu::start_with(Cluster::shared(), "[pool]\nsize = 1\n");
    let page = |arguments: &[&str]| -> serde_json::Value {
        let (code, out, err) = ask(&node, &[arguments, &["--json"]].concat());
        assert_eq!(code, 0, "{err}");
        serde_json::from_str(&out).unwrap()
    };
    let states = || -> Vec<_> {
        let all = page(&["sessions"]);
        let text = |session: &serde_json::Value, key: &str| session[key].as_str().unwrap_or("-").to_owned();
        let told = |session| ["state", "waiting_for", "server"].map(|key| text(session, key)).join(" ");
        all["sessions"].as_array().unwrap().iter().map(told).collect()
    };
    let mut holder = node.login(&database);
    let mut waiter = node.login(&database);
    assert_eq!(states(), ["idle client -", "idle client -"]);
    holder.query("LISTEN news");
    eventually(PATIENCE, "it keeps its connection", || states()[0] == "idle client pg1");
    assert_eq!(page(&["sessions"])["sessions"][0]["pinned"], serde_json::json!(["listen"]));
    holder.query("BEGIN");
    eventually(PATIENCE, "it is in a transaction", || states()[0] == "idle in transaction client pg1");
    let waiting = std::thread::spawn(move || {
        waiter.query("CREATE TABLE t (n int)");
        waiter
    });
    eventually(PATIENCE, "the other one waits", || states()[1] == "waiting connection pg1");
    let pools = page(&["pools", "--database", &database]);
    let pool = pools["pools"].as_array().unwrap().iter().find(|pool| pool["server"] == "pg1").unwrap();
    let numbers = ["open", "idle", "leased", "waiting", "size"].map(|key| pool[key].as_u64().unwrap());
    assert_eq!((numbers, pool["user"].as_str()), ([1, 0, 1, 1, 1], Some(APP_USER)));
    assert!(pool["longest_wait_ms"].is_u64(), "{pool}");
    assert!(pools["servers"].as_array().unwrap().iter().any(|server| server["server"] == "pg1"), "{pools}");
    holder.query("SELEC");
    eventually(PATIENCE, "it failed", || states()[0] == "idle in transaction (aborted) client pg1");
    drop(holder);
    let waiter = waiting.join().unwrap();
    eventually(PATIENCE, "one is left", || states() == ["idle client -"]);

    assert_eq!(page(&["sessions", "--user", "somebody"])["total"], 0);
    let (_, out, _) = ask(&node, &["sessions"]);
    assert!(out.starts_with("ID  USER") && out.contains(&database), "{out}");
    assert_eq!(
        ask(&node, &["sessions", "--limit", "0"]).1.lines().last(),
        Some("0 of 1 sessions: --limit shows more")
    );
    assert!(ask(&node, &["pools"]).1.contains("OPEN IN ALL"));
    drop(waiter);
}

#[test]
fn health_tells_how_the_probes_fare() {
    let cluster = Cluster::start(0);
    let node = Komainu::start(&cluster);
    let server = || -> serde_json::Value {
        let (code, out, err) = ask(&node, &["health", "--json"]);
        assert_eq!(code, 0, "{err}");
        serde_json::from_str::<serde_json::Value>(&out).unwrap()["servers"][0].take()
    };
    let before = server();
    assert_eq!((&before["server"], &before["failed"]), (&"pg1".into(), &0.into()));
    assert!(before["average_ms"].as_f64().unwrap() > 0.0, "{before}");
    assert!(before["longest_ms"].as_f64() >= before["shortest_ms"].as_f64());
    cluster.primary().kill();
    eventually(PATIENCE, "looks fail", || server()["failed_in_a_row"].as_u64() > Some(1));
    let down = server();
    assert!(down["looks"].as_u64() > before["looks"].as_u64());
    assert!(down["last_failure"]["at_ms"].as_u64() > before["last_answered_at_ms"].as_u64(), "{down}");
    assert!(ask(&node, &["health"]).1.contains(down["last_failure"]["reason"].as_str().unwrap()));
    cluster.primary().start().unwrap();
    eventually(PATIENCE, "they are answered again", || server()["failed_in_a_row"] == 0);
    assert_ne!(server()["last_failure"], serde_json::Value::Null, "the last failure is remembered");
}

#[test]
fn what_takes_a_cluster_says_so_on_a_node_of_its_own() {
    let node = Komainu::start(Cluster::shared());
    for arguments in [
        &["config", "show"][..],
        &["config", "history"],
        &["config", "rollback", "1"],
        &["events"],
        &["node", "replace", "b"],
        &["node", "remove", "b"],
    ] {
        let (code, out, err) = ask(&node, arguments);
        assert_eq!((code, out.as_str()), (1, ""), "{arguments:?}: {err}");
        assert!(err.contains("on its own") && err.contains("komainu.toml"), "{arguments:?}: {err}");
    }
    let (code, _, err) = ask(&node, &["endpoint", "move", "--to", "b"]);
    assert_eq!(code, 64, "{err}");
    let (code, _, err) = ask(&node, &["config", "apply", "/nowhere/komainu.toml"]);
    assert!(code == 64 && err.contains("/nowhere/komainu.toml cannot be read"), "{err}");
}

#[test]
fn a_reload_says_what_changed_or_what_is_wrong() {
    let node = Komainu::start_with(Cluster::shared(), "[pool]\nsize = 5\n");
    assert_eq!(ask(&node, &["reload"]), (0, "reloaded; no key has changed\n".into(), String::new()));
    let write = |from: &str, to: &str| {
        let text = std::fs::read_to_string(node.config_file()).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(node.config_file(), text.replacen(from, to, 1)).unwrap();
    };
    write("size = 5", "size = 6");
    write("workers = 2", "workers = 1");
    let (code, out, _) = ask(&node, &["reload"]);
    assert_eq!((code, out.as_str()), (0, "reloaded: pool.size\nthese change only with a restart: workers\n"));
    write("size = 6", "size = 0");
    let (code, out, err) = ask(&node, &["reload"]);
    assert_eq!((code, out.as_str()), (64, ""));
    assert!(err.contains("pool.size"), "{err}");
    write("size = 0", "size = 6");
    let (code, out, _) = ask(&node, &["reload", "--json"]);
    let reloaded: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &reloaded["changed"]), (0, &serde_json::json!([])), "what was wrong changed nothing");
}

#[test]
fn the_log_is_rotated_by_length_by_command_and_by_whoever_moves_it() {
    let builder = Komainu::builder(Cluster::shared());
    let log = builder.directory().join("k.log");
    let older = |number: u32| builder.directory().join(format!("k.log.{number}"));
    let older = [1, 2, 3].map(older);
    let keys = format!("file = {log:?}\nkeep_files = 2\n");
    let node = builder.config(&format!("[log]\n{keys}")).start();
    let text = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    eventually(PATIENCE, "it logs there", || text(&log).contains("komainu is listening"));
    let (code, out, err) = ask(&node, &["log", "rotate"]);
    assert_eq!((code, out), (0, format!("{} was begun anew\n", log.display())), "{err}");
    assert!(text(&older[0]).contains("komainu is listening") && !text(&log).contains("komainu is listening"));

    // As logrotate does.
    let moved = node.directory().join("moved");
    std::fs::rename(&log, &moved).unwrap();
    node.signal(rustix::process::Signal::USR1);
    eventually(PATIENCE, "there is a new one", || log.exists());
    ask(&node, &["reload"]);
    eventually(PATIENCE, "it is written to", || text(&log).contains("configuration reloaded"));

    let config = std::fs::read_to_string(node.config_file()).unwrap();
    std::fs::write(
        node.config_file(),
        config.replace("keep_files = 2", "keep_files = 2\nrotate_bytes = 100"),
    )
    .unwrap();
    assert!(ask(&node, &["reload"]).1.contains("log.rotate_bytes"));
    for _ in 0..5 {
        ask(&node, &["reload"]);
    }
    eventually(PATIENCE, "each line has a file of its own", || text(&log).lines().count() == 1);
    assert!(older[1].exists() && !older[2].exists(), "two are kept");
    assert!(!node.log().contains("configuration reloaded"), "stderr has none of it");

    let on_stderr = Komainu::start(Cluster::shared());
    let (code, _, err) = ask(&on_stderr, &["log", "rotate"]);
    assert!(code == 1 && err.contains("log.file"), "{err}");
}

#[test]
fn whoever_has_the_token_commands_over_tls() {
    let port = ReservedPort::any().unwrap();
    let builder = Komainu::builder(Cluster::shared());
    let pki = builder.directory().join("pki");
    let authority = Authority::create(&pki, "shop", AUTHORITY_DAYS).unwrap();
    authority.issue("gate", &[], &["127.0.0.1".parse().unwrap()], NODE_DAYS).unwrap();
    let (token, wrong) = (builder.directory().join("token"), builder.directory().join("wrong"));
    let keys = format!(
        "[admin]\ntls_address = \"127.0.0.1:{}\"\ncert_file = {:?}\nkey_file = {:?}\ntoken_file = {token:?}\n",
        port.number(),
        pki.join("gate.crt"),
        pki.join("gate.key"),
    );
    let (first, second) = ("first-0123456789abcdef0123456789", "second-0123456789abcdef0123456789");
    let node = builder.config(&keys).file("token", first).file("wrong", second).start();
    let ca = pki.join("ca.crt");
    let over_tls = |arguments: &[&str], token: &Path, ca: Option<&Path>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_komainu"));
        command.args(arguments).env("KOMAINU_ADMIN", format!("https://127.0.0.1:{}", port.number()));
        command.arg("--token-file").arg(token);
        command.args(ca.iter().flat_map(|ca| [Path::new("--ca-file"), ca]));
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    let (code, out, err) = over_tls(&["sessions"], &token, Some(&ca));
    assert!(code == 0 && out.starts_with("ID  USER"), "{err}");
    let (code, out, err) = over_tls(&["reload"], &token, Some(&ca));
    assert_eq!((code, out.as_str()), (0, "reloaded; no key has changed\n"), "{err}");
    for page in ["status", "doctor", "sessions", "reload"] {
        let (code, out, err) = over_tls(&[page], &wrong, Some(&ca));
        assert_eq!((code, out.as_str()), (1, ""), "{page}");
        assert!(err.contains("--token-file") && !err.contains("0123456789"), "{err}");
    }
    let (code, _, err) = over_tls(&["status"], &token, None);
    assert!(code != 0 && err.contains("--ca-file"), "nobody vouches for it: {err}");

    std::fs::copy(&wrong, &token).unwrap();
    assert_eq!(over_tls(&["status"], &token, Some(&ca)).0, 1, "the old one counts");
    assert_eq!(ask(&node, &["reload"]).0, 0);
    assert_eq!(over_tls(&["status"], &token, Some(&ca)).0, 0, "the new one counts");
    let (code, out, err) = over_tls(&["stop"], &token, Some(&ca));
    assert_eq!((code, out.as_str()), (0, "it has stopped\n"), "{err}");
    assert!(node.wait(PATIENCE).success());
    for secret in [first, second] {
        assert!(!node.log().contains(secret));
    }

    let unix = node.directory().join("admin.sock");
    let (code, _, err) = ask(&node, &["status", "--admin", "http://127.0.0.1:1"]);
    assert!(code == 64 && err.contains("in clear"), "{err}");
    let (code, _, err) = ask(&node, &["status", "--admin", "127.0.0.1:1"]);
    assert!(
        code == 64 && err.contains("admin.address serves no orders: give the path of admin.socket"),
        "{err}"
    );
    let (code, _, err) = ask(&node, &["status", "--admin", "https://127.0.0.1:1"]);
    assert!(code == 64 && err.contains("--token-file"), "{err}");
    assert!(!unix.exists());
}

#[test]
fn doctor_names_each_certificate_that_ends_soon() {
    let builder = Komainu::builder(Cluster::shared());
    let pki = builder.directory().join("pki");
    let authority = Authority::create(&pki, "shop", 25).unwrap();
    for (id, days) in [("gate", 12), ("front", 9), ("lasting", 20)] {
        authority.issue(id, &[], &["127.0.0.1".parse().unwrap()], days).unwrap();
    }
    let file = |name: &str| pki.join(name);
    let port = ReservedPort::any().unwrap();
    let keys = format!(
        "[admin]\ntls_address = \"127.0.0.1:{}\"\ncert_file = {:?}\nkey_file = {:?}\ntoken_file = {:?}\n\
         [client_tls]\nmode = \"allow\"\ncert_file = {:?}\nkey_file = {:?}\nclient_ca_file = {:?}\n",
        port.number(),
        file("gate.crt"),
        file("gate.key"),
        builder.directory().join("token"),
        file("front.crt"),
        file("front.key"),
        file("ca.crt"),
    );
    let node = builder.config(&keys).file("token", "first-0123456789abcdef0123456789").start();
    let told = |key: &str, name: &str, days: u32| {
        let line = format!("{}: the certificate of CN={name} ends: {days} days left", file(key).display());
        move |text: &str| text.contains(&line)
    };
    let gate = told("gate.crt", "gate.shop.komainu", 11);
    let front = told("front.crt", "front.shop.komainu", 8);
    let (code, out, err) = ask(&node, &["doctor"]);
    assert_eq!((code, err.as_str()), (2, ""), "{out}");
    for (key, is_told) in [("admin.cert_file", &gate), ("client_tls.cert_file", &front)] {
        assert!(out.lines().any(|line| line.contains(key) && is_told(line)), "{key}:\n{out}");
        eventually(PATIENCE, "the log tells too", || is_told(&node.log()));
    }
    assert!(
        out.lines().any(|line| line.contains("client_tls.client_ca_file") && line.contains("24 days left")),
        "{out}"
    );

    // A renewed one is seen at once.
    Authority::open(&pki).unwrap().renew("gate", 24).unwrap();
    let out = ask(&node, &["doctor"]).1;
    assert!(!gate(&out) && front(&out), "{out}");
    std::fs::remove_file(file("ca.crt")).unwrap();
    let out = ask(&node, &["doctor"]).1;
    let unknown = |line: &str| line.starts_with("unknown") && line.contains("ca.crt");
    assert!(out.lines().any(unknown), "{out}");
}

#[test]
fn debugging_goes_to_the_terminal_whatever_the_file_says() {
    let builder = Komainu::builder(Cluster::shared());
    let log = builder.directory().join("k.log");
    let node = builder
        .config(&format!("[log]\nlevel = \"error\"\nformat = \"json\"\nfile = {log:?}\n"))
        .arguments(&["--debug"])
        .start();
    drop(node.login(&Cluster::shared().database()));
    eventually(PATIENCE, "it is told in text", || node.log().contains("DEBUG client{session=1"));
    ask(&node, &["reload"]);
    drop(node.login(&Cluster::shared().database()));
    eventually(PATIENCE, "a reload does not end it", || node.log().contains("DEBUG client{session=2"));
    assert!(!log.exists());
}

#[test]
fn a_smart_stop_waits_for_clients_and_takes_no_new_ones() {
    let node = Komainu::start(Cluster::shared());
    let mut session = node.login(&Cluster::shared().database());
    let (code, out, _) = ask(&node, &["stop", "--mode", "smart", "--no-wait"]);
    assert_eq!((code, out.as_str()), (0, "it is stopping\n"));
    eventually(PATIENCE, "it turns new clients away", || refuses(&node));
    assert_eq!(session.query_value("SELECT 1"), "1", "who is there goes on");
    assert_eq!(session.query_value("SELECT 2"), "2");
    drop(session);
    assert!(node.wait(PATIENCE).success());
}

#[test]
fn a_stop_with_less_patience_is_obeyed_and_waited_for() {
    let node = Komainu::start(Cluster::shared());
    let mut session = node.login(&Cluster::shared().database());
    session.query("BEGIN");
    for mode in ["smart", "fast"] {
        assert_eq!(ask(&node, &["stop", "--no-wait", "--mode", mode]).0, 0);
    }
    eventually(PATIENCE, "it turns new clients away", || refuses(&node));
    assert_eq!(session.query_value("SELECT 1"), "1", "a transaction may end");
    let (code, out, _) = ask(&node, &["stop", "--mode", "immediate"]);
    assert_eq!((code, out.as_str()), (0, "it has stopped\n"));
    assert!(node.wait(PATIENCE).success());
    let last = session.expect_end();
    assert!(last.iter().any(|message| message.tag == 'E' && message.sqlstate() == "57P01"), "{last:?}");
}
