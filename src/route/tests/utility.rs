//! Commands other than queries: kind, effects, and the names in them.

use super::resolved;
use crate::route::effects::Effects;
use crate::route::hint::{HintError, HintTarget};
use crate::route::prepared::{Verb, fold_identifier, sql_name, sql_names};
use crate::route::statement::{
    Class, CopyDirection, Isolation, PoolShow, StatementKind as K, TransactionModes,
};
use crate::route::{Analysis, RouteReason, analyze};

fn modes(
    read_only: Option<bool>,
    isolation: Option<Isolation>,
    deferrable: Option<bool>,
) -> TransactionModes {
    TransactionModes { read_only, isolation, deferrable }
}

fn set(local: bool, name: &str) -> K {
    K::Set { local, name: name.into() }
}

fn show(name: &str) -> K {
    K::Show { name: name.into() }
}

#[test]
fn kinds() {
    let plain = TransactionModes::default();
    let cases = [
        ("", K::Empty),
        (" ; ;; -- nothing", K::Empty),
        ("select 1", K::Query),
        ("select 1; select 2", K::Many),
        (";select 1;", K::Query),
        ("BEGIN", K::Begin(plain)),
        ("begin work", K::Begin(plain)),
        ("start transaction read write", K::Begin(modes(Some(false), None, None))),
        (
            "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY NOT DEFERRABLE;",
            K::Begin(modes(Some(true), Some(Isolation::RepeatableRead), Some(false))),
        ),
        (
            "begin isolation level read uncommitted deferrable",
            K::Begin(modes(None, Some(Isolation::ReadUncommitted), Some(true))),
        ),
        ("begin read only read write", K::Begin(modes(Some(false), None, None))),
        ("begin,", K::Other),
        ("begin nonsense", K::Other),
        ("commit", K::Commit { chain: false }),
        ("end transaction", K::Commit { chain: false }),
        ("commit and chain", K::Commit { chain: true }),
        ("commit work and no chain", K::Commit { chain: false }),
        ("commit prepared 'x'", K::FinishPrepared),
        ("rollback", K::Rollback { chain: false }),
        ("abort work and chain", K::Rollback { chain: true }),
        ("rollback to savepoint a", K::RollbackTo),
        ("rollback work to a", K::RollbackTo),
        ("rollback prepared 'x'", K::FinishPrepared),
        ("savepoint a", K::Savepoint),
        ("release a", K::Release),
        ("prepare transaction 'x'", K::PrepareTransaction),
        ("set a = 1", set(false, "a")),
        ("SET SESSION Search_Path TO x, y", set(false, "search_path")),
        ("set local my.Param to 'x'", set(true, "my.param")),
        ("set \"DateStyle\" = iso", set(false, "datestyle")),
        ("set time zone 'UTC'", set(false, "timezone")),
        ("set local time zone interval '1' hour to minute", set(true, "timezone")),
        ("set names 'utf8'", set(false, "client_encoding")),
        ("set schema 'x'", set(false, "search_path")),
        ("set a from current", set(false, "a")),
        ("set transaction_isolation = 'serializable'", set(false, "transaction_isolation")),
        ("set role bob", K::SetRole { local: false }),
        ("set local role none", K::SetRole { local: true }),
        ("set role = 'bob'", K::SetRole { local: false }),
        ("set session authorization bob", K::SetSessionAuthorization { local: false }),
        ("set session session authorization default", K::SetSessionAuthorization { local: false }),
        ("set local session authorization bob", K::SetSessionAuthorization { local: true }),
        (
            "set transaction read only",
            K::SetTransaction { modes: modes(Some(true), None, None), snapshot: false },
        ),
        ("set transaction snapshot 'x'", K::SetTransaction { modes: plain, snapshot: true }),
        (
            "set session characteristics as transaction isolation level serializable",
            K::SetCharacteristics(modes(None, Some(Isolation::Serializable), None)),
        ),
        ("set constraints all deferred", K::Other),
        ("reset all", K::ResetAll),
        ("reset work_mem", K::Reset { name: "work_mem".into() }),
        ("reset time zone", K::Reset { name: "timezone".into() }),
        ("reset role", K::SetRole { local: false }),
        ("reset session authorization", K::SetSessionAuthorization { local: false }),
        ("show transaction_read_only", show("transaction_read_only")),
        ("SHOW TRANSACTION ISOLATION LEVEL", show("transaction_isolation")),
        ("show time zone", show("timezone")),
        ("show all", show("all")),
        ("SHOW POOL_NODES;", K::ShowPool(PoolShow::Nodes)),
        ("show pool_version", K::ShowPool(PoolShow::Version)),
        ("show pool_processes", K::ShowPool(PoolShow::Processes)),
        ("show pool_pools", K::ShowPool(PoolShow::Pools)),
        ("show route", K::ShowPool(PoolShow::Route)),
        ("show komainu.floor", K::ShowPool(PoolShow::Komainu("floor".into()))),
        ("discard all", K::DiscardAll),
        ("discard temp", K::DiscardOther),
        ("prepare p as select 1", K::Prepare),
        ("execute p(1)", K::Execute),
        ("deallocate p", K::Deallocate { name: Some("p".into()) }),
        ("deallocate prepare all", K::Deallocate { name: None }),
        ("deallocate prepare", K::Deallocate { name: Some("prepare".into()) }),
        ("deallocate prepare \"All\"", K::Deallocate { name: Some("All".into()) }),
        ("listen a", K::Listen),
        ("unlisten *", K::Unlisten { all: true }),
        ("unlisten a", K::Unlisten { all: false }),
        ("notify a", K::Notify),
        ("declare c cursor with hold for select 1", K::DeclareCursor { hold: true }),
        ("declare c binary insensitive no scroll cursor for select 1", K::DeclareCursor { hold: false }),
        ("fetch next from c", K::Fetch),
        ("move c", K::Fetch),
        ("close c", K::Close { all: false }),
        ("close all", K::Close { all: true }),
        ("copy t from stdin", K::Copy(CopyDirection::In)),
        ("copy t (a, b) to stdout", K::Copy(CopyDirection::Out)),
        ("copy (select a from t) to stdout", K::Copy(CopyDirection::Out)),
        ("copy t from program 'x'", K::Copy(CopyDirection::ServerSide)),
        ("copy t from stdout", K::Copy(CopyDirection::In)),
        ("load 'x'", K::Load),
        ("do 'x'", K::Do),
        ("call f()", K::Call),
        ("lock t", K::Lock),
        ("create table t (a int)", K::Ddl),
        ("explain select 1", K::Query),
        ("insert into t values (1)", K::Dml),
        ("with a as (select 1) delete from t", K::Dml),
        ("with a as (delete from t returning *) select * from a", K::Query),
        (
            "create function f() returns int begin atomic select 1; select case when true then 2 end; end; ",
            K::Ddl,
        ),
        ("create rule r as on insert to t do (select 1; select 2)", K::Ddl),
        ("create function begin() returns int as 'select 1' language sql", K::Ddl),
    ];
    for (sql, kind) in cases {
        assert_eq!(analyze(sql).kind, kind, "{sql}");
    }
}

#[test]
fn effects() {
    use Effects as E;
    let cases = [
        ("begin", E::BEGINS | E::LEAVES_OPEN),
        ("begin; select 1; commit", E::BEGINS | E::ENDS_TRANSACTION),
        ("commit; begin", E::BEGINS | E::ENDS_TRANSACTION | E::LEAVES_OPEN),
        ("commit and chain", E::BEGINS | E::ENDS_TRANSACTION | E::LEAVES_OPEN),
        ("set a = 1", E::CHANGES_SETTINGS),
        ("set local a = 1", E::SETTINGS_LOCAL),
        ("set role bob", E::CHANGES_SETTINGS | E::CHANGES_USER),
        ("select set_config('a', 'b', true)", E::SETTINGS_LOCAL | E::CHANGES_USER),
        ("select set_config('a', 'b', false)", E::CHANGES_SETTINGS | E::CHANGES_USER),
        ("select set_config('a', 'b', 't')", E::CHANGES_SETTINGS | E::CHANGES_USER),
        ("select set_config('a', f(1, true), (true))", E::CHANGES_SETTINGS | E::CHANGES_USER),
        ("select pg_catalog.set_config(a, b, c) from t", E::CHANGES_SETTINGS | E::CHANGES_USER),
        ("select other.set_config(a, b, c) from t", E::NONE),
        ("explain select set_config('a', 'b', false)", E::NONE),
        ("explain (analyze off) select set_config('a', 'b', false)", E::NONE),
        (
            "explain (verbose, analyze) select set_config('a', 'b', false)",
            E::CHANGES_SETTINGS | E::CHANGES_USER,
        ),
        ("explain execute p", E::SQL_EXECUTE),
        ("create table t as execute p", E::SQL_EXECUTE | E::DDL | E::MAY_WRITE),
        ("create table t as select nextval('s')", E::ADVANCES_SEQUENCE | E::DDL | E::MAY_WRITE),
        ("prepare p as select pg_advisory_lock(1)", E::SQL_PREPARE),
        ("deallocate all", E::SQL_DEALLOCATE),
        ("create temp table t (a int)", E::TEMP_OBJECT | E::MAY_WRITE),
        ("create local temporary view v as select 1", E::TEMP_OBJECT | E::MAY_WRITE),
        ("create or replace temp view v as select 1", E::TEMP_OBJECT | E::MAY_WRITE),
        ("create table pg_temp.t (a int)", E::TEMP_OBJECT | E::DDL | E::MAY_WRITE),
        (r#"create table U&"pg\005ftemp".t (a int)"#, E::TEMP_OBJECT | E::DDL | E::MAY_WRITE),
        ("create global temp table t (a int)", E::TEMP_OBJECT | E::MAY_WRITE),
        ("create unlogged table temp (a int)", E::DDL | E::MAY_WRITE),
        ("create table temporary (a int)", E::DDL | E::MAY_WRITE),
        ("create or replace function temp(a int) returns int return a", E::DDL | E::MAY_WRITE),
        ("create policy p on temp using (true)", E::DDL | E::MAY_WRITE),
        ("select 1 as as into temp t", E::TEMP_OBJECT | E::MAY_WRITE),
        ("select x.as into temp t from x", E::TEMP_OBJECT | E::MAY_WRITE),
        ("select 1 into temp t", E::TEMP_OBJECT | E::MAY_WRITE),
        ("select 1 into local temporary table t", E::TEMP_OBJECT | E::MAY_WRITE),
        ("listen a", E::LISTENS),
        ("declare c cursor with hold for select 1", E::HOLD_CURSOR),
        ("select pg_advisory_lock(1)", E::SESSION_ADVISORY_LOCK),
        ("select * from pg_try_advisory_lock_shared(1)", E::SESSION_ADVISORY_LOCK),
        ("select pg_advisory_xact_lock(1)", E::NONE),
        ("select pg_advisory_unlock_all()", E::ADVISORY_UNLOCK),
        ("load 'x'", E::LOADS),
        ("do 'x'", E::HIDDEN_STATE | E::MAY_WRITE),
        ("select currval('s')", E::USES_SEQUENCE_STATE),
        ("select nextval('s')", E::ADVANCES_SEQUENCE),
        ("insert into t values (1)", E::ADVANCES_SEQUENCE | E::MAY_WRITE),
        ("copy t from stdin", E::COPY_IN | E::ADVANCES_SEQUENCE | E::MAY_WRITE),
        ("copy t to stdout", E::COPY_OUT),
        ("commit prepared 'x'", E::TWO_PHASE | E::MAY_WRITE),
        ("select lo_open(1, 2)", E::LARGE_OBJECT),
        ("alter table t add a int", E::DDL | E::MAY_WRITE),
        ("select 1; set a = 1; listen b", E::CHANGES_SETTINGS | E::LISTENS),
    ];
    for (sql, expected) in cases {
        assert_eq!(analyze(sql).effects.without(E::IS_SURE_END), expected, "{sql}");
    }
}

#[test]
fn sure_ends() {
    for sql in
        ["select 1", "insert into t values (1)", "commit", "end", "vacuum", "call f()", "set a = 1", "do 'x'"]
    {
        assert!(analyze(sql).effects.contains(Effects::IS_SURE_END), "{sql}");
    }
    for sql in [
        "",
        "select 1; select 2",
        "begin",
        "commit and chain",
        "rollback",
        "savepoint a",
        "copy t from stdin",
        "copy t to stdout",
        "rollback to a",
        "release a",
        "set transaction read only",
        "frobnicate",
        "select 'a",
        "prepare transaction 'x'",
    ] {
        assert!(!analyze(sql).effects.contains(Effects::IS_SURE_END), "{sql}");
    }
}

#[test]
fn names_of_prepared_statements() {
    let cases = [
        ("PREPARE p AS select 1", Verb::Prepare, "p", Some("select 1")),
        (
            "prepare /* x */ \"P \"\" q\" (int, text) as insert into t values ($1) ;",
            Verb::Prepare,
            "\"P \"\" q\"",
            Some("insert into t values ($1)"),
        ),
        ("execute Foo(1, 2)", Verb::Execute, "Foo", None),
        ("explain analyze execute foo", Verb::Execute, "foo", None),
        ("explain (costs off) execute foo", Verb::Execute, "foo", None),
        ("create temp table t as execute foo(1)", Verb::Execute, "foo", None),
        ("deallocate foo", Verb::Deallocate, "foo", None),
        ("deallocate prepare foo", Verb::Deallocate, "foo", None),
        ("deallocate prepare", Verb::Deallocate, "prepare", None),
        ("deallocate \"all\"", Verb::Deallocate, "\"all\"", None),
    ];
    for (sql, verb, name, body) in cases {
        let found = &sql_names(sql.as_bytes())[0];
        assert_eq!((found.verb, &sql[found.name.clone()]), (verb, name), "{sql}");
        assert_eq!(found.body.clone().map(|range| &sql[range]), body, "{sql}");
        assert_eq!(sql_name(sql.as_bytes()).map(|range| &sql[range]), Some(name));
    }
    for sql in ["deallocate all", "prepare transaction 'x'", "select 1", "", "create table t as select 1"] {
        assert_eq!(sql_name(sql.as_bytes()), None, "{sql}");
    }
    let many: Vec<_> =
        sql_names(b"prepare a as select 1; execute a; deallocate a").into_iter().map(|n| n.verb).collect();
    assert_eq!(many, [Verb::Prepare, Verb::Execute, Verb::Deallocate]);
}

#[test]
fn identifiers_are_folded_unquoted_and_cut() {
    assert_eq!(fold_identifier("FooBar"), "foobar");
    assert_eq!(fold_identifier("\"Foo\"\"Bar\""), "Foo\"Bar");
    assert_eq!(fold_identifier("ÄB"), "Äb");
    assert_eq!(fold_identifier(&"X".repeat(70)), "x".repeat(63));
    assert_eq!(fold_identifier(&format!("{}é", "x".repeat(62))), "x".repeat(62));
}

#[test]
fn hints() {
    let target = |sql: &str| analyze(sql).hints.target;
    assert_eq!(target("/*NO LOAD BALANCE*/ select 1"), Some(HintTarget::Primary));
    assert_eq!(target("select /*NO LOAD BALANCE*/ 1"), None);
    assert_eq!(target("select 1 /* komainu: primary */"), Some(HintTarget::Primary));
    assert_eq!(target("-- komainu: standby\nselect 1"), Some(HintTarget::Standby));
    assert_eq!(target("/*Komainu:server=pg-2*/select 1"), Some(HintTarget::Server("pg-2".into())));
    assert_eq!(target("select '/* komainu: primary */'"), None);
    assert!(analyze("/* komainu: explain   route */ select 1").hints.explain);
    for unknown in ["", "primry", "server=", "server = a b", "explain", "primary now"] {
        let analysis = analyze(&format!("/* komainu:{unknown} */ select 1"));
        assert_eq!(analysis.hints.error, Some(HintError::Unknown(unknown.into())), "{unknown}");
        assert_eq!(analysis.class, Class::Read);
    }
    let both = analyze("/* komainu: primary */ select 1 /* komainu: standby */").hints;
    assert_eq!(both.target, Some(HintTarget::Primary));
    assert_eq!(both.error, Some(HintError::Contradiction("standby".into())));
}

#[test]
fn a_hint_to_a_standby_settles_doubts_only() {
    let class = |sql: &str| resolved(&format!("/* komainu: standby */ {sql}")).1.class;
    assert_eq!(class("select writes_it(1)"), Class::Read);
    assert_eq!(class("select unheard_of(1)"), Class::Read);
    assert_eq!(class("select a frmo b wehre c"), Class::Read);
    assert_eq!(class("delete from users"), Class::Write);
    assert_eq!(class("select * from users for update"), Class::Write);
    assert_eq!(class("select unheard_of(1) from scratch"), Class::Write);
    assert_eq!(class("select 1; delete from users"), Class::Write);
    assert_eq!(class("begin"), Class::Write);
}

#[test]
fn relations_leave_out_what_is_a_cte_there() {
    let relations =
        |sql: &str| -> Vec<String> { analyze(sql).relations.iter().map(ToString::to_string).collect() };
    assert_eq!(relations("select * from a, s.b join \"C\" on true"), ["C", "a", "s.b"]);
    assert_eq!(relations("with a as (select 1) select * from a"), [""; 0]);
    assert_eq!(relations("with a as (select * from a) select * from a"), ["a"]);
    assert_eq!(relations("with recursive a as (select * from a) select * from a"), [""; 0]);
    assert_eq!(relations("with a as (select * from b), b as (select 1) select * from a"), ["b"]);
    assert_eq!(relations("with a as (select 1), b as (select * from a) select * from b"), [""; 0]);
    assert_eq!(relations("select * from (with a as (select 1) select * from a) x, a"), ["a"]);
    assert_eq!(relations("with a as (select 1) select * from public.a, (select * from a) x"), ["public.a"]);
    assert_eq!(relations("with a as (table b) table a"), ["b"]);
    assert_eq!(
        relations("select 1 where exists (select from a) and b in (select c from only d)"),
        ["a", "d"]
    );
}

#[test]
fn functions_are_found_wherever_they_stand() {
    let functions =
        |sql: &str| -> Vec<String> { analyze(sql).functions.iter().map(ToString::to_string).collect() };
    assert_eq!(
        functions("select F(1), s.\"G\"(2) from h(3) where i(4) > 1 order by j(5) limit k(6)"),
        ["f", "h", "i", "j", "k", "s.G"]
    );
    assert_eq!(
        functions("select case when a(1) then b(2) else array[c(3)] end, (d(4))::e(5)"),
        ["a", "b", "c", "d"]
    );
    assert_eq!(functions("with x(a, b) as (select f(1)) select * from x y(c), (values (1)) v(d)"), ["f"]);
    assert_eq!(functions("insert into t (a, b) values (f(1), 2) returning g(a)"), ["f", "g"]);
    assert_eq!(
        functions("select a from t where b in (1) and c = any (array[1]) and exists (select 1)"),
        [""; 0]
    );
    assert_eq!(functions("select current_timestamp, current_user, localtime(1)"), [""; 0]);
}

#[test]
fn what_leaves_state_and_what_writes() {
    let hidden = |sql: &str| resolved(sql).1.hidden_state;
    assert!(
        hidden("select writes_it(1)") && hidden("do 'x'") && hidden("insert into t select unheard_of(1)")
    );
    assert!(
        !hidden("select random()") && !hidden("select looks(1)") && !hidden("insert into t (a) values (1)")
    );
    let writes = |sql: &str| resolved(sql).1.may_write;
    assert!(
        writes("insert into t values (1)")
            && writes("select writes_it(1)")
            && writes("select * from tickets")
    );
    assert!(!writes("select 1") && !writes("begin") && !writes("commit") && !writes("listen a"));
}

#[test]
fn too_deep_or_long_is_a_write_and_not_a_crash() {
    let deep = |n: usize| format!("select {}1{}", "(".repeat(n), ")".repeat(n));
    let chain = |n: usize| format!("select 1{}", "+1".repeat(n));
    let nots = |n: usize| format!("select {} true", "not ".repeat(n));
    let unions = |n: usize| format!("select 1{}", " union select 1".repeat(n));
    let casts = |n: usize| format!("select 1{}", "::int".repeat(n));
    let froms = |n: usize| format!("{}select 1{}", "select * from (".repeat(n), ") x".repeat(n));
    let cases = |n: usize| format!("select {}1{}", "case when true then ".repeat(n), " end".repeat(n));
    let makers: [&dyn Fn(usize) -> String; 7] = [&deep, &chain, &nots, &unions, &casts, &froms, &cases];
    for make in makers {
        assert_eq!(analyze(&make(100_000)).class, Class::Write);
        assert_eq!(analyze(&make(10)).class, Class::Read);
        // Whatever the answer, on as little stack as a worker thread may have left.
        let texts: Vec<String> = (1..12).map(|n| make(n * 80)).collect();
        let run = move || texts.iter().for_each(|sql| drop::<Analysis>(analyze(sql)));
        std::thread::Builder::new().stack_size(1 << 20).spawn(run).unwrap().join().unwrap();
    }
    assert_eq!(analyze(&chain(5_000)).reason, RouteReason::TooComplex);
    // A list is not nested, however long.
    let list = format!("select * from t where a in (1{})", ",1".repeat(50_000));
    assert_eq!(analyze(&list).class, Class::Read);
}

#[test]
fn a_routine_called_begin_has_no_body_of_statements() {
    let sql = "create function begin() returns int language sql as 'select 1'; set a = 1; select 1 as end";
    assert_eq!(analyze(sql).statements, 3);
    let body = "create function f() returns int begin atomic; select 1; select 2; end; select 3";
    assert_eq!(analyze(body).statements, 2);
}

#[test]
fn an_option_of_explain_may_be_quoted() {
    for option in ["\"analyze\"", "costs off, \"analyse\"", "U&\"\\0061nalyze\""] {
        let effects = analyze(&format!("explain ({option}) insert into t values (1)")).effects;
        assert!(effects.intersects(Effects::MAY_WRITE), "{option}");
    }
    assert!(
        !analyze("explain (\"Analyze\") insert into t values (1)").effects.intersects(Effects::MAY_WRITE)
    );
}
