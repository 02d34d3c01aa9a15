//! What a database's catalogs say of the names in a statement.
//!
//! Owns the known functions and relations, and the resolution of an analysis against them. Never asks a
//! server: rows are given to it (`catalog_sql` has the queries). Invariant: what is not known is volatile.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use super::builtin;
use super::effects::Effects;
use super::hint::HintTarget;
use super::one_server;
use super::reason::RouteReason;
use super::statement::{Analysis, Class, QualifiedName, StatementKind};
use super::words::fold_identifier;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Volatility {
    Immutable,
    Stable,
    Volatile,
}

/// One row of `CATALOG_QUERY_FUNCTIONS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionRow {
    pub schema: String,
    pub name: String,
    /// Worst over all overloads.
    pub volatility: Volatility,
    /// A volatile overload can be called as `x.name`.
    pub attribute: bool,
}

impl Volatility {
    /// From the query's third column. What is not one of its letters is volatile.
    pub fn from_letter(letter: &str) -> Volatility {
        match letter {
            "i" => Volatility::Immutable,
            "s" => Volatility::Stable,
            _ => Volatility::Volatile,
        }
    }
}

/// One database's catalogs, as far as routing needs them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Catalog {
    /// By name, since most calls are unqualified; then what each schema has under it.
    functions: HashMap<Box<str>, Vec<(Box<str>, Volatility)>>,
    /// Volatile functions that `x.name` may call.
    attributes: HashSet<Box<str>>,
    /// Relations only the primary may serve: name, and the schemas where that is so.
    primary_only: HashMap<Box<str>, Vec<Box<str>>>,
    /// What relations run by themselves that a session is left with.
    leaving: HashMap<Box<str>, Vec<(Box<str>, Leaves)>>,
    /// Whose transactions are SERIALIZABLE unless they say otherwise.
    pub serializable: HashSet<Box<str>>,
}

/// What is left of reading from a relation, and of writing to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Leaves {
    read: Left,
    written: Left,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Left {
    state: bool,
    locks: bool,
}

impl Left {
    fn or(self, other: Left) -> Left {
        Left { state: self.state || other.state, locks: self.locks || other.locks }
    }
}

impl Leaves {
    fn from_letters(letters: &str) -> Leaves {
        let has = |letter| letters.contains(letter);
        Leaves {
            read: Left { state: has('r'), locks: has('l') },
            written: Left { state: has('w'), locks: has('k') },
        }
    }
}

impl Catalog {
    /// `relations`: the rows of `CATALOG_QUERY_RELATIONS`, schema and name.
    pub fn new(
        functions: impl IntoIterator<Item = FunctionRow>,
        relations: impl IntoIterator<Item = (String, String)>,
    ) -> Catalog {
        let mut catalog = Catalog::default();
        for row in functions {
            if row.attribute {
                catalog.attributes.insert(row.name.as_str().into());
            }
            catalog.functions.entry(row.name.into()).or_default().push((row.schema.into(), row.volatility));
        }
        for (schema, name) in relations {
            catalog.primary_only.entry(name.into()).or_default().push(schema.into());
        }
        catalog
    }

    /// `rows`: those of `CATALOG_QUERY_STATE`, schema, name and letters.
    pub fn with_state(mut self, rows: impl IntoIterator<Item = (String, String, String)>) -> Catalog {
        for (schema, name, letters) in rows {
            let leaves = (schema.into(), Leaves::from_letters(&letters));
            self.leaving.entry(name.into()).or_default().push(leaves);
        }
        self
    }

    /// What a text leaves by naming the relation; of any schema, as with functions.
    fn left_by(&self, name: &QualifiedName, writes: bool, foreign: bool) -> Left {
        let of_name = under(&self.leaving, &name.name, foreign).flatten();
        of_name.filter(|(schema, _)| may_be_in(name, schema, foreign)).fold(
            Left::default(),
            |left, (_, leaves)| {
                let left = left.or(leaves.read);
                if writes { left.or(leaves.written) } else { left }
            },
        )
    }

    /// An unqualified name may mean a function of any schema, since `search_path` is not known here: the
    /// worst of all counts. `None`: no such function.
    fn function(&self, name: &QualifiedName) -> Option<Known> {
        let schemas = self.functions.get(&name.name)?;
        let meant = schemas.iter().filter(|(schema, _)| name.schema.as_ref().is_none_or(|s| s == schema));
        meant.fold(None, |worst: Option<Known>, (schema, volatility)| {
            let volatile = *volatility == Volatility::Volatile;
            let before = worst.unwrap_or(Known { volatile: false, leaves_state: false });
            Some(Known {
                volatile: before.volatile || volatile,
                leaves_state: before.leaves_state || volatile && &**schema != "pg_catalog",
            })
        })
    }

    fn is_primary_only(&self, name: &QualifiedName, foreign: bool) -> bool {
        under(&self.primary_only, &name.name, foreign)
            .flatten()
            .any(|schema| may_be_in(name, schema, foreign))
    }

    fn is_volatile_attribute(&self, name: &str, foreign: bool) -> bool {
        self.attributes.contains(name)
            || foreign && self.attributes.iter().any(|known| may_be(name, known, foreign))
    }
}

/// Whether a name in a text may be this one of the catalog's. What it says in another encoding than UTF-8 is not known.
fn may_be(name: &str, known: &str, foreign: bool) -> bool {
    match foreign && !name.is_ascii() {
        true => !known.is_ascii(),
        false => name == known,
    }
}

fn may_be_in(name: &QualifiedName, known: &str, foreign: bool) -> bool {
    name.schema.as_ref().is_none_or(|schema| may_be(schema, known, foreign))
}

/// All that a map has under a name.
fn under<'a, T>(map: &'a HashMap<Box<str>, T>, name: &'a str, foreign: bool) -> impl Iterator<Item = &'a T> {
    let is_known = !foreign || name.is_ascii();
    let any = (!is_known).then(|| map.iter().filter(move |(known, _)| may_be(name, known, foreign)));
    let one = map.get(name).filter(|_| is_known);
    one.into_iter().chain(any.into_iter().flatten().map(|(_, value)| value))
}

/// What is known of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    volatile: bool,
    /// Volatile and outside `pg_catalog`: may set what nobody sees. What functions of `pg_catalog` do to a
    /// session is in `Effects`.
    leaves_state: bool,
}

/// `split.read_only_functions` and `split.write_functions`, prepared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FunctionLists {
    read_only: HashSet<QualifiedName>,
    write: HashSet<QualifiedName>,
    id: u64,
}

impl FunctionLists {
    /// Names are written as in SQL: `name` or `schema.name`, folded unless quoted.
    pub fn new(read_only: &[String], write: &[String]) -> FunctionLists {
        let names = |list: &[String]| list.iter().map(|text| listed_name(text)).collect();
        let mut hasher = DefaultHasher::new();
        (read_only, write).hash(&mut hasher);
        let id = if read_only.is_empty() && write.is_empty() { 0 } else { hasher.finish() };
        FunctionLists { read_only: names(read_only), write: names(write), id }
    }

    /// Other lists have another: what was resolved with them is not to be taken for what these say.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// An entry without a schema stands for the function of any schema.
    fn is_read_only(&self, name: &QualifiedName) -> bool {
        !self.read_only.is_empty()
            && (self.read_only.contains(name) || self.read_only.contains(&QualifiedName::bare(&name.name)))
    }

    /// An unqualified call may be of the function that is listed with its schema.
    fn is_write(&self, name: &QualifiedName) -> bool {
        self.write.iter().any(|listed| {
            listed.name == name.name
                && (listed.schema.is_none() || name.schema.is_none() || listed.schema == name.schema)
        })
    }
}

fn listed_name(text: &str) -> QualifiedName {
    let mut quoted = false;
    let dot = text.char_indices().find_map(|(at, c)| {
        quoted ^= c == '"';
        (c == '.' && !quoted).then_some(at)
    });
    match dot {
        Some(at) => QualifiedName::in_schema(
            &fold_identifier(text[..at].trim()),
            &fold_identifier(text[at + 1..].trim()),
        ),
        None => QualifiedName::bare(&fold_identifier(text.trim())),
    }
}

/// What an analysis comes to with the catalog and the lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routed {
    pub class: Class,
    pub reason: RouteReason,
    /// A DO, a CALL, or a function outside `pg_catalog` that is volatile or not known: the connection may
    /// have state afterwards that nobody sees, and must be reset before another client gets it.
    pub hidden_state: bool,
    /// The text may write WAL: after its transaction the session needs a floor.
    pub may_write: bool,
    /// What the relations do that it names, besides what it says itself.
    pub effects: Effects,
    /// The text reads settings by name: which ones, its shape does not tell.
    pub reads_settings: bool,
}

/// Without a catalog only a few well-known functions of `pg_catalog` count as known, and no relation does:
/// any might be a view over a volatile function.
pub fn resolve(analysis: &Analysis, catalog: Option<&Catalog>, lists: &FunctionLists) -> Routed {
    let mut routed = Routed {
        class: analysis.class,
        reason: analysis.reason.clone(),
        hidden_state: analysis.effects.intersects(Effects::HIDDEN_STATE),
        may_write: analysis.effects.intersects(Effects::MAY_WRITE),
        effects: Effects::NONE,
        reads_settings: one_server::reads_settings(analysis),
    };
    let foreign = analysis.foreign;
    for name in &analysis.functions {
        let is_understood = !foreign || name.is_ascii();
        let known = known(name, catalog).filter(|_| is_understood);
        routed.hidden_state |= known.is_none_or(|known| known.leaves_state);
        if lists.is_write(name) {
            routed.raise(RouteReason::WriteFunction(name.clone()));
        } else if !(is_understood && lists.is_read_only(name)) {
            match known {
                Some(Known { volatile: false, .. }) => {}
                Some(_) => routed.raise(RouteReason::VolatileFunction(name.clone())),
                None => routed.raise(RouteReason::UnknownFunction(name.clone())),
            }
        }
    }
    for name in &analysis.attributes {
        if catalog.is_some_and(|catalog| catalog.is_volatile_attribute(name, foreign)) {
            routed.hidden_state = true;
            routed.raise(RouteReason::VolatileAttribute(name.clone()));
        }
    }
    let writes = analysis.effects.intersects(Effects::MAY_WRITE);
    for name in &analysis.relations {
        let left = catalog.map_or(Left::default(), |catalog| catalog.left_by(name, writes, foreign));
        routed.hidden_state |= left.state;
        if left.locks {
            routed.effects |= Effects::SESSION_ADVISORY_LOCK;
        }
        match catalog {
            None => routed.raise(RouteReason::UnknownRelation(name.clone())),
            Some(catalog) if catalog.is_primary_only(name, foreign) || is_temporary(name) => {
                routed.raise(RouteReason::PrimaryOnlyRelation(name.clone()));
            }
            Some(_) => {}
        }
    }
    obey_hint(analysis, &mut routed);
    routed
}

fn is_temporary(name: &QualifiedName) -> bool {
    name.schema.as_ref().is_some_and(|schema| schema.starts_with("pg_temp"))
}

fn known(name: &QualifiedName, catalog: Option<&Catalog>) -> Option<Known> {
    let harmless = Known { volatile: false, leaves_state: false };
    if let Some(found) = catalog.and_then(|catalog| catalog.function(name)) {
        return Some(found);
    }
    let syntax = name.schema.is_none() && builtin::is_syntax(&name.name);
    let well_known = catalog.is_none() && name.may_be_builtin() && builtin::is_not_volatile(&name.name);
    (syntax || well_known).then_some(harmless)
}

impl Routed {
    /// The first reason stands, unless it leaves more doubt than this one.
    fn raise(&mut self, reason: RouteReason) {
        // What a view over a volatile function does is not known either.
        self.may_write = true;
        if self.class == Class::Read || is_doubt(&self.reason) && !is_doubt(&reason) {
            self.class = Class::Write;
            self.reason = reason;
        }
    }
}

/// Not known to be a read, as against known not to be one.
fn is_doubt(reason: &RouteReason) -> bool {
    matches!(
        reason,
        RouteReason::VolatileFunction(_)
            | RouteReason::UnknownFunction(_)
            | RouteReason::VolatileAttribute(_)
            | RouteReason::UnknownRelation(_)
    )
}

/// A hint to a standby says that what is merely not known to be a read is one. It does not make a read of
/// what surely writes, or of what no standby can serve.
fn obey_hint(analysis: &Analysis, routed: &mut Routed) {
    let hinted = matches!(analysis.hints.target, Some(HintTarget::Standby | HintTarget::Server(_)));
    let unparsed = matches!(routed.reason, RouteReason::Unparsable | RouteReason::TooComplex)
        && analysis.kind == StatementKind::Query;
    if hinted && (unparsed || is_doubt(&routed.reason)) {
        routed.class = Class::Read;
        routed.reason = RouteReason::Hint;
        routed.may_write = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{analyze, analyze_foreign};

    fn catalog() -> Catalog {
        let row = |schema: &str, name: &str, letter| FunctionRow {
            schema: schema.into(),
            name: name.into(),
            volatility: Volatility::from_letter(letter),
            attribute: name == "attribute",
        };
        Catalog::new(
            [
                row("pg_catalog", "lower", "i"),
                row("pg_catalog", "shadowed", "i"),
                row("public", "shadowed", "v"),
                row("pg_catalog", "random", "v"),
                row("app", "safe", "s"),
                row("app", "over", "v"),
                row("app", "attribute", "v"),
            ],
            [("app".to_string(), "secret".to_string())],
        )
    }

    fn routed(sql: &str, lists: &FunctionLists) -> Routed {
        resolve(&analyze(sql), Some(&catalog()), lists)
    }

    fn lists(read_only: &[&str], write: &[&str]) -> FunctionLists {
        let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        FunctionLists::new(&owned(read_only), &owned(write))
    }

    #[test]
    fn the_worst_of_all_schemas_counts_unless_one_is_named() {
        let none = FunctionLists::default();
        let bare = QualifiedName::bare;
        let cases = [
            ("select lower('A'), safe()", None),
            ("select shadowed()", Some(RouteReason::VolatileFunction(bare("shadowed")))),
            ("select pg_catalog.shadowed()", None),
            (
                "select public.lower('A')",
                Some(RouteReason::UnknownFunction(QualifiedName::in_schema("public", "lower"))),
            ),
            ("select missing()", Some(RouteReason::UnknownFunction(bare("missing")))),
            ("select * from secret", Some(RouteReason::PrimaryOnlyRelation(bare("secret")))),
            (
                "select * from app.secret",
                Some(RouteReason::PrimaryOnlyRelation(QualifiedName::in_schema("app", "secret"))),
            ),
            ("select * from public.secret", None),
            (
                "select * from pg_temp.t",
                Some(RouteReason::PrimaryOnlyRelation(QualifiedName::in_schema("pg_temp", "t"))),
            ),
            ("select x.attribute from x", Some(RouteReason::VolatileAttribute("attribute".into()))),
            ("select attribute from x", None),
            // A function of a word of the grammar's name is believed to be meant.
            ("select count(*) over () from x", Some(RouteReason::UnknownFunction(bare("count")))),
            ("select lower('A') over () from x", Some(RouteReason::VolatileFunction(bare("over")))),
            ("select lower('A') filter (where true) from x", None),
        ];
        for (sql, reason) in cases {
            let routed = routed(sql, &none);
            let class = if reason.is_some() { Class::Write } else { Class::Read };
            assert_eq!(
                (routed.class, routed.reason),
                (class, reason.unwrap_or(RouteReason::ReadOnly)),
                "{sql}"
            );
        }
        assert!(!routed("select random()", &none).hidden_state);
        assert!(routed("select shadowed()", &none).hidden_state);
        assert!(!routed("select pg_catalog.shadowed()", &none).hidden_state);
    }

    #[test]
    fn what_a_relation_leaves_is_the_texts_own() {
        let rows = [("app", "jobs", "rl"), ("app", "audited", "w"), ("app", "locked", "k")];
        let rows = rows.map(|(schema, name, letters)| (schema.into(), name.into(), letters.into()));
        let catalog = catalog().with_state(rows);
        let left = |sql| {
            let routed = resolve(&analyze(sql), Some(&catalog), &FunctionLists::default());
            (routed.hidden_state, routed.effects.intersects(Effects::SESSION_ADVISORY_LOCK))
        };
        assert_eq!(left("select * from jobs"), (true, true));
        assert_eq!(left("select * from public.jobs"), (false, false));
        assert_eq!(left("select * from audited"), (false, false));
        assert_eq!(left("insert into audited values (1)"), (true, false));
        assert_eq!(left("with a as (update app.audited set b = 1 returning *) table a"), (true, false));
        assert_eq!(left("delete from audited"), (true, false));
        assert_eq!(left("merge into audited using x on a = b when matched then delete"), (true, false));
        assert_eq!(left("update locked set a = 1"), (false, true));
        assert_eq!(left("copy audited from stdin"), (true, false));
    }

    /// In Latin 1 and in KOI8-R one byte is two letters; it may be any name that is not ASCII.
    #[test]
    fn a_name_in_another_encoding_may_be_any_beyond_ascii() {
        let row = |schema: &str, name: &str, volatility, attribute| FunctionRow {
            schema: schema.into(),
            name: name.into(),
            volatility,
            attribute,
        };
        let (bare, none) = (Catalog::default(), FunctionLists::default());
        let full = Catalog::new(
            [
                row("public", "\u{e9}", Volatility::Stable, false),
                row("public", "r\u{f4}le", Volatility::Volatile, true),
            ],
            [("schéma".to_owned(), "vue_\u{e9}".to_owned())],
        )
        .with_state([("public".to_owned(), "\u{e0}".to_owned(), "r".to_owned())]);
        let of = |sql: &[u8], catalog| resolve(&analyze_foreign(sql), Some(catalog), &none);
        let cases: [(&[u8], Class, Class); 9] = [
            (b"select '\xe9' from t -- \xe9", Class::Read, Class::Read),
            (b"select n from t\xe9", Class::Read, Class::Write),
            // Behind a dot it may be an attribute as well.
            (b"select n from app.t\xe9", Class::Read, Class::Write),
            (b"select n from sch\xe9ma.t\xe9", Class::Read, Class::Write),
            (b"with \xe9 as (select 1) select * from \xe9", Class::Read, Class::Read),
            (b"with \xe9 as (select 1) select * from \xe8", Class::Read, Class::Write),
            (b"select \xe9()", Class::Write, Class::Write),
            (b"select t.n\xe9 from t", Class::Read, Class::Write),
            (b"select t.n from t", Class::Read, Class::Read),
        ];
        for (sql, in_bare, in_full) in cases {
            let text = sql.escape_ascii();
            assert_eq!(of(sql, &bare).class, in_bare, "{text}");
            assert_eq!(of(sql, &full).class, in_full, "{text}");
        }
        assert!(
            of(b"select n from t\xe9", &full).hidden_state && !of(b"select n from t\xe9", &bare).hidden_state
        );
        let listed = lists(&["\u{e9}"], &[]);
        let routed = resolve(&analyze_foreign(b"select \xe9()"), Some(&full), &listed);
        assert!(routed.class == Class::Write && routed.hidden_state);
    }

    #[test]
    fn lists_override_the_catalog() {
        let class = |sql, read_only: &[&str], write: &[&str]| routed(sql, &lists(read_only, write)).class;
        assert_eq!(class("select random()", &["RANDOM"], &[]), Class::Read);
        assert_eq!(class("select \"RANDOM\"()", &["random"], &[]), Class::Write);
        assert_eq!(class("select app.attribute(x) from y", &["app.attribute"], &[]), Class::Read);
        // Unqualified, it may be another schema's.
        assert_eq!(class("select attribute(x) from y", &["app.attribute"], &[]), Class::Write);
        assert_eq!(class("select lower('A')", &[], &["lower"]), Class::Write);
        assert_eq!(class("select lower('A')", &[], &["pg_catalog.\"lower\""]), Class::Write);
        assert_eq!(class("select pg_catalog.lower('A')", &[], &["public.lower"]), Class::Read);
        assert_eq!(class("select random()", &["random"], &["random"]), Class::Write);
        // State left behind is left behind all the same.
        assert!(routed("select shadowed()", &lists(&["shadowed"], &[])).hidden_state);
    }

    #[test]
    fn without_a_catalog_little_is_known() {
        let class = |sql| resolve(&analyze(sql), None, &FunctionLists::default()).class;
        assert_eq!(class("select now(), lower('A'), pg_catalog.count(*) over ()"), Class::Read);
        assert_eq!(class("select random()"), Class::Write);
        assert_eq!(class("select app.lower('A')"), Class::Write);
        assert_eq!(class("select safe()"), Class::Write);
        assert_eq!(class("select * from t"), Class::Write);
    }
}
