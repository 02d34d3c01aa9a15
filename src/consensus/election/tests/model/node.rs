//! What a node does with messages and by its clock: komainu's part, in the order of calls that decision 0015 gives.
//!
//! Invariant: what it knows of its own lead comes from looking at the library, which is always a little late.

use super::*;
use crate::consensus::lease;

impl World {
    pub(super) fn tick(&mut self, id: Id) {
        let life = self.node(id).life;
        self.push(TICK_US, Event::Tick { node: id, life });
        self.look(id);
        let now_ms = self.local_ms(id);
        let heartbeat_ms = self.settings.heartbeat_ms;
        let node = self.node(id);
        if now_ms >= node.ask_at_ms {
            node.ask_at_ms = now_ms + heartbeat_ms;
            let (leader, question) = (node.vote.1, Lease::asked(now_ms, node.applied as u64));
            if node.vote.2 {
                self.send(id, leader, Message::Ask(question));
            }
        }
        if self.node(id).leading.is_some() {
            self.decide(id, now_ms);
        } else if self.node(id).pre_votes.as_ref().is_some_and(|(since, ..)| now_ms < since + heartbeat_ms) {
            // A round of questions is under way.
        } else {
            let node = self.node(id);
            if let Some((_, _, refusals)) = node.pre_votes.take() {
                node.election.refused(now_ms, &refusals);
            } else if now_ms >= node.election.due_at_ms() || self.mutation == Mutation::CampaignAnyway {
                let node = self.node(id);
                node.pre_votes = Some((now_ms, BTreeSet::from([id]), Vec::new()));
                let request = PreVoteRequest {
                    candidate: id,
                    term: node.vote.0 + 1,
                    last_log: node.last_log(),
                    incarnation: 1,
                    cluster_id: String::new(),
                };
                self.broadcast(id, &Message::PreVote(request));
            }
        }
    }

    /// Takes in whether the library leads now.
    pub(super) fn look(&mut self, id: Id) {
        let now_ms = self.local_ms(id);
        let voters = self.voters();
        let settings = match self.mutation {
            Mutation::NoMargin => LeaseSettings { drift_margin_ms: 0, ..self.settings },
            _ => self.settings,
        };
        let forgets = self.mutation == Mutation::ForgetGrants;
        let node = self.node(id);
        if node.leading.is_none() {
            node.lead = None;
            return;
        }
        let term = node.vote.0;
        if node.lead.as_ref().is_none_or(|lead| lead.term != term) {
            let began = if node.campaigned || forgets { Began::Elected } else { Began::Resumed };
            let first_index = node.log.len() as u64;
            let lessor = Lessor::new(settings, id, voters, began, term, first_index, now_ms);
            node.lead = Some(Lead { term, lessor, asked_ms: BTreeMap::new() });
            node.campaigned = false;
        }
        let contact = node.lead.as_ref().and_then(|lead| lead.lessor.contact_ms(now_ms));
        if let Some(contact) = contact {
            node.election.heard(contact);
        }
    }

    /// What a leader does about the endpoint.
    fn decide(&mut self, id: Id, now_ms: u64) {
        let heartbeat_ms = self.settings.heartbeat_ms;
        let mutation = self.mutation;
        let node = self.node(id);
        let applied = node.applied;
        let owner = node.owner();
        let fence =
            node.log[..applied].iter().rposition(|entry| entry.what == What::Fence).map_or(0, |at| at + 1);
        let leading = node.leading.as_mut().unwrap();
        // It has just been looked at.
        let lead = node.lead.as_mut().unwrap();
        let owner_asked_ms = owner.and_then(|owner| lead.asked_ms.get(&owner));
        let gone = owner_asked_ms.is_none_or(|at_ms| at_ms + 1000 < now_ms);
        let mut appended = false;
        // Only when nothing of what it decided before is still on its way.
        if applied >= leading.first_index && applied == node.log.len() && leading.pending.is_none() && gone {
            if owner.is_some() {
                node.log.push(Entry { term: node.vote.0, what: What::Fence });
                leading.pending = Some((node.log.len(), id));
                appended = true;
            } else {
                // What an earlier leader began.
                leading.pending = Some((fence.max(1), id));
            }
        }
        if let Some((index, target)) = leading.pending.filter(|&(index, _)| applied >= index) {
            lead.lessor.fence(index as u64);
            lead.lessor.applied(id, applied as u64);
            if lead.lessor.fence_passed(index as u64, now_ms) || mutation == Mutation::NoWait {
                leading.pending = None;
                node.log.push(Entry { term: node.vote.0, what: What::Owner(target) });
                appended = true;
                self.passed.push(index);
                self.moves += 1;
            }
        }
        let node = self.node(id);
        if appended || now_ms >= node.leading.as_ref().unwrap().beat_at_ms {
            node.leading.as_mut().unwrap().beat_at_ms = now_ms + heartbeat_ms;
            self.replicate(id);
        }
    }

    /// At the wire, before the library.
    pub(super) fn deliver(&mut self, from: Peer, id: Id, message: Message) {
        let now_ms = self.local_ms(id);
        let mutation = self.mutation;
        match message {
            Message::Append { vote, .. } => {
                if self.node(id).election.incoming(now_ms, vote.0) {
                    self.enqueue(id, from, Some(message));
                }
            }
            Message::Vote { .. } => {
                let node = self.node(id);
                if mutation == Mutation::VoteAnyway || node.election.judge_vote(now_ms).is_ok() {
                    self.enqueue(id, from, Some(message));
                }
            }
            Message::Appended { under, ok, sent_at_ms, .. } => {
                if let Some(lead) = self.node(id).lead.as_mut().filter(|lead| ok && lead.term == under.0) {
                    let at_ms = if mutation == Mutation::ContactFromArrival { now_ms } else { sent_at_ms };
                    lead.lessor.acknowledged(from.0, at_ms);
                }
                self.enqueue(id, from, Some(message));
            }
            Message::PreVote(request) => {
                let node = self.node(id);
                let last_log = node.last_log();
                let mine = Standing { cluster_id: "", last_log: last_log.as_ref(), incarnation: Some(1) };
                let reply = match (node.election.judge_pre_vote(now_ms, &request, &mine), mutation) {
                    (Err(Refusal::LeaderIsAlive { .. }), Mutation::VoteAnyway) => Ok(()),
                    (reply, _) => reply,
                };
                self.answer(id, from, Message::PreVoted(reply, request.term));
            }
            Message::PreVoted(reply, term) => self.pre_voted(id, from.0, reply, term),
            Message::Voted { .. } => self.enqueue(id, from, Some(message)),
            Message::Ask(question) => {
                if let Some(grant) = self.grant(id, from.0, question) {
                    self.answer(id, from, Message::Granted(question, grant));
                }
            }
            Message::Granted(question, grant) => {
                let node = self.node(id);
                let asked_at_ms =
                    if mutation == Mutation::FromArrival { now_ms } else { question.asked_at_ms };
                node.lease.granted(Question { asked_at_ms, ..question }, grant);
            }
        }
    }

    fn grant(&mut self, id: Id, to: Id, question: Question) -> Option<Grant> {
        let now_ms = self.local_ms(id);
        let (settings, mutation) = (self.settings, self.mutation);
        let full = Grant { length_ms: settings.lease_ms };
        let Node { lead: Some(Lead { lessor, asked_ms, .. }), election, .. } = self.node(id) else {
            return None;
        };
        asked_ms.insert(to, now_ms);
        let grant = match mutation {
            Mutation::GrantUnheard => lessor.grant(now_ms, &mut election.clone(), to, question),
            Mutation::GrantVoting => {
                let mut votes_for_nobody = Election::new(settings, 0, 0);
                let grant = lessor.grant(now_ms, &mut votes_for_nobody, to, question);
                if let (Ok(_), Some(contact)) = (grant, lessor.contact_ms(now_ms)) {
                    election.heard(contact);
                }
                grant
            }
            _ => lessor.grant(now_ms, election, to, question),
        };
        match grant {
            Ok(_) if mutation == Mutation::FullLength => Some(full),
            Err(lease::Refusal::BehindFence { .. }) if mutation == Mutation::NoFence => Some(full),
            grant => grant.ok(),
        }
    }

    fn pre_voted(&mut self, id: Id, from: Id, reply: PreVoteReply, term: u64) {
        let now_ms = self.local_ms(id);
        let voters = self.voters();
        let anyway = self.mutation == Mutation::CampaignAnyway;
        let node = self.node(id);
        let own_term = node.vote.0;
        let Some((_, granted, refusals)) = &mut node.pre_votes else { return };
        match reply {
            _ if term != own_term + 1 || node.leading.is_some() => return,
            Ok(()) => drop(granted.insert(from)),
            Err(refusal) => refusals.push(refusal),
        }
        if is_quorum(&voters, granted) && (node.election.campaign(now_ms) || anyway) {
            node.pre_votes = None;
            node.campaigned = true;
            let life = node.life;
            if self.mutation == Mutation::Overlap {
                self.node(id).election.begun();
            }
            let after_us =
                if self.faulty() && self.chance(30) { self.draw(400_000) } else { self.draw(1000) };
            self.push(after_us, Event::Campaign { node: id, life });
        }
    }
}
