//! The state as bytes: what snapshots hold.
//!
//! Pure. JSON in an envelope with a format number: that of the log, for what an older version does not know of the log it
//! does not know of the state either, and one more for the envelope. Invariant: a newer format is refused, never guessed at, and a
//! state that breaks its own rules is not handed out.

use serde::{Deserialize, Serialize};

use super::{ClusterState, LOG_FORMAT};

const ENVELOPE: u32 = 1;
pub const NEWEST: u32 = ENVELOPE + LOG_FORMAT;

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(
        "the state is in format {found}, written by a newer komainu; this one reads up to {NEWEST}: upgrade it"
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
        serde_json::to_vec(&Written { format: ENVELOPE + self.log_format, state: self })
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, ReadError> {
        let Numbered { format } = serde_json::from_slice(bytes)?;
        if format > NEWEST {
            return Err(ReadError::Newer { found: format });
        }
        let Read { state } = serde_json::from_slice(bytes)?;
        state.check().map_err(ReadError::Contradiction)?;
        Ok(state)
    }
}
