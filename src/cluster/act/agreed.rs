//! Whether a leader's policy is the agreed one, though it may not be able to use all of the agreed text.
//!
//! Pure. Invariant: it is only if the sections that a policy is made of say the same in both texts.

use super::Wanted;
use crate::cluster::state::ClusterState;
use crate::config::shared;

/// What a `Policy` follows from.
const SECTIONS: [&str; 2] = ["failover", "server"];

/// What was found for a pair of versions: of the leader's own text, and of the agreed one.
#[derive(Debug, Default)]
pub(super) struct Agreed {
    found: Option<((u64, u64), bool)>,
}

impl Agreed {
    pub fn on_policy(&mut self, wanted: &Wanted, state: &ClusterState) -> bool {
        let Some(agreed) = state.configuration().current() else { return false };
        if wanted.version == agreed.version {
            return true;
        }
        let versions = (wanted.version, agreed.version);
        match self.found {
            Some((of, is_agreed)) if of == versions => is_agreed,
            _ => {
                let is_agreed = shared::say_the_same(&wanted.configuration, &agreed.text, &SECTIONS);
                self.found = Some((versions, is_agreed));
                is_agreed
            }
        }
    }
}
