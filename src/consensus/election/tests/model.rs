//! Several nodes with clocks of their own, a network that delays and loses, freezes and restarts: elections, leases
//! and fences as they are (`node`), and the replication library as a few lines that do what openraft does (`library`).
//!
//! Everything comes from one seed. After each event the invariants are checked; `violation` has the first breach.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use super::super::*;
use crate::consensus::lease::{Began, Grant, Lease, Lessor, Question};

mod library;
mod node;

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
    /// A leader grants while it may be voting for another, and after it has.
    GrantVoting,
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
    what: What,
}

#[derive(Debug, Clone)]
enum Message {
    Append { vote: Vote, log: Vec<Entry>, committed: usize, sent_at_ms: u64 },
    Appended { under: Vote, vote: Vote, ok: bool, matched: usize, sent_at_ms: u64 },
    PreVote(PreVoteRequest<Id>),
    PreVoted(PreVoteReply, u64),
    Vote { vote: Vote, last_log: Option<LogPosition<Id>> },
    Voted { asked: Vote, vote: Vote, granted: bool },
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
    /// The node sees what has become of its library.
    Look {
        node: Id,
        life: u64,
    },
    Fault,
}

/// The library leads.
struct Leading {
    first_index: usize,
    matched: BTreeMap<Id, usize>,
    beat_at_ms: u64,
    /// Which fence must pass, and who owns the endpoint then.
    pending: Option<(usize, Id)>,
}

/// The node has seen that the library leads.
struct Lead {
    term: u64,
    lessor: Lessor<Id>,
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
    lead: Option<Lead>,
    campaigned: bool,
    votes: BTreeSet<Id>,
    pre_votes: Option<(u64, BTreeSet<Id>, Vec<Refusal>)>,
}

impl Node {
    fn last_log(&self) -> Option<LogPosition<Id>> {
        let last = self.log.last()?;
        Some(LogPosition { term: last.term, leader: 0, index: self.log.len() as u64 })
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

/// A third of a heartbeat, as `node` has it.
const TICK_US: u64 = 50_000;

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
                lead: None,
                campaigned: false,
                votes: BTreeSet::new(),
                pre_votes: None,
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
            | Event::Look { node, life }
            | Event::Campaign { node, life } => (*node, *life),
        };
        let now_us = self.now_us;
        let node = self.node(id);
        if node.life != life {
            return;
        }
        if now_us < node.frozen_until_us {
            // Whatever waits for a frozen process waits, and comes in any order when it goes on.
            let at_us = node.frozen_until_us + self.draw(5000);
            self.bodies.insert(sequence, event);
            self.events.push(Reverse((at_us, sequence)));
            return;
        }
        match event {
            Event::Tick { .. } => self.tick(id),
            Event::Deliver { from, message, .. } => self.deliver(from, id, message),
            Event::Library { from, message, .. } => {
                match message {
                    Some(message) => self.library(from, id, message),
                    None => self.elect(id),
                }
                let after_us =
                    if self.faulty() && self.chance(5) { self.draw(TICK_US) } else { self.draw(500) };
                self.push(after_us, Event::Look { node: id, life });
            }
            Event::Look { .. } => self.look(id),
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
        node.lead = None;
        node.campaigned = false;
        node.votes.clear();
        node.pre_votes = None;
        node.ask_at_ms = 0;
        node.voted_at_ms = now_ms;
        if node.vote.1 == id && node.vote.2 {
            // openraft starts as the leader that it was.
            self.lead_on(id);
        }
        self.push(TICK_US, Event::Tick { node: id, life });
    }

    pub fn move_endpoint(&mut self, target: Id) {
        let Some(id) = self.leader() else { return };
        let node = self.node(id);
        let vote = node.vote;
        let leading = node.leading.as_mut().unwrap();
        if leading.pending.is_none() && node.applied >= leading.first_index {
            node.log.push(Entry { term: vote.0, what: What::Fence });
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
