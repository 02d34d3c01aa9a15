//! What a text is: its statements, each looked at once, and the strictest of their classes.
//!
//! Owns the splitting of a text and the class of queries and of what contains one. Never asks what a name
//! means. Invariant: `Read` is said only of a query that was parsed whole, or of a command that is known.

use super::calls;
use super::effects::Effects;
use super::hint::Hints;
use super::lexer::{Lexer, Token, TokenKind};
use super::reading::decoded;
use super::reason::RouteReason;
use super::select;
use super::statement::{Analysis, Class, CopyDirection, QualifiedName, StatementKind};
use super::utility::{self, Verdict, may_be_temporary_schema};
use super::words::Words;

/// EXPLAIN of COPY of EXPLAIN …: no statement contains another deeper than this.
const MAX_WRAPPING: usize = 4;

/// Looks into a text. Takes some tens of microseconds: the result is cached by shape, on which alone it
/// depends.
pub fn analyze(sql: &str) -> Analysis {
    let mut hints = Hints::default();
    let mut tokens = Vec::new();
    let mut broken = false;
    for token in Lexer::new(sql.as_bytes()) {
        match token.kind {
            TokenKind::Hint => hints.read(token.text(sql)),
            kind => {
                broken |= matches!(kind, TokenKind::Unterminated | TokenKind::Invalid);
                tokens.push(token);
            }
        }
    }
    let split = split(sql, &tokens);
    let mut text = Text { hints, ..Text::default() };
    for statement in &split.statements {
        text.add(classify(Words { sql, tokens: statement }, 0));
    }
    // The server's own scanner or grammar refuses it whole, before anything of it runs.
    if broken {
        text.add(Found::of(Verdict::unknown()));
        text.statements = split.statements.len();
    }
    if split.doubtful {
        text.add(Found::of(Verdict { effects: Effects::OPAQUE, ..Verdict::unknown() }));
    }
    text.into_analysis()
}

/// The same of a text in another encoding than UTF-8, though one in which ASCII is itself: see `reading`.
pub fn analyze_foreign(sql: &[u8]) -> Analysis {
    Analysis { foreign: true, ..analyze(&decoded(sql)) }
}

/// The statements of a text, and whether that is all sure.
pub(super) struct Split<'a> {
    pub statements: Vec<&'a [Token]>,
    doubtful: bool,
}

/// At semicolons outside of parentheses and of BEGIN ATOMIC … END.
pub(super) fn split<'a>(sql: &'a str, tokens: &'a [Token]) -> Split<'a> {
    let mut split = Split { statements: Vec::new(), doubtful: false };
    let (mut start, mut parens, mut atomic) = (0usize, 0usize, 0usize);
    let mut routine = false;
    for (at, token) in tokens.iter().enumerate() {
        let words = Words { sql, tokens: &tokens[start..] };
        let here = at - start;
        if here == 0 {
            routine = creates_routine(words);
        }
        match token.kind {
            TokenKind::OpenParen => parens += 1,
            TokenKind::CloseParen => parens = parens.saturating_sub(1),
            TokenKind::Word if routine && parens == 0 => match () {
                // Elsewhere it is a name.
                () if words.is(here, "begin") && words.is(here + 1, "atomic") => atomic += 1,
                () if words.is(here, "case") && atomic > 0 => atomic += 1,
                () if words.is(here, "end") => atomic = atomic.saturating_sub(1),
                () => {}
            },
            TokenKind::Semicolon if parens == 0 && atomic == 0 => {
                split.push(&tokens[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    split.push(&tokens[start..]);
    split.doubtful = parens > 0 || atomic > 0;
    split
}

impl<'a> Split<'a> {
    fn push(&mut self, statement: &'a [Token]) {
        if !statement.is_empty() {
            self.statements.push(statement);
        }
    }
}

/// CREATE [OR REPLACE] FUNCTION or PROCEDURE, whose body may have semicolons.
fn creates_routine(words: Words<'_>) -> bool {
    let at = if words.is(1, "or") && words.is(2, "replace") { 3 } else { 1 };
    words.is(0, "create") && words.is_any(at, &["function", "procedure"])
}

/// One statement's part in an analysis.
struct Found {
    verdict: Verdict,
    functions: Vec<QualifiedName>,
    relations: Vec<QualifiedName>,
    attributes: Vec<Box<str>>,
}

impl Found {
    fn of(verdict: Verdict) -> Found {
        Found { verdict, functions: Vec::new(), relations: Vec::new(), attributes: Vec::new() }
    }
}

fn classify(words: Words<'_>, wrapped: usize) -> Found {
    if wrapped > MAX_WRAPPING {
        return Found::of(Verdict::unknown());
    }
    if words.kind(0) == Some(TokenKind::OpenParen) {
        return query(words);
    }
    if let Some(verdict) = utility::recognise(words) {
        return match verdict.kind {
            StatementKind::Ddl => created_from_query(words, verdict, wrapped),
            StatementKind::Execute | StatementKind::Call => with_calls(words.from(2), verdict),
            _ => Found::of(verdict),
        };
    }
    match words.word(0).as_str() {
        "select" | "values" | "table" | "with" | "insert" | "update" | "delete" | "merge" => query(words),
        "explain" => explain(words, wrapped),
        "copy" => copy(words, wrapped),
        "declare" => declare(words, wrapped),
        "prepare" => prepare(words, wrapped),
        _ => Found::of(Verdict::unknown()),
    }
}

fn with_calls(words: Words<'_>, verdict: Verdict) -> Found {
    let calls = calls::calls(words, |_| false);
    let effects = verdict.effects | calls::effects(words, &calls);
    let functions = calls.into_iter().map(|call| call.name).collect();
    Found { functions, ..Found::of(Verdict { effects, ..verdict }) }
}

/// SELECT, VALUES, TABLE, WITH, INSERT, UPDATE, DELETE, MERGE.
fn query(words: Words<'_>) -> Found {
    let parsed = select::parse(words);
    let aliases = parsed.as_ref().map(|parsed| parsed.aliases.clone()).unwrap_or_default();
    let calls = calls::calls(words, |at| aliases.contains(&at));
    let mut verdict = query_verdict(words);
    verdict.effects |= calls::effects(words, &calls);
    let relations = match parsed {
        Ok(parsed) => parsed.relations,
        Err(reason) => {
            if verdict.class == Class::Read {
                verdict.class = Class::Write;
                verdict.reason = reason;
            }
            verdict.effects |= Effects::MAY_WRITE;
            Vec::new()
        }
    };
    let functions = calls.into_iter().map(|call| call.name).collect();
    Found { verdict, functions, relations, attributes: calls::attributes(words) }
}

/// By words alone: so that whatever the parser makes of them, these make a write.
fn query_verdict(words: Words<'_>) -> Verdict {
    let anywhere = |found: &dyn Fn(usize) -> bool| (0..words.len()).find(|at| found(*at));
    let write = |reason, kind, effects| Verdict { class: Class::Write, reason, kind, effects };
    let changes = |at: usize| changes_data(words, at);
    if words.find_outside(0, changes).is_some() {
        return write(RouteReason::DataModifying, StatementKind::Dml, changing(words));
    }
    if anywhere(&changes).is_some() {
        return write(RouteReason::WritableCte, StatementKind::Query, changing(words));
    }
    if let Some(into) = anywhere(&|at| is_keyword(words, at, "into")) {
        return write(RouteReason::SelectInto, StatementKind::Query, selecting_into(words, into));
    }
    if anywhere(&|at| locks_rows(words, at)).is_some() {
        return write(RouteReason::LockingClause, StatementKind::Query, Effects::MAY_WRITE);
    }
    Verdict {
        class: Class::Read,
        reason: RouteReason::ReadOnly,
        kind: StatementKind::Query,
        effects: Effects::NONE,
    }
}

fn is_keyword(words: Words<'_>, at: usize, keyword: &str) -> bool {
    words.is(at, keyword) && !words.is_label(at)
}

fn changes_data(words: Words<'_>, at: usize) -> bool {
    let is = |keyword| is_keyword(words, at, keyword);
    // FOR UPDATE and FOR NO KEY UPDATE are another rule's.
    let locking = at > 0 && words.is(at - 1, "for")
        || at > 2 && words.is(at - 1, "key") && words.is(at - 2, "no") && words.is(at - 3, "for");
    is("insert") || is("delete") || is("merge") || is("update") && !locking
}

fn locks_rows(words: Words<'_>, at: usize) -> bool {
    is_keyword(words, at, "for") && words.is_any(at + 1, &["update", "share", "no", "key"])
}

fn changing(words: Words<'_>) -> Effects {
    let inserts = (0..words.len()).any(|at| words.is_any(at, &["insert", "merge"]));
    let sequence = if inserts { Effects::ADVANCES_SEQUENCE } else { Effects::NONE };
    // An UPDATE of this view is a SET, by a rule of PostgreSQL's.
    let sets = (0..words.len()).any(|at| words.may_be(at, &["pg_settings"]));
    let settings = if sets { Effects::CHANGES_SETTINGS } else { Effects::NONE };
    Effects::MAY_WRITE | sequence | settings
}

/// SELECT … INTO [LOCAL|GLOBAL] [TEMP|UNLOGGED] [TABLE] name
fn selecting_into(words: Words<'_>, into: usize) -> Effects {
    let temporary = (into + 1..into + 3).any(|at| words.is_any(at, &["temp", "temporary"]))
        || may_be_temporary_schema(words, into + 1);
    match temporary {
        true => Effects::TEMP_OBJECT | Effects::MAY_WRITE,
        false => Effects::DDL | Effects::MAY_WRITE,
    }
}

/// EXPLAIN [ANALYZE] [VERBOSE] or EXPLAIN (options), and a statement. Not run without ANALYZE, but its class
/// is kept: planning is best done where the statement will run.
fn explain(words: Words<'_>, wrapped: usize) -> Found {
    let (runs, body) = explained(words);
    let mut found = classify(words.from(body), wrapped + 1);
    let executes = found.verdict.effects.intersects(Effects::SQL_EXECUTE);
    let explainable = matches!(
        found.verdict.kind,
        StatementKind::Query | StatementKind::Dml | StatementKind::Ddl | StatementKind::Execute
    ) || words.is(body, "declare");
    if !explainable {
        return Found::of(Verdict::unknown());
    }
    if !runs {
        found.verdict.effects = if executes { Effects::SQL_EXECUTE } else { Effects::NONE };
    }
    found.verdict.kind = StatementKind::Query;
    found
}

/// Of EXPLAIN: whether it runs the statement, and the index where that begins.
pub(super) fn explained(words: Words<'_>) -> (bool, usize) {
    let starts_query = |at| words.is_any(at, &["select", "with", "values", "table"]);
    let options = words.kind(1) == Some(TokenKind::OpenParen)
        && !starts_query(2)
        && words.kind(2) != Some(TokenKind::OpenParen);
    match words.closing(1).filter(|_| options) {
        Some(close) => (analyzes(words.until(close)), close + 1),
        None => {
            let analyze = usize::from(words.is_any(1, &["analyze", "analyse"]));
            (analyze == 1, 1 + analyze + usize::from(words.is(1 + analyze, "verbose")))
        }
    }
}

/// ANALYZE is among the options and not plainly off. A value may be a number, which is masked: then it counts.
fn analyzes(words: Words<'_>) -> bool {
    (2..words.len())
        .any(|at| words.may_be(at, &["analyze", "analyse"]) && !words.is_any(at + 1, &["off", "false"]))
}

fn copy(words: Words<'_>, wrapped: usize) -> Found {
    let Some((direction, at)) = utility::copy_direction(words) else { return Found::of(Verdict::unknown()) };
    let from = words.is(at, "from");
    let kind = StatementKind::Copy(direction);
    let effects = match direction {
        CopyDirection::In => Effects::COPY_IN,
        CopyDirection::Out => Effects::COPY_OUT,
        CopyDirection::ServerSide => Effects::NONE,
    };
    if from {
        let effects = effects | Effects::MAY_WRITE | Effects::ADVANCES_SEQUENCE;
        // What stands in its WHERE is called for each row.
        let found = with_calls(words.from(at), Verdict::primary("COPY FROM", kind, effects));
        return Found { relations: copied_table(words).relations, ..found };
    }
    let mut found = match words.kind(1) {
        Some(TokenKind::OpenParen) => classify(words.until(at.saturating_sub(1)).from(2), wrapped + 1),
        _ => copied_table(words),
    };
    found.verdict.kind = kind;
    found.verdict.effects |= effects;
    // A file or a program of the server's: which server matters.
    if direction == CopyDirection::ServerSide && found.verdict.class == Class::Read {
        found.verdict.class = Class::Write;
        found.verdict.reason = RouteReason::Utility("COPY TO a server's file");
    }
    found
}

fn copied_table(words: Words<'_>) -> Found {
    let name = if words.is(1, "binary") && words.is_name(2) { 2 } else { 1 };
    match words.qualified_name(name) {
        Some((relation, _)) => {
            let verdict = Verdict {
                class: Class::Read,
                reason: RouteReason::ReadOnly,
                kind: StatementKind::Query,
                effects: Effects::NONE,
            };
            Found { relations: vec![relation], ..Found::of(verdict) }
        }
        None => Found::of(Verdict::unknown()),
    }
}

/// DECLARE name … CURSOR [WITH HOLD] FOR query
fn declare(words: Words<'_>, wrapped: usize) -> Found {
    let Some(cursor) = (2..words.len()).find(|at| words.is(*at, "cursor")) else {
        return Found::of(Verdict::unknown());
    };
    let hold = words.is(cursor + 1, "with") && words.is(cursor + 2, "hold");
    let body = match words.is(cursor + 2, "hold") {
        true => cursor + 3,
        false => cursor + 1,
    };
    if !words.is(body, "for") {
        return Found::of(Verdict::unknown());
    }
    let mut found = classify(words.from(body + 1), wrapped + 1);
    found.verdict.kind = StatementKind::DeclareCursor { hold };
    if hold {
        found.verdict.effects |= Effects::HOLD_CURSOR;
    }
    found
}

/// PREPARE name [(types)] AS statement: nothing of the statement runs now, but its class is what an EXECUTE
/// of it has.
fn prepare(words: Words<'_>, wrapped: usize) -> Found {
    let Some(body) = prepared_body(words) else { return Found::of(Verdict::unknown()) };
    let mut found = classify(words.from(body), wrapped + 1);
    if !matches!(found.verdict.kind, StatementKind::Query | StatementKind::Dml) {
        return Found::of(Verdict::unknown());
    }
    found.verdict.kind = StatementKind::Prepare;
    found.verdict.effects = Effects::SQL_PREPARE;
    found
}

/// Of PREPARE: the index behind AS.
pub(super) fn prepared_body(words: Words<'_>) -> Option<usize> {
    words.find_outside(2, |at| words.is(at, "as")).map(|at| at + 1)
}

/// CREATE TABLE or MATERIALIZED VIEW … AS runs a query, or executes what was prepared.
fn created_from_query(words: Words<'_>, mut verdict: Verdict, wrapped: usize) -> Found {
    let runs = words.is(0, "create") && (1..6).any(|at| words.is_any(at, &["table", "materialized"]));
    let starts = |at| words.is_any(at, &["select", "with", "values", "table", "execute"]);
    let body = words.find_outside(1, |at| {
        words.is(at, "as") && (starts(at + 1) || words.kind(at + 1) == Some(TokenKind::OpenParen))
    });
    match body.filter(|_| runs) {
        Some(at) => {
            let found = classify(words.from(at + 1), wrapped + 1);
            verdict.effects |= found.verdict.effects;
            Found { verdict, ..found }
        }
        None => Found::of(verdict),
    }
}

/// A text's analysis in the making.
#[derive(Default)]
struct Text {
    worst: Option<(Class, RouteReason)>,
    kind: Option<StatementKind>,
    statements: usize,
    effects: Effects,
    leaves_open: bool,
    functions: Vec<QualifiedName>,
    relations: Vec<QualifiedName>,
    attributes: Vec<Box<str>>,
    hints: Hints,
}

impl Text {
    fn add(&mut self, found: Found) {
        let Verdict { class, reason, kind, effects } = found.verdict;
        let stricter = match &self.worst {
            None => true,
            Some((Class::Read, before)) => class == Class::Write || *before == RouteReason::AnyServer,
            Some((Class::Write, _)) => false,
        };
        if stricter {
            self.worst = Some((class, reason));
        }
        self.statements += 1;
        self.kind = Some(if self.statements == 1 { kind } else { StatementKind::Many });
        const BOUNDS: Effects = Effects::BEGINS.union(Effects::ENDS_TRANSACTION);
        if effects.intersects(BOUNDS) {
            self.leaves_open =
                effects.intersects(Effects::BEGINS) && !effects.intersects(Effects::UNKNOWN_EFFECTS);
        }
        self.effects |= effects;
        self.functions.extend(found.functions);
        self.relations.extend(found.relations);
        self.attributes.extend(found.attributes);
    }

    fn into_analysis(mut self) -> Analysis {
        let kind = self.kind.unwrap_or(StatementKind::Empty);
        if self.leaves_open {
            self.effects |= Effects::LEAVES_OPEN;
        }
        if self.statements == 1 && is_sure_end(&kind, self.effects) {
            self.effects |= Effects::IS_SURE_END;
        }
        let (class, reason) = self.worst.unwrap_or((Class::Read, RouteReason::Empty));
        Analysis {
            class,
            reason,
            functions: distinct(self.functions),
            relations: distinct(self.relations),
            attributes: distinct(self.attributes),
            statements: self.statements,
            kind,
            effects: self.effects,
            hints: self.hints,
            foreign: false,
        }
    }
}

/// Whether a lone statement surely ends the transaction it runs in, if that is its own.
fn is_sure_end(kind: &StatementKind, effects: Effects) -> bool {
    use StatementKind as K;
    match kind {
        K::Commit { chain } => !chain,
        K::Empty | K::Many | K::Begin(_) | K::Rollback { .. } | K::Savepoint | K::Release | K::RollbackTo => {
            false
        }
        K::PrepareTransaction | K::SetTransaction { .. } | K::Copy(_) => false,
        _ => !effects.intersects(Effects::UNKNOWN_EFFECTS),
    }
}

fn distinct<T: Ord>(mut found: Vec<T>) -> Box<[T]> {
    found.sort_unstable();
    found.dedup();
    found.into_boxed_slice()
}
