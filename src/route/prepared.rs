//! Names of SQL-level prepared statements, found in the text that uses them.
//!
//! Owns where the name is. Never rewrites: the caller does. Invariant: a range is on character boundaries
//! of the text it was found in, and holds the name with its quotes.

use std::borrow::Cow;
use std::ops::Range;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Prepare,
    /// Also within EXPLAIN and CREATE TABLE AS.
    Execute,
    Deallocate,
}

/// One use of a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlName {
    pub verb: Verb,
    pub name: Range<usize>,
    /// Of PREPARE: the statement after AS. Its class is what an EXECUTE's will be.
    pub body: Option<Range<usize>>,
}

/// The name in a text that is one PREPARE, EXECUTE or DEALLOCATE.
pub fn sql_name(sql: &str) -> Option<Range<usize>> {
    sql_names(sql).into_iter().next().map(|found| found.name)
}

/// Every use in a text of one or several statements, in order. `DEALLOCATE ALL` names nothing.
pub fn sql_names(sql: &str) -> Vec<SqlName> {
    let _ = sql;
    Vec::new()
}

/// The identifier as PostgreSQL keeps it: unquoted or folded, cut at 63 bytes.
pub fn fold_identifier(text: &str) -> Cow<'_, str> {
    Cow::Borrowed(text)
}
