//! What changes a shape and what does not.

use proptest::prelude::*;

use crate::route::analyze;
use crate::route::shape::{Shape, ShapeSeed, shape};

const SEED: ShapeSeed = ShapeSeed([0x1234_5678_9abc_def1, 42, 0xdead_beef_0000_0001, 77]);

fn of(sql: &str) -> Shape {
    shape(sql.as_bytes(), &SEED)
}

#[test]
fn literals_space_case_and_comments_do_not_count() {
    let same = of("select a from t where b = 'x' and c = 1");
    for sql in [
        "SELECT a FROM t WHERE b = 'it''s' AND c = 42",
        "select  a\nfrom\tt where b=$$dollar$$and c=1.5e3",
        "select a -- comment\nfrom t /* another */ where b = E'\\'' and c = 0x1F",
    ] {
        assert_eq!(of(sql), same, "{sql}");
    }
}

#[test]
fn all_else_counts() {
    let different = [
        "select a from t where b = 1",
        "select a from t where b = '1'",
        "select a from t where b = $1",
        "select a from t where b = $2",
        "select a from t where c = 1",
        "select a from t where b > 1",
        "select a from u where b = 1",
        "select \"a\" from t where b = 1",
        "select \"A\" from t where b = 1",
        "select a from t where b = 1;",
        "select a from t where b = 1 and true",
        "select a from t where (b) = 1",
        "select a from t where b = 1 /* komainu: primary */",
        "select a from t where b = 1 /* komainu: server=s1 */",
        "select a from t where b = 1 /* komainu: server=s2 */",
        "select a_very_long_identifier_of_more_than_eight_bytes from t",
        "select a_very_long_identifier_of_more_than_eight_bytex from t",
        "select abcdefg from t",
        "select abcdefgh from t",
        "select abcdefghi from t",
        "select abc defgh from t",
        "select é from t",
        "select è from t",
        "select É from t",
        "select a_b from t",
        "select a$b from t",
        "",
        ";",
    ];
    for (i, a) in different.iter().enumerate() {
        for b in &different[..i] {
            assert_ne!(of(a), of(b), "{a} | {b}");
        }
    }
}

/// At every place of the eight-byte blocks that words are hashed in.
#[test]
fn every_character_of_a_long_word_counts() {
    let name = "abcdefghijklmnopqrstuvwxyz";
    for at in 0..name.len() {
        for other in ["_", "0", "c", "q", "$"].into_iter().filter(|other| *other != &name[at..at + 1]) {
            let changed = format!("select x{}{other}{}", &name[..at], &name[at + 1..]);
            assert_ne!(of(&changed), of(&format!("select x{name}")), "{changed}");
        }
    }
}

#[test]
fn another_seed_gives_another_shape() {
    let other = ShapeSeed([1, 2, 3, 4]);
    assert_ne!(shape(b"select 1", &SEED), shape(b"select 1", &other));
}

/// Pieces of a statement; `{}` in a literal's place is filled in.
fn template() -> impl Strategy<Value = Vec<String>> {
    let word = prop_oneof![
        "[a-z_][a-z0-9_]{0,20}",
        Just("select".to_string()),
        Just("set_config(".to_string()),
        Just("from".to_string()),
        Just(")".to_string()),
        Just(",".to_string()),
        Just(";".to_string()),
        Just("=".to_string()),
        Just("{string}".to_string()),
        Just("{number}".to_string()),
        Just("$1".to_string()),
        Just("\"Quoted\"".to_string()),
    ];
    proptest::collection::vec(word, 0..20)
}

fn filled(pieces: &[String], space: &str, string: &str, number: &str) -> String {
    let fill = |piece: &String| match piece.as_str() {
        "{string}" => string.to_string(),
        "{number}" => number.to_string(),
        other => other.to_string(),
    };
    pieces.iter().map(fill).collect::<Vec<_>>().join(space)
}

proptest! {
    #![proptest_config(crate::properties::properties())]

    #[test]
    fn shape_and_analysis_depend_on_neither_literals_nor_space(
        pieces in template(),
        space in "[ \n\t]{1,3}|/\\* x \\*/| -- y\n",
        text in "[a-zA-Z0-9 ;()%-]{0,12}",
        number in 0u32..100_000,
    ) {
        let one = filled(&pieces, " ", "'a'", "1");
        let other = filled(&pieces, &space, &format!("'{text}'"), &number.to_string());
        prop_assert_eq!(of(&one), of(&other));
        prop_assert_eq!(analyze(&one), analyze(&other));
    }

    #[test]
    fn another_identifier_gives_another_shape(
        before in template(),
        after in template(),
        name in "[a-z_][a-z0-9_]{0,40}",
        other in "[a-z_][a-z0-9_]{0,40}",
    ) {
        prop_assume!(name != other);
        let text = |name: &str| format!("{} {name} {}", filled(&before, " ", "'a'", "1"), filled(&after, " ", "'a'", "1"));
        prop_assert_ne!(of(&text(&name)), of(&text(&other)));
    }
}
