//! What the analysis of a statement's text says: plain values, computed once per shape.
//!
//! Owns `Analysis` and the types in it. Never looks at a catalog: what a name means is `catalog`'s.
//! Invariant: an `Analysis` depends on the text's shape only, never on the value of a literal in it.

use std::borrow::Cow;
use std::fmt;

use super::effects::Effects;
use super::hint::{HintTarget, Hints};
use super::reading::encoded;
use super::reason::RouteReason;

/// What is known of a text (one simple query, or one Parse) from its syntax alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Analysis {
    /// By syntax alone, the strictest of all statements; `catalog::resolve` may still make it a `Write`.
    pub class: Class,
    /// Why `class` is what it is: the first rule that fired.
    pub reason: RouteReason,
    /// Functions called anywhere in the text, each once. Operators and casts are not among them: they are
    /// assumed not to be volatile.
    pub functions: Box<[QualifiedName]>,
    /// Relations referred to, each once, without those that are names of CTEs where they stand.
    /// Complete only if `class` is `Read`.
    pub relations: Box<[QualifiedName]>,
    /// Names that stand after a dot and are no function call: `x.name` is also how PostgreSQL lets a
    /// function of one composite argument be called.
    pub attributes: Box<[Box<str>]>,
    /// Number of statements; empty ones between semicolons do not count.
    pub statements: usize,
    /// Of a text with one statement; `Many` for several, `Empty` for none.
    pub kind: StatementKind,
    /// Over all statements of the text.
    pub effects: Effects,
    pub hints: Hints,
    /// The text is in another encoding than UTF-8. Its names are as `reading::decoded` has them, and what those beyond
    /// ASCII mean is not known.
    pub foreign: bool,
}

impl Analysis {
    /// Of a text that is not looked into: too long, not in its encoding, or read by other lexical rules
    /// (`standard_conforming_strings = off`, a client encoding that is no superset of ASCII).
    /// It may do anything.
    pub fn opaque() -> Analysis {
        Analysis {
            class: Class::Write,
            reason: RouteReason::NotInspected,
            functions: Box::default(),
            relations: Box::default(),
            attributes: Box::default(),
            statements: 1,
            kind: StatementKind::Other,
            effects: Effects::OPAQUE,
            hints: Hints::default(),
            foreign: false,
        }
    }

    /// The bytes of a name in the text.
    pub fn raw<'a>(&self, name: &'a str) -> Cow<'a, [u8]> {
        match self.foreign {
            true => encoded(name).into(),
            false => name.as_bytes().into(),
        }
    }

    /// Whether komainu itself answers it, with what is so at that moment.
    pub fn is_answered_here(&self) -> bool {
        matches!(self.kind, StatementKind::ShowPool(_)) || self.hints.explain
    }

    /// About how much memory it takes. A text of a megabyte may name a hundred thousand functions.
    pub fn bytes(&self) -> usize {
        // What the allocator adds to each piece.
        const PIECE: usize = 16;
        let qualified = |name: &QualifiedName| {
            let schema = name.schema.as_ref().map_or(0, |schema| schema.len() + PIECE);
            size_of::<QualifiedName>() + name.name.len() + PIECE + schema
        };
        let in_kind = match &self.kind {
            StatementKind::Set { name, .. }
            | StatementKind::Reset { name }
            | StatementKind::Show { name } => name.len(),
            StatementKind::ShowPool(PoolShow::Komainu(name))
            | StatementKind::Deallocate { name: Some(name) } => name.len(),
            _ => 0,
        };
        let in_hint = match &self.hints.target {
            Some(HintTarget::Server(id)) => id.len(),
            _ => 0,
        };
        size_of::<Analysis>()
            + self.functions.iter().chain(&self.relations).map(qualified).sum::<usize>()
            + self.attributes.iter().map(|name| size_of::<Box<str>>() + name.len() + PIECE).sum::<usize>()
            + in_kind
            + in_hint
    }
}

/// Where a statement may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// On a standby or on the primary. Includes statements that do the same on either, such as `SET`,
    /// `COMMIT` and `DISCARD ALL`.
    Read,
    /// On the primary only.
    Write,
}

/// A name as PostgreSQL would look it up: folded or unquoted, cut at 63 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QualifiedName {
    pub schema: Option<Box<str>>,
    pub name: Box<str>,
}

impl QualifiedName {
    pub fn bare(name: &str) -> Self {
        QualifiedName { schema: None, name: name.into() }
    }

    pub fn in_schema(schema: &str, name: &str) -> Self {
        QualifiedName { schema: Some(schema.into()), name: name.into() }
    }

    pub fn is_ascii(&self) -> bool {
        self.name.is_ascii() && self.schema.as_ref().is_none_or(|schema| schema.is_ascii())
    }

    /// Not qualified with a schema other than `pg_catalog`.
    pub fn may_be_builtin(&self) -> bool {
        self.schema.as_deref().is_none_or(|schema| schema == "pg_catalog")
    }
}

impl fmt::Display for QualifiedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.schema {
            Some(schema) => write!(f, "{schema}.{}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    ReadUncommitted,
    ReadCommitted,
    RepeatableRead,
    Serializable,
}

/// The modes `BEGIN`, `SET TRANSACTION` and `SET SESSION CHARACTERISTICS` take; `None`: not said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TransactionModes {
    pub read_only: Option<bool>,
    pub isolation: Option<Isolation>,
    pub deferrable: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyDirection {
    /// `FROM STDIN`: the client sends.
    In,
    /// `TO STDOUT`: the server sends.
    Out,
    /// From or to a file or program of the server's: no copy messages.
    ServerSide,
}

/// What komainu itself answers to a `SHOW`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolShow {
    /// `SHOW POOL_NODES`
    Nodes,
    /// `SHOW POOL_VERSION`
    Version,
    /// `SHOW POOL_PROCESSES`
    Processes,
    /// `SHOW POOL_POOLS`
    Pools,
    /// `SHOW ROUTE`: why the session's previous statement went where it did.
    Route,
    /// `SHOW komainu.<name>`
    Komainu(Box<str>),
}

/// The statement of a text that has just one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatementKind {
    /// No statement at all: the answer is EmptyQueryResponse.
    Empty,
    /// Several statements.
    Many,
    /// SELECT, VALUES, TABLE, WITH …, and EXPLAIN of such.
    Query,
    /// INSERT, UPDATE, DELETE, MERGE, and WITH … before them.
    Dml,
    Ddl,
    /// Ends nothing, changes no settings; nothing to act on.
    Other,
    Begin(TransactionModes),
    /// COMMIT or END.
    Commit {
        chain: bool,
    },
    /// ROLLBACK or ABORT.
    Rollback {
        chain: bool,
    },
    Savepoint,
    Release,
    RollbackTo,
    /// PREPARE TRANSACTION
    PrepareTransaction,
    /// COMMIT PREPARED, ROLLBACK PREPARED
    FinishPrepared,
    /// `snapshot`: SET TRANSACTION SNAPSHOT
    SetTransaction {
        modes: TransactionModes,
        snapshot: bool,
    },
    /// SET SESSION CHARACTERISTICS AS TRANSACTION
    SetCharacteristics(TransactionModes),
    /// `name` is the parameter's own, also where SQL has another word for it (`SET TIME ZONE`).
    Set {
        local: bool,
        name: Box<str>,
    },
    Reset {
        name: Box<str>,
    },
    ResetAll,
    /// SET ROLE, RESET ROLE
    SetRole {
        local: bool,
    },
    /// SET SESSION AUTHORIZATION, RESET SESSION AUTHORIZATION
    SetSessionAuthorization {
        local: bool,
    },
    Show {
        name: Box<str>,
    },
    ShowPool(PoolShow),
    DiscardAll,
    /// DISCARD PLANS, SEQUENCES, TEMP
    DiscardOther,
    /// The name is in the text: `prepared::sql_name`.
    Prepare,
    Execute,
    Deallocate {
        /// None: ALL.
        name: Option<Box<str>>,
    },
    Listen,
    Unlisten {
        all: bool,
    },
    Notify,
    DeclareCursor {
        hold: bool,
    },
    /// FETCH, MOVE
    Fetch,
    Close {
        all: bool,
    },
    Copy(CopyDirection),
    Load,
    Do,
    Call,
    Lock,
}
