//! What the parser says of a query: its relations, and which names in it are aliases.
//!
//! Owns the use of `sqlparser`. It is given a text rebuilt from our own tokens, with literals masked: so our
//! lexer's reading of the text is the only one, and what is found depends on the shape alone.
//! Invariant: a relation is left out only if it surely is the name of a CTE where it stands.

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;

use sqlparser::ast::{Ident, ObjectName, Query, Statement, TableAlias, TableFactor, Visit, Visitor};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::Token as ParserToken;

use super::lexer::TokenKind;
use super::reason::RouteReason;
use super::statement::QualifiedName;
use super::words::{Words, fold_identifier};

/// Deepest nesting the parser follows. Each level costs some kilobytes of stack.
const MAX_DEPTH: usize = 96;
/// Most operators in one statement: `a or b or c …` becomes a tree as deep as it is long, and dropping that
/// recurses without a guard.
const MAX_CHAIN: usize = 800;

/// What the parser found.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub relations: Vec<QualifiedName>,
    /// Indices of tokens that name an alias or a CTE.
    pub aliases: HashSet<usize>,
}

/// Parses one query or data-modifying statement.
pub(super) fn parse(words: Words<'_>) -> Result<Parsed, RouteReason> {
    if is_too_complex(words) {
        return Err(RouteReason::TooComplex);
    }
    let canonical = Canonical::new(words).ok_or(RouteReason::Unparsable)?;
    let statement = statement(&canonical.text).ok_or(RouteReason::Unparsable)?;
    let mut found = Found { words, places: &canonical.places, parsed: Parsed::default(), scopes: Vec::new() };
    let _ = statement.visit(&mut found);
    Ok(found.parsed)
}

fn statement(text: &str) -> Option<Statement> {
    let dialect = PostgreSqlDialect {};
    let mut parser = Parser::new(&dialect).with_recursion_limit(MAX_DEPTH).try_with_sql(text).ok()?;
    let statement = parser.parse_statement().ok()?;
    let ended = parser.peek_token().token == ParserToken::EOF;
    let expected = matches!(
        statement,
        Statement::Query(_)
            | Statement::Insert(_)
            | Statement::Update(_)
            | Statement::Delete(_)
            | Statement::Merge(_)
    );
    (ended && expected).then_some(statement)
}

fn is_too_complex(words: Words<'_>) -> bool {
    const CHAINING: &[&str] = &[
        "and",
        "or",
        "not",
        "is",
        "isnull",
        "notnull",
        "in",
        "like",
        "ilike",
        "similar",
        "between",
        "collate",
        "at",
        "union",
        "except",
        "intersect",
        "join",
        "overlaps",
    ];
    let (mut depth, mut deepest, mut chain) = (0usize, 0usize, 0usize);
    for index in 0..words.len() {
        match words.kind(index) {
            Some(TokenKind::OpenParen | TokenKind::OpenBracket) => {
                depth += 1;
                deepest = deepest.max(depth);
                chain += usize::from(words.kind(index) == Some(TokenKind::OpenBracket));
            }
            Some(TokenKind::CloseParen | TokenKind::CloseBracket) => depth = depth.saturating_sub(1),
            Some(TokenKind::Operator) => chain += 1,
            Some(TokenKind::Word) => chain += usize::from(words.is_any(index, CHAINING)),
            _ => {}
        }
    }
    deepest > MAX_DEPTH || chain > MAX_CHAIN
}

/// The statement as text again: literals masked, and the few things said differently that the
/// parser does not know. None of these can hide a call, since calls are found in the tokens.
struct Canonical {
    text: String,
    /// For the parser's positions: where each token begins, and the token's index; ascending.
    places: Vec<(Place, usize)>,
}

/// Line and column, from 1. Only a quoted identifier has lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place(u64, u64);

impl Place {
    /// Behind `piece`, as the parser counts: a new line wherever there is one.
    fn behind(self, piece: &str) -> Place {
        match piece.rsplit_once('\n') {
            Some((before, last)) => {
                Place(self.0 + 1 + before.matches('\n').count() as u64, 1 + last.chars().count() as u64)
            }
            None => Place(self.0, self.1 + piece.chars().count() as u64),
        }
    }
}

impl Canonical {
    fn new(words: Words<'_>) -> Option<Canonical> {
        let mut text = String::with_capacity(words.len() * 8);
        let mut places = Vec::with_capacity(words.len());
        let mut place = Place(1, 1);
        let mut index = 0;
        while index < words.len() {
            let dropped = dropped(words, index);
            if dropped == 0 {
                let piece = piece(words, index)?;
                places.push((place, index));
                place = place.behind(&piece);
                place.1 += 1;
                text.push_str(&piece);
                text.push(' ');
            }
            index += dropped.max(1);
        }
        Some(Canonical { text, places })
    }
}

fn piece(words: Words<'_>, index: usize) -> Option<std::borrow::Cow<'_, str>> {
    let text = words.text(index);
    Some(match words.kind(index)? {
        TokenKind::String => "'x'".into(),
        TokenKind::Number => "1".into(),
        TokenKind::UnicodeQuoted | TokenKind::Hint | TokenKind::Unterminated | TokenKind::Invalid => {
            return None;
        }
        // The parser reads fewer characters as letters than PostgreSQL, which takes all beyond ASCII.
        TokenKind::Word if !text.is_ascii() || text.contains('$') => {
            format!("\"{}\"", fold_identifier(text)).into()
        }
        TokenKind::Word if words.is_label(index) => text.into(),
        TokenKind::Word if words.is(index, "table") => "SELECT * FROM".into(),
        _ => text.into(),
    })
}

/// How many tokens from `index` on the parser is not shown: parts of queries that it does not know, or not
/// everywhere, and that name no relation.
fn dropped(words: Words<'_>, index: usize) -> usize {
    if words.kind(index) == Some(TokenKind::Dot) {
        // (composite).*
        let composite = index > 0
            && matches!(words.kind(index - 1), Some(TokenKind::CloseParen | TokenKind::CloseBracket));
        return if composite && words.is_operator(index + 1, "*") { 2 } else { 0 };
    }
    if words.kind(index) != Some(TokenKind::Word) || words.is_label(index) {
        return 0;
    }
    let next = |keyword| words.is(index + 1, keyword);
    match () {
        // FROM ONLY, as against FETCH FIRST … ROWS ONLY.
        () if words.is(index, "only") => usize::from(index > 0 && !words.is_any(index - 1, &["row", "rows"])),
        () if words.is_any(index, &["symmetric", "asymmetric", "variadic"]) => 1,
        () if words.is(index, "collate") => words.qualified_name(index + 1).map_or(0, |(_, end)| end - index),
        () if words.is(index, "exclude") && (next("ties") || next("group")) => 2,
        () if words.is(index, "exclude") && next("current") && words.is(index + 2, "row") => 3,
        () if words.is(index, "exclude") && next("no") && words.is(index + 2, "others") => 3,
        () => 0,
    }
}

struct Found<'a> {
    words: Words<'a>,
    places: &'a [(Place, usize)],
    parsed: Parsed,
    /// The queries around the node being visited.
    scopes: Vec<Scope>,
}

/// The names one query's WITH brings into sight.
struct Scope {
    /// And which CTE is the first of that name.
    names: HashMap<Box<str>, usize>,
    /// Where each CTE's own query is in memory: to know it when the visitor comes to it.
    queries: HashMap<*const Query, usize>,
    recursive: bool,
    /// How many of the CTEs can be seen at this point of the visit.
    visible: usize,
}

impl Found<'_> {
    /// What is not certain is left to be taken for a call.
    fn alias(&mut self, name: &Ident) {
        let place = Place(name.span.start.line, name.span.start.column);
        if let Ok(at) = self.places.binary_search_by_key(&place, |(place, _)| *place) {
            let token = self.places[at].1;
            if self.words.name(token) == folded(name).as_ref() {
                self.parsed.aliases.insert(token);
            }
        }
    }

    fn relation(&mut self, name: &ObjectName) {
        let parts: Vec<Option<Box<str>>> = name.0.iter().map(|part| part.as_ident().map(folded)).collect();
        let (Some(last), schema) = (parts.last().cloned().flatten(), parts.iter().rev().nth(1).cloned())
        else {
            return;
        };
        if schema.is_none() && self.is_cte(&last) {
            return;
        }
        self.parsed.relations.push(QualifiedName { schema: schema.flatten(), name: last });
    }

    fn is_cte(&self, name: &str) -> bool {
        self.scopes.iter().any(|scope| scope.names.get(name).is_some_and(|first| *first < scope.visible))
    }
}

fn folded(ident: &Ident) -> Box<str> {
    match ident.quote_style {
        // The parser has unescaped it already.
        Some(_) => fold_identifier(&format!("\"{}\"", ident.value.replace('"', "\"\""))).into(),
        None => fold_identifier(&ident.value).into(),
    }
}

fn table_alias(factor: &TableFactor) -> Option<&TableAlias> {
    match factor {
        TableFactor::Table { alias, .. }
        | TableFactor::Derived { alias, .. }
        | TableFactor::TableFunction { alias, .. }
        | TableFactor::Function { alias, .. }
        | TableFactor::UNNEST { alias, .. }
        | TableFactor::JsonTable { alias, .. }
        | TableFactor::XmlTable { alias, .. }
        | TableFactor::NestedJoin { alias, .. } => alias.as_ref(),
        _ => None,
    }
}

impl Visitor for Found<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        if let Some(scope) = self.scopes.last_mut()
            && let Some(at) = scope.queries.get(&std::ptr::from_ref(query))
        {
            // Without RECURSIVE a CTE sees only those before it, and not itself.
            scope.visible = if scope.recursive { scope.queries.len() } else { *at };
        }
        let mut scope =
            Scope { names: HashMap::new(), queries: HashMap::new(), recursive: false, visible: 0 };
        if let Some(with) = &query.with {
            scope.recursive = with.recursive;
            for (at, cte) in with.cte_tables.iter().enumerate() {
                self.alias(&cte.alias.name);
                scope.names.entry(folded(&cte.alias.name)).or_insert(at);
                scope.queries.insert(&*cte.query, at);
            }
        }
        self.scopes.push(scope);
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.scopes.pop();
        if let Some(scope) = self.scopes.last_mut()
            && let Some(at) = scope.queries.get(&std::ptr::from_ref(query))
        {
            scope.visible = at + 1;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        self.relation(relation);
        ControlFlow::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let Some(alias) = table_alias(factor) {
            self.alias(&alias.name);
        }
        ControlFlow::Continue(())
    }
}
