//! The questions whose answers make a `Catalog`.
//!
//! Owns SQL text only. Invariant: every name in it is qualified, so that no `search_path` changes its meaning.

/// Columns: schema, name (both text), volatility (`i`, `s` or `v`), attribute (boolean).
pub const CATALOG_QUERY_FUNCTIONS: &str = "";
/// Columns: schema, name (both text).
pub const CATALOG_QUERY_RELATIONS: &str = "";
