//! Which server serves a statement.
//!
//! Owns the choice: rules that name a server first, then a draw by weight among those that may. Never talks
//! to a server: it sees a snapshot. Invariant: a standby is chosen only for a read, and only if
//! `eligible` lets it.

use crate::config::{self, Consistency, PreferenceTarget};
use crate::topology::{Admission, Epoch, Lsn, Role, ServerIndex, ServerState, Snapshot};

pub use super::decision::{Decision, DecisionReason, Target};
pub use super::eligible::LastRead;

use super::eligible::{Demands, Refusal};
use super::hint::HintTarget;
use super::statement::Class;

/// The configuration's part in the choice.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    enabled: bool,
    consistency: Consistency,
    max_lag_bytes: u64,
    max_lag_ms: u64,
    may_wait_for_floor: bool,
    /// This node's own. None unless `prefer_same_zone`.
    near_zone: Option<Box<str>>,
    prefer_least_lag: bool,
    preferences: Box<[Preference]>,
}

#[derive(Debug, Clone, PartialEq)]
struct Preference {
    application_name: Option<String>,
    database: Option<String>,
    user: Option<String>,
    aim: Aim,
}

/// Among which servers a read is drawn.
#[derive(Debug, Clone, PartialEq)]
enum Aim {
    Any,
    Primary,
    Standbys,
    Servers(Box<[(String, u32)]>),
}

/// What is asked for: `Routed`'s class, and the text's hint.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub class: Class,
    pub hint: Option<&'a HintTarget>,
    /// The caller can wait for a standby to replay. False once it has waited: then the answer is a server.
    pub may_wait: bool,
}

/// What the choice needs to know of a session.
#[derive(Debug, Clone, Copy)]
pub struct SessionView<'a> {
    /// Inside an explicit transaction, or about to open one with this text.
    pub in_transaction: bool,
    /// That transaction is declared READ ONLY, itself or by the session's default.
    pub read_only: bool,
    /// That transaction, or a statement outside one by the session's default, is SERIALIZABLE.
    pub serializable: bool,
    /// Positions are comparable only within an epoch; the caller lowers a floor of an older one first.
    pub floor: Option<(Epoch, Lsn)>,
    /// A transaction that may have written has ended and its position is not known yet.
    pub floor_pending: bool,
    pub last_read: Option<LastRead>,
    pub database: &'a str,
    pub user: &'a str,
    pub application_name: &'a str,
}

impl Policy {
    /// `zone`: this node's own.
    pub fn new(split: &config::Split, zone: Option<&str>) -> Policy {
        let aim = |target: &PreferenceTarget| match target {
            PreferenceTarget::Primary => Aim::Primary,
            PreferenceTarget::Standbys => Aim::Standbys,
            PreferenceTarget::Servers(list) => Aim::Servers(list.iter().cloned().collect()),
        };
        let preference = |preference: &config::Preference| Preference {
            application_name: preference.application_name.clone(),
            database: preference.database.clone(),
            user: preference.user.clone(),
            aim: aim(&preference.target),
        };
        Policy {
            enabled: split.enabled,
            consistency: split.consistency,
            max_lag_bytes: split.max_lag_bytes,
            max_lag_ms: split.max_lag_ms,
            may_wait_for_floor: split.floor_wait_ms > 0,
            near_zone: zone.filter(|_| split.prefer_same_zone).map(Box::from),
            prefer_least_lag: split.prefer_least_lag,
            preferences: split.preferences.iter().map(preference).collect(),
        }
    }

    fn preference(&self, session: &SessionView<'_>) -> &Aim {
        let matches = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|wanted| wanted == is);
        self.preferences
            .iter()
            .find(|preference| {
                matches(&preference.application_name, session.application_name)
                    && matches(&preference.database, session.database)
                    && matches(&preference.user, session.user)
            })
            .map_or(&Aim::Any, |preference| &preference.aim)
    }

    fn is_near(&self, server: &ServerState) -> bool {
        self.near_zone.is_some() && self.near_zone.as_deref() == server.zone.as_deref()
    }
}

/// Chooses. `seed`: in mode `session` a constant of the session's, so that its draw stays the same; else a
/// new one each time. `now_ms`: of the clock that `observed_at_ms` is of.
pub fn route(
    request: &Request<'_>,
    session: &SessionView<'_>,
    topology: &Snapshot,
    policy: &Policy,
    seed: u64,
    now_ms: u64,
) -> Decision {
    if let Some(reason) = bound_to_primary(request, session, topology, policy) {
        return primary(topology, reason);
    }
    let in_session_mode = policy.consistency == Consistency::Session;
    let demands = Demands {
        consistency: policy.consistency,
        max_lag_bytes: policy.max_lag_bytes,
        max_lag_ms: policy.max_lag_ms,
        floor: session.floor.filter(|_| in_session_mode).map(|(_, lsn)| lsn),
        last_read: session.last_read.filter(|_| in_session_mode).map(|last| last.settled(topology)),
        epoch: topology.epoch,
        now_ms,
    };
    let draw = |aim| Draw { demands: &demands, topology, policy, aim, seed };
    let mut fallback = None;
    let preferred = match request.hint {
        Some(HintTarget::Server(id)) => match named(id, topology, &demands) {
            Some(target) => return Decision { target, reason: DecisionReason::Hint },
            None => {
                fallback = Some(DecisionReason::HintUnavailable);
                &Aim::Any
            }
        },
        Some(HintTarget::Standby) => &Aim::Standbys,
        _ => policy.preference(session),
    };
    if *preferred == Aim::Primary {
        return primary(topology, DecisionReason::Preference);
    }
    let decision = draw(preferred).decide().or_else(|| {
        let decision = draw(&Aim::Any).decide()?;
        // The primary serves only because of what kept the preferred ones from it: then that is the reason.
        (!matches!(decision.target, Target::Primary)).then_some(decision)
    });
    match decision {
        Some(decision) => Decision { reason: fallback.unwrap_or(decision.reason), ..decision },
        None => unserved(request, topology, policy, &demands, preferred),
    }
}

/// The rules that leave no choice.
fn bound_to_primary(
    request: &Request<'_>,
    session: &SessionView<'_>,
    topology: &Snapshot,
    policy: &Policy,
) -> Option<DecisionReason> {
    let in_session_mode = policy.consistency == Consistency::Session;
    // A snapshot older than the session's own writes says nothing about them.
    let snapshot_is_old = session.floor.is_some_and(|(epoch, _)| epoch > topology.epoch);
    if !policy.enabled {
        Some(DecisionReason::SplitOff)
    } else if request.class == Class::Write {
        Some(DecisionReason::Write)
    } else if session.serializable {
        Some(DecisionReason::Serializable)
    } else if session.in_transaction && !session.read_only {
        Some(DecisionReason::ReadWriteTransaction)
    } else if request.hint == Some(&HintTarget::Primary) {
        Some(DecisionReason::Hint)
    } else if in_session_mode && (session.floor_pending || snapshot_is_old) {
        Some(DecisionReason::FloorPending)
    } else {
        None
    }
}

fn primary(topology: &Snapshot, reason: DecisionReason) -> Decision {
    match topology.primary {
        Some(_) => Decision { target: Target::Primary, reason },
        None => Decision { target: Target::None, reason: DecisionReason::NoPrimary },
    }
}

/// The server a hint names, if it may serve.
fn named(id: &str, topology: &Snapshot, demands: &Demands) -> Option<Target> {
    let (index, server) = topology.indexed().find(|(_, server)| *server.id == *id)?;
    if topology.primary == Some(index) {
        return Some(Target::Primary);
    }
    demands.check(index, server).is_ok().then_some(Target::Server(index))
}

/// No standby may serve: wait for one, or let the primary.
fn unserved(
    request: &Request<'_>,
    topology: &Snapshot,
    policy: &Policy,
    demands: &Demands,
    aim: &Aim,
) -> Decision {
    let refused = |aim: &Aim, index, server: &ServerState| {
        weight(aim, topology, index, server)?;
        demands.check(index, server).err()
    };
    // Nearest to what is wanted first; of those that only lack the floor, the one furthest on.
    let nearest = topology
        .indexed()
        .filter(|(index, _)| topology.primary != Some(*index))
        .filter_map(|(index, server)| Some((refused(aim, index, server)?, server.lsn, index)))
        .max();
    match nearest {
        Some((Refusal::Floor(lsn), _, server)) if request.may_wait && policy.may_wait_for_floor => {
            Decision { target: Target::WaitForFloor { server, lsn }, reason: DecisionReason::FloorNotReached }
        }
        Some((Refusal::Floor(_), ..)) => primary(topology, DecisionReason::FloorNotReached),
        Some((Refusal::NotMonotonic, ..)) => primary(topology, DecisionReason::NotMonotonic),
        Some((Refusal::Lag, ..)) => primary(topology, DecisionReason::Lag),
        Some((Refusal::NotUp, ..)) | None => primary(topology, DecisionReason::NoStandby),
    }
}

/// A server's share under an aim; `None`: not meant. The primary's is its own weight.
fn weight(aim: &Aim, topology: &Snapshot, index: ServerIndex, server: &ServerState) -> Option<u32> {
    match aim {
        Aim::Any => Some(server.weight),
        Aim::Standbys => (topology.primary != Some(index)).then_some(server.weight),
        Aim::Primary => (topology.primary == Some(index)).then_some(server.weight),
        Aim::Servers(list) => {
            list.iter().find(|(listed, _)| **listed == *server.id).map(|(_, weight)| *weight)
        }
    }
}

/// One draw among the servers an aim means.
struct Draw<'a> {
    demands: &'a Demands,
    topology: &'a Snapshot,
    policy: &'a Policy,
    aim: &'a Aim,
    seed: u64,
}

impl Draw<'_> {
    /// Servers that may serve, with their weights. The primary only with a weight of its own: else it is
    /// what is left when no standby may.
    fn candidates(&self) -> impl Iterator<Item = (ServerIndex, &ServerState, u32)> {
        self.topology.indexed().filter_map(|(index, server)| {
            let weight = weight(self.aim, self.topology, index, server)?;
            let may = match self.topology.primary == Some(index) {
                true => weight > 0,
                false => self.demands.check(index, server).is_ok(),
            };
            may.then_some((index, server, weight))
        })
    }

    /// All that could be among them once they have what the session has seen.
    fn likely(&self) -> impl Iterator<Item = (ServerIndex, &ServerState, u32)> {
        self.topology.indexed().filter_map(|(index, server)| {
            let weight = weight(self.aim, self.topology, index, server)?;
            let may = match self.topology.primary == Some(index) {
                true => weight > 0,
                false => server.is_up(Role::Standby) && server.admission == Admission::Open,
            };
            may.then_some((index, server, weight))
        })
    }

    fn decide(&self) -> Option<Decision> {
        let to = |server, reason| Decision { target: Target::Server(server), reason };
        if let Some(last) = self.demands.last_read
            && self.may_stay(last.server)
        {
            // It goes where its draw leads as soon as that server may, and else stays.
            let home = self.pick(|| self.likely()).filter(|home| *home != last.server);
            return Some(match home.filter(|home| !self.policy.prefer_least_lag && self.may_stay(*home)) {
                Some(home) => to(home, DecisionReason::Drawn),
                None => to(last.server, DecisionReason::Sticky),
            });
        }
        let index = self.pick(|| self.candidates())?;
        Some(match self.topology.primary == Some(index) {
            true => Decision { target: Target::Primary, reason: DecisionReason::Drawn },
            false => to(index, DecisionReason::Drawn),
        })
    }

    /// Whether a standby may go on serving this session's reads.
    fn may_stay(&self, server: ServerIndex) -> bool {
        let weighed = self.candidates().any(|(.., weight)| weight > 0);
        self.topology.primary != Some(server)
            && self.candidates().any(|(index, _, weight)| index == server && (weight > 0 || !weighed))
    }

    /// One of these, by weight; the same of the same for each seed.
    fn pick<'b, I>(&self, candidates: impl Fn() -> I) -> Option<ServerIndex>
    where
        I: Iterator<Item = (ServerIndex, &'b ServerState, u32)>,
    {
        let weighed = candidates().any(|(.., weight)| weight > 0);
        // Standbys of weight 0 serve when nothing else does, alike.
        let share = |weight: u32| if weighed { u64::from(weight) } else { 1 };
        let near = candidates().any(|(index, server, weight)| {
            share(weight) > 0 && self.policy.is_near(server) && self.topology.primary != Some(index)
        });
        let in_reach = |server: &ServerState| !near || self.policy.is_near(server);
        let least = candidates()
            .filter(|(index, server, weight)| {
                share(*weight) > 0 && in_reach(server) && self.topology.primary != Some(*index)
            })
            .map(|(_, server, _)| lag(server))
            .min()
            .filter(|_| self.policy.prefer_least_lag);
        let drawn = || {
            candidates().filter(|(index, server, _)| {
                in_reach(server)
                    && (self.topology.primary == Some(*index)
                        || least.is_none_or(|least| lag(server) == least))
            })
        };
        let total: u64 = drawn().map(|(.., weight)| share(weight)).sum();
        let mut ticket = ((u128::from(mix(self.seed)) * u128::from(total)) >> 64) as u64;
        let (index, ..) = drawn().find(|(.., weight)| match ticket.checked_sub(share(*weight)) {
            Some(rest) => {
                ticket = rest;
                false
            }
            None => true,
        })?;
        Some(index)
    }
}

/// An unknown lag is the greatest.
fn lag(server: &ServerState) -> (u64, u64) {
    (server.lag_bytes.unwrap_or(u64::MAX), server.lag_ms.unwrap_or(u64::MAX))
}

/// Spreads seeds that are small or alike over all of 64 bits (the finalizer of SplitMix64).
fn mix(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}
