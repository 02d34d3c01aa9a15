//! Who gets in: every method with every kind of secret, and when a right is lost.

use std::time::Duration;

use komainu::sandbox::ReservedPort;

use super::support::{APP_PASSWORD, APP_USER, Certificates, Cluster, Komainu, Wire, eventually, psql};
use super::tls::speak_tls;

const PASSWORD: &str = "s3cret of matrix";
/// The longest that a lost right may go on working.
const STATED: Duration = Duration::from_secs(12);

fn verifier(cluster: &Cluster, user: &str) -> String {
    cluster
        .primary()
        .psql("postgres", &format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{user}'"))
        .unwrap()
}

/// `Ok` when a session begins, else SQLSTATE and text.
fn try_login(mut wire: Wire, user: &str, password: &str, database: &str) -> Result<Wire, (String, String)> {
    wire.startup(&[("user", user), ("database", database)]);
    let last = wire.authenticate(user, password);
    if last.tag == 'Z' { Ok(wire) } else { Err((last.sqlstate(), last.text())) }
}

#[test]
fn no_method_lets_in_without_proof() {
    let cluster = Cluster::shared();
    let (user, md5_user) = ("matrix", "matrix_md5");
    for (name, encryption) in [(user, "scram-sha-256"), (md5_user, "md5")] {
        let sql = format!(
            "SET password_encryption = '{encryption}'; CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'"
        );
        cluster.prepare("postgres", &sql);
    }
    let secrets = [
        ("plain", user, PASSWORD.to_owned()),
        ("verifier", user, verifier(cluster, user)),
        ("md5", md5_user, verifier(cluster, md5_user)),
    ];
    for (kind, user, secret) in &secrets {
        let builder = Komainu::builder(cluster);
        let certificates = Certificates::create(builder.directory());
        let (certificate, key) = certificates.server("gate");
        let hba: String = ["trust", "reject", "scram-sha-256", "md5", "password", "cert"]
            .iter()
            .zip(["d_trust", "d_reject", "d_scram", "d_md5", "d_password", "d_cert"])
            .map(|(method, database)| {
                let kind = if ["cert", "password"].contains(method) { "hostssl" } else { "host" };
                format!("{kind} {database} all all {method}\n")
            })
            .collect();
        let komainu = builder
            .hba(&hba)
            .user(user, secret)
            .config(&format!(
                "[client_tls]\nmode = \"allow\"\ncert_file = {certificate:?}\nkey_file = {key:?}\nclient_ca_file = {:?}\n",
                certificates.authority_file()
            ))
            .start();
        for database in ["d_reject", "d_scram", "d_md5", "d_password", "d_cert"] {
            for tls in [false, true] {
                for password in ["wrong", "", secret.as_str()] {
                    if password == PASSWORD {
                        continue;
                    }
                    let wire = if tls {
                        Wire::tls(komainu.port(), certificates.authority_pem())
                    } else {
                        komainu.wire()
                    };
                    let result = try_login(wire, user, password, database);
                    let (state, _) = result.err().unwrap_or_else(|| panic!("{kind} let in by {database}"));
                    assert!(state.starts_with("28"), "{kind} {database} tls {tls}: {state}");
                }
            }
        }
        // The right password goes as far as the server, which has no such database.
        let right: Vec<(&str, bool)> = match *kind {
            "plain" => vec![("d_scram", false), ("d_scram", true), ("d_md5", false), ("d_password", true)],
            "verifier" => vec![("d_scram", false), ("d_scram", true), ("d_md5", false), ("d_password", true)],
            // The server, which wants SCRAM, has no use for an MD5 user's password.
            _ => vec![("d_md5", false)],
        };
        for (database, tls) in right {
            let wire =
                if tls { Wire::tls(komainu.port(), certificates.authority_pem()) } else { komainu.wire() };
            let (state, text) = try_login(wire, user, PASSWORD, database).err().unwrap();
            assert!(state != "28P01", "{kind} {database} tls {tls}: {state} {text}");
        }
        let plain_password = try_login(komainu.wire(), user, PASSWORD, "d_password").err().unwrap();
        assert!(plain_password.0.starts_with("28"), "a password in clear needs TLS: {plain_password:?}");
    }
}

#[test]
fn a_verifier_is_enough_for_both_sides() {
    let cluster = Cluster::shared();
    cluster.prepare("postgres", &format!("CREATE ROLE passing LOGIN PASSWORD '{PASSWORD}'"));
    let komainu = Komainu::builder(cluster).user("passing", &verifier(cluster, "passing")).start();
    let mut wire = try_login(komainu.wire(), "passing", PASSWORD, "postgres").ok().unwrap();
    assert_eq!(wire.query_value("SELECT current_user || '/' || session_user"), "passing/passing");
    assert!(try_login(komainu.wire(), "passing", "wrong", "postgres").is_err());
}

#[test]
fn an_md5_hash_is_enough_for_a_server_that_asks_for_md5() {
    let cluster = Cluster::start_with(0, |options| {
        options.hba.push("host all hashed samehost md5".into());
    });
    cluster.primary().psql("postgres", &format!("SET password_encryption = 'md5'; CREATE ROLE hashed LOGIN PASSWORD '{PASSWORD}'; CREATE ROLE proven LOGIN PASSWORD '{PASSWORD}'")).unwrap();
    let hash = verifier(&cluster, "hashed");
    let hba = "host trusting all all trust\nhost all all all md5\n";
    cluster.primary().psql("postgres", "CREATE DATABASE trusting").unwrap();
    // From the user file, and looked up on the server.
    let from_file = Komainu::builder(&cluster).hba(hba).user("hashed", &hash).user("proven", &hash);
    let looked_up = Komainu::builder(&cluster).hba(hba).config("[auth.query]\nuser = \"postgres\"\n");
    for komainu in [from_file.start(), looked_up.start()] {
        for (database, password) in [("postgres", PASSWORD), ("trusting", "")] {
            let mut wire = try_login(komainu.wire(), "hashed", password, database).ok().unwrap();
            assert_eq!(wire.query_value("SELECT session_user"), "hashed");
        }
        assert_eq!(try_login(komainu.wire(), "hashed", "wrong", "postgres").err().unwrap().0, "28P01");
        // A server that asks for SCRAM cannot be answered; the client reads no more than that.
        let (state, text) = try_login(komainu.wire(), "proven", PASSWORD, "trusting").err().unwrap();
        assert_eq!((state.as_str(), text.as_str()), ("28000", "the login to the server failed"));
    }
}

/// What only an operator can mend is no outage to wait for.
#[test]
fn a_server_whose_question_is_not_answered_refuses_the_login_at_once_and_says_what_to_do() {
    let cluster = Cluster::shared();
    // Of the password, with one round.
    let verifier = "SCRAM-SHA-256$1:MDEyMzQ1Njc4OWFiY2RlZg==$fhL5UCkVtt45RkLLrjtizwv6i0IT86SAflxD61R4qUY=:1aPCl1deBtHG8jN+qMBSWxtMFWm+4M1MZNa+2np8+t0=";
    cluster.prepare("postgres", &format!("CREATE ROLE few_rounds LOGIN PASSWORD '{verifier}'"));
    let komainu = Komainu::builder(cluster)
        .user("few_rounds", PASSWORD)
        .config("[limits]\nhold_timeout_ms = 600000\n[pool]\nacquire_timeout_ms = 600000\n")
        .start();
    for _ in 0..2 {
        let (state, text) = try_login(komainu.wire(), "few_rounds", PASSWORD, "postgres").err().unwrap();
        assert_eq!(state, "28000", "{text}");
        assert!(text.contains("a higher scram_iterations"), "{text}");
    }
}

#[test]
fn an_unknown_user_reads_what_a_wrong_password_reads() {
    let cluster = Cluster::shared();
    let komainu = Komainu::start(cluster);
    let known = try_login(komainu.wire(), APP_USER, "wrong", "postgres").err().unwrap();
    let unknown = try_login(komainu.wire(), "nobody_at_all", "wrong", "postgres").err().unwrap();
    assert_eq!(known.0, "28P01");
    assert_eq!(unknown.0, known.0);
    assert_eq!(unknown.1.replace("nobody_at_all", APP_USER), known.1);
}

#[test]
fn the_first_rule_that_matches_decides() {
    let cluster = Cluster::shared();
    let builder = Komainu::builder(cluster);
    let certificates = Certificates::create(builder.directory());
    let (certificate, key) = certificates.server("gate");
    let komainu = builder
        .hba(
            "local all all scram-sha-256\n\
             host postgres postgres 127.0.0.1/32 reject\n\
             hostssl all all 0.0.0.0/0 scram-sha-256\n\
             hostnossl all all 0.0.0.0/0 reject\n\
             host all all all trust\n",
        )
        .config(&format!("[client_tls]\nmode = \"allow\"\ncert_file = {certificate:?}\nkey_file = {key:?}\n"))
        .start();
    let plain = try_login(komainu.wire(), APP_USER, APP_PASSWORD, "postgres").err().unwrap();
    assert_eq!(plain.0, "28000");
    let tls = || Wire::tls(komainu.port(), certificates.authority_pem());
    assert!(try_login(tls(), APP_USER, APP_PASSWORD, "postgres").is_ok());
    let superuser = cluster.primary().password();
    assert_eq!(try_login(tls(), "postgres", superuser, "postgres").err().unwrap().0, "28000");
    assert!(
        try_login(Wire::unix(komainu.directory(), komainu.port()), APP_USER, APP_PASSWORD, "postgres")
            .is_ok()
    );
}

/// A lookup on the servers, with roles of the test's own.
fn with_query(cluster: &Cluster, cache_ms: u64) -> Komainu {
    Komainu::start_with(
        cluster,
        &format!(
            "[auth.query]\nuser = \"postgres\"\ndatabase = \"postgres\"\ncache_ms = {cache_ms}\n[pool]\nsize = 2\n"
        ),
    )
}

#[test]
fn a_lost_right_ends_within_the_stated_time_on_warm_pools_too() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    let komainu = with_query(cluster, 500);
    let losses = [
        ("expired", "ALTER ROLE lost_expired VALID UNTIL '2001-01-01'"),
        ("nologin", "ALTER ROLE lost_nologin NOLOGIN"),
        ("changed", "ALTER ROLE lost_changed PASSWORD 'another'"),
        ("dropped", "DROP ROLE lost_dropped"),
        ("unlimited", "ALTER ROLE lost_unlimited CONNECTION LIMIT 0"),
    ];
    let mut held = Vec::new();
    for (what, _) in losses {
        let user = format!("lost_{what}");
        cluster.prepare("postgres", &format!("CREATE ROLE {user} LOGIN PASSWORD '{PASSWORD}'"));
        let mut wire = try_login(komainu.wire(), &user, PASSWORD, &database).ok().unwrap();
        assert_eq!(wire.query_value("SELECT current_user"), user, "the client is who it says");
        held.push(wire);
    }
    cluster.prepare("postgres", &format!("CREATE ROLE lost_connect LOGIN PASSWORD '{PASSWORD}'"));
    held.push(try_login(komainu.wire(), "lost_connect", PASSWORD, &database).ok().unwrap());
    for (_, sql) in losses {
        cluster.prepare("postgres", sql);
    }
    cluster.prepare(&database, &format!("REVOKE CONNECT ON DATABASE {database} FROM PUBLIC"));
    for user in losses.map(|(what, _)| format!("lost_{what}")).into_iter().chain(["lost_connect".into()]) {
        eventually(STATED, &format!("{user} is refused"), || {
            try_login(komainu.wire(), &user, PASSWORD, &database).is_err()
        });
    }
    assert!(try_login(komainu.wire(), APP_USER, APP_PASSWORD, &database).is_ok());
}

/// Of users whom the user file names, and whom nobody is asked for.
#[test]
fn a_right_that_only_a_server_knows_of_ends_within_the_stated_time_on_warm_pools_too() {
    let cluster = Cluster::shared();
    let databases = [cluster.database(), cluster.database(), cluster.database()];
    let [role, limited, closed] = &databases;
    cluster.prepare("postgres", &format!("CREATE ROLE unlimited LOGIN PASSWORD '{PASSWORD}'"));
    let komainu = Komainu::builder(cluster).user("unlimited", &verifier(cluster, "unlimited")).start();
    let log_in =
        |user: &str, password: &str, database: &str| try_login(komainu.wire(), user, password, database);
    assert!(log_in("unlimited", PASSWORD, role).is_ok());
    let _held = databases.each_ref().map(|database| komainu.login(database));
    cluster.prepare("postgres", "ALTER ROLE unlimited CONNECTION LIMIT 0");
    cluster.prepare("postgres", &format!("ALTER DATABASE {limited} CONNECTION LIMIT 0"));
    cluster.prepare("postgres", &format!("ALTER DATABASE {closed} ALLOW_CONNECTIONS false"));
    let refused = |what: &str, user: &str, password: &str, database: &str| {
        eventually(STATED, what, || {
            log_in(user, password, database).is_err_and(|(state, text)| {
                assert_eq!(state, "28000", "{text}");
                true
            })
        });
    };
    refused("the role may not", "unlimited", PASSWORD, role);
    refused("nobody may", APP_USER, APP_PASSWORD, limited);
    refused("the database is closed", APP_USER, APP_PASSWORD, closed);
    assert!(log_in(APP_USER, APP_PASSWORD, role).is_ok());
}

#[test]
fn an_answer_that_proves_wrong_is_not_believed_any_longer() {
    let cluster = Cluster::shared();
    let (database, other) = (cluster.database(), cluster.database());
    let komainu = with_query(cluster, 3_600_000);
    cluster.prepare("postgres", &format!("CREATE ROLE rotated LOGIN PASSWORD '{PASSWORD}'"));
    let log_in = |password: &str, database: &str| try_login(komainu.wire(), "rotated", password, database);
    assert!(log_in(PASSWORD, &database).is_ok());
    // The server refuses what the old password's owner proves: the answer is forgotten, and so is the old password.
    cluster.prepare("postgres", "ALTER ROLE rotated PASSWORD 'the second'");
    assert_eq!(log_in(PASSWORD, &other).err().unwrap().0, "28P01");
    assert!(log_in("the second", &other).is_ok());
    assert!(log_in(PASSWORD, &database).is_err());
    // The client knows first.
    cluster.prepare("postgres", "ALTER ROLE rotated PASSWORD 'the third'");
    eventually(STATED, "the new password is taken", || log_in("the third", &database).is_ok());
}

#[test]
fn a_hostile_schema_does_not_reach_komainus_own_queries() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    // Whoever may create in public shadows what komainu's own queries use.
    cluster.prepare(
        &database,
        "CREATE TABLE public.trace (who text); GRANT ALL ON public.trace TO PUBLIC;
         CREATE FUNCTION public.current_setting(text) RETURNS text LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO public.trace VALUES (current_user); RETURN 'evil'; END $$;
         CREATE FUNCTION public.set_config(text, text, boolean) RETURNS text LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO public.trace VALUES (current_user); RETURN 'evil'; END $$;
         CREATE FUNCTION public.pg_current_wal_insert_lsn() RETURNS pg_lsn LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO public.trace VALUES (current_user); RETURN '0/0'; END $$;
         CREATE VIEW public.pg_settings AS SELECT 'role'::text AS name, 'postgres'::text AS setting, 'session'::text AS source;
         CREATE VIEW public.pg_roles AS SELECT 'app'::name AS rolname, false AS rolcanlogin;
         CREATE VIEW public.pg_authid AS SELECT 'app'::name AS rolname;",
    );
    // Operators, too: those of the types that komainu's questions compare.
    for operator in ["=", "<>", ">"] {
        for (n, kind) in ["text", "name", "oid", "int", "timestamptz", "pg_lsn"].into_iter().enumerate() {
            let name = format!("public.evil_{}_{n}", operator.len() + usize::from(operator == ">") * 2);
            let sql = format!(
                "CREATE FUNCTION {name}({kind}, {kind}) RETURNS boolean LANGUAGE plpgsql AS
                    $$ BEGIN INSERT INTO public.trace VALUES (current_user); RETURN true; END $$;
                 CREATE OPERATOR public.{operator} (LEFTARG = {kind}, RIGHTARG = {kind}, PROCEDURE = {name});"
            );
            cluster.prepare(&database, &sql);
        }
    }
    let komainu = with_query(cluster, 500);
    let mut wire = komainu.wire();
    wire.startup(&[
        ("user", APP_USER),
        ("database", &database),
        ("options", "-c search_path=public,pg_catalog"),
    ]);
    assert_eq!(wire.authenticate(APP_USER, APP_PASSWORD).tag, 'Z');
    assert_eq!(wire.query_value("SELECT pg_catalog.current_setting('search_path')"), "public,pg_catalog");
    wire.query("CREATE TABLE mine (n int)");
    wire.query("SET work_mem = '1MB'");
    assert_eq!(wire.query_value("SELECT current_user"), APP_USER);
    let mut next = komainu.login(&database);
    assert_eq!(next.query_value("SELECT current_user"), APP_USER);
    assert_eq!(next.query_value("SELECT count(*) FROM trace"), "0", "a function of the client's ran");
}

#[test]
fn secrets_are_nowhere_to_be_read() {
    let cluster = Cluster::shared();
    let database = cluster.database();
    cluster.prepare("postgres", &format!("CREATE ROLE discreet LOGIN PASSWORD '{PASSWORD}'"));
    let secret = verifier(cluster, "discreet");
    cluster.prepare(
        "postgres",
        &format!("SET password_encryption = 'md5'; CREATE ROLE discreet_md5 LOGIN PASSWORD '{PASSWORD}'"),
    );
    let hash = verifier(cluster, "discreet_md5");
    cluster
        .prepare("postgres", "CREATE ROLE discreet_health LOGIN PASSWORD 'health secret' IN ROLE pg_monitor");
    let builder = Komainu::builder(cluster);
    let certificates = Certificates::create(builder.directory());
    let (certificate, key) = certificates.server("gate");
    let [password_file, token_file] = ["health.txt", "token.txt"].map(|name| builder.directory().join(name));
    let (admin, token) = (ReservedPort::any().unwrap(), "secret-token-0123456789abcdef0123");
    let komainu = builder
        .file("token.txt", token)
        .user("discreet", &secret)
        .user("discreet_md5", &hash)
        .file("health.txt", "health secret\n")
        .config(&format!(
            "[log]\nlevel = \"trace\"\n[health]\nuser = \"discreet_health\"\npassword_file = {password_file:?}\n\
             [admin]\ntls_address = \"127.0.0.1:{}\"\ncert_file = {certificate:?}\nkey_file = {key:?}\n\
             token_file = {token_file:?}\n\
             [client_tls]\nmode = \"allow\"\ncert_file = {certificate:?}\nkey_file = {key:?}\n",
            admin.number()
        ))
        .start();
    let key_text = std::fs::read_to_string(&key).unwrap();
    let key_line = key_text.lines().nth(1).unwrap();
    let mut wire = try_login(komainu.wire(), "discreet", PASSWORD, &database).ok().unwrap();
    let _ = try_login(komainu.wire(), "discreet", "mistyped secret", &database);
    let url = komainu.url(&database);
    psql(&url, &["SELECT 'bound value'", "SELEC"]);
    let mut status = std::process::Command::new(env!("CARGO_BIN_EXE_komainu"));
    status.args(["status", "--admin", &format!("https://localhost:{}", admin.number())]);
    status.arg("--token-file").arg(&token_file).arg("--ca-file").arg(certificates.authority_file());
    let status = status.output().unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    let mut outputs = vec![("the log".to_owned(), komainu.log())];
    for path in ["/status", "/metrics", "/live", "/ready", "/sessions", "/pools", "/health", "/doctor"] {
        outputs.push((path.into(), komainu.admin(path).unwrap().body));
    }
    for show in [
        "SHOW POOL_NODES",
        "SHOW POOL_POOLS",
        "SHOW POOL_PROCESSES",
        "SHOW POOL_VERSION",
        "SHOW ROUTE",
        "SHOW komainu.pins",
        "SHOW komainu.token",
        "SHOW komainu.config",
        "/* komainu: explain route */ SELECT 'bound value'",
        "/* komainu: explain route */ ALTER ROLE discreet PASSWORD 'mistyped secret'",
    ] {
        let rows = wire.query(show);
        outputs
            .push((show.into(), rows.iter().map(|message| String::from_utf8_lossy(&message.body)).collect()));
    }
    let verifier_keys = secret.rsplit('$').next().unwrap().to_owned();
    let cancel_key = wire.secret_key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    for (what, output) in outputs {
        assert!(!output.is_empty(), "{what} is empty");
        for hidden in [
            PASSWORD,
            APP_PASSWORD,
            cluster.primary().password(),
            "mistyped secret",
            "bound value",
            &verifier_keys,
            &cancel_key,
            &hash["md5".len()..],
            "health secret",
            token,
            key_line,
        ] {
            assert!(!output.contains(hidden), "{what} shows {hidden:?}");
        }
    }
    let command = std::fs::read(format!("/proc/{}/cmdline", komainu.pid())).unwrap();
    assert!(!String::from_utf8_lossy(&command).contains("secret"));
}

#[test]
fn a_server_that_trusts_or_wants_a_password_in_clear_gets_no_more_than_is_there() {
    let cluster = Cluster::start_with(0, |options| {
        options.hba.push("host all trusted samehost trust".into());
        options.hba.push("host all clear samehost password".into());
    });
    for role in ["trusted", "clear"] {
        cluster.prepare("postgres", &format!("CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'"));
    }
    let scratch = tempfile::tempdir().unwrap();
    let certificates = Certificates::create(scratch.path());
    speak_tls(cluster.primary(), certificates.server("good"));
    let authority = certificates.authority_file();
    for verified in [false, true] {
        for has_plain in [false, true] {
            let mut builder = Komainu::builder(&cluster)
                .hba("local all all password\nhost postgres all all scram-sha-256\nhost all all all trust\n");
            for role in ["trusted", "clear"] {
                let secret = if has_plain { PASSWORD.to_owned() } else { verifier(&cluster, role) };
                builder = builder.user(role, &secret);
            }
            if verified {
                builder = builder
                    .config(&format!("[server_tls]\nmode = \"verify-full\"\nca_file = {authority:?}\n"));
            }
            let komainu = builder.start();
            let case = format!("verified: {verified}, a plain password in the user file: {has_plain}");
            let over_tcp = |role: &str, password: &str, database: &str| {
                try_login(komainu.wire(), role, password, database)
            };
            let mut wire = over_tcp("trusted", PASSWORD, "postgres").ok().unwrap();
            assert_eq!(wire.query_value("SELECT session_user"), "trusted", "{case}");
            // That the server would let anybody in is no proof to komainu.
            for role in ["trusted", "clear"] {
                assert_eq!(over_tcp(role, "wrong", "postgres").err().unwrap().0, "28P01", "{case}");
            }
            // By SCRAM komainu learns no password: it needs one of its own, and a server to which it may be shown.
            // A trust rule proves nothing: the same secret serves.
            for database in ["postgres", "template1"] {
                match over_tcp("clear", PASSWORD, database) {
                    Ok(mut wire) => {
                        assert!(verified && has_plain, "{case}");
                        assert_eq!(wire.query_value("SELECT session_user"), "clear");
                    }
                    Err((state, text)) => {
                        assert!(!(verified && has_plain), "{case}: {state} {text}");
                        assert!(state.starts_with("28"), "{case}: {state} {text}");
                    }
                }
            }
            // One that the client has sent in clear is good for such a server, too.
            let unix = Wire::unix(komainu.directory(), komainu.port());
            assert_eq!(try_login(unix, "clear", PASSWORD, "postgres").is_ok(), verified, "{case}");
        }
    }
}
