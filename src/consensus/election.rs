//! When this node may try to lead, and when it may vote for another.
//!
//! Pure. The replication library elects whoever asks; this decides who may ask, and which requests reach it.
//! Owns when a leader was last heard and what is under way between the wire and the library. Invariant: a node
//! that accepted something from a leader votes for nobody else, itself included, for `election_timeout_max_ms`.
//! Leases rest on it (`lease`). `docs/decisions/0015-elections-are-ours-to-start.md` says why, and in which order the
//! methods are called.

mod pre_vote;

pub use pre_vote::{LogPosition, PreVoteReply, PreVoteRequest, Refusal, Standing};

use std::collections::BTreeSet;

use super::lease::LeaseSettings;

#[derive(Debug, Clone)]
pub struct Election {
    settings: LeaseSettings,
    started_at_ms: u64,
    /// When the last sign of a leader came; of a leader itself, when its quorum was last known to follow.
    heard_at_ms: Option<u64>,
    /// Highest term of a leader whose message was passed on.
    term: u64,
    /// Messages of leaders that the library has been given and has not answered.
    unanswered: u32,
    /// A campaign is being handed to the library: no leader's message may get in between, not even one of a later
    /// term, which the library would accept and then campaign against.
    handing_over: bool,
    /// Requests for a vote that the library has been given and has not answered.
    votes_unanswered: u32,
    /// Highest term that this node voted in for another.
    voted_term: u64,
    /// A random part of the silence, so that candidates come one by one.
    patience_ms: u64,
    not_before_ms: u64,
    seed: u64,
}

impl Election {
    /// `seed` must differ between nodes.
    pub fn new(settings: LeaseSettings, now_ms: u64, seed: u64) -> Self {
        let mut election = Election {
            settings,
            started_at_ms: now_ms,
            heard_at_ms: None,
            term: 0,
            unanswered: 0,
            handing_over: false,
            votes_unanswered: 0,
            voted_term: 0,
            patience_ms: 0,
            not_before_ms: 0,
            seed,
        };
        election.patience_ms = election.random(settings.spread_ms());
        election
    }

    /// A message that only a leader sends has come: entries, a heartbeat, a snapshot. True: pass it on to the
    /// library, and call [`Election::answered`] whatever becomes of it. False: refuse it with an error; the sender will
    /// come again.
    #[must_use]
    pub fn incoming(&mut self, now_ms: u64, term: u64) -> bool {
        if self.handing_over {
            return false;
        }
        self.unanswered += 1;
        if term >= self.term {
            self.term = term;
            self.heard(now_ms);
        }
        true
    }

    /// The library has answered, or will not. `accepted`: it takes the sender for the leader.
    pub fn answered(&mut self, now_ms: u64, accepted: bool) {
        self.unanswered = self.unanswered.saturating_sub(1);
        if accepted {
            self.heard(now_ms);
        }
    }

    /// A leader calls it too, as long as it leads, with [`super::lease::Lessor::contact_ms`].
    pub fn heard(&mut self, at_ms: u64) {
        self.heard_at_ms = self.heard_at_ms.max(Some(at_ms));
    }

    /// When to ask the others whether they would vote for this node: not before. Only for a voter that does not
    /// lead.
    pub fn due_at_ms(&self) -> u64 {
        self.quiet_from_ms().saturating_add(self.patience_ms).max(self.not_before_ms)
    }

    /// The others will not, or not enough of them answered: ask again when the first of them may think otherwise.
    pub fn refused(&mut self, now_ms: u64, refusals: &[Refusal]) {
        let wait_ms = refusals.iter().map(Refusal::retry_after_ms).min().unwrap_or(0);
        let pause_ms = self.random(self.settings.heartbeat_ms);
        self.not_before_ms =
            now_ms.saturating_add(wait_ms.max(self.settings.heartbeat_ms / 2)).saturating_add(pause_ms);
    }

    /// A quorum would vote for this node. True: hand the campaign to the library and
    /// then call [`Election::begun`]. False: a leader was heard in the meantime.
    #[must_use]
    pub fn campaign(&mut self, now_ms: u64) -> bool {
        if self.unanswered > 0 || now_ms < self.quiet_from_ms() {
            return false;
        }
        self.handing_over = true;
        self.patience_ms = self.random(self.settings.spread_ms());
        self.wait_for_election(now_ms);
        true
    }

    /// The library has begun the campaign, or will not; not before it has taken it from its queue.
    pub fn begun(&mut self) {
        self.handing_over = false;
    }

    /// Would this node vote for the candidate?
    pub fn judge_pre_vote<N: Ord>(
        &self,
        now_ms: u64,
        request: &PreVoteRequest<N>,
        mine: &Standing<'_, N>,
    ) -> Result<(), Refusal> {
        if request.cluster_id != mine.cluster_id {
            return Err(Refusal::AnotherCluster);
        }
        if mine.incarnation.is_some_and(|known| known != request.incarnation) {
            return Err(Refusal::AnotherIncarnation);
        }
        if request.last_log.as_ref() < mine.last_log {
            return Err(Refusal::LogBehind);
        }
        self.quiet(now_ms)
    }

    /// A real request for a vote has come. `Ok`: pass it on to the library, which compares logs and terms itself, and call
    /// [`Election::vote_answered`] whatever becomes of it.
    pub fn judge_vote(&mut self, now_ms: u64) -> Result<(), Refusal> {
        self.quiet(now_ms)?;
        self.votes_unanswered += 1;
        self.wait_for_election(now_ms);
        Ok(())
    }

    /// The library has answered the request for a vote in that term. If its answer is not known, it was granted.
    pub fn vote_answered(&mut self, term: u64, granted: bool) {
        self.votes_unanswered = self.votes_unanswered.saturating_sub(1);
        if granted {
            self.voted_term = self.voted_term.max(term);
        }
    }

    /// May this node, as leader of that term, give leases? Not while the library may be voting for another, nor once it
    /// has: what a leader is told of its own state comes later than the vote.
    pub fn may_grant(&self, term: u64) -> bool {
        self.votes_unanswered == 0 && !self.handing_over && term > self.voted_term
    }

    fn quiet(&self, now_ms: u64) -> Result<(), Refusal> {
        let for_ms = self.quiet_from_ms().saturating_sub(now_ms);
        match self.heard_at_ms {
            _ if for_ms == 0 => Ok(()),
            Some(_) => Err(Refusal::LeaderIsAlive { for_ms }),
            None => Err(Refusal::JustStarted { for_ms }),
        }
    }

    /// From when on this node takes the leader it heard, or may have heard before it was started, for gone.
    fn quiet_from_ms(&self) -> u64 {
        let last = self.heard_at_ms.unwrap_or(0).max(self.started_at_ms);
        last.saturating_add(self.settings.election_timeout_max_ms)
    }

    /// Lets an election that is under way come to its end.
    fn wait_for_election(&mut self, now_ms: u64) {
        let patience_ms = self.random(self.settings.spread_ms());
        let end_ms = now_ms.saturating_add(self.settings.election_timeout_min_ms).saturating_add(patience_ms);
        self.not_before_ms = self.not_before_ms.max(end_ms);
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): below `limit`, or 0.
    fn random(&mut self, limit: u64) -> u64 {
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)).checked_rem(limit).unwrap_or(0)
    }
}

/// Is that a majority of each set?
pub fn is_quorum<N: Ord>(voters: &[BTreeSet<N>], nodes: &BTreeSet<N>) -> bool {
    !voters.is_empty() && voters.iter().all(|voters| voters.intersection(nodes).count() > voters.len() / 2)
}

#[cfg(test)]
mod tests;
