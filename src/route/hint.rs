//! Hints in comments.
//!
//! Owns what a hint looks like and what it asks for. Never decides whether it can be had: `policy` does.
//! Invariant: a comment that begins with `komainu:` is either understood or reported, never ignored.

/// What the comments of a text ask for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hints {
    pub target: Option<HintTarget>,
    /// `komainu: explain route`: answer with one row that says where the text would go, and why.
    pub explain: bool,
    /// Tell the client; the other hints hold all the same.
    pub error: Option<HintError>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HintTarget {
    /// `/*NO LOAD BALANCE*/` before the first word, or `/* komainu: primary */` anywhere.
    Primary,
    /// `/* komainu: standby */`
    Standby,
    /// `/* komainu: server=ID */`
    Server(Box<str>),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HintError {
    #[error("unknown hint \"{0}\": komainu knows primary, standby, server=ID and explain route")]
    Unknown(Box<str>),
    #[error("contradicting hints: \"{0}\" comes after another that names a server")]
    Contradiction(Box<str>),
}
