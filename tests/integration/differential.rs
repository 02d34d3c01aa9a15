//! The same bytes sent to PostgreSQL and through komainu: what comes back must be the same, message by message.
//!
//! The scripts of `hostile_messages` are compared by it, and here some hundred random conversations, each
//! of them named by its seed. Never compares what may differ: process ids, keys, and the source position
//! of an error.

use std::io::ErrorKind;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend;

use super::support::{APP_PASSWORD, APP_USER, Cluster, Komainu, Message, Wire};

/// How long PostgreSQL is quiet before it is believed to have said all.
const QUIET: Duration = Duration::from_millis(60);
const PATIENCE: Duration = Duration::from_secs(6);

/// One step of a conversation.
#[derive(Clone)]
pub enum Step {
    Send(Vec<u8>),
    /// Reads all that PostgreSQL says to what was sent so far.
    Read,
    /// Reads on to so many ReadyForQuery.
    Ready(usize),
}

/// Two databases that are alike, to the object identifiers.
pub struct Twins {
    pub direct: String,
    pub proxied: String,
}

impl Twins {
    /// Creates both, with what this SQL makes.
    pub fn create(cluster: &Cluster, sql: &str) -> Self {
        let direct = cluster.database();
        let as_app = format!("SET SESSION AUTHORIZATION {APP_USER}; {sql}");
        cluster.prepare(&direct, &as_app);
        let proxied = format!("{direct}_twin");
        cluster.prepare("postgres", &format!("CREATE DATABASE {proxied} TEMPLATE {direct} OWNER {APP_USER}"));
        Twins { direct, proxied }
    }
}

/// Runs the steps against both, each over a new connection, and compares.
#[track_caller]
pub fn compare(
    cluster: &Cluster,
    komainu: &Komainu,
    twins: &Twins,
    what: &str,
    steps: &[Step],
) -> Vec<Message> {
    let mut direct = Wire::connect(cluster.primary().port());
    login(&mut direct, &twins.direct);
    let mut proxied = komainu.wire();
    login(&mut proxied, &twins.proxied);
    let mut sent = Vec::new();
    let mut since_read = Vec::new();
    let mut all = Vec::new();
    for (at, step) in steps.iter().enumerate() {
        let (theirs, ours) = match step {
            Step::Send(bytes) => {
                sent.push(describe(bytes));
                since_read.extend_from_slice(bytes);
                // The one that has hung up is found by what it said.
                let _ = direct.try_send(bytes);
                let _ = proxied.try_send(bytes);
                continue;
            }
            Step::Read => {
                let theirs = until_quiet(&mut direct);
                let ours = take(&mut proxied, theirs.len());
                (theirs, ours)
            }
            Step::Ready(count) => (until_ready(&mut direct, *count), until_ready(&mut proxied, *count)),
        };
        let (theirs_shown, mut ours_shown) = (shown(&theirs), shown(&ours));
        for (ours, theirs) in ours_shown.iter_mut().zip(&theirs_shown) {
            // Of two names for the same statement komainu may tell the other one.
            let names_one = |code: &str| ours.contains(code) && theirs.contains(code);
            // A standby refuses a write in other words than a READ ONLY transaction on the primary.
            if ["\"26000\"", "\"42P05\"", "\"25006\"", "bind message supplies"].into_iter().any(names_one) {
                ours.clone_from(theirs);
            }
        }
        if theirs_shown.iter().any(|message| message.contains("\"XX000\"")) {
            // An internal error of PostgreSQL's own (18 has one where a ROLLBACK is parsed in a pipeline and a
            // simple query follows): nothing to compare with.
            return all;
        }
        let aborted = |shown: &[String]| shown.iter().any(|message| message.contains("\"25P02\""));
        if !aborted(&theirs_shown) && is_unprepared(&ours_shown, &theirs_shown, &since_read) {
            return all;
        }
        let answered = |shown: &[String]| -> Vec<String> {
            shown.iter().filter(|message| !message.starts_with("1 ")).cloned().collect()
        };
        if ours_shown != theirs_shown
            && aborted(&theirs_shown)
            && answered(&ours_shown) == answered(&theirs_shown)
        {
            // The other way round: a Parse of what this connection knows is taken, where PostgreSQL refuses it.
            return all;
        }
        assert_eq!(
            ours_shown,
            theirs_shown,
            "\n{what}, step {at}: komainu (left) differs from PostgreSQL (right) after\n  {}",
            sent.join("\n  ")
        );
        all.extend(theirs);
        since_read.clear();
    }
    all
}

/// The stated limit: in a failed transaction a statement that another connection knows cannot be parsed again on this
/// one. All that came before is the same, the client has used a statement by its name, and it is told of the failed
/// transaction where PostgreSQL says something of that statement.
fn is_unprepared(ours: &[String], theirs: &[String], sent: &[u8]) -> bool {
    let Some(at) = ours.iter().zip(theirs).position(|(ours, theirs)| ours != theirs) else { return false };
    let of_a_statement =
        |message: &String| ["2 ", "t ", "n ", "E "].iter().any(|kind| message.starts_with(kind));
    ours[at].contains("\"25P02\"") && of_a_statement(&theirs[at]) && uses_a_name(sent)
}

/// A Bind or Describe of a named statement, or an EXECUTE.
fn uses_a_name(mut bytes: &[u8]) -> bool {
    while bytes.len() >= 5 {
        let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize + 1;
        let body = &bytes[5..length.clamp(5, bytes.len())];
        let second = || body.split(|byte| *byte == 0).nth(1).is_some_and(|name| !name.is_empty());
        let found = match bytes[0] {
            b'B' => second(),
            b'D' => body.len() > 2 && body[0] == b'S',
            b'Q' => body.windows(7).any(|word| word == b"EXECUTE"),
            _ => false,
        };
        if found {
            return true;
        }
        bytes = &bytes[length.clamp(5, bytes.len())..];
    }
    false
}

/// With the name that komainu gives itself: what RESET goes back to.
fn login(wire: &mut Wire, database: &str) {
    wire.startup(&[("user", APP_USER), ("database", database), ("application_name", "komainu")]);
    let last = wire.authenticate(APP_USER, APP_PASSWORD);
    assert_eq!(last.tag, 'Z', "{last:?} {:?}", last.error());
}

fn until_quiet(wire: &mut Wire) -> Vec<Message> {
    let mut messages = Vec::new();
    let mut patience = Duration::from_secs(2);
    while let Ok(Some(message)) = wire.try_message(patience) {
        messages.push(message);
        patience = QUIET;
    }
    messages
}

/// So many messages, and no more; fewer when they do not come.
fn take(wire: &mut Wire, count: usize) -> Vec<Message> {
    let mut messages = Vec::new();
    while messages.len() < count
        && let Ok(Some(message)) = wire.try_message(PATIENCE)
    {
        messages.push(message);
    }
    messages
}

fn until_ready(wire: &mut Wire, count: usize) -> Vec<Message> {
    let mut messages = Vec::new();
    let mut ready = 0;
    while ready < count {
        match wire.try_message(PATIENCE) {
            Ok(Some(message)) => {
                ready += usize::from(message.tag == 'Z');
                messages.push(message);
            }
            Ok(None) => break,
            Err(error) if error.kind() == ErrorKind::TimedOut => break,
            Err(error) => panic!("{error}"),
        }
    }
    messages
}

/// One line a message, without what may differ.
fn shown(messages: &[Message]) -> Vec<String> {
    messages.iter().map(show).collect()
}

fn show(message: &Message) -> String {
    match message.tag {
        'E' | 'N' => {
            let fields: Vec<_> =
                message.error().into_iter().filter(|(tag, _)| !"FLR".contains(*tag)).collect();
            format!("{} {fields:?}", message.tag)
        }
        'T' => format!("T {:?}", columns(&message.body)),
        'A' => format!("A {:?}", String::from_utf8_lossy(&message.body[4..])),
        tag if message.body.len() > 200 => {
            let sum = message
                .body
                .iter()
                .fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(*byte)));
            format!("{tag} {} bytes, {sum:x}", message.body.len())
        }
        tag => format!("{tag} {:?}", String::from_utf8_lossy(&message.body)),
    }
}

/// Names and types of a RowDescription; not the tables' identifiers, which a created table makes differ.
fn columns(body: &[u8]) -> Vec<(String, [u8; 12])> {
    let mut rest = &body[2..];
    let mut columns = Vec::new();
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        let name = String::from_utf8_lossy(&rest[..end]).into_owned();
        let after = &rest[end + 1..];
        columns.push((name, after[6..18].try_into().unwrap()));
        rest = &after[18..];
    }
    columns
}

/// The messages sent, for the report of a failure.
fn describe(mut bytes: &[u8]) -> String {
    let mut parts = Vec::new();
    while bytes.len() >= 5 {
        let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize + 1;
        let end = length.clamp(5, bytes.len());
        let body = String::from_utf8_lossy(&bytes[5..end.min(80)]).replace('\0', "·");
        parts.push(format!("{}({body})", bytes[0] as char));
        bytes = &bytes[end..];
    }
    parts.join(" ")
}

/// Builds messages one after another.
#[derive(Default)]
pub struct Messages(pub BytesMut);

impl Messages {
    pub fn query(mut self, sql: &str) -> Self {
        frontend::query(sql, &mut self.0).unwrap();
        self
    }

    pub fn parse(mut self, name: &str, sql: &str) -> Self {
        frontend::parse(name, sql, [], &mut self.0).unwrap();
        self
    }

    pub fn bind(mut self, portal: &str, name: &str, values: &[&str]) -> Self {
        let write = |value: &&str, out: &mut BytesMut| {
            out.extend_from_slice(value.as_bytes());
            Ok(IsNull::No)
        };
        assert!(frontend::bind(portal, name, [], values, write, [0], &mut self.0).is_ok());
        self
    }

    pub fn describe(mut self, kind: u8, name: &str) -> Self {
        frontend::describe(kind, name, &mut self.0).unwrap();
        self
    }

    pub fn execute(mut self, portal: &str, max_rows: i32) -> Self {
        frontend::execute(portal, max_rows, &mut self.0).unwrap();
        self
    }

    pub fn close(mut self, kind: u8, name: &str) -> Self {
        frontend::close(kind, name, &mut self.0).unwrap();
        self
    }

    pub fn flush(mut self) -> Self {
        frontend::flush(&mut self.0);
        self
    }

    pub fn sync(mut self) -> Self {
        frontend::sync(&mut self.0);
        self
    }

    pub fn message(mut self, tag: char, body: &[u8]) -> Self {
        self.0.extend_from_slice(&[tag as u8]);
        self.0.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        self.0.extend_from_slice(body);
        self
    }

    pub fn copy_data(self, data: &str) -> Self {
        self.message('d', data.as_bytes())
    }

    pub fn copy_done(self) -> Self {
        self.message('c', b"")
    }

    pub fn copy_fail(self, why: &str) -> Self {
        self.message('f', format!("{why}\0").as_bytes())
    }

    pub fn send(self) -> Step {
        Step::Send(self.0.to_vec())
    }
}

/// Numbers from a seed; good enough to choose by.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }

    fn one_of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }
}

/// `TBL` is the conversation's own.
const QUERIES: &[&str] = &[
    "SELECT 1",
    "",
    "  ; ",
    "SELECT n FROM TBL ORDER BY n LIMIT 3",
    "INSERT INTO TBL VALUES (7, 'seven') RETURNING n",
    "UPDATE TBL SET v = 'x' WHERE n = 2",
    "BEGIN",
    "BEGIN READ ONLY",
    "COMMIT",
    "COMMIT",
    "ROLLBACK",
    "ROLLBACK",
    "COMMIT AND CHAIN",
    "SAVEPOINT a",
    "ROLLBACK TO a",
    "RELEASE a",
    "SELECT 1/0",
    "SELEC",
    "SELECT * FROM missing",
    "SELECT 1; SELECT 2",
    "SELECT 1; SELECT 1/0; SELECT 2",
    "BEGIN; INSERT INTO TBL VALUES (8, 'eight'); COMMIT",
    "INSERT INTO TBL VALUES (9, 'nine'); SELECT 1/0",
    "SELECT 1; BEGIN",
    "COMMIT; SELECT 2",
    "SET application_name = 'one'",
    "SET datestyle = 'German'",
    "SET LOCAL application_name = 'two'",
    "SHOW application_name",
    "SHOW datestyle",
    "SELECT current_date = current_date, current_setting('search_path')",
    "SET search_path = pg_catalog, public",
    "PREPARE a AS SELECT $1::int + 1",
    "EXECUTE a(41)",
    "EXECUTE b",
    "DEALLOCATE a",
    "DEALLOCATE ALL",
    "DISCARD ALL",
    "DO $$ BEGIN RAISE NOTICE 'noticed'; END $$",
    "DO $$ BEGIN RAISE EXCEPTION 'raised' USING HINT = 'a hint', ERRCODE = 'KO001'; END $$",
    "DECLARE c CURSOR FOR SELECT n FROM TBL ORDER BY n",
    "FETCH 2 FROM c",
    "CLOSE c",
    "SELECT set_config('application_name', 'three', false)",
    // In a stronger mode a standby refuses it, which may have got the transaction if it is READ ONLY.
    "LOCK TABLE TBL IN ROW EXCLUSIVE MODE",
    "CREATE TEMP TABLE temporary (n int)",
    "SELECT count(*) FROM temporary",
    "DROP TABLE IF EXISTS temporary",
    "VACUUM TBL",
    "COPY (SELECT n, v FROM TBL ORDER BY n) TO STDOUT",
];

const STATEMENTS: &[(&str, usize)] = &[
    ("SELECT 1", 0),
    ("SELECT $1::text", 1),
    ("SELECT n, v FROM TBL ORDER BY n", 0),
    ("SELECT n FROM TBL WHERE n > $1 ORDER BY n LIMIT $2", 2),
    ("INSERT INTO TBL VALUES ($1, $2)", 2),
    ("UPDATE TBL SET v = $1 WHERE n = 1 RETURNING v", 1),
    ("SELECT 1 / $1::int", 1),
    ("SELECT generate_series(1, 5)", 0),
    ("", 0),
    ("SELEC", 0),
    ("BEGIN", 0),
    ("COMMIT", 0),
    ("ROLLBACK", 0),
    ("SELECT 1; SELECT 2", 0),
    ("SET application_name = 'four'", 0),
    ("SHOW application_name", 0),
    ("SELECT current_setting('application_name')", 0),
    ("DO $$ BEGIN RAISE NOTICE 'noticed'; END $$", 0),
    ("COPY (SELECT n FROM TBL ORDER BY n) TO STDOUT", 0),
];
const NAMES: &[&str] = &["", "", "a", "b"];
const PORTALS: &[&str] = &["", "", "", "p", "q"];

/// A conversation of some flights; what a flight's answers are read by is in its last step.
fn conversation(seed: u64) -> Vec<Step> {
    let random = &mut Random(seed);
    let table = format!("t{seed}");
    let mut steps = Vec::new();
    for _ in 0..3 + random.below(8) {
        match random.below(8) {
            0 | 1 => {
                let sql = random.one_of(QUERIES).replace("TBL", &table);
                steps.push(Messages::default().query(&sql).send());
                steps.push(Step::Ready(1));
            }
            2 => copy(random, &table, &mut steps),
            _ => flight(random, &table, &mut steps),
        }
    }
    steps
}

fn copy(random: &mut Random, table: &str, steps: &mut Vec<Step>) {
    let sql = format!("COPY {table} FROM STDIN");
    let extended = random.below(2) == 0;
    let begin = Messages::default();
    steps.push(if extended {
        let begin = begin.parse("", &sql).bind("", "", &[]).execute("", 0);
        if random.below(2) == 0 { begin.flush().send() } else { begin.sync().send() }
    } else {
        begin.query(&sql).send()
    });
    steps.push(Step::Read);
    let mut data = Messages::default();
    for row in 0..random.below(4) {
        data = data.copy_data(&format!("{}\tcopied\n", 100 + row));
    }
    match random.below(4) {
        // Not both: a Sync behind the row that failed is none within the COPY.
        0 => data = data.copy_data("not a number\tbad\n"),
        1 => data = data.flush().sync(),
        _ => {}
    }
    data = if random.below(3) == 0 { data.copy_fail("enough") } else { data.copy_done() };
    steps.push(if extended { data.sync().send() } else { data.send() });
    // Where the COPY was refused there is nothing more to say to some of it.
    steps.push(Step::Read);
    steps.push(Messages::default().sync().send());
    steps.push(Step::Read);
}

fn flight(random: &mut Random, table: &str, steps: &mut Vec<Step>) {
    let mut messages = Messages::default();
    let mut readies = 0;
    let mut surely = true;
    // A utility statement that a simple query could not run in a transaction leaves its portal behind, and
    // PostgreSQL (14 to 18, as far as tried) reads freed memory when that is executed: it may crash.
    let mut unnamed_is_bound = false;
    let safe =
        |portal: &'static str, is_bound: bool| if portal.is_empty() && !is_bound { "p" } else { portal };
    for _ in 0..1 + random.below(7) {
        messages = match random.below(16) {
            0..=2 => {
                let sql = STATEMENTS[random.below(STATEMENTS.len())].0.replace("TBL", table);
                messages.parse(random.one_of(NAMES), &sql)
            }
            3..=6 => {
                let (sql, count) = STATEMENTS[random.below(STATEMENTS.len())];
                let values = &["1", "2"][..count];
                let (portal, name) = (random.one_of(PORTALS), random.one_of(NAMES));
                // An unnamed statement from before a batch that failed is not compared: komainu may have lost it.
                let messages = if name.is_empty() || random.below(4) > 0 {
                    messages.parse(name, &sql.replace("TBL", table))
                } else {
                    messages
                };
                unnamed_is_bound |= portal.is_empty();
                let messages = messages.bind(portal, name, values);
                let messages = if random.below(2) == 0 { messages.describe(b'P', portal) } else { messages };
                messages.execute(portal, random.below(3) as i32)
            }
            7 => messages.bind(
                random.one_of(PORTALS),
                random.one_of(&NAMES[2..]),
                &["1", "2"][..random.below(3)],
            ),
            8 => messages.describe(b'S', random.one_of(&NAMES[2..])),
            9 => messages.describe(b'P', safe(random.one_of(PORTALS), unnamed_is_bound)),
            10 | 11 => {
                let portal = safe(random.one_of(PORTALS), unnamed_is_bound);
                messages.execute(portal, random.below(3) as i32)
            }
            12 => messages.close(b'S', random.one_of(NAMES)),
            13 => messages.close(b'P', random.one_of(PORTALS)),
            14 => {
                unnamed_is_bound = false;
                readies += 1;
                messages.sync()
            }
            _ => match random.below(4) {
                0 => {
                    steps.push(messages.flush().send());
                    steps.push(Step::Read);
                    // What a read has taken need not be waited for.
                    (readies, surely) = (0, true);
                    Messages::default()
                }
                1 => {
                    surely = false;
                    unnamed_is_bound = false;
                    messages.query(&random.one_of(QUERIES).replace("TBL", table))
                }
                _ => {
                    readies += 2;
                    unnamed_is_bound = false;
                    messages.sync().query(&random.one_of(QUERIES).replace("TBL", table))
                }
            },
        };
    }
    steps.push(messages.sync().send());
    steps.push(if surely { Step::Ready(readies + 1) } else { Step::Read });
}

const CONVERSATIONS: u64 = 120;

fn twins() -> &'static Twins {
    static TWINS: OnceLock<Twins> = OnceLock::new();
    TWINS.get_or_init(|| {
        let tables: String = (0..CONVERSATIONS * 2)
            .map(|n| format!("CREATE TABLE t{n} AS SELECT n, 'v' || n AS v FROM generate_series(1, 5) n;"))
            .collect();
        Twins::create(Cluster::shared(), &tables)
    })
}

/// Several at a time share few server connections, so that each meets what the others left.
fn converse(config: &str, seeds: std::ops::Range<u64>) {
    let cluster = Cluster::shared();
    let twins = twins();
    let komainu = Komainu::start_with(cluster, config);
    let one = std::env::var("KOMAINU_TEST_SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    let next = std::sync::atomic::AtomicU64::new(seeds.start);
    let failed = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    if one.is_some_and(|one| one != seed) {
                        continue;
                    }
                    let what = format!("conversation {seed} (KOMAINU_TEST_SEED={seed} runs it alone)");
                    let run = || {
                        compare(cluster, &komainu, twins, &what, &conversation(seed));
                        leaves_nothing(&komainu, twins, &what);
                    };
                    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err() {
                        failed.lock().unwrap().push(seed);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    let log = std::fs::read_to_string(cluster.primary().log_file()).unwrap_or_default();
    let crashes: Vec<_> = log
        .lines()
        .filter(|line| line.contains("terminated by signal") || line.contains("Failed process was"))
        .collect();
    assert!(crashes.is_empty(), "PostgreSQL itself crashed, so nothing was compared: {crashes:?}");
    assert!(failed.is_empty(), "these conversations differ: {failed:?}");
}

/// The next client is as at home as if nobody had been there.
#[track_caller]
fn leaves_nothing(komainu: &Komainu, twins: &Twins, what: &str) {
    let mut next = komainu.login(&twins.proxied);
    for (name, value) in [("application_name", ""), ("datestyle", "ISO, MDY")] {
        assert_eq!(next.query_value(&format!("SHOW {name}")), value, "after {what}: {name} was left");
    }
    let described = next_reply(&mut next, Messages::default().describe(b'S', "").sync());
    assert_eq!(described.sqlstate(), "26000", "after {what}: an unnamed statement was left");
}

fn next_reply(wire: &mut Wire, messages: Messages) -> Message {
    wire.send(&messages.0);
    wire.until('Z').swap_remove(0)
}

#[test]
fn random_conversations_are_as_with_postgresql() {
    converse("pool.size = 3\nsplit.enabled = false", 0..CONVERSATIONS);
}

#[test]
fn random_conversations_split_over_servers_are_as_with_postgresql() {
    converse("pool.size = 2", CONVERSATIONS..2 * CONVERSATIONS);
}
