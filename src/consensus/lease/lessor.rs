//! The quorum lease, as the leader gives it.
//!
//! Pure. Lives for one term of one leader: whoever is elected makes a new one, and drops it with the lead.
//! Owns what every voter has acknowledged, what every node was granted, and which fence they must have applied.
//! Invariant: no grant outlives the contact with a quorum that it rests on by more than `lease_ms`, counted
//! from when what the quorum acknowledged was *sent*. That is why a newly elected leader has nothing to wait for:
//! who elected it had been silent for longer.

use std::collections::{BTreeMap, BTreeSet};

use super::{Grant, LeaseSettings, Question};
use crate::consensus::election::Election;

/// How this node came to lead, which decides what may still be out there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Began {
    /// It campaigned by the rules of `election`: every earlier grant has ended by now.
    Elected,
    /// The process started as leader of the term it led before, or something else is unclear: what it granted
    /// then is forgotten and may just have begun.
    Resumed,
}

/// Why there is no lease for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the leader has not heard from a majority for {0} ms")]
    NoQuorum(u64),
    #[error("the leader has not heard from a majority yet")]
    NoQuorumYet,
    #[error("entry {fence} of the log must be applied first")]
    BehindFence { fence: u64 },
    #[error("the leader may be voting for another")]
    Voting,
}

#[derive(Debug, Clone)]
pub struct Lessor<N> {
    settings: LeaseSettings,
    me: N,
    /// A majority of each set is a quorum; two sets while the membership changes.
    voters: Vec<BTreeSet<N>>,
    /// When that was sent which each voter acknowledged last.
    acknowledged: BTreeMap<N, u64>,
    /// When what was granted to a node has surely ended, by our clock.
    granted: BTreeMap<N, u64>,
    /// What each node has applied, as it said itself.
    applied: BTreeMap<N, u64>,
    /// What was granted before this lead began has ended then.
    earlier_grants_end_at_ms: u64,
    fence: u64,
    term: u64,
}

impl<N: Ord + Clone> Lessor<N> {
    /// Nobody gets a lease who has not applied the entry `first_index`: so nobody acts on a state that an earlier fence has
    /// ended, whether or not we know of it. Elected: the entry that this leader began its `term` with. Resumed: the
    /// *last* entry of its log, since fences of this very term may be in it.
    pub fn new(
        settings: LeaseSettings,
        me: N,
        voters: Vec<BTreeSet<N>>,
        began: Began,
        term: u64,
        first_index: u64,
        now_ms: u64,
    ) -> Self {
        let earlier_grants_end_at_ms = match began {
            Began::Elected => now_ms,
            Began::Resumed => {
                now_ms.saturating_add(settings.lease_ms).saturating_add(settings.drift_margin_ms)
            }
        };
        Lessor {
            settings,
            me,
            voters,
            acknowledged: BTreeMap::new(),
            granted: BTreeMap::new(),
            applied: BTreeMap::new(),
            earlier_grants_end_at_ms,
            fence: first_index,
            term,
        }
    }

    /// The membership as the log has it now, committed or not: one set, or both of a change under way.
    pub fn set_voters(&mut self, voters: Vec<BTreeSet<N>>) {
        self.voters = voters;
    }

    /// A node accepted a message of this leader and this term. `sent_at_ms` is read *before* the message is
    /// handed to the network.
    pub fn acknowledged(&mut self, node: N, sent_at_ms: u64) {
        raise(&mut self.acknowledged, node, sent_at_ms);
    }

    /// A node says that it has applied the log up to there, and acts on it.
    pub fn applied(&mut self, node: N, index: u64) {
        raise(&mut self.applied, node, index);
    }

    /// The latest time of which it is known that a quorum acknowledged something sent then or later. None: not
    /// yet. A leader alone is its own quorum, at any time.
    pub fn contact_ms(&self, now_ms: u64) -> Option<u64> {
        self.voters.iter().map(|voters| self.contact_of(voters, now_ms)).min().flatten()
    }

    fn contact_of(&self, voters: &BTreeSet<N>, now_ms: u64) -> Option<u64> {
        let mut times: Vec<u64> = voters
            .iter()
            .filter_map(|voter| match *voter == self.me {
                true => Some(now_ms),
                false => self.acknowledged.get(voter).copied(),
            })
            .collect();
        times.sort_unstable_by(|a, b| b.cmp(a));
        times.get(voters.len() / 2).copied()
    }

    /// Answers a node's question, and notes until when it must be feared. The leader asks too, as everybody does.
    /// `election` is this node's own: what the grant rests on counts there as a leader heard, before anybody has the
    /// grant. Otherwise a leader that was frozen could grant on an answer that has just come, and then vote by what
    /// it knew before it froze.
    pub fn grant(
        &mut self,
        now_ms: u64,
        election: &mut Election,
        node: N,
        question: Question,
    ) -> Result<Grant, Refusal> {
        raise(&mut self.applied, node.clone(), question.applied);
        if !election.may_grant(self.term) {
            return Err(Refusal::Voting);
        }
        let contact = self.contact_ms(now_ms).ok_or(Refusal::NoQuorumYet)?;
        let silence = now_ms.saturating_sub(contact);
        if silence >= self.settings.lease_ms {
            return Err(Refusal::NoQuorum(silence));
        }
        if question.applied < self.fence {
            return Err(Refusal::BehindFence { fence: self.fence });
        }
        election.heard(contact);
        let length_ms = self.settings.lease_ms - silence;
        let ends_at_ms = now_ms.saturating_add(length_ms).saturating_add(self.settings.drift_margin_ms);
        raise(&mut self.granted, node, ends_at_ms);
        Ok(Grant { length_ms })
    }

    /// From now on nobody gets a lease who has not applied this entry. To be called when the leader itself applies
    /// it or before.
    pub fn fence(&mut self, index: u64) {
        self.fence = self.fence.max(index);
    }

    /// When nobody who has not applied this entry can still hold a lease, as far as is known now: each node has
    /// confirmed, or what it was granted has ended. None: [`Lessor::fence`] was never told of it.
    pub fn fence_safe_at_ms(&self, index: u64) -> Option<u64> {
        if index > self.fence {
            return None;
        }
        let unconfirmed = self.granted.iter().filter(|&(node, _)| self.applied.get(node) < Some(&index));
        let last = unconfirmed.map(|(_, &ends_at_ms)| ends_at_ms).max().unwrap_or(0);
        Some(last.max(self.earlier_grants_end_at_ms))
    }

    /// Only for an entry that is committed: an entry that may vanish fences nobody.
    pub fn fence_passed(&self, index: u64, now_ms: u64) -> bool {
        self.fence_safe_at_ms(index).is_some_and(|safe_at_ms| now_ms >= safe_at_ms)
    }
}

fn raise<N: Ord>(map: &mut BTreeMap<N, u64>, node: N, value: u64) {
    let entry = map.entry(node).or_insert(0);
    *entry = (*entry).max(value);
}
