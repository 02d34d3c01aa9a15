//! Why a statement is a read or a write: a stable name and a sentence for each rule.
//!
//! Owns `RouteReason`. Never owns why a *server* was chosen: that is `policy::DecisionReason`.
//! Invariant: a name, once released, is never given another meaning (metrics and tests use it).

use std::fmt;

use super::statement::QualifiedName;

/// The rule that made a text a read or a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteReason {
    /// Nothing in it writes.
    ReadOnly,
    /// No statement in the text.
    Empty,
    /// Does the same on any server: SET, COMMIT, DISCARD, …
    AnyServer,
    /// Opens a transaction that is not declared READ ONLY.
    ReadWriteTransaction,
    Serializable,
    DataModifying,
    WritableCte,
    LockingClause,
    SelectInto,
    /// DDL, VACUUM, LOCK, LISTEN, …: the command's first words.
    Utility(&'static str),
    /// EXECUTE of a statement that this text does not contain.
    PreparedElsewhere,
    VolatileFunction(QualifiedName),
    UnknownFunction(QualifiedName),
    /// A function named in `split.write_functions`.
    WriteFunction(QualifiedName),
    PrimaryOnlyRelation(QualifiedName),
    /// Asks by name for a setting that tells a standby from a primary.
    AsksForRole,
    /// There is no catalog yet, so a relation may be a view over anything.
    UnknownRelation(QualifiedName),
    /// A volatile function that may be called as `x.name`.
    VolatileAttribute(Box<str>),
    Unparsable,
    /// Nested or chained deeper than the parser is let go.
    TooComplex,
    NotInspected,
    /// A hint says that it is a read.
    Hint,
}

impl RouteReason {
    /// Stable; for metrics, logs and tests.
    pub fn name(&self) -> &'static str {
        match self {
            RouteReason::ReadOnly => "read_only",
            RouteReason::Empty => "empty",
            RouteReason::AnyServer => "any_server",
            RouteReason::ReadWriteTransaction => "read_write_transaction",
            RouteReason::Serializable => "serializable",
            RouteReason::DataModifying => "data_modifying",
            RouteReason::WritableCte => "writable_cte",
            RouteReason::LockingClause => "locking_clause",
            RouteReason::SelectInto => "select_into",
            RouteReason::Utility(_) => "utility",
            RouteReason::PreparedElsewhere => "prepared_elsewhere",
            RouteReason::VolatileFunction(_) => "volatile_function",
            RouteReason::UnknownFunction(_) => "unknown_function",
            RouteReason::WriteFunction(_) => "write_function",
            RouteReason::PrimaryOnlyRelation(_) => "primary_only_relation",
            RouteReason::AsksForRole => "asks_for_role",
            RouteReason::UnknownRelation(_) => "unknown_relation",
            RouteReason::VolatileAttribute(_) => "volatile_attribute",
            RouteReason::Unparsable => "unparsable",
            RouteReason::TooComplex => "too_complex",
            RouteReason::NotInspected => "not_inspected",
            RouteReason::Hint => "hint",
        }
    }
}

/// The sentence `explain route` shows.
impl fmt::Display for RouteReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RouteReason::ReadOnly => f.write_str("nothing in it writes"),
            RouteReason::Empty => f.write_str("there is no statement in it"),
            RouteReason::AnyServer => f.write_str("it does the same on any server"),
            RouteReason::ReadWriteTransaction => {
                f.write_str("it opens a transaction that is not declared READ ONLY")
            }
            RouteReason::Serializable => f.write_str("SERIALIZABLE holds on the primary only"),
            RouteReason::DataModifying => f.write_str("it changes data"),
            RouteReason::WritableCte => f.write_str("a WITH query in it changes data"),
            RouteReason::LockingClause => f.write_str("it locks rows (FOR UPDATE, FOR SHARE, …)"),
            RouteReason::SelectInto => f.write_str("SELECT INTO creates a table"),
            RouteReason::Utility(command) => write!(f, "{command} runs on the primary"),
            RouteReason::PreparedElsewhere => {
                f.write_str("EXECUTE runs what was prepared before, which is not known here")
            }
            RouteReason::VolatileFunction(name) => {
                write!(f, "function {name} is volatile, or only the primary can serve it")
            }
            RouteReason::UnknownFunction(name) => {
                write!(f, "function {name} is not in what was read of the catalog so far")
            }
            RouteReason::WriteFunction(name) => {
                write!(f, "function {name} is listed in split.write_functions")
            }
            RouteReason::PrimaryOnlyRelation(name) => {
                write!(f, "only the primary can serve relation {name}, or something it is made of")
            }
            RouteReason::AsksForRole => {
                f.write_str("it asks for a setting in which a standby differs from the primary")
            }
            RouteReason::UnknownRelation(name) => {
                write!(f, "relation {name} is not in what was read of the catalog so far")
            }
            RouteReason::VolatileAttribute(name) => {
                write!(f, "\".{name}\" may call the volatile function {name}")
            }
            RouteReason::Unparsable => {
                f.write_str("it could not be parsed, and what is not understood may write")
            }
            RouteReason::TooComplex => f.write_str("it is nested or chained too deeply to be parsed"),
            RouteReason::NotInspected => {
                f.write_str("it is too long, or not in an encoding that is inspected")
            }
            RouteReason::Hint => f.write_str("a hint says that it only reads"),
        }
    }
}
