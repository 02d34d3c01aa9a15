//! Several nodes with clocks of their own, a network that delays and loses, freezes and restarts: elections, leases
//! and fences as they are, and the replication library as a few lines that do what openraft 0.9 does.
//!
//! Everything comes from one seed. After each event the invariants are checked; `violation` has the first breach.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use super::super::*;
use crate::consensus::lease::{Began, Grant, Lease, Lessor, Question};

pub type Id = u8;
type Vote = (u64, Id, bool);
/// A node and which of its lives: an answer goes to the life that asked, as a connection does.
type Peer = (Id, u64);

/// A safeguard left out, to see that the simulation notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    None,
    /// The lease runs from when the answer came.
    FromArrival,
    /// The leader does not allow for clocks at different rates.
    NoMargin,
    /// A voter does not care whether it heard a leader.
    VoteAnyway,
    /// A candidate does not care whether it heard one.
    CampaignAnyway,
    /// Leaders' messages get in between the decision to campaign and the campaign.
    Overlap,
    /// What a quorum acknowledged counts from when the answers came.
    ContactFromArrival,
    /// A grant has its full length however old the contact with the quorum is.
    FullLength,
    /// Who is behind the fence gets a lease all the same.
    NoFence,
    /// The leader does not wait for what it granted.
    NoWait,
    /// What a grant rests on reaches the election of the node that leads with its next tick only.
    GrantUnheard,
    /// A restarted leader knows nothing of what it granted and does not care.
    ForgetGrants,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Noop,
    /// From here on nobody owns the endpoint.
    Fence,
    Owner(Id),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    term: u64,
    leader: Id,
    what: What,
}

#[derive(Debug, Clone)]
enum Message {
    Append { vote: Vote, log: Vec<Entry>, committed: usize, sent_at_ms: u64 },
    Appended { vote: Vote, ok: bool, matched: usize, sent_at_ms: u64 },
    PreVote(PreVoteRequest<Id>),
    PreVoted(PreVoteReply, u64),
    Vote { vote: Vote, last_log: Option<LogPosition<Id>> },
    Voted { vote: Vote, granted: bool },
    Ask(Question),
    Granted(Question, Grant),
}

#[derive(Debug, Clone)]
enum Event {
    Deliver {
        from: Peer,
        to: Id,
        life: u64,
        message: Message,
    },
    /// The library gets to what was put into its queue.
    Library {
        node: Id,
        life: u64,
        from: Peer,
        message: Option<Message>,
    },
    Tick {
        node: Id,
        life: u64,
    },
    /// A campaign that was decided on is put into the library's queue.
    Campaign {
        node: Id,
        life: u64,
    },
    Fault,
}

struct Leading {
    lessor: Lessor<Id>,
    first_index: usize,
    matched: BTreeMap<Id, usize>,
    beat_at_ms: u64,
    pending: Option<(usize, Id)>,
    /// When each node asked last. A new leader takes the endpoint whoever had it.
    asked_ms: BTreeMap<Id, u64>,
}

pub struct Node {
    id: Id,
    offset_us: u64,
    /// How fast its clock runs, in millionths.
    rate: u64,
    life: u64,
    frozen_until_us: u64,
    /// On disk.
    vote: Vote,
    log: Vec<Entry>,
    /// In memory.
    applied: usize,
    election: Election,
    lease: Lease,
    ask_at_ms: u64,
    voted_at_ms: u64,
    leading: Option<Leading>,
    votes: BTreeSet<Id>,
    pre_votes: Option<(u64, BTreeSet<Id>, Vec<Refusal>)>,
    library_busy_until_us: u64,
}

impl Node {
    fn last_log(&self) -> Option<LogPosition<Id>> {
        let last = self.log.last()?;
        Some(LogPosition { term: last.term, leader: last.leader, index: self.log.len() as u64 })
    }

    fn owner(&self) -> Option<Id> {
        self.log[..self.applied].iter().rev().find_map(|entry| match entry.what {
            What::Noop => None,
            What::Fence => Some(None),
            What::Owner(id) => Some(Some(id)),
        })?
    }
}

pub struct World {
    pub settings: LeaseSettings,
    pub mutation: Mutation,
    pub nodes: Vec<Node>,
    pub violation: Option<String>,
    pub elections: u64,
    pub moves: u64,
    /// None: no faults.
    pub faults_until_us: Option<u64>,
    now_us: u64,
    events: BinaryHeap<Reverse<(u64, u64)>>,
    bodies: BTreeMap<u64, Event>,
    sequence: u64,
    cut: BTreeSet<(Id, Id)>,
    random: Election,
    /// Fences that a leader took for passed.
    passed: Vec<usize>,
}

const TICK_US: u64 = 20_000;

impl World {
    pub fn new(seed: u64, count: u8, mutation: Mutation, faults_until_us: Option<u64>) -> Self {
        let settings = LeaseSettings::default();
        let random = Election::new(settings, 0, seed);
        let mut world = World {
            settings,
            mutation,
            nodes: Vec::new(),
            violation: None,
            elections: 0,
            moves: 0,
            faults_until_us,
            now_us: 0,
            events: BinaryHeap::new(),
            bodies: BTreeMap::new(),
            sequence: 0,
            cut: BTreeSet::new(),
            random,
            passed: Vec::new(),
        };
        for id in 1..=count {
            // The fastest clock outruns the slowest by what the settings promise to bear.
            let rate = 1_000_000 + world.draw(2) * settings.drift_per_mille() * 1000;
            let offset_us = world.draw(1_000_000_000);
            let node_seed = world.draw(u64::MAX);
            let now_ms = (offset_us) / 1000;
            world.nodes.push(Node {
                id,
                offset_us,
                rate,
                life: 0,
                frozen_until_us: 0,
                vote: (0, 0, false),
                log: Vec::new(),
                applied: 0,
                election: Election::new(settings, now_ms, node_seed),
                lease: Lease::none(&settings),
                ask_at_ms: 0,
                voted_at_ms: 0,
                leading: None,
                votes: BTreeSet::new(),
                pre_votes: None,
                library_busy_until_us: 0,
            });
            world.push(TICK_US, Event::Tick { node: id, life: 0 });
        }
        world.push(2_000_000, Event::Fault);
        world
    }

    pub fn draw(&mut self, limit: u64) -> u64 {
        self.random.random(limit)
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.draw(100) < percent
    }

    fn push(&mut self, after_us: u64, event: Event) {
        self.sequence += 1;
        self.bodies.insert(self.sequence, event);
        self.events.push(Reverse((self.now_us + after_us, self.sequence)));
    }

    fn faulty(&self) -> bool {
        self.faults_until_us.is_some_and(|until| self.now_us < until)
    }

    fn node(&mut self, id: Id) -> &mut Node {
        &mut self.nodes[usize::from(id) - 1]
    }

    pub fn local_ms(&self, id: Id) -> u64 {
        let node = &self.nodes[usize::from(id) - 1];
        (node.offset_us + self.now_us * node.rate / 1_000_000) / 1000
    }

    fn voters(&self) -> Vec<BTreeSet<Id>> {
        vec![self.nodes.iter().map(|node| node.id).collect()]
    }

    /// Runs until then, or to the first violation.
    pub fn run(&mut self, until_us: u64) {
        while self.violation.is_none() {
            let Some(&Reverse((at_us, sequence))) = self.events.peek() else { return };
            if at_us > until_us {
                self.now_us = until_us;
                return;
            }
            self.events.pop();
            self.now_us = at_us;
            let event = self.bodies.remove(&sequence).unwrap();
            self.happen(event, sequence);
            self.check();
        }
    }

    fn happen(&mut self, event: Event, sequence: u64) {
        let (id, life) = match &event {
            Event::Fault => return self.fault(),
            Event::Deliver { to, life, .. } => (*to, *life),
            Event::Library { node, life, .. }
            | Event::Tick { node, life }
            | Event::Campaign { node, life } => (*node, *life),
        };
        let now_us = self.now_us;
        let node = self.node(id);
        if node.life != life {
            return;
        }
        if now_us < node.frozen_until_us {
            // Whatever waits for a frozen process waits in order.
            let at_us = node.frozen_until_us;
            self.bodies.insert(sequence, event);
            self.events.push(Reverse((at_us, sequence)));
            return;
        }
        match event {
            Event::Tick { .. } => self.tick(id),
            Event::Deliver { from, message, .. } => self.deliver(from, id, message),
            Event::Library { from, message, .. } => match message {
                Some(message) => self.library(from, id, message),
                None => self.elect(id),
            },
            Event::Campaign { .. } => {
                self.enqueue(id, (id, 0), None);
            }
            Event::Fault => {}
        }
    }

    fn send(&mut self, from: Id, to: Id, message: Message) {
        let life = self.node(to).life;
        self.answer(from, (to, life), message);
    }

    fn answer(&mut self, from: Id, (to, life): Peer, message: Message) {
        let sender = (from, self.node(from).life);
        if from == to {
            return self.deliver(sender, to, message);
        }
        if self.cut.contains(&(from, to)) || (self.faulty() && self.chance(3)) {
            return;
        }
        let slow = self.faulty() && self.chance(8);
        let delay_us = if slow { self.draw(1_500_000) } else { 200 + self.draw(3000) };
        self.push(delay_us, Event::Deliver { from: sender, to, life, message });
    }

    fn broadcast(&mut self, from: Id, message: &Message) {
        for to in 1..=self.nodes.len() as Id {
            if to != from {
                self.send(from, to, message.clone());
            }
        }
    }

    /// Into the library's queue, which it works off in order and not always at once.
    fn enqueue(&mut self, id: Id, from: Peer, message: Option<Message>) {
        let delay_us = if self.faulty() && self.chance(5) { self.draw(300_000) } else { self.draw(500) };
        let now_us = self.now_us;
        let node = self.node(id);
        node.library_busy_until_us = node.library_busy_until_us.max(now_us) + delay_us;
        let (life, after_us) = (node.life, node.library_busy_until_us - now_us);
        self.push(after_us, Event::Library { node: id, life, from, message });
    }

    fn tick(&mut self, id: Id) {
        let life = self.node(id).life;
        self.push(TICK_US, Event::Tick { node: id, life });
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
            self.lead(id, now_ms);
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

    fn lead(&mut self, id: Id, now_ms: u64) {
        let heartbeat_ms = self.settings.heartbeat_ms;
        let mutation = self.mutation;
        let node = self.node(id);
        let applied = node.applied;
        let owner = node.owner();
        let fence =
            node.log[..applied].iter().rposition(|entry| entry.what == What::Fence).map_or(0, |at| at + 1);
        let leading = node.leading.as_mut().unwrap();
        if let Some(contact) = leading.lessor.contact_ms(now_ms) {
            node.election.heard(contact);
        }
        let owner_asked_ms = owner.and_then(|owner| leading.asked_ms.get(&owner));
        let gone = owner_asked_ms.is_none_or(|at_ms| at_ms + 1000 < now_ms);
        let mut appended = false;
        // Only when nothing of what it decided before is still on its way.
        if applied >= leading.first_index && applied == node.log.len() && leading.pending.is_none() && gone {
            if owner.is_some() {
                node.log.push(Entry { term: node.vote.0, leader: id, what: What::Fence });
                leading.pending = Some((node.log.len(), id));
                appended = true;
            } else {
                // What an earlier leader began.
                leading.pending = Some((fence.max(1), id));
            }
        }
        if let Some((index, target)) = leading.pending.filter(|&(index, _)| applied >= index) {
            leading.lessor.fence(index as u64);
            leading.lessor.applied(id, applied as u64);
            if leading.lessor.fence_passed(index as u64, now_ms) || mutation == Mutation::NoWait {
                leading.pending = None;
                node.log.push(Entry { term: node.vote.0, leader: id, what: What::Owner(target) });
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

    fn replicate(&mut self, id: Id) {
        let sent_at_ms = self.local_ms(id);
        let node = self.node(id);
        let message =
            Message::Append { vote: node.vote, log: node.log.clone(), committed: node.applied, sent_at_ms };
        self.broadcast(id, &message);
    }

    /// At the wire, before the library.
    fn deliver(&mut self, from: Peer, id: Id, message: Message) {
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
            Message::Appended { vote, ok, matched, sent_at_ms } => {
                let node = self.node(id);
                if vote > node.vote {
                    // As openraft does: the follower's greater vote ends the lead.
                    node.vote = (vote.0, vote.1, false);
                    node.leading = None;
                } else if ok && let (true, Some(leading)) = (vote == node.vote, &mut node.leading) {
                    let at_ms = if mutation == Mutation::ContactFromArrival { now_ms } else { sent_at_ms };
                    leading.lessor.acknowledged(from.0, at_ms);
                    let known = leading.matched.entry(from.0).or_insert(0);
                    *known = matched.max(*known);
                    self.commit(id);
                }
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
                let lease_ms = self.settings.lease_ms;
                let Node { leading: Some(leading), election, .. } = self.node(id) else { return };
                leading.asked_ms.insert(from.0, now_ms);
                let mut unheard = election.clone();
                let election = if mutation == Mutation::GrantUnheard { &mut unheard } else { election };
                let grant = match leading.lessor.grant(now_ms, election, from.0, question) {
                    Ok(_) if mutation == Mutation::FullLength => Ok(Grant { length_ms: lease_ms }),
                    Err(crate::consensus::lease::Refusal::BehindFence { .. })
                        if mutation == Mutation::NoFence =>
                    {
                        Ok(Grant { length_ms: lease_ms })
                    }
                    grant => grant,
                };
                if let Ok(grant) = grant {
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
            let life = node.life;
            if self.mutation == Mutation::Overlap {
                self.node(id).election.begun();
            }
            let after_us =
                if self.faulty() && self.chance(30) { self.draw(400_000) } else { self.draw(1000) };
            self.push(after_us, Event::Campaign { node: id, life });
        }
    }

    /// The library's queue has reached this message.
    fn library(&mut self, from: Peer, id: Id, message: Message) {
        let now_ms = self.local_ms(id);
        let kept_ms = self.settings.election_timeout_max_ms;
        let voters = self.voters();
        let node = self.node(id);
        match message {
            Message::Append { vote, log, committed, sent_at_ms } => {
                let ok = vote >= node.vote;
                if ok {
                    if vote > node.vote {
                        node.leading = None;
                    }
                    node.vote = vote;
                    node.voted_at_ms = now_ms;
                    // An older message of the same leader takes nothing back.
                    if !node.log.starts_with(&log) {
                        node.log = log.clone();
                    }
                    node.applied = node.applied.max(committed.min(log.len()));
                }
                node.election.answered(now_ms, ok);
                let vote = node.vote;
                self.answer(id, from, Message::Appended { vote, ok, matched: log.len(), sent_at_ms });
            }
            Message::Vote { vote: asked, last_log } => {
                // openraft's own lease: a vote that is committed is kept for the maximum.
                let kept = node.vote.2 && now_ms <= node.voted_at_ms + kept_ms && node.leading.is_none();
                let kept = kept && self.mutation != Mutation::VoteAnyway;
                let node = self.node(id);
                let granted = !kept && last_log >= node.last_log() && asked >= node.vote;
                if granted {
                    node.vote = asked;
                    node.voted_at_ms = now_ms;
                    node.leading = None;
                    node.votes.clear();
                }
                let vote = node.vote;
                node.election.vote_answered(asked.0, granted);
                self.answer(id, from, Message::Voted { vote, granted });
            }
            Message::Voted { vote, granted } => {
                if granted && vote == node.vote && !node.votes.is_empty() {
                    node.votes.insert(from.0);
                    if is_quorum(&voters, &node.votes) {
                        self.establish(id, Began::Elected);
                    }
                } else if vote > node.vote {
                    node.vote = (vote.0, vote.1, false);
                    node.votes.clear();
                    node.leading = None;
                }
            }
            _ => unreachable!("not for the library"),
        }
    }

    fn elect(&mut self, id: Id) {
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

    fn lessor_settings(&self) -> LeaseSettings {
        match self.mutation {
            Mutation::NoMargin => LeaseSettings { drift_margin_ms: 0, ..self.settings },
            _ => self.settings,
        }
    }

    fn establish(&mut self, id: Id, began: Began) {
        let now_ms = self.local_ms(id);
        let voters = self.voters();
        let settings = self.lessor_settings();
        let began = if self.mutation == Mutation::ForgetGrants { Began::Elected } else { began };
        let node = self.node(id);
        node.vote.2 = true;
        node.votes.clear();
        let first_index = match began {
            Began::Elected => {
                node.log.push(Entry { term: node.vote.0, leader: id, what: What::Noop });
                node.log.len()
            }
            // Some entry of its own term is there already; the last one is as good as the first.
            Began::Resumed => node.log.len(),
        };
        let lessor = Lessor::new(settings, id, voters, began, node.vote.0, first_index as u64, now_ms);
        node.leading = Some(Leading {
            lessor,
            first_index,
            matched: BTreeMap::new(),
            beat_at_ms: 0,
            pending: None,
            asked_ms: BTreeMap::new(),
        });
        self.replicate(id);
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
        // A term can have several leaders, the one with the greater id after the other.
        let own = |entry: &Entry| (entry.term, entry.leader) == (node.vote.0, node.vote.1);
        if index > node.applied && own(&node.log[index - 1]) {
            node.applied = index;
        }
    }

    fn fault(&mut self) {
        if !self.faulty() {
            self.cut.clear();
            for node in &mut self.nodes {
                node.frozen_until_us = 0;
            }
            return;
        }
        let after_us = 20_000 + self.draw(600_000);
        self.push(after_us, Event::Fault);
        let count = self.nodes.len() as u64;
        let (a, b) = (1 + self.draw(count) as Id, 1 + self.draw(count) as Id);
        match self.draw(10) {
            0 => drop(self.cut.insert((a, b))),
            1 => self.cut_off(a),
            2..=4 => self.cut.clear(),
            5 => {
                let until_us = self.now_us + self.draw(4_000_000);
                self.node(a).frozen_until_us = until_us;
            }
            6 => self.restart(a),
            _ => self.move_endpoint(b),
        }
    }

    /// From everybody, both ways.
    pub fn cut_off(&mut self, id: Id) {
        for other in 1..=self.nodes.len() as Id {
            self.cut.insert((id, other));
            self.cut.insert((other, id));
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    pub fn restart(&mut self, id: Id) {
        let now_ms = self.local_ms(id);
        let settings = self.settings;
        let seed = self.draw(u64::MAX);
        let node = self.node(id);
        node.life += 1;
        let life = node.life;
        node.frozen_until_us = 0;
        node.applied = 0;
        node.election = Election::new(settings, now_ms, seed);
        node.lease = Lease::none(&settings);
        node.leading = None;
        node.votes.clear();
        node.pre_votes = None;
        node.ask_at_ms = 0;
        node.voted_at_ms = now_ms;
        node.library_busy_until_us = 0;
        if node.vote.1 == id && node.vote.2 {
            // openraft starts as the leader that it was.
            self.establish(id, Began::Resumed);
        }
        self.push(TICK_US, Event::Tick { node: id, life });
    }

    pub fn move_endpoint(&mut self, target: Id) {
        let Some(id) = self.leader() else { return };
        let node = self.node(id);
        let vote = node.vote;
        let leading = node.leading.as_mut().unwrap();
        if leading.pending.is_none() && node.applied >= leading.first_index {
            node.log.push(Entry { term: vote.0, leader: id, what: What::Fence });
            leading.pending = Some((node.log.len(), target));
            self.replicate(id);
        }
    }

    /// Of the highest term.
    pub fn leader(&self) -> Option<Id> {
        self.nodes
            .iter()
            .filter(|node| node.leading.is_some())
            .max_by_key(|node| node.vote)
            .map(|node| node.id)
    }

    /// Who believes that it may hold the endpoint.
    pub fn holders(&self) -> Vec<Id> {
        let holds = |node: &&Node| node.lease.holds(self.local_ms(node.id)) && node.owner() == Some(node.id);
        self.nodes.iter().filter(holds).map(|node| node.id).collect()
    }

    fn check(&mut self) {
        let holders = self.holders();
        if holders.len() > 1 {
            self.violation = Some(format!("{} us: {holders:?} all hold the endpoint", self.now_us));
        }
        let fence = self.passed.iter().max().copied().unwrap_or(0);
        let late = self.nodes.iter().find(|n| n.lease.holds(self.local_ms(n.id)) && n.applied < fence);
        if let Some(node) = late {
            self.violation = Some(format!(
                "{} us: node {} at {} holds a lease, though the fence at {fence} has passed",
                self.now_us, node.id, node.applied
            ));
        }
    }
}
