//! The function calls in a statement, found in its tokens.
//!
//! Owns what looks like a call and what calls do to the session. It reads tokens and not a syntax tree, so
//! that no construct the parser models in a way of its own can hide a call. Invariant: whatever PostgreSQL
//! would take for a call of a function that users can define is found; some other things are too.

use super::effects::Effects;
use super::lexer::TokenKind;
use super::statement::QualifiedName;
use super::words::{Words, contains};

/// A call's name and the index of the token that holds its last part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    pub name: QualifiedName,
    pub at: usize,
}

/// Words before `(` that can never be a function's name unless quoted or qualified: reserved words, and
/// those the grammar keeps for types and forms of its own. All are so in every version from 11 to 18.
const NEVER_FUNCTIONS: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "between",
    "bigint",
    "bit",
    "boolean",
    "both",
    "case",
    "cast",
    "char",
    "character",
    "check",
    "coalesce",
    "collate",
    "column",
    "constraint",
    "create",
    "current_catalog",
    "current_date",
    "current_role",
    "current_time",
    "current_timestamp",
    "current_user",
    "dec",
    "decimal",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "exists",
    "extract",
    "false",
    "fetch",
    "float",
    "for",
    "foreign",
    "from",
    "grant",
    "greatest",
    "group",
    "grouping",
    "having",
    "in",
    "initially",
    "inout",
    "int",
    "integer",
    "intersect",
    "interval",
    "into",
    "lateral",
    "leading",
    "least",
    "limit",
    "localtime",
    "localtimestamp",
    "national",
    "nchar",
    "not",
    "null",
    "nullif",
    "numeric",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "out",
    "placing",
    "primary",
    "real",
    "references",
    "returning",
    "row",
    "select",
    "session_user",
    "setof",
    "smallint",
    "some",
    "symmetric",
    "table",
    "then",
    "time",
    "timestamp",
    "to",
    "trailing",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "values",
    "varchar",
    "variadic",
    "when",
    "where",
    "window",
    "with",
    "xmlattributes",
    "xmlconcat",
    "xmlelement",
    "xmlexists",
    "xmlforest",
    "xmlnamespaces",
    "xmlparse",
    "xmlpi",
    "xmlroot",
    "xmlserialize",
    "xmltable",
];

/// Every call, in order. `alias` says that the token at an index names an alias or a CTE with columns.
pub(super) fn calls(words: Words<'_>, alias: impl Fn(usize) -> bool) -> Vec<Call> {
    (0..words.len())
        .filter(|at| words.is_name(*at) && words.kind(at + 1) == Some(TokenKind::OpenParen) && !alias(*at))
        .filter_map(|at| call(words, at))
        .collect()
}

fn call(words: Words<'_>, at: usize) -> Option<Call> {
    let mut first = at;
    while first >= 2 && words.kind(first - 1) == Some(TokenKind::Dot) && words.is_name(first - 2) {
        first -= 2;
    }
    // `(expression).name(…)` is a syntax error, `t[1].name(…)` too: a dot before `first` qualifies nothing.
    let before = first.checked_sub(1);
    let after = |word: &str| before.is_some_and(|index| words.is(index, word));
    let is_type = before.is_some_and(|index| words.is_operator(index, "::"));
    // AS is followed by an alias, by a type, or by a word of the grammar; INTO by a relation and its columns.
    if is_type || after("as") || after("into") || after("tablesample") {
        return None;
    }
    if first == at && words.kind(at) == Some(TokenKind::Word) {
        let word = words.text(at);
        if contains(NEVER_FUNCTIONS, word) || is_operator_name(words, at) {
            return None;
        }
        let varying = word.eq_ignore_ascii_case("varying");
        if varying && before.is_some_and(|b| words.is_any(b, &["char", "character", "bit", "nchar"])) {
            return None;
        }
    }
    let schema = (at > first).then(|| words.name(at - 2).into());
    Some(Call { name: QualifiedName { schema, name: words.name(at).into() }, at })
}

/// `OPERATOR(pg_catalog.+)`
fn is_operator_name(words: Words<'_>, at: usize) -> bool {
    let mut inner = at + 2;
    while words.is_name(inner) && words.kind(inner + 1) == Some(TokenKind::Dot) {
        inner += 2;
    }
    words.is(at, "operator")
        && words.kind(inner) == Some(TokenKind::Operator)
        && words.kind(inner + 1) == Some(TokenKind::CloseParen)
}

/// Names behind a dot that are no call: with one composite argument `f(x)` may also be written `x.f`.
pub(super) fn attributes(words: Words<'_>) -> Vec<Box<str>> {
    let mut found: Vec<Box<str>> = (1..words.len())
        .filter(|at| {
            words.kind(at - 1) == Some(TokenKind::Dot)
                && words.is_name(*at)
                && words.kind(at + 1) != Some(TokenKind::OpenParen)
        })
        .map(|at| words.name(at).into())
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// What the calls do to the session, as far as functions of `pg_catalog` go.
pub(super) fn effects(words: Words<'_>, calls: &[Call]) -> Effects {
    let mut effects = Effects::NONE;
    let mut setting = Vec::new();
    for call in calls.iter().filter(|call| call.name.may_be_builtin()) {
        match &*call.name.name {
            "set_config" => setting.push(call.at + 1),
            name => effects |= effect(name),
        }
    }
    effects | set_by(words, &setting)
}

fn effect(name: &str) -> Effects {
    match name {
        "pg_advisory_lock"
        | "pg_advisory_lock_shared"
        | "pg_try_advisory_lock"
        | "pg_try_advisory_lock_shared" => Effects::SESSION_ADVISORY_LOCK,
        "pg_advisory_unlock" | "pg_advisory_unlock_shared" | "pg_advisory_unlock_all" => {
            Effects::ADVISORY_UNLOCK
        }
        "currval" | "lastval" => Effects::USES_SEQUENCE_STATE,
        "nextval" | "setval" => Effects::ADVANCES_SEQUENCE,
        "pg_notify" => Effects::NOTIFIES,
        "loread" | "lowrite" => Effects::LARGE_OBJECT,
        // These are bound to their connection, and nothing but its end ends them: a temporary slot, a backup, an origin.
        "pg_create_physical_replication_slot"
        | "pg_create_logical_replication_slot"
        | "pg_copy_physical_replication_slot"
        | "pg_copy_logical_replication_slot"
        | "pg_backup_start"
        | "pg_start_backup"
        | "pg_replication_origin_session_setup" => Effects::LOADS,
        name if name.starts_with("lo_") => Effects::LARGE_OBJECT,
        _ => Effects::NONE,
    }
}

/// What calls of `set_config` do, by the indices of their parentheses, which ascend. Each token is looked at once,
/// however many calls are inside of one another.
fn set_by(words: Words<'_>, parentheses: &[usize]) -> Effects {
    let Some(&first) = parentheses.first() else { return Effects::NONE };
    let mut effects = Effects::CHANGES_USER;
    let mut calls = parentheses.iter().peekable();
    // Of the parentheses that are open: whether it is such a call's, and its first two commas.
    let mut open: Vec<(bool, [Option<usize>; 2])> = Vec::new();
    for index in first..words.len() {
        match words.kind(index) {
            Some(TokenKind::OpenParen) => open.push((calls.next_if_eq(&&index).is_some(), [None; 2])),
            Some(TokenKind::Comma) => {
                let commas = open.last_mut().map(|(_, commas)| commas);
                if let Some(free) = commas.and_then(|commas| commas.iter_mut().find(|comma| comma.is_none()))
                {
                    *free = Some(index);
                }
            }
            Some(TokenKind::CloseParen) => {
                if let Some((true, [_, second])) = open.pop() {
                    effects |= match second.is_some_and(|comma| is_local(words, comma, index)) {
                        true => Effects::SETTINGS_LOCAL,
                        false => Effects::CHANGES_SETTINGS,
                    };
                }
            }
            _ => {}
        }
    }
    match open.iter().any(|(is_call, _)| *is_call) {
        true => effects | Effects::CHANGES_SETTINGS,
        false => effects,
    }
}

/// The third argument, between its comma and the closing parenthesis, is the word `true` and nothing else. A string
/// will not do: literals are masked, so `'t'` and `'f'` share a shape.
fn is_local(words: Words<'_>, comma: usize, close: usize) -> bool {
    words.is(comma + 1, "true") && comma + 2 == close
}
