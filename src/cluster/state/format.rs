//! The state as bytes: what snapshots hold.
//!
//! Pure. JSON in an envelope with a format number. The number is raised only by a change that an older version would
//! misunderstand; a field added with a default is none. Invariant: a newer format is refused, never guessed at, and a
//! state that breaks its own rules is not handed out.

use serde::{Deserialize, Serialize};

use super::ClusterState;

pub const FORMAT: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(
        "the state is in format {found}, written by a newer komainu; this one reads up to {FORMAT}: upgrade it"
    )]
    Newer { found: u32 },
    #[error("the state is not readable: {0}")]
    Unreadable(#[from] serde_json::Error),
    #[error("the state contradicts itself: {0}")]
    Contradiction(String),
}

#[derive(Serialize)]
struct Written<'a> {
    format: u32,
    state: &'a ClusterState,
}

/// All that is understood of any format.
#[derive(Deserialize)]
struct Numbered {
    format: u32,
}

#[derive(Deserialize)]
struct Read {
    state: ClusterState,
}

impl ClusterState {
    pub fn to_bytes(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&Written { format: FORMAT, state: self })
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ReadError> {
        let Numbered { format } = serde_json::from_slice(bytes)?;
        if format > FORMAT {
            return Err(ReadError::Newer { found: format });
        }
        let Read { state } = serde_json::from_slice(bytes)?;
        state.check().map_err(ReadError::Contradiction)?;
        Ok(state)
    }
}
