//! Statements that ask whether their server is a standby, by the name of a setting in a literal.
//!
//! Owns which they are. Never looks into other statements: a literal's value is no part of a shape, so whether a shape
//! *can* ask is looked at first. Invariant: clients see one server, which takes writes, unless a hint of theirs names a
//! standby, or they put the name of the setting together.

use super::cache::Analyzed;
use super::hint::HintTarget;
use super::reason::RouteReason;
use super::statement::{Analysis, Class};

/// What a standby says otherwise than its primary.
const ROLE_SETTINGS: [&[u8]; 2] = [b"in_hot_standby", b"transaction_read_only"];
/// By which settings are read, besides SHOW.
const READERS: [&str; 2] = ["current_setting", "pg_show_all_settings"];
const SETTINGS_VIEW: &str = "pg_settings";

/// Whether texts of this shape may ask for a setting by a literal.
pub(super) fn reads_settings(analysis: &Analysis) -> bool {
    let is_reader = |name: &str| READERS.contains(&name);
    analysis.functions.iter().any(|call| call.may_be_builtin() && is_reader(&call.name))
        || analysis
            .relations
            .iter()
            .any(|relation| relation.may_be_builtin() && *relation.name == *SETTINGS_VIEW)
}

/// Whether a text names such a setting. The case of a setting's name does not count.
pub fn names_role(sql: &[u8]) -> bool {
    ROLE_SETTINGS.iter().any(|name| sql.windows(name.len()).any(|found| found.eq_ignore_ascii_case(name)))
}

/// Of a text that asks: to the primary, as a SHOW of it.
pub fn to_primary(analyzed: &Analyzed) -> Analyzed {
    let mut analyzed = analyzed.clone();
    let hint = &analyzed.analysis.hints.target;
    let routed = &mut analyzed.routed;
    if routed.class == Class::Read && !matches!(hint, Some(HintTarget::Standby | HintTarget::Server(_))) {
        routed.class = Class::Write;
        routed.reason = RouteReason::AsksForRole;
    }
    analyzed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{FunctionLists, analyze, resolve};

    fn asks(sql: &str) -> bool {
        reads_settings(&analyze(sql)) && names_role(sql.as_bytes())
    }

    #[test]
    fn a_setting_is_asked_for_by_its_name() {
        for sql in [
            "SELECT current_setting('in_hot_standby')",
            "SELECT pg_catalog.current_setting('Transaction_Read_Only', true)",
            "SELECT CASE WHEN current_setting($$in_hot_standby$$) = 'on' THEN 1 END",
            "SELECT setting FROM pg_settings WHERE name = 'in_hot_standby'",
            "SELECT setting FROM pg_catalog.pg_settings WHERE name IN ('port', 'transaction_read_only')",
        ] {
            assert!(asks(sql), "{sql}");
        }
        for sql in [
            "SELECT current_setting('work_mem')",
            "SELECT 'in_hot_standby'",
            "SELECT mine.current_setting('in_hot_standby')",
            "SELECT setting FROM mine.pg_settings WHERE name = 'in_hot_standby'",
            "SELECT current_setting('in_hot' || '_standby')",
        ] {
            assert!(!asks(sql), "{sql}");
        }
    }

    #[test]
    fn who_asks_a_standby_by_a_hint_gets_its_answer() {
        for (hint, class) in [("", Class::Write), ("/* komainu: standby */ ", Class::Read)] {
            let analysis = analyze(&format!("{hint}SELECT current_setting('in_hot_standby')"));
            let routed = resolve(&analysis, None, &FunctionLists::default());
            let routed = to_primary(&Analyzed { analysis, routed, generation: 0 }).routed;
            assert_eq!((routed.class, routed.may_write), (class, false), "{hint}");
        }
    }
}
