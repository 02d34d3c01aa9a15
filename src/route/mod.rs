//! Where a statement goes, and what a statement does to a session.
//!
//! `lexer` masks literals and hashes the shape; `analyze` runs once per shape; `catalog` says what the
//! names in it are; `cache` keeps the answer; `policy` chooses the server. Pure: time, seeds and
//! configuration are arguments.
//! Invariant: a text is a `Read` only if every statement in it is positively known to be one.

pub mod builtin;
pub mod cache;
mod calls;
pub mod catalog;
pub mod catalog_sql;
pub mod classify;
pub mod decision;
pub mod effects;
mod eligible;
pub mod hint;
pub mod lexer;
pub mod one_server;
pub mod policy;
pub mod prepared;
pub mod reading;
pub mod reason;
mod select;
pub mod shape;
pub mod statement;
mod utility;
mod words;

pub use cache::{Analyzed, RouteCache};
pub use catalog::{Catalog, FunctionLists, Routed, resolve};
pub use classify::{analyze, analyze_foreign};
pub use decision::{Decision, DecisionReason, Target};
pub use effects::Effects;
pub use hint::{HintTarget, Hints};
pub use policy::{LastRead, Policy, Request, SessionView, route};
pub use reading::Reading;
pub use reason::RouteReason;
pub use shape::{Shape, ShapeSeed, shape};
pub use statement::{Analysis, Class, QualifiedName, StatementKind};

#[cfg(test)]
mod tests;
