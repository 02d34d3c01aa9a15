//! Whose directory this is, and whether what it remembers is all that its node ever promised.
//!
//! Pure. A node that forgot a vote may give it twice; one that forgot an entry it acknowledged may help elect a leader that
//! lacks it. A directory cannot know by itself that it is empty or older than it was, but others can: they remember which
//! start of the node they saw and what it had. Invariant: only [`Standing::Good`] may vote.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::consensus::types::{LogId, Vote};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub cluster_id: String,
    pub node: String,
    pub raft_id: u64,
    pub incarnation: u64,
}

/// What a node has promised, as far as it goes: how often it started, the latest vote, the last entry it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    pub starts: u64,
    pub vote: Option<Vote>,
    pub last: Option<LogId>,
}

impl Progress {
    /// The larger of each.
    pub fn merge(&mut self, other: &Progress) {
        self.starts = self.starts.max(other.starts);
        if forgotten(&self.vote, &other.vote) {
            self.vote = other.vote;
        }
        self.last = self.last.max(other.last);
    }

    /// Whether a node of which `seen` was remembered has forgotten something if it is here now. An entry of a later term
    /// covers all of the terms before: those that it replaced were never committed.
    fn forgot(&self, seen: &Progress) -> bool {
        self.starts < seen.starts || forgotten(&self.vote, &seen.vote) || self.last < seen.last
    }
}

/// Votes of one term for two nodes do not compare: one of them was forgotten.
fn forgotten(now: &Option<Vote>, seen: &Option<Vote>) -> bool {
    match (now, seen) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(now), Some(seen)) => {
            !matches!(now.partial_cmp(seen), Some(Ordering::Greater | Ordering::Equal))
        }
    }
}

/// What one peer knows of a node, told before that node's own start is noted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Remembered {
    /// Empty: the peer belongs to no cluster yet.
    pub cluster_id: String,
    /// Raft id and incarnation of the member of that name.
    pub member: Option<(u64, u64)>,
    /// Of that life of the node.
    pub progress: Option<Progress>,
}

/// What a node that starts is, in view of what one peer remembers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Standing {
    #[error("the directory is the member's")]
    Good,
    #[error("neither this node nor the peer belongs to a cluster yet")]
    Fresh,
    #[error(
        "the cluster exists and does not know this node: it must be added, by `komainu node add` on another one"
    )]
    Stranger,
    #[error(
        "the directory is empty, and the cluster knows this node as incarnation {incarnation}: replace the node"
    )]
    Empty { incarnation: u64 },
    #[error("the directory is older than what the cluster has seen of this node: replace the node")]
    Older,
    #[error("the directory is of incarnation {ours}, the node was replaced by incarnation {theirs}")]
    Replaced { ours: u64, theirs: u64 },
    #[error("the node was removed from the cluster")]
    Removed,
    #[error("the directory belongs to cluster {ours}, the peer to cluster {theirs}")]
    OtherCluster { ours: String, theirs: String },
}

impl Standing {
    /// `own` is what the directory holds, after its start was counted.
    pub fn judge(own: Option<&Identity>, progress: &Progress, remembered: &Remembered) -> Standing {
        let Some(own) = own else {
            return match remembered.member {
                Some((_, incarnation)) => Standing::Empty { incarnation },
                None if remembered.cluster_id.is_empty() => Standing::Fresh,
                None => Standing::Stranger,
            };
        };
        // A peer without a cluster is one that has forgotten, or was never told: it knows nothing against us.
        if remembered.cluster_id.is_empty() {
            return Standing::Good;
        }
        if remembered.cluster_id != own.cluster_id {
            let (ours, theirs) = (own.cluster_id.clone(), remembered.cluster_id.clone());
            return Standing::OtherCluster { ours, theirs };
        }
        match remembered.member {
            None => Standing::Removed,
            Some((_, theirs)) if theirs > own.incarnation => {
                Standing::Replaced { ours: own.incarnation, theirs }
            }
            // The peer is behind: it has not heard of our new life yet.
            Some((raft_id, _)) if raft_id != own.raft_id => Standing::Good,
            Some(_) => match remembered.progress.is_some_and(|seen| progress.forgot(&seen)) {
                true => Standing::Older,
                false => Standing::Good,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use openraft::CommittedLeaderId;

    use super::*;

    fn own() -> Identity {
        Identity { cluster_id: "x".to_owned(), node: "a".to_owned(), raft_id: 4, incarnation: 2 }
    }

    fn progress(starts: u64, term: u64, index: u64) -> Progress {
        let last = LogId::new(CommittedLeaderId::new(term, 0), index);
        Progress { starts, vote: Some(Vote::new(term, 9)), last: Some(last) }
    }

    fn remembered(progress: Option<Progress>) -> Remembered {
        Remembered { cluster_id: "x".to_owned(), member: Some((4, 2)), progress }
    }

    #[test]
    fn a_directory_that_remembers_all_is_good() {
        let now = progress(6, 3, 10);
        for seen in [None, Some(progress(5, 3, 10)), Some(progress(6, 2, 9))] {
            assert_eq!(Standing::judge(Some(&own()), &now, &remembered(seen)), Standing::Good);
        }
        assert_eq!(Standing::judge(Some(&own()), &now, &Remembered::default()), Standing::Good);
    }

    #[test]
    fn a_directory_that_went_back_in_time_is_never_good() {
        let now = progress(6, 3, 10);
        for seen in [progress(7, 1, 1), progress(1, 4, 1), progress(1, 3, 11)] {
            assert_eq!(Standing::judge(Some(&own()), &now, &remembered(Some(seen))), Standing::Older);
        }
        // It voted for another in that very term.
        let seen = Progress { vote: Some(Vote::new(3, 8)), ..progress(5, 3, 10) };
        assert_eq!(Standing::judge(Some(&own()), &now, &remembered(Some(seen))), Standing::Older);
    }

    #[test]
    fn an_empty_directory_of_a_known_member_is_never_good() {
        let judge = |remembered| Standing::judge(None, &Progress::default(), &remembered);
        assert_eq!(judge(remembered(None)), Standing::Empty { incarnation: 2 });
        assert_eq!(judge(Remembered::default()), Standing::Fresh);
        assert_eq!(judge(Remembered { member: None, ..remembered(None) }), Standing::Stranger);
    }

    #[test]
    fn a_replaced_a_removed_and_a_strange_node_are_never_good() {
        let judge = |remembered| Standing::judge(Some(&own()), &progress(1, 1, 1), &remembered);
        let replaced = Remembered { member: Some((5, 3)), ..remembered(None) };
        assert_eq!(judge(replaced), Standing::Replaced { ours: 2, theirs: 3 });
        assert_eq!(judge(Remembered { member: None, ..remembered(None) }), Standing::Removed);
        let other = Remembered { cluster_id: "y".to_owned(), ..remembered(None) };
        assert_eq!(judge(other), Standing::OtherCluster { ours: "x".to_owned(), theirs: "y".to_owned() });
    }

    #[test]
    fn progress_only_grows() {
        let mut seen = progress(5, 3, 10);
        seen.merge(&progress(4, 2, 12));
        assert_eq!(seen, progress(5, 3, 10));
        seen.merge(&progress(6, 4, 9));
        assert_eq!(seen, progress(6, 4, 9));
    }
}
