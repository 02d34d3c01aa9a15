//! Texts as long as they may be, whose analysis must not take time in the square of their length: what is done in seconds
//! here would need minutes or hours.

use crate::route::lexer::{Lexer, TokenKind::Operator};
use crate::route::{Class, Effects, analyze};

#[test]
fn a_run_of_signs() {
    const SIGNS: usize = 2_000_000;
    for run in ["+", "+-", "<+", "*+-+", "-+"] {
        let sql = format!("a {}1", run.repeat(SIGNS / run.len()));
        let mut at = 2;
        for token in Lexer::new(sql.as_bytes()).filter(|token| token.kind == Operator) {
            assert_eq!(token.start, at);
            at = token.end;
        }
        assert_eq!(at, SIGNS + 2, "{run}");
    }
}

#[test]
fn calls_in_calls() {
    const DEEP: usize = 500_000;
    let open = analyze(&format!("select {}", "set_config(".repeat(DEEP)));
    assert!(open.effects.contains(Effects::CHANGES_SETTINGS));
    let (call, end) = ("set_config(".repeat(DEEP), ", b, true)".repeat(DEEP));
    let closed = analyze(&format!("select {call}a{end}"));
    assert!(!closed.effects.intersects(Effects::CHANGES_SETTINGS));
    assert!(closed.effects.contains(Effects::SETTINGS_LOCAL));
    let once = analyze(&format!("select {call}set_config(a, b, false){end}"));
    assert!(once.effects.contains(Effects::CHANGES_SETTINGS | Effects::SETTINGS_LOCAL));
}

#[test]
fn many_ctes() {
    const MANY: usize = 60_000;
    let ctes: Vec<_> = (0..MANY).map(|n| format!("a{n} as (select 1)")).collect();
    let from: Vec<_> = (0..MANY).map(|n| format!("a{n}")).collect();
    let analysis = analyze(&format!("with {} select * from {}", ctes.join(","), from.join(",")));
    assert_eq!((analysis.class, &*analysis.relations), (Class::Read, &[][..]));
}
