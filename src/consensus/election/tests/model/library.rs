//! The replication library: what openraft 0.9.25 does with the feature `single-term-leader`, as far as elections go.
//!
//! Invariant: where it does not do what openraft does, it allows more. A leader votes at any time, which openraft's
//! does not right after it was elected; messages come to its queue in any order, as they come from tasks of their own.

use std::cmp::Ordering;

use super::*;

/// Of two nodes in one term, only a committed vote is the greater one.
fn at_least(vote: Vote, other: Vote) -> bool {
    match (vote.0.cmp(&other.0), vote.1 == other.1) {
        (Ordering::Equal, true) => vote.2 >= other.2,
        (Ordering::Equal, false) => {
            assert!(!(vote.2 && other.2), "two leaders of one term: {vote:?}, {other:?}");
            vote.2
        }
        (order, _) => order.is_gt(),
    }
}

impl Node {
    /// openraft's `update_vote`, which every message goes through.
    fn accept(&mut self, vote: Vote, now_ms: u64) -> bool {
        if !at_least(vote, self.vote) {
            return false;
        }
        self.vote = vote;
        self.voted_at_ms = now_ms;
        if vote.1 != self.id {
            self.leading = None;
            self.votes.clear();
        }
        true
    }
}

impl World {
    /// Into the library's queue, which is not always worked off at once.
    pub(super) fn enqueue(&mut self, id: Id, from: Peer, message: Option<Message>) {
        let after_us = if self.faulty() && self.chance(5) { self.draw(300_000) } else { self.draw(500) };
        let life = self.node(id).life;
        self.push(after_us, Event::Library { node: id, life, from, message });
    }

    /// The library gets to this message.
    pub(super) fn library(&mut self, from: Peer, id: Id, message: Message) {
        let now_ms = self.local_ms(id);
        let kept_ms = self.settings.election_timeout_max_ms;
        let voters = self.voters();
        let node = self.node(id);
        match message {
            Message::Append { vote: under, log, committed, sent_at_ms } => {
                let ok = node.accept(under, now_ms);
                if ok {
                    // An older message of the same leader takes nothing back.
                    if !node.log.starts_with(&log) {
                        node.log = log.clone();
                    }
                    node.applied = node.applied.max(committed.min(log.len()));
                }
                node.election.answered(now_ms, ok);
                let vote = node.vote;
                self.answer(id, from, Message::Appended { under, vote, ok, matched: log.len(), sent_at_ms });
            }
            Message::Appended { under, vote, ok, matched, .. } => {
                // Who is answered under a vote that it has not any more does not care.
                if node.vote == under
                    && let Some(leading) = &mut node.leading
                {
                    if ok {
                        let known = leading.matched.entry(from.0).or_insert(0);
                        *known = matched.max(*known);
                        self.commit(id);
                    } else {
                        node.accept(vote, now_ms);
                    }
                }
            }
            Message::Vote { vote: asked, last_log } => {
                // openraft's own lease: a vote that is committed is kept for the maximum.
                let kept = node.vote.2 && now_ms <= node.voted_at_ms + kept_ms && node.leading.is_none();
                let kept = kept && self.mutation != Mutation::VoteAnyway;
                let node = self.node(id);
                let granted = !kept && last_log >= node.last_log() && node.accept(asked, now_ms);
                let vote = node.vote;
                node.election.vote_answered(asked.0, granted);
                self.answer(id, from, Message::Voted { asked, vote, granted });
            }
            Message::Voted { asked, vote, granted } => {
                if node.votes.is_empty() || asked != node.vote {
                    return;
                }
                if granted && vote == asked {
                    node.votes.insert(from.0);
                    if is_quorum(&voters, &node.votes) {
                        self.establish(id);
                    }
                } else {
                    node.accept((vote.0, vote.1, false), now_ms);
                }
            }
            _ => unreachable!("not for the library"),
        }
    }

    pub(super) fn elect(&mut self, id: Id) {
        let now_ms = self.local_ms(id);
        let node = self.node(id);
        node.election.begun();
        if node.leading.is_some() {
            return;
        }
        node.vote = (node.vote.0 + 1, id, false);
        node.voted_at_ms = now_ms;
        node.votes = BTreeSet::from([id]);
        let message = Message::Vote { vote: node.vote, last_log: node.last_log() };
        self.elections += 1;
        self.broadcast(id, &message);
    }

    fn establish(&mut self, id: Id) {
        let now_ms = self.local_ms(id);
        let node = self.node(id);
        node.vote.2 = true;
        node.voted_at_ms = now_ms;
        node.votes.clear();
        node.log.push(Entry { term: node.vote.0, what: What::Noop });
        self.lead_on(id);
    }

    /// Elected, or started with the committed vote that it had: then its first entry is in its log already.
    pub(super) fn lead_on(&mut self, id: Id) {
        let node = self.node(id);
        node.leading = Some(Leading {
            first_index: node.log.len(),
            matched: BTreeMap::new(),
            beat_at_ms: 0,
            pending: None,
        });
        self.replicate(id);
    }

    pub(super) fn replicate(&mut self, id: Id) {
        let sent_at_ms = self.local_ms(id);
        let node = self.node(id);
        let message =
            Message::Append { vote: node.vote, log: node.log.clone(), committed: node.applied, sent_at_ms };
        self.broadcast(id, &message);
    }

    fn commit(&mut self, id: Id) {
        let count = self.nodes.len();
        let node = self.node(id);
        let Some(leading) = &node.leading else { return };
        let mut matched: Vec<usize> = leading.matched.values().copied().collect();
        matched.push(node.log.len());
        matched.resize(count, 0);
        matched.sort_unstable_by(|a, b| b.cmp(a));
        let index = matched[count / 2];
        // What an earlier leader left is committed by an entry of one's own.
        if index > node.applied && node.log[index - 1].term == node.vote.0 {
            node.applied = index;
        }
    }
}
