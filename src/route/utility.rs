//! Commands told by their first words: transaction control, settings, cursors, and all that is no query.
//!
//! Owns the grammar of these commands as far as something depends on it. Never parses expressions.
//! Invariant: a command that is not recognised in every word that matters is a `Write` of unknown effects.

use super::effects::Effects;
use super::lexer::TokenKind;
use super::reason::RouteReason;
use super::statement::{Class, CopyDirection, Isolation, PoolShow, StatementKind, TransactionModes};
use super::words::Words;

/// What a command's words say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub class: Class,
    pub reason: RouteReason,
    pub kind: StatementKind,
    pub effects: Effects,
}

impl Verdict {
    pub fn any_server(kind: StatementKind, effects: Effects) -> Verdict {
        Verdict { class: Class::Read, reason: RouteReason::AnyServer, kind, effects }
    }

    pub fn primary(command: &'static str, kind: StatementKind, effects: Effects) -> Verdict {
        Verdict { class: Class::Write, reason: RouteReason::Utility(command), kind, effects }
    }

    /// Not a command of any version known, or not in its form.
    pub fn unknown() -> Verdict {
        Verdict {
            class: Class::Write,
            reason: RouteReason::Unparsable,
            kind: StatementKind::Other,
            effects: Effects::UNKNOWN_EFFECTS | Effects::HIDDEN_STATE | Effects::MAY_WRITE,
        }
    }
}

/// `None`: not a command of this file's (a query, or one that contains a query).
pub(super) fn recognise(words: Words<'_>) -> Option<Verdict> {
    use StatementKind as K;
    let writes = |command| Verdict::primary(command, K::Other, Effects::MAY_WRITE);
    Some(match words.word(0).as_str() {
        "begin" => begin(words.from(1)),
        "start" if words.is(1, "transaction") => begin(words.from(1)),
        "commit" | "end" => commit(words.from(1)),
        "rollback" | "abort" => rollback(words.from(1)),
        "savepoint" => Verdict::any_server(K::Savepoint, Effects::SAVEPOINTS),
        "release" => Verdict::any_server(K::Release, Effects::SAVEPOINTS),
        "prepare" if words.is(1, "transaction") && words.kind(2) == Some(TokenKind::String) => {
            Verdict::primary(
                "PREPARE TRANSACTION",
                K::PrepareTransaction,
                Effects::TWO_PHASE | Effects::ENDS_TRANSACTION | Effects::MAY_WRITE,
            )
        }
        "set" => set(words.from(1)),
        "reset" => reset(words.from(1)),
        "show" => show(words.from(1)),
        "discard" => discard(words),
        "deallocate" => deallocate(words),
        "execute" => Verdict {
            class: Class::Write,
            reason: RouteReason::PreparedElsewhere,
            kind: K::Execute,
            effects: Effects::SQL_EXECUTE | Effects::MAY_WRITE,
        },
        "listen" => Verdict::primary("LISTEN", K::Listen, Effects::LISTENS),
        "unlisten" => {
            let all = words.is_operator(1, "*");
            Verdict::primary("UNLISTEN", K::Unlisten { all }, Effects::UNLISTENS)
        }
        "notify" => Verdict::primary("NOTIFY", K::Notify, Effects::NOTIFIES),
        "fetch" | "move" => Verdict::any_server(K::Fetch, Effects::NONE),
        "close" => Verdict::any_server(
            K::Close { all: words.is(1, "all") && words.len() == 2 },
            Effects::CLOSES_CURSOR,
        ),
        "load" => Verdict::primary("LOAD", K::Load, Effects::LOADS),
        "do" => Verdict::primary("DO", K::Do, Effects::HIDDEN_STATE | Effects::MAY_WRITE),
        "call" => Verdict::primary("CALL", K::Call, Effects::HIDDEN_STATE | Effects::MAY_WRITE),
        "lock" => Verdict::primary("LOCK", K::Lock, Effects::NONE),
        "vacuum" => writes("VACUUM"),
        "analyze" | "analyse" => writes("ANALYZE"),
        "checkpoint" => writes("CHECKPOINT"),
        "cluster" => writes("CLUSTER"),
        "reindex" => writes("REINDEX"),
        "refresh" => writes("REFRESH MATERIALIZED VIEW"),
        "truncate" => writes("TRUNCATE"),
        "grant" => writes("GRANT"),
        "revoke" => writes("REVOKE"),
        "comment" => writes("COMMENT"),
        "security" => writes("SECURITY LABEL"),
        "reassign" => writes("REASSIGN OWNED"),
        "alter" => Verdict::primary("ALTER", K::Ddl, Effects::DDL | Effects::MAY_WRITE),
        "drop" => Verdict::primary("DROP", K::Ddl, Effects::DDL | Effects::MAY_WRITE),
        "import" => Verdict::primary("IMPORT", K::Ddl, Effects::DDL | Effects::MAY_WRITE),
        "create" => create(words),
        _ => return None,
    })
}

fn begin(words: Words<'_>) -> Verdict {
    let options = if words.is_any(0, &["work", "transaction"]) { words.from(1) } else { words };
    let Some(modes) = transaction_modes(options) else { return Verdict::unknown() };
    let kind = StatementKind::Begin(modes);
    let (class, reason) = match modes {
        TransactionModes { isolation: Some(Isolation::Serializable), .. } => {
            (Class::Write, RouteReason::Serializable)
        }
        TransactionModes { read_only: Some(true), .. } => (Class::Read, RouteReason::AnyServer),
        _ => (Class::Write, RouteReason::ReadWriteTransaction),
    };
    Verdict { class, reason, kind, effects: Effects::BEGINS }
}

/// A list of modes to the end of `words`, with or without commas; of several alike the last holds.
fn transaction_modes(words: Words<'_>) -> Option<TransactionModes> {
    let mut modes = TransactionModes::default();
    let mut at = 0;
    while at < words.len() {
        let three = [words.word(at), words.word(at + 1), words.word(at + 2)];
        at += match [three[0].as_str(), three[1].as_str(), three[2].as_str()] {
            ["isolation", "level", level] => {
                let (isolation, length) = match (level, words.word(at + 3).as_str()) {
                    ("serializable", _) => (Isolation::Serializable, 3),
                    ("repeatable", "read") => (Isolation::RepeatableRead, 4),
                    ("read", "committed") => (Isolation::ReadCommitted, 4),
                    ("read", "uncommitted") => (Isolation::ReadUncommitted, 4),
                    _ => return None,
                };
                modes.isolation = Some(isolation);
                length
            }
            ["read", "only", _] => {
                modes.read_only = Some(true);
                2
            }
            ["read", "write", _] => {
                modes.read_only = Some(false);
                2
            }
            ["deferrable", ..] => {
                modes.deferrable = Some(true);
                1
            }
            ["not", "deferrable", _] => {
                modes.deferrable = Some(false);
                2
            }
            _ => return None,
        };
        if words.kind(at) == Some(TokenKind::Comma) && at + 1 < words.len() {
            at += 1;
        }
    }
    Some(modes)
}

/// Behind COMMIT or ROLLBACK: whether AND CHAIN is all that follows; `None`: something else does.
fn chain(words: Words<'_>) -> Option<bool> {
    let rest = if words.is_any(0, &["work", "transaction"]) { words.from(1) } else { words };
    match (rest.len(), rest.is(0, "and")) {
        (0, _) => Some(false),
        (2, true) if rest.is(1, "chain") => Some(true),
        (3, true) if rest.is(1, "no") && rest.is(2, "chain") => Some(false),
        _ => None,
    }
}

fn ends(chain: bool) -> Effects {
    let begins = if chain { Effects::BEGINS } else { Effects::NONE };
    Effects::ENDS_TRANSACTION | begins
}

fn finish_prepared(command: &'static str) -> Verdict {
    Verdict::primary(command, StatementKind::FinishPrepared, Effects::TWO_PHASE | Effects::MAY_WRITE)
}

fn commit(words: Words<'_>) -> Verdict {
    if words.is(0, "prepared") {
        return finish_prepared("COMMIT PREPARED");
    }
    match chain(words) {
        Some(chain) => Verdict::any_server(StatementKind::Commit { chain }, ends(chain)),
        None => Verdict::unknown(),
    }
}

fn rollback(words: Words<'_>) -> Verdict {
    if words.is(0, "prepared") {
        return finish_prepared("ROLLBACK PREPARED");
    }
    let to = usize::from(words.is_any(0, &["work", "transaction"]));
    if words.is(to, "to") {
        return Verdict::any_server(StatementKind::RollbackTo, Effects::SAVEPOINTS);
    }
    match chain(words) {
        Some(chain) => Verdict::any_server(StatementKind::Rollback { chain }, ends(chain)),
        None => Verdict::unknown(),
    }
}

fn set(words: Words<'_>) -> Verdict {
    use StatementKind as K;
    if words.is(0, "session") && words.is(1, "characteristics") {
        let modes = words.is(2, "as") && words.is(3, "transaction");
        return match transaction_modes(words.from(4)).filter(|_| modes) {
            Some(modes) if modes.isolation == Some(Isolation::Serializable) => {
                Verdict::primary("SET", K::SetCharacteristics(modes), Effects::CHANGES_SETTINGS)
            }
            Some(modes) => Verdict::any_server(K::SetCharacteristics(modes), Effects::CHANGES_SETTINGS),
            None => Verdict::unknown(),
        };
    }
    // SET SESSION AUTHORIZATION has the word SESSION as part of its name.
    let authorization = words.is(0, "session") && words.is(1, "authorization");
    let local = words.is(0, "local");
    let scoped = local || words.is(0, "session") && !authorization;
    let words = if scoped { words.from(1) } else { words };
    let lasting = if local { Effects::SETTINGS_LOCAL } else { Effects::CHANGES_SETTINGS };
    match words.word(0).as_str() {
        "session" if words.is(1, "authorization") => {
            Verdict::any_server(K::SetSessionAuthorization { local }, lasting | Effects::CHANGES_USER)
        }
        "role" if !is_assignment(words, 1) => {
            Verdict::any_server(K::SetRole { local }, lasting | Effects::CHANGES_USER)
        }
        "transaction" if !is_assignment(words, 1) => set_transaction(words.from(1)),
        "constraints" if !is_assignment(words, 1) => Verdict::any_server(K::Other, Effects::NONE),
        "time" if words.is(1, "zone") => set_parameter("timezone".into(), local, lasting),
        "names" if !is_assignment(words, 1) => set_parameter("client_encoding".into(), local, lasting),
        "schema" if !is_assignment(words, 1) => set_parameter("search_path".into(), local, lasting),
        "xml" if words.is(1, "option") => set_parameter("xmloption".into(), local, lasting),
        _ => match parameter(words) {
            Some((name, end)) if is_assignment(words, end) => set_parameter(name, local, lasting),
            _ => Verdict::unknown(),
        },
    }
}

/// `=`, TO, or FROM CURRENT.
fn is_assignment(words: Words<'_>, at: usize) -> bool {
    words.is_operator(at, "=") || words.is(at, "to") || words.is(at, "from") && words.is(at + 1, "current")
}

/// A parameter's name, whose case never counts, and the index behind it.
fn parameter(words: Words<'_>) -> Option<(Box<str>, usize)> {
    let (_, end) = words.qualified_name(0)?;
    let parts: Vec<String> = (0..end).step_by(2).map(|at| words.name(at).to_ascii_lowercase()).collect();
    Some((parts.join(".").into(), end))
}

fn set_parameter(name: Box<str>, local: bool, lasting: Effects) -> Verdict {
    match &*name {
        "role" => Verdict::any_server(StatementKind::SetRole { local }, lasting | Effects::CHANGES_USER),
        "session_authorization" => Verdict::any_server(
            StatementKind::SetSessionAuthorization { local },
            lasting | Effects::CHANGES_USER,
        ),
        // Their values may be strings, which are masked, and a standby refuses some of them.
        "transaction_isolation" | "transaction_read_only" | "transaction_deferrable" => {
            Verdict::primary("SET", StatementKind::Set { local, name }, Effects::SETTINGS_LOCAL)
        }
        // Under SERIALIZABLE a standby refuses whatever follows.
        "default_transaction_isolation" => {
            Verdict::primary("SET", StatementKind::Set { local, name }, lasting)
        }
        _ => Verdict::any_server(StatementKind::Set { local, name }, lasting),
    }
}

fn set_transaction(words: Words<'_>) -> Verdict {
    let effects = Effects::SETTINGS_LOCAL;
    if words.is(0, "snapshot") {
        let kind = StatementKind::SetTransaction { modes: TransactionModes::default(), snapshot: true };
        return Verdict::primary("SET TRANSACTION SNAPSHOT", kind, effects);
    }
    let Some(modes) = transaction_modes(words).filter(|_| words.len() > 0) else { return Verdict::unknown() };
    let kind = StatementKind::SetTransaction { modes, snapshot: false };
    match modes {
        TransactionModes { isolation: Some(Isolation::Serializable), .. } => {
            Verdict { class: Class::Write, reason: RouteReason::Serializable, kind, effects }
        }
        TransactionModes { read_only: Some(false), .. } => {
            Verdict { class: Class::Write, reason: RouteReason::ReadWriteTransaction, kind, effects }
        }
        _ => Verdict::any_server(kind, effects),
    }
}

fn reset(words: Words<'_>) -> Verdict {
    use StatementKind as K;
    let effects = Effects::CHANGES_SETTINGS;
    let user = effects | Effects::CHANGES_USER;
    let name = |name: &str| Verdict::any_server(K::Reset { name: name.into() }, effects);
    match words.word(0).as_str() {
        "all" if words.len() == 1 => Verdict::any_server(K::ResetAll, effects),
        "session" if words.is(1, "authorization") => {
            Verdict::any_server(K::SetSessionAuthorization { local: false }, user)
        }
        "role" | "session_authorization" if words.len() == 1 => match words.is(0, "role") {
            true => Verdict::any_server(K::SetRole { local: false }, user),
            false => Verdict::any_server(K::SetSessionAuthorization { local: false }, user),
        },
        "time" if words.is(1, "zone") => name("timezone"),
        "transaction" if words.is(1, "isolation") => name("transaction_isolation"),
        _ => match parameter(words) {
            Some((parameter, end)) if end == words.len() => name(&parameter),
            _ => Verdict::unknown(),
        },
    }
}

fn show(words: Words<'_>) -> Verdict {
    let ours = |show| Verdict::any_server(StatementKind::ShowPool(show), Effects::NONE);
    let name = |name: &str| Verdict::any_server(StatementKind::Show { name: name.into() }, Effects::NONE);
    if words.is(0, "time") && words.is(1, "zone") {
        return name("timezone");
    }
    if words.is(0, "session") && words.is(1, "authorization") {
        return name("session_authorization");
    }
    if words.is(0, "transaction") && words.is(1, "isolation") {
        return name("transaction_isolation");
    }
    match parameter(words) {
        Some((parameter, end)) if end == words.len() => match &*parameter {
            // Drivers ask these to find out whether they may write; by komainu they may.
            "transaction_read_only" | "in_hot_standby" | "all" => {
                Verdict::primary("SHOW of it", StatementKind::Show { name: parameter }, Effects::NONE)
            }
            "pool_nodes" => ours(PoolShow::Nodes),
            "pool_version" => ours(PoolShow::Version),
            "pool_processes" => ours(PoolShow::Processes),
            "pool_pools" => ours(PoolShow::Pools),
            "route" => ours(PoolShow::Route),
            other => match other.strip_prefix("komainu.") {
                Some(topic) => ours(PoolShow::Komainu(topic.into())),
                None => name(other),
            },
        },
        _ => Verdict::unknown(),
    }
}

fn discard(words: Words<'_>) -> Verdict {
    let all = Effects::DISCARDS_ALL
        | Effects::CHANGES_SETTINGS
        | Effects::CHANGES_USER
        | Effects::SQL_DEALLOCATE
        | Effects::UNLISTENS
        | Effects::ADVISORY_UNLOCK;
    match words.word(1).as_str() {
        _ if words.len() != 2 => Verdict::unknown(),
        "all" => Verdict::any_server(StatementKind::DiscardAll, all),
        "plans" | "sequences" | "temp" | "temporary" => {
            Verdict::any_server(StatementKind::DiscardOther, Effects::DISCARDS_SOME)
        }
        _ => Verdict::unknown(),
    }
}

fn deallocate(words: Words<'_>) -> Verdict {
    let name = if words.is(1, "prepare") && words.len() > 2 { 2 } else { 1 };
    let all = words.is(name, "all") && words.len() == name + 1;
    let name = (!all).then(|| words.name(name).into());
    Verdict::any_server(StatementKind::Deallocate { name }, Effects::SQL_DEALLOCATE)
}

/// CREATE of anything; what a CREATE TABLE AS selects is looked at elsewhere.
fn create(words: Words<'_>) -> Verdict {
    // CREATE [OR REPLACE] [LOCAL|GLOBAL] TEMP …
    let mut at = if words.is(1, "or") && words.is(2, "replace") { 3 } else { 1 };
    at += usize::from(words.is_any(at, &["local", "global"]));
    let temporary = words.is_any(at, &["temp", "temporary"]);
    let in_temporary_schema = (0..words.len())
        .any(|at| words.kind(at + 1) == Some(TokenKind::Dot) && may_be_temporary_schema(words, at));
    let temp = if temporary || in_temporary_schema { Effects::TEMP_OBJECT } else { Effects::NONE };
    // What only its maker sees changes nobody's routing, and is made too often to read catalogs again for.
    let ddl = if temporary { Effects::NONE } else { Effects::DDL };
    Verdict::primary("CREATE", StatementKind::Ddl, temp | ddl | Effects::MAY_WRITE)
}

/// What a name with escapes means is not known.
pub(super) fn may_be_temporary_schema(words: Words<'_>, at: usize) -> bool {
    words.kind(at) == Some(TokenKind::UnicodeQuoted) || words.name(at).starts_with("pg_temp")
}

/// A COPY's direction, and the index of FROM or TO.
pub(super) fn copy_direction(words: Words<'_>) -> Option<(CopyDirection, usize)> {
    let at = words.find_outside(1, |index| words.is_any(index, &["from", "to"]))?;
    let from = words.is(at, "from");
    // The grammar takes STDIN and STDOUT for one another.
    let direction = match (words.is_any(at + 1, &["stdin", "stdout"]), from) {
        (true, true) => CopyDirection::In,
        (true, false) => CopyDirection::Out,
        (false, _) => CopyDirection::ServerSide,
    };
    Some((direction, at))
}
