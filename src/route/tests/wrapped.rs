//! Writes however wrapped are never reads, and reads wrapped alike stay reads.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::select;

use super::resolved;
use crate::route::lexer::{Lexer, TokenKind};
use crate::route::{Class, analyze};

/// `{}` is an expression.
const AROUND_EXPRESSIONS: &[&str] = &[
    "select {}",
    "select 1, ({}), 2",
    "select id from users u where id = {}",
    "select id from users u where id in (1, {}) or active",
    "select count(*) from users u group by name having count(*) > {}",
    "select id from users u order by {} desc nulls last",
    "select id from users u limit ({})",
    "select id from users u offset {}",
    "values (1), ({})",
    "select * from generate_series(1, {}) as g(n)",
    "select case when {} is null then 1 else 2 end from users u",
    "select array[1, {}], row(1, {}), coalesce(null, {})",
    "select sum(id) over (partition by {} order by id) from users u",
    "select count(*) filter (where {} is not null) from users u",
    "select cast({} as text), ({})::text",
    "select * from users u join orders o on o.id = {}",
    "select * from users u left join lateral (select {} as x) y on true",
    "select * from users u where (select {}) = 1 and not exists (select 1 where {} = 2)",
    "select * from users u where id between 1 and {} and id = any (array[{}])",
    "select distinct on ({}) id from users u",
    "select pure({})",
    "select pure(looks({}))",
    "select u.data -> 'a' ->> {} from users u",
    "select (array[1, 2])[{}]",
    "select string_agg(name, ',' order by {}) from users u",
    "with recursive t(n) as (select 1 union all select n + {} from t) select * from t",
    "select extract(year from now() + {} * interval '1 day')",
    "select id from users u group by grouping sets ((id), ({}))",
];
const WRITING_EXPRESSIONS: &[&str] = &[
    "writes_it(1)",
    "public.writes_it(1)",
    "\"writes_it\"(1)",
    "\"public\" . \"writes_it\" (1)",
    "app.writes_too()",
    "nextval('ticket')",
    "pg_catalog.setval('ticket', 1)",
    "random()",
    "clock_timestamp()",
    "pg_advisory_lock(1)",
    "lo_create(0)",
    "txid_current()",
    "set_config('a', 'b', true)",
    "unheard_of(1)",
    "elsewhere.looks(1)",
    "(select max(n) from tickets)",
    "(select count(*) from scratch)",
    "(select 1 from users for update)",
    "(table over_scratch)",
    "pure(writes_it(2))",
    "U&\"wr\\0069tes_it\"(1)",
    "e'\\'' || writes_it(1) || '--'",
];
const READING_EXPRESSIONS: &[&str] = &[
    "1",
    "'writes_it(1)'",
    "$1",
    "pure(1)",
    "looks(1)",
    "pg_catalog.lower('A')",
    "(select max(id) from orders)",
    "(with scratch as (select 1 as n) select n from scratch)",
    "now()",
    "$$ delete from users; $$",
    "\"delete\"",
    "e'\\' || nextval(1)'",
];

/// `{}` is a query.
const AROUND_QUERIES: &[&str] = &[
    "{}",
    "({})",
    "select * from ({}) x",
    "select 1 where exists ({})",
    "select id from users where id in ({})",
    "with a as ({}) select * from a",
    "with a as materialized (select 1), b as ({}) select * from a, b",
    "select 1 union all ({})",
    "({}) intersect select 1",
    "select array({})",
    "explain {}",
    "explain analyze {}",
    "explain (analyze, verbose, format json) {}",
    "prepare p as {}",
    "declare c cursor for {}",
    "copy ({}) to stdout",
    "select 1; {}",
    "{}; select 1;",
    "begin read only; {}; commit",
];
const WRITING_QUERIES: &[&str] = &[
    "select * from users for update",
    "select * from users u for no key update of u nowait",
    "select * from users for share",
    "select id into copied from users",
    "select * from tickets",
    "table scratch",
    "with w as (delete from users returning *) select * from w",
    "with w as (insert into users values (1) returning id), v as (select 1) select * from w, v",
    "with recursive w as (update users set id = 1 returning id) table w",
    "insert into users values (1) returning id",
    "update users set id = 2 returning id",
    "delete from users returning id",
];

/// The same tokens in other letters, with other space between them.
fn disguised(sql: &str, choices: &[u8]) -> String {
    const SPACES: &[&str] = &[" ", "\n", "\t ", " /* x; */ ", " --y'\n", "/* /* $$ */ */", "\r\n"];
    let mut choices = choices.iter().copied().cycle();
    let mut text = String::new();
    for token in Lexer::new(sql.as_bytes()) {
        let words = token.text(sql);
        let choice = choices.next().unwrap_or(0);
        text.push_str(SPACES[usize::from(choice) % SPACES.len()]);
        match (token.kind, choice & 0x80 != 0) {
            (TokenKind::Word, true) => text.push_str(&words.to_ascii_uppercase()),
            (TokenKind::Word, false) => text.extend(words.chars().enumerate().map(|(at, c)| match at % 2 {
                0 => c.to_ascii_uppercase(),
                _ => c,
            })),
            _ => text.push_str(words),
        }
    }
    text
}

fn choices() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 1..24)
}

fn wrapped(expression: &str, around: &str, deeper: &[&str], outermost: &str) -> String {
    let query = around.replace("{}", expression);
    let inner =
        deeper.iter().fold(query, |query, around| around.replace("{}", &format!("(select ({query}))")));
    outermost.replace("{}", &inner)
}

proptest! {
    #![proptest_config(crate::properties::properties_of(600))]

    #[test]
    fn writing_expressions(
        expression in select(WRITING_EXPRESSIONS),
        around in select(AROUND_EXPRESSIONS),
        deeper in proptest::collection::vec(select(AROUND_EXPRESSIONS), 0..3),
        outermost in select(AROUND_QUERIES),
        choices in choices(),
    ) {
        let sql = disguised(&wrapped(expression, around, &deeper, outermost), &choices);
        prop_assert_eq!(resolved(&sql).1.class, Class::Write, "{}", sql);
    }

    #[test]
    fn writing_queries(
        query in select(WRITING_QUERIES),
        inner in select(AROUND_QUERIES),
        outer in select(AROUND_QUERIES),
        choices in choices(),
    ) {
        let sql = disguised(&outer.replace("{}", &inner.replace("{}", query)), &choices);
        prop_assert_eq!(resolved(&sql).1.class, Class::Write, "{}", sql);
    }

    #[test]
    fn reading_expressions(
        expression in select(READING_EXPRESSIONS),
        around in select(AROUND_EXPRESSIONS),
        deeper in proptest::collection::vec(select(AROUND_EXPRESSIONS), 0..2),
        outermost in select(AROUND_QUERIES),
        choices in choices(),
    ) {
        let sql = disguised(&wrapped(expression, around, &deeper, outermost), &choices);
        let routed = resolved(&sql).1;
        prop_assert_eq!(routed.class, Class::Read, "{}: {}", routed.reason, sql);
    }

    #[test]
    fn any_text_is_analysed(sql in "\\PC{0,80}") {
        analyze(&sql);
    }

    #[test]
    fn any_words_are_analysed(words in proptest::collection::vec(select(WORDS), 0..30)) {
        let sql = words.join(" ");
        analyze(&sql);
        crate::route::prepared::sql_names(sql.as_bytes());
    }

    /// A text of several statements is as strict as its strictest.
    #[test]
    fn joined_statements(parts in proptest::collection::vec(select(PARTS), 1..5)) {
        let together = analyze(&parts.join(";"));
        let strictest = parts.iter().map(|part| analyze(part).class).max();
        prop_assert_eq!(Some(together.class), strictest);
        prop_assert_eq!(together.statements, parts.iter().map(|part| analyze(part).statements).sum::<usize>());
        for part in &parts {
            let effects = analyze(part).effects.without(crate::route::Effects::IS_SURE_END);
            prop_assert!(together.effects.contains(effects));
        }
    }
}

const WORDS: &[&str] = &[
    "select",
    "from",
    "with",
    "as",
    "(",
    ")",
    ",",
    ";",
    ".",
    "*",
    "insert",
    "into",
    "update",
    "set",
    "for",
    "copy",
    "to",
    "stdout",
    "explain",
    "analyze",
    "prepare",
    "p",
    "execute",
    "declare",
    "cursor",
    "hold",
    "begin",
    "atomic",
    "end",
    "case",
    "create",
    "function",
    "table",
    "temp",
    "only",
    "collate",
    "exclude",
    "transaction",
    "isolation",
    "level",
    "read",
    "write",
    "set_config",
    "operator",
    "::",
    "'x'",
    "1",
    "$1",
    "\"q\"",
    "[",
    "]",
    "session",
    "local",
    "rollback",
    "and",
    "chain",
    "deallocate",
    "all",
    "discard",
    "show",
    "reset",
    "commit",
    "no",
    "values",
];

/// A line break within a label moves no other token to where an alias is looked for.
#[test]
fn a_label_of_two_lines_hides_no_call() {
    for letters in 0..40 {
        let label = "b".repeat(letters);
        let queries = |expression: &str| {
            let from = format!("from (select 1 as \"a\n{label}\") as f");
            [format!("select {expression} {from}"), format!("select f, 1 + {expression} as \"\n\" {from}")]
        };
        for expression in WRITING_EXPRESSIONS {
            for sql in queries(expression) {
                assert_eq!(resolved(&sql).1.class, Class::Write, "{sql}");
            }
        }
        for expression in READING_EXPRESSIONS {
            for sql in queries(expression) {
                assert_eq!(resolved(&sql).1.class, Class::Read, "{sql}");
            }
        }
    }
}

const PARTS: &[&str] = &[
    "select 1",
    "",
    "select ';' /* ; */ -- ;\n",
    "select $$ ; $$",
    "delete from users",
    "set a = ';'",
    "begin read only",
    "begin",
    "create function f() returns int language sql begin atomic; select 1; select case 1 when 1 then 2 end; end",
    "create rule r as on insert to t do also (insert into u values (1); select 2)",
    "listen \"a;b\"",
    "copy users to stdout",
    "frobnicate",
];

/// Deep nesting must not make the parser try again and again: that would be exponential.
#[test]
fn nesting_costs_little() {
    let begun = Instant::now();
    for (open, close) in [
        ("(", ")"),
        ("f(", ")"),
        ("array[", "]"),
        ("cast(", " as int)"),
        ("not (", ")"),
        ("(select ", ")"),
        ("exists (select ", ")"),
        ("1 in (", ")"),
        ("(1, ", ")"),
        ("case when ", " then 1 end"),
        ("interval (", ")"),
        ("substring(", " from 1)"),
        ("convert(", ", b, c)"),
        ("extract(year from ", ")"),
        ("count(*) filter (where ", ")"),
        ("1 union (select ", ")"),
        ("* from (", ") x"),
        ("* from ((a join b on true) join (", ") on true)"),
        ("* from (with a as (select 1) select * from (", ") x) y"),
    ] {
        for depth in [20, 40, 90] {
            analyze(&format!("select {}a{}", open.repeat(depth), close.repeat(depth)));
        }
    }
    for start in ["select * from ", "select 1 where ", "", "insert into t values "] {
        analyze(&format!("{start}{}select 1{}", "(".repeat(90), ")".repeat(90)));
    }
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}
