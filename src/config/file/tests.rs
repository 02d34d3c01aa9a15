//! Whole files, broken in one way each, and the examples of the documentation.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::client::userfile::{Secret, UserFile};
use crate::config::report::Finding;
use crate::config::{PoolMode, PreferenceTarget};

const SMALLEST: &str = "[listen]\naddresses = ['127.0.0.1:9999']\n[auth]\nhba_file = 'hba.conf'\n\
                        user_file = 'users.txt'\n[[server]]\nid = 's1'\nhost = 'db1'\n";

fn found(findings: &[Finding]) -> String {
    findings.iter().map(|finding| format!("{finding}\n")).collect()
}

/// What the text alone says is wrong.
fn problems(text: &str) -> String {
    match parse(text, Path::new("k.toml"), 4) {
        Ok(_) => String::new(),
        Err(report) => found(&report.problems),
    }
}

#[test]
fn a_server_is_looked_at_as_all_are_but_for_what_it_says_itself() {
    let text = format!(
        "{SMALLEST}health_retries = 7\nhealth_timeout_ms = 70\n[health]\nretries = 5\nperiod_ms = 500\n"
    );
    let (config, _) = parse(&text, Path::new("/etc/k.toml"), 3).unwrap();
    let health = config.health.of(&config.servers[0]);
    assert_eq!((health.retries, health.timeout_ms, health.period_ms), (7, 70, 500));
    assert_eq!(health.connect_timeout_ms, config.health.connect_timeout_ms);
    assert_eq!((config.health.retries, config.health.timeout_ms), (5, 1500));
    assert!(problems(&format!("{SMALLEST}health_period_ms = 1\n")).contains("server.health_period_ms"));
}

#[test]
fn the_smallest_file_has_the_documented_defaults() {
    let (config, warnings) = parse(SMALLEST, Path::new("/etc/k.toml"), 3).unwrap();
    assert_eq!(warnings, []);
    assert_eq!(config.workers, 3);
    assert_eq!(config.auth.hba_file, Path::new("/etc/hba.conf"));
    assert_eq!(config.auth.query, None);
    assert_eq!(config.limits.max_client_connections, 10_000);
    assert_eq!(config.limits.max_message_bytes, 0x3fff_ffff);
    assert_eq!((config.pool.limits.mode, config.pool.limits.size), (PoolMode::Transaction, 20));
    assert_eq!(config.pool.connect_timeout_ms, 15_000);
    assert_eq!(config.listen.unix_socket_mode, 0o777);
    assert_eq!((config.servers[0].port, config.servers[0].weight), (5432, 1));
    assert!(config.split.enabled);
}

#[test]
fn what_an_override_does_not_say_is_as_in_general() {
    let text = format!(
        "{SMALLEST}[pool]\nsize = 7\nreserve = 2\n[[pool.override]]\nuser = 'u'\nmode = 'session'\nmin = 1\n"
    );
    let (config, _) = parse(&text, Path::new("k.toml"), 1).unwrap();
    let limits = &config.pool.overrides[0].limits;
    assert_eq!((limits.mode, limits.size, limits.min, limits.reserve), (PoolMode::Session, 7, 1, 2));
    assert_eq!(limits.reserve_after_ms, 5000);
}

#[test]
fn keys_and_sections_that_are_none_are_refused_with_the_one_meant() {
    for (text, expected) in [
        ("worker = 2\n", "k.toml:1: worker: there is no such key; did you mean workers?"),
        (
            "prefer_same_zone = true\n",
            "k.toml:1: prefer_same_zone: there is no such key; it belongs in [split]",
        ),
        ("[pools]\nsize = 3\n", "k.toml:1: pools: there is no such section; did you mean [pool]?"),
        ("[[servers]]\nid = 'x'\n", "k.toml:1: servers: there is no such section; did you mean [[server]]?"),
        (
            "[[pool.overide]]\nuser = 'x'\n",
            "pool.overide: there is no such section; did you mean [[pool.override]]?",
        ),
        (
            "[limits]\nstartup-timeout = 3\n",
            "k.toml:2: limits.startup-timeout: there is no such key; did you mean startup_timeout_ms?",
        ),
        ("[limits]\nmax_lag_ms = 3\n", "limits.max_lag_ms: there is no such key; it belongs in [split]"),
        (
            "[pool]\nxyzzy = 3\n",
            "pool.xyzzy: there is no such key; remove it; docs/configuration.md lists them all",
        ),
        ("pool = 3\n", "k.toml:1: pool: this is a section, not a key; write [pool] above its keys"),
        (
            "[[pool]]\nsize = 3\n",
            "k.toml:1: pool: there may be only one of these; write [pool] above its keys",
        ),
        (
            "[pool.override]\nuser = 'x'\n",
            "pool.override: there may be several of these; write [[pool.override]]",
        ),
    ] {
        let problems = problems(&format!("{text}{SMALLEST}"));
        assert!(problems.contains(expected), "{text}: {problems}");
        assert_eq!(problems.lines().count(), 1, "{text}: {problems}");
    }
    let text = SMALLEST.replace("addresses = ['127.0.0.1:9999']", "port = 5432");
    assert!(
        problems(&text)
            .contains("k.toml:2: listen.port: there is no such key; write addresses = [\"127.0.0.1:9999\"]")
    );
}

#[test]
fn what_must_be_written_is_missed() {
    let expected = "k.toml: auth.hba_file: it is missing; write hba_file = … under [auth]\n\
                    k.toml: listen.addresses: it is missing; write addresses = … under [listen]\n\
                    k.toml: server: there is no server; add [[server]] with id and host\n";
    let mut lines: Vec<_> = problems("").lines().map(|line| format!("{line}\n")).collect();
    lines.sort();
    assert_eq!(lines.concat(), expected);
    let text = "[[server]]\nport = 1\n[auth.query]\n";
    for expected in
        ["k.toml:1: server.id: it is missing", "k.toml:1: server.host", "k.toml:3: auth.query.user"]
    {
        assert!(problems(text).contains(expected), "{}", problems(text));
    }
}

#[test]
fn keys_that_contradict_each_other_are_refused() {
    let server = |keys: &str| format!("[[server]]\nid = 's2'\nhost = 'db2'\n{keys}\n");
    for (text, expected) in [
        ("[pool]\nsize = 3\nmin = 4\n".to_owned(), ":11: pool.min: 4 is more than size, which is 3"),
        ("[pool]\nsize = 91\n".to_owned(), ":10: pool.size: 91 is more than pool.max_server_connections, which is 90"),
        ("[pool]\nreserve = 1\nreserve_after_ms = 30000\n".to_owned(), ":11: pool.reserve_after_ms: clients give up"),
        ("[[pool.override]]\nsize = 1\n".to_owned(), ":9: pool.override: it names neither a database nor a user"),
        ("[[pool.override]]\nuser = 'a'\nmin = 21\n".to_owned(), ":11: pool.override.min: 21 is more than size, which is 20"),
        (
            "[[pool.override]]\nuser = 'a'\n[[pool.override]]\nuser = 'a'\ndatabase = 'd'\n".to_owned(),
            ":11: pool.override: it is never reached: the one on line 9",
        ),
        ("[split]\nconsistency = 'bounded'\nmax_lag_ms = 0\n".to_owned(), ":10: split.consistency: \"bounded\" needs a bound"),
        ("[split]\nprefer_same_zone = true\n".to_owned(), ":10: split.prefer_same_zone: this node's zone is not known"),
        (
            "[split]\nread_only_functions = ['f']\nwrite_functions = ['f']\n".to_owned(),
            ":10: split.read_only_functions: \"f\" is among write_functions too",
        ),
        (
            "[[split.preference]]\nuser = 'a'\ntarget = { s9 = 1 }\n".to_owned(),
            ":11: split.preference.target: there is no server \"s9\"; the servers are s1",
        ),
        (
            "[[split.preference]]\ntarget = 'primary'\n[[split.preference]]\nuser = 'a'\ntarget = 'standbys'\n".to_owned(),
            ":11: split.preference: it is never reached: the one on line 9",
        ),
        ("[client_tls]\nmode = 'allow'\nkey_file = 'k'\n".to_owned(), ":10: client_tls.cert_file: it is missing"),
        ("[client_tls]\nmode = 'allow'\ncert_file = 'k'\n".to_owned(), ":10: client_tls.key_file: it is missing"),
        (
            "[client_tls]\nmode = 'verify'\nkey_file = 'k'\ncert_file = 'c'\n".to_owned(),
            ":10: client_tls.client_ca_file: it is missing",
        ),
        ("[server_tls]\nmode = 'verify-full'\n".to_owned(), ":10: server_tls.ca_file: it is missing"),
        ("[server_tls]\ncert_file = 'c'\n".to_owned(), ":10: server_tls.key_file: it is missing, and cert_file is there"),
        ("[server_tls]\nkey_file = 'c'\n".to_owned(), ":10: server_tls.cert_file: it is missing, and key_file is there"),
        ("[auth.query]\nuser = 'q'\nquery = 'select 1'\n".to_owned(), ":11: auth.query.query: it does not contain $1"),
        ("[admin]\naddress = '127.0.0.1:9999'\n".to_owned(), ":10: admin.address: 127.0.0.1:9999 is taken"),
        ("[log]\nlevel = 'inof'\n".to_owned(), ":10: log.level: \"inof\" is no level"),
        ("[log]\nlevel = 'a=b=c'\n".to_owned(), ":10: log.level: \"a=b=c\" is no level"),
        (server("").replace("s2", "s1"), ":10: server.id: \"s1\" is the server on line 7 already"),
        (server("").replace("s2", "a b"), ":10: server.id: \"a b\" is no server id"),
        (server("").replace("db2", "DB1"), ":11: server.host: DB1:5432 is the server on line 8 already"),
        (server("").replace("db2", "db2:5432"), ":11: server.host: \"db2:5432\" is more than a host"),
        (server("").replace("db2", "a, b"), ":11: server.host: \"a, b\" is no host"),
        (server("port = 9999").replace("db2", "localhost"), ":11: server.host: localhost:9999 is where komainu itself"),
    ] {
        let problems = problems(&format!("{SMALLEST}{text}"));
        assert!(problems.contains(expected), "{text}: {problems}");
        assert_eq!(problems.lines().count(), 1, "{text}: {problems}");
    }
    let text = SMALLEST.replace("host = 'db1'", "host = 'db1'\nweight = 0");
    assert!(problems(&text).contains(":9: server.weight: every server's weight is 0"));
    let text = SMALLEST.replace("9999']", "9999', '0.0.0.0:9999']");
    assert!(problems(&text).contains(":2: listen.addresses: 0.0.0.0:9999 is taken by 127.0.0.1:9999"));
    let text = SMALLEST.replace("user_file = 'users.txt'\n", "[auth.query]\nuser = 'q'\n");
    assert!(problems(&text).contains(":6: auth.query.user: there is no auth.user_file"));
    let given = "[[server_user]]\nname = 'q'\nsecret_arn = 'arn:aws:secretsmanager:r:1:secret:s'\n";
    let problems = problems(&format!("{text}{given}"));
    assert!(!problems.contains("auth.query.user"), "AWS gives its password: {problems}");
}

#[test]
fn settings_that_do_not_contradict_pass() {
    for text in [
        "[split]\nconsistency = 'bounded'\n",
        "[split]\nconsistency = 'bounded'\nmax_lag_ms = 0\nmax_lag_bytes = 1\n",
        "[[server]]\nid = 's2'\nhost = 'db1'\nport = 5433\nweight = 0\n",
        "[[server]]\nid = 's2'\nhost = '/run/postgresql'\nport = 9999\n",
        "[[server]]\nid = 's2'\nhost = '::1'\nport = 9999\n",
        "[admin]\naddress = '[::1]:9999'\n",
        "[log]\nlevel = 'info,komainu::pool=debug'\n",
        "[[pool.override]]\nuser = 'a'\n[[pool.override]]\ndatabase = 'a'\n[[pool.override]]\nuser = 'b'\n",
        "[[split.preference]]\nuser = 'a'\ntarget = { s1 = 1 }\n[[split.preference]]\ntarget = 'primary'\n",
    ] {
        assert_eq!(problems(&format!("{SMALLEST}{text}")), "", "{text}");
    }
}

#[test]
fn what_is_no_toml_is_told_by_line_without_what_follows_from_it() {
    let text = format!("workers = \n{SMALLEST}").replace("hba_file = 'hba.conf'", "hba_file = hba");
    let problems = problems(&text);
    assert!(
        problems.contains("k.toml:1: this is not TOML") && problems.contains("k.toml:5: this is not TOML"),
        "{problems}"
    );
    assert!(!problems.contains("missing"), "{problems}");
}

#[test]
fn one_report_has_everything_in_the_order_of_the_file() {
    let text = "workers = 'x'\n[listen]\naddresses = []\n[auth]\nhba_file = 3\n[pool]\nsize = 0\nmni = 1\n[[server]]\nid = ''\n";
    let lines: Vec<_> =
        problems(text).lines().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!(
        lines,
        ["k.toml:1:", "k.toml:3:", "k.toml:5:", "k.toml:7:", "k.toml:8:", "k.toml:9:", "k.toml:10:"]
    );
}

/// A directory with a configuration and the files it names, all in order until a test breaks one.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        files.write("k.toml", SMALLEST);
        files.write("hba.conf", "host all all 10.0.0.0/8 scram-sha-256\n");
        files.write("users.txt", "\"komainu\" \"secret\"\n");
        files
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).unwrap();
        self.permit(name, 0o600);
    }

    fn append(&self, text: &str) {
        self.write("k.toml", &format!("{SMALLEST}{text}"));
    }

    fn permit(&self, name: &str, mode: u32) {
        fs::set_permissions(self.0.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A certificate and its key, in PEM.
    fn certificate(&self, cert: &str, key: &str, not_after: i32) {
        let pair = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(not_after, 1, 1);
        self.write(cert, &params.self_signed(&pair).unwrap().pem());
        self.write(key, &pair.serialize_pem());
    }

    /// Problems and warnings, with the directory left out.
    fn load(&self) -> (String, String) {
        let (problems, warnings) = match load(&self.0.path().join("k.toml")) {
            Ok((_, warnings)) => (Vec::new(), warnings),
            Err(report) => (report.problems, report.warnings),
        };
        let directory = format!("{}/", self.0.path().display());
        (found(&problems).replace(&directory, ""), found(&warnings).replace(&directory, ""))
    }

    fn problems(&self) -> String {
        self.load().0
    }

    fn warnings(&self) -> String {
        let (problems, warnings) = self.load();
        assert_eq!(problems, "");
        warnings
    }
}

#[test]
fn files_in_order_give_no_complaint() {
    assert_eq!(Files::new().load(), (String::new(), String::new()));
}

#[test]
fn a_configuration_that_is_not_there_is_one_problem() {
    let report = load(Path::new("/nonexistent/k.toml")).unwrap_err();
    assert!(report.to_string().starts_with("/nonexistent/k.toml: it cannot be read: "), "{report}");
    assert!(load(Path::new("/dev/zero")).is_err());
}

#[test]
fn faults_of_the_named_files_are_in_the_same_report_with_their_own_lines() {
    let files = Files::new();
    files.append("[pool]\nsize = 0\n");
    files.write("hba.conf", "\nlocal all all peer\nhost all +x all md5\n");
    files.write("users.txt", "\"a\" \"b\"\nc d\n");
    let problems = files.problems();
    let starts: Vec<_> = problems.lines().map(|line| line.split_once(": ").unwrap().0).collect();
    assert_eq!(starts, ["k.toml:10", "hba.conf:2", "hba.conf:3", "users.txt:2"], "{problems}");
    assert!(problems.contains("hba.conf:3: user: \"+x\" is not supported"), "{problems}");
}

#[test]
fn files_that_cannot_be_read_are_told_where_they_are_named() {
    let files = Files::new();
    fs::remove_file(files.0.path().join("hba.conf")).unwrap();
    fs::remove_file(files.0.path().join("users.txt")).unwrap();
    let problems = files.problems();
    assert!(problems.contains("k.toml:4: auth.hba_file: hba.conf cannot be read"), "{problems}");
    assert!(problems.contains("k.toml:5: auth.user_file: users.txt cannot be read"), "{problems}");
    assert_eq!(problems.lines().count(), 2, "{problems}");
}

#[test]
fn secrets_that_others_can_read_are_warned_of() {
    let files = Files::new();
    files.permit("users.txt", 0o604);
    assert!(
        files.warnings().contains("k.toml:5: auth.user_file: users.txt can be read by others"),
        "{}",
        files.warnings()
    );
    let files = Files::new();
    files.certificate("c", "k", 2200);
    files.append("[client_tls]\nmode = 'allow'\ncert_file = 'c'\nkey_file = 'k'\n");
    assert_eq!(files.warnings(), "");
    files.permit("k", 0o644);
    assert!(
        files.warnings().contains("k.toml:12: client_tls.key_file: k can be read by others"),
        "{}",
        files.warnings()
    );
}

#[test]
fn the_role_of_the_auth_query_needs_a_plain_password() {
    let files = Files::new();
    files.append("[auth.query]\nuser = 'q'\n");
    assert!(
        files.problems().contains("k.toml:10: auth.query.user: auth.user_file does not name \"q\""),
        "{}",
        files.problems()
    );
    files.write("users.txt", "\"komainu\" \"x\"\n\"q\" \"md50123456789abcdef0123456789abcdef\"\n");
    assert!(
        files.problems().contains("auth.query.user: auth.user_file has only an md5 hash of \"q\""),
        "{}",
        files.problems()
    );
    files.write("users.txt", "\"komainu\" \"x\"\n\"q\" \"x\"\n");
    assert_eq!(files.load(), (String::new(), String::new()));
}

#[test]
fn the_health_role_without_a_password_is_warned_of() {
    let files = Files::new();
    files.write("users.txt", "\"a\" \"x\"\n");
    assert!(
        files.warnings().contains("health.user: there is no password for \"komainu\""),
        "{}",
        files.warnings()
    );
    files.append("[health]\npassword_file = 'pw'\n");
    assert!(
        files.problems().contains("k.toml:10: health.password_file: pw cannot be read"),
        "{}",
        files.problems()
    );
    files.write("pw", "\n");
    assert!(files.problems().contains("health.password_file: pw is empty"), "{}", files.problems());
    files.write("pw", "x\n");
    assert_eq!(files.load(), (String::new(), String::new()));
}

#[test]
fn a_role_whose_password_aws_gives_needs_none_in_a_file() {
    let files = Files::new();
    files.write("users.txt", "\"a\" \"x\"\n");
    files.append("[auth.query]\nuser = 'komainu'\n");
    assert!(files.problems().contains("auth.query.user"), "{}", files.problems());
    let given = "[[server_user]]\nname = 'komainu'\nsecret_arn = 'arn:aws:secretsmanager:r:1:secret:s'\n";
    files.append(&format!("[auth.query]\nuser = 'komainu'\n{given}"));
    assert_eq!(files.load(), (String::new(), String::new()));
    files.append(&format!("[health]\npassword_file = 'pw'\n{given}region = 'r'\n"));
    files.write("pw", "x\n");
    let warnings = files.warnings();
    assert!(warnings.contains("health.password_file: it is not used"), "{warnings}");
    assert!(warnings.contains("server_user.region: it is not used"), "{warnings}");
}

#[test]
fn hba_rules_that_the_configuration_cannot_serve_are_told() {
    let files = Files::new();
    files.write("hba.conf", "");
    assert!(files.warnings().contains("hba.conf: it has no rule"), "{}", files.warnings());
    files.write("hba.conf", "hostssl all all all md5\n");
    assert!(
        files.warnings().contains("hba.conf:1: type: nobody ever matches this line"),
        "{}",
        files.warnings()
    );
    files.write(
        "hba.conf",
        "host all all 127.0.0.0/8 trust\nlocal all all trust\nhost all all 0.0.0.0/0 trust\n",
    );
    assert!(files.warnings().contains("hba.conf:3: method: trust lets in"), "{}", files.warnings());
    assert_eq!(files.warnings().lines().count(), 1);
    files.write(
        "hba.conf",
        "host replication all all reject\nhost shop,replication all all md5\nhost \"replication\" all all md5\n",
    );
    let warnings = files.warnings();
    assert!(
        warnings.contains("hba.conf:2: database: komainu passes no replication connection on"),
        "{warnings}"
    );
    assert_eq!(warnings.lines().count(), 1);
    files.certificate("c", "k", 2200);
    files.append("[client_tls]\nmode = 'allow'\ncert_file = 'c'\nkey_file = 'k'\n");
    files.write("hba.conf", "hostssl all all all cert\n");
    assert!(
        files.problems().contains("hba.conf:1: method: certificates cannot be verified"),
        "{}",
        files.problems()
    );
    files.write("k.toml", &SMALLEST.replace("user_file = 'users.txt'\n", ""));
    files.write("hba.conf", "local all all trust\nlocal all all scram-sha-256\n");
    assert!(
        files.problems().contains("hba.conf:2: method: scram-sha-256 needs the users' secrets"),
        "{}",
        files.problems()
    );
}

#[test]
fn certificates_and_keys_must_belong_together_and_be_what_they_are_called() {
    let files = Files::new();
    files.certificate("c", "k", 2200);
    files.certificate("old", "old.key", 2001);
    files.write("junk", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let tls = |cert: &str, key: &str, ca: &str| {
        let ca = if ca.is_empty() { String::new() } else { format!("client_ca_file = '{ca}'\n") };
        files
            .append(&format!("[client_tls]\nmode = 'allow'\ncert_file = '{cert}'\nkey_file = '{key}'\n{ca}"));
    };
    for (cert, key, ca, expected) in [
        ("c", "old.key", "", "k.toml:12: client_tls.key_file: it is not the key of the first certificate"),
        ("k", "k", "", "k.toml:11: client_tls.cert_file: k has no certificate"),
        ("c", "c", "", "k.toml:12: client_tls.key_file: c has no private key"),
        ("none", "k", "", "k.toml:11: client_tls.cert_file: none cannot be read"),
        ("junk", "k", "", "k.toml:11: client_tls.cert_file: junk is no X.509 certificate"),
        ("c", "k", "k", "k.toml:13: client_tls.client_ca_file: k has no certificate"),
        (
            "c",
            "k",
            "junk",
            "k.toml:13: client_tls.client_ca_file: junk has a certificate that cannot be used",
        ),
    ] {
        tls(cert, key, ca);
        let problems = files.problems();
        assert!(problems.contains(expected), "{cert} {key} {ca}: {problems}");
    }
    tls("c", "k", "c");
    assert_eq!(files.load(), (String::new(), String::new()));
    tls("old", "old.key", "");
    assert!(files.warnings().contains("client_tls.cert_file: old expired on"), "{}", files.warnings());
}

#[test]
fn directories_of_sockets_must_exist() {
    let files = Files::new();
    files.append("[admin]\nsocket = 'none/s'\n");
    assert!(
        files.problems().contains("k.toml:10: admin.socket: none is no directory"),
        "{}",
        files.problems()
    );
    files.write("k.toml", &SMALLEST.replace("[auth]", "unix_socket_directory = 'none'\n[auth]"));
    assert!(
        files.problems().contains("k.toml:3: listen.unix_socket_directory: none is no"),
        "{}",
        files.problems()
    );
}

#[test]
fn the_authority_of_the_nodes_must_be_there() {
    let files = Files::new();
    let nodes = ["a", "b", "c"].map(|id| format!("[[node]]\nid = '{id}'\nhost = 'h{id}'\n")).concat();
    files.append(&format!("[cluster]\nname = 'shop'\npki_directory = 'p'\n{nodes}"));
    let problems = files.problems();
    assert!(problems.contains("k.toml:11: cluster.pki_directory: p/ca.crt cannot be read"), "{problems}");
    fs::create_dir(files.0.path().join("p")).unwrap();
    files.certificate("p/ca.crt", "p/unused.key", 2200);
    assert_eq!(files.load(), (String::new(), String::new()));
}

/// The code blocks of the documentation, in order.
fn documented_blocks() -> Vec<&'static str> {
    let text = include_str!("../../../docs/configuration.md");
    text.split("```").skip(1).step_by(2).map(|block| block.split_once('\n').unwrap().1).collect()
}

#[test]
fn the_smallest_files_of_the_documentation_work() {
    let files = Files::new();
    let blocks = documented_blocks();
    files.write("k.toml", blocks[0]);
    files.write("pool_hba.conf", blocks[1]);
    files.write("users.txt", blocks[2]);
    assert_eq!(files.load(), (String::new(), String::new()));
}

#[test]
fn the_example_files_work() {
    let files = Files::new();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/example");
    for name in ["pool_hba.conf", "users.txt"] {
        files.write(name, &fs::read_to_string(example.join(name)).unwrap());
    }
    files.write("k.toml", &fs::read_to_string(example.join("komainu.toml")).unwrap());
    fs::create_dir(files.0.path().join("tls")).unwrap();
    files.certificate("tls/node.crt", "tls/node.key", 2200);
    files.certificate("tls/clients-ca.crt", "tls/unused.key", 2200);
    files.certificate("tls/servers-ca.crt", "tls/unused.key", 2200);
    assert_eq!(files.load(), (String::new(), String::new()));
    let (config, _) = load(&files.0.path().join("k.toml")).unwrap();
    assert_eq!(config.split.preferences[0].target, PreferenceTarget::Servers(vec![("standby-c".into(), 1)]));
    let users = UserFile::parse(&fs::read_to_string(example.join("users.txt")).unwrap()).unwrap();
    let Some(Secret::Scram(verifier)) = users.get("alice") else { panic!("{users:?}") };
    assert!(verifier.accepts(b"example").is_some(), "the file says that the password is example");
}

proptest::proptest! {
    #![proptest_config(crate::properties::properties())]

    /// Lines of the example, each kept, cut short or given another value.
    #[test]
    fn a_damaged_file_never_panics(damage in proptest::collection::vec((0..4u8, "[-'\"\\[\\]{}=.a-z0-9]{0,6}"), 90)) {
        let lines = include_str!("../../../docs/example/komainu.toml").lines().zip(&damage);
        let damaged = lines.map(|(line, (kind, text))| match kind {
            0 => format!("{text}\n"),
            1 => format!("{} = {text}\n", line.split('=').next().unwrap_or_default()),
            _ => format!("{line}\n"),
        });
        let _ = parse(&damaged.collect::<String>(), Path::new("k.toml"), 1);
    }
}
