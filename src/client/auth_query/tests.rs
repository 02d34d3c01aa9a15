//! Lookups at a real server: who may log in, and how long an answer is believed.

use super::*;
use crate::backend::test_server::TestServer;

/// As the configuration's default.
const DEFAULT: &str = "SELECT rolpassword, rolcanlogin AND rolconnlimit <> 0 \
    AND (rolvaliduntil IS NULL OR rolvaliduntil > pg_catalog.now()) \
    FROM pg_catalog.pg_authid WHERE rolname = $1";
/// The same, and each question counted.
const COUNTED: &str = "SELECT rolpassword, rolcanlogin AND pg_catalog.nextval('public.questions') > 0 \
    FROM pg_catalog.pg_authid WHERE rolname = $1";

/// A question for each name, whether somebody has it or not.
const EACH_COUNTED: &str = "SELECT a.rolpassword, a.rolcanlogin \
    FROM (SELECT pg_catalog.nextval('public.guesses') AS n) AS q \
    LEFT JOIN pg_catalog.pg_authid AS a ON a.rolname = $1 AND q.n > 0";
const GUESSES: &str = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM public.guesses";

struct Bench {
    server: TestServer,
    /// Where the primary is said to be.
    target: Arc<Mutex<Option<ConnectTarget>>>,
}

impl Bench {
    fn asking_as(&self, user: &str, query: &str, cache_ms: u64) -> AuthQuery {
        let config = config::AuthQuery {
            user: user.to_owned(),
            database: "postgres".to_owned(),
            query: query.to_owned(),
            cache_ms,
        };
        let target = self.target.clone();
        AuthQuery::new(&config, Credential::None, Arc::new(move || target.lock().unwrap().clone()))
    }

    fn asking(&self, query: &str, cache_ms: u64) -> AuthQuery {
        self.asking_as("postgres", query, cache_ms)
    }

    async fn run(&self, sql: &str) -> Rows {
        self.server.control().await.query(sql).await.unwrap()
    }

    async fn count(&self, sql: &str) -> u32 {
        self.run(sql).await.text(0, 0).unwrap().parse().unwrap()
    }
}

async fn may_login(query: &AuthQuery, user: &str) -> bool {
    query.lookup(user).await.unwrap().may_login
}

#[tokio::test]
async fn lookups_at_a_real_server() {
    let server = TestServer::start("", &[], &[]).await;
    let target = Arc::new(Mutex::new(Some(server.socket())));
    let bench = Bench { server, target };
    who_may_log_in(&bench).await;
    the_path_is_ours(&bench).await;
    a_function_serves_an_ordinary_role(&bench).await;
    answers_are_believed_for_a_while(&bench).await;
    an_unknown_user_costs_what_a_known_one_does(&bench).await;
    one_question_serves_all_who_ask(&bench).await;
    who_has_left_is_not_asked_for(&bench).await;
    the_connection_is_kept_and_renewed(&bench).await;
    failures_are_errors_and_are_not_kept(&bench).await;
}

async fn who_may_log_in(bench: &Bench) {
    bench
        .run(
            "CREATE ROLE alice LOGIN PASSWORD 'secret';
             CREATE ROLE until_past LOGIN PASSWORD 'secret' VALID UNTIL '2001-01-01';
             CREATE ROLE until_later LOGIN PASSWORD 'secret' VALID UNTIL '2900-01-01';
             CREATE ROLE for_ever LOGIN PASSWORD 'secret' VALID UNTIL 'infinity';
             CREATE ROLE no_login PASSWORD 'secret';
             CREATE ROLE no_slot LOGIN PASSWORD 'secret' CONNECTION LIMIT 0;
             CREATE ROLE no_password LOGIN",
        )
        .await;
    let query = bench.asking(DEFAULT, 0);
    for (user, may_login, has_secret) in [
        ("alice", true, true),
        ("until_past", false, true),
        ("until_later", true, true),
        ("for_ever", true, true),
        ("no_login", false, true),
        ("no_slot", false, true),
        ("no_password", true, false),
        ("nobody", false, false),
        ("", false, false),
        ("' OR true --", false, false),
    ] {
        let lookup = query.lookup(user).await.unwrap();
        assert_eq!((lookup.may_login, lookup.secret.is_some()), (may_login, has_secret), "{user}");
    }
    let Some(Secret::Scram(verifier)) = query.lookup("alice").await.unwrap().secret else {
        panic!("not the role's own verifier");
    };
    assert!(verifier.accepts(b"secret").is_some());
    assert!(query.lookup("nul\0nul").await.is_err());
}

async fn the_path_is_ours(bench: &Bench) {
    bench
        .run(
            "CREATE TABLE public.pg_authid AS SELECT 'intruder'::name AS rolname, 'md5' || md5('x') AS rolpassword, true AS rolcanlogin;
             CREATE ROLE asker SUPERUSER LOGIN;
             ALTER ROLE asker SET search_path = public, pg_catalog",
        )
        .await;
    // Nothing here is qualified.
    let query =
        bench.asking_as("asker", "SELECT rolpassword, rolcanlogin FROM pg_authid WHERE rolname = $1", 0);
    assert!(query.lookup("intruder").await.unwrap().secret.is_none());
    assert!(may_login(&query, "alice").await);
}

async fn a_function_serves_an_ordinary_role(bench: &Bench) {
    let manual = include_str!("../../../docs/authentication.md");
    let recipe = manual.split("```sql").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    bench.run(recipe).await;
    let call = "SELECT secret, may_login FROM komainu.user_lookup($1)";
    let query = bench.asking_as("komainu_auth", call, 0);
    let lookup = query.lookup("alice").await.unwrap();
    assert!(lookup.may_login && lookup.secret.is_some());
    for user in ["until_past", "no_login", "no_slot", "nobody", "postgres"] {
        assert!(!may_login(&query, user).await, "{user}");
    }
    // And to that role alone.
    let refused = bench.asking_as("alice", call, 0).lookup("alice").await.unwrap_err();
    assert!(refused.reason.contains("permission denied"), "{refused}");
}

async fn answers_are_believed_for_a_while(bench: &Bench) {
    let (always, cached) = (bench.asking(DEFAULT, 0), bench.asking(DEFAULT, 3_600_000));
    assert!(may_login(&cached, "alice").await && may_login(&always, "alice").await);
    cached.confirm("alice");
    bench.run("ALTER ROLE alice NOLOGIN").await;
    assert!(!may_login(&always, "alice").await);
    assert!(may_login(&cached, "alice").await, "within cache_ms");
    cached.doubt("alice");
    assert!(may_login(&cached, "alice").await, "a wrong password behind a fresh answer asks nobody");
    cached.forget("alice");
    assert!(!may_login(&cached, "alice").await);
    // A refusal is believed for a second at most, whatever `cache_ms`.
    bench.run("ALTER ROLE alice LOGIN").await;
    let deadline = Instant::now() + Duration::from_secs(20);
    while !may_login(&cached, "alice").await {
        assert!(Instant::now() < deadline, "a refusal is believed for ever");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // An answer ends by itself, too.
    let brief = bench.asking(DEFAULT, 50);
    assert!(may_login(&brief, "alice").await);
    brief.confirm("alice");
    bench.run("DROP ROLE alice").await;
    while may_login(&brief, "alice").await {
        assert!(Instant::now() < deadline, "an answer is believed for ever");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    bench.run("CREATE ROLE alice LOGIN PASSWORD 'secret'").await;
}

/// Guessing twice at a name must cost the same whether somebody has it: a question each, when a second has passed.
async fn an_unknown_user_costs_what_a_known_one_does(bench: &Bench) {
    bench.run("CREATE SEQUENCE public.guesses").await;
    let asked = || bench.count(GUESSES);
    let query = bench.asking(EACH_COUNTED, 3_600_000);
    let age = |by: Duration| {
        let mut answers = query.shared.answers();
        let Answers { known, refused, .. } = &mut *answers;
        for (_, answer) in known.iter_mut().chain(refused.iter_mut()) {
            answer.asked_at -= by;
        }
    };
    for (user, is_known) in [("alice", true), ("nobody", false)] {
        let before = asked().await;
        for guess in 1..=3 {
            assert_eq!(may_login(&query, user).await, is_known);
            // As a client that breaks the exchange off does not, one that fails it lets it be known.
            if guess == 1 {
                query.doubt(user);
            }
            assert_eq!(asked().await, before + guess, "{user}");
            age(REFUSAL_CACHE);
        }
    }
    // Who has logged in is not asked for again.
    assert!(may_login(&query, "alice").await);
    query.confirm("alice");
    age(REFUSAL_CACHE * 5);
    let before = asked().await;
    assert!(may_login(&query, "alice").await);
    assert_eq!(asked().await, before);
}

async fn one_question_serves_all_who_ask(bench: &Bench) {
    bench.run("CREATE SEQUENCE public.questions").await;
    let query = bench.asking(COUNTED, 3_600_000);
    let asked = futures_util::future::join_all((0..50).map(|_| query.lookup("alice"))).await;
    assert!(asked.into_iter().all(|answer| answer.unwrap().may_login));
    assert_eq!(bench.count("SELECT last_value FROM public.questions").await, 1);
    // Whoever asked first went away; the next one is answered, by the same question if that was begun.
    let query = bench.asking(COUNTED, 3_600_000);
    let gone = tokio::time::timeout(Duration::ZERO, query.lookup("alice")).await;
    assert!(gone.is_err());
    assert!(query.lookup("alice").await.unwrap().may_login);
    assert_eq!(bench.count("SELECT last_value FROM public.questions").await, 2);
    assert!(query.shared.answers().flights.is_empty());
}

/// Nor does anybody wait behind them.
async fn who_has_left_is_not_asked_for(bench: &Bench) {
    let before = bench.count(GUESSES).await;
    let query = bench.asking(EACH_COUNTED, 3_600_000);
    let guesses: Vec<_> = (0..1000).map(|guess| format!("guess{guess}")).collect();
    for guess in &guesses {
        assert!(query.lookup(guess).now_or_never().is_none());
    }
    assert!(may_login(&query, "alice").await);
    assert_eq!(bench.count(GUESSES).await, before + 1);
    assert!(query.shared.answers().flights.is_empty());
    // One is asked for, and those behind it leave meanwhile.
    let begin = |guess| {
        let mut lookup = Box::pin(query.lookup(guess));
        assert!((&mut lookup).now_or_never().is_none());
        lookup
    };
    let mut waiting: Vec<_> = guesses.iter().map(|guess| begin(guess)).collect();
    let first = waiting.swap_remove(0);
    drop(waiting);
    let (first, staying) = tokio::join!(first, query.lookup("bob"));
    assert!(!first.unwrap().may_login && !staying.unwrap().may_login);
    assert_eq!(bench.count(GUESSES).await, before + 3);
    assert!(query.shared.answers().flights.is_empty());
}

async fn the_connection_is_kept_and_renewed(bench: &Bench) {
    const PID: &str = "SELECT pg_catalog.min(pid) FROM pg_catalog.pg_stat_activity \
        WHERE application_name = 'komainu'";
    bench.run("SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE application_name = 'komainu'").await;
    let query = bench.asking(DEFAULT, 0);
    query.lookup("alice").await.unwrap();
    let first = bench.count(PID).await;
    query.lookup("nobody").await.unwrap();
    assert_eq!(bench.count(PID).await, first, "another connection");
    bench.run(&format!("SELECT pg_catalog.pg_terminate_backend({first})")).await;
    assert!(query.lookup("alice").await.unwrap().may_login, "does not survive a lost connection");
    assert_ne!(bench.count(PID).await, first);
}

async fn failures_are_errors_and_are_not_kept(bench: &Bench) {
    let query = bench.asking(DEFAULT, 3_600_000);
    let primary = bench.target.lock().unwrap().take();
    let error = query.lookup("alice").await.unwrap_err();
    assert!(error.reason.contains("no primary") && error.kind == NoAnswer::Passing, "{error}");
    // A primary that is not there; the warm connection of another query is not used in its place.
    let elsewhere = primary.clone().map(|target| ConnectTarget { port: 1, ..target });
    *bench.target.lock().unwrap() = primary.clone();
    let warm = bench.asking(DEFAULT, 0);
    warm.lookup("alice").await.unwrap();
    *bench.target.lock().unwrap() = elsewhere;
    for query in [&query, &warm] {
        let error = query.lookup("alice").await.unwrap_err();
        assert!(error.reason.contains("cannot reach") && error.kind == NoAnswer::Passing, "{error}");
    }
    *bench.target.lock().unwrap() = primary;
    assert!(query.lookup("alice").await.unwrap().may_login);

    for wrong in [
        // PgBouncer's own query: its first column is a name, which must not be taken for a secret.
        "SELECT usename, passwd FROM pg_catalog.pg_shadow WHERE usename = $1",
        "SELECT rolpassword FROM pg_catalog.pg_authid WHERE rolname = $1",
        "SELECT rolpassword, true FROM pg_catalog.pg_authid WHERE rolname <> $1",
        "SELECT 'SCRAM-SHA-256$broken', true WHERE $1::text IS NOT NULL",
        "SELECT nonsense",
    ] {
        let query = bench.asking(wrong, 3_600_000);
        let error = query.lookup("alice").await.unwrap_err();
        assert!(!error.to_string().contains("SCRAM-SHA-256$"), "{error}");
        assert_eq!(error.kind, NoAnswer::Lasting, "{error}");
    }
}

#[tokio::test]
async fn a_primary_that_hangs_costs_a_deadline() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = ConnectTarget {
        host: "127.0.0.1".into(),
        port: listener.local_addr().unwrap().port(),
        tls: Arc::new(crate::net::tls::ServerTlsContext::disabled()),
    };
    let config = config::AuthQuery {
        user: "komainu".into(),
        database: "postgres".into(),
        query: DEFAULT.into(),
        cache_ms: 0,
    };
    let query = AuthQuery::new(&config, Credential::None, Arc::new(move || Some(target.clone())));
    let started = Instant::now();
    let (first, second) = tokio::join!(query.lookup("alice"), query.lookup("bob"));
    assert!(first.unwrap_err().reason.contains("no answer within"));
    // Its turn comes as its patience ends.
    assert_eq!(second.unwrap_err().kind, NoAnswer::Passing);
    assert!(started.elapsed() < LOOKUP_DEADLINE * 3, "{:?}", started.elapsed());
}
