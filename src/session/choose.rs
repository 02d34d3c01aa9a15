//! Asks `route` where a request goes, and remembers the answer.
//!
//! Invariant: every choice is made by the newest topology that this session has looked at.

use std::sync::Arc;

use super::batch::Request;
use super::pins::Pins;
use super::session::Session;
use crate::backend::ServerConn;
use crate::clock::{coarse_ms, now_ms};
use crate::config::Consistency;
use crate::route::{self, Analyzed, Class, DecisionReason, SessionView, Target};
use crate::telemetry::labels::ReadToPrimary;
use crate::topology::{Lsn, ServerIndex};
use crate::wire::message::TransactionStatus;

/// Where a request went, and why.
#[derive(Debug, Clone)]
pub struct Route {
    pub server: Option<ServerIndex>,
    /// None: a standby had refused it, so it was asked again on the primary.
    pub reason: Option<DecisionReason>,
    /// The statement that decided.
    pub decisive: Option<Arc<Analyzed>>,
}

impl Route {
    /// In words, for `SHOW ROUTE` and the explain hint.
    pub fn why(&self) -> String {
        let reason = self.reason.map_or_else(
            || "refused: the server first asked refused it or could not be reached".to_owned(),
            |reason| format!("{}: {reason}", reason.name()),
        );
        match &self.decisive {
            Some(analyzed) => format!("{reason} ({})", analyzed.routed.reason),
            None => reason,
        }
    }
}

impl Session {
    /// Whether the position of this session's writes matters to anybody.
    pub(super) fn tracks_floor(&self) -> bool {
        let split = &self.settled.config.split;
        split.enabled && split.consistency == Consistency::Session && self.topology.servers.len() > 1
    }

    /// Whether asking the primary for its position may bring the session back to standbys: one of them was
    /// seen to have replayed all that the session is known to have written. Not for every read, though.
    pub(super) fn position_is_worth_asking(&self) -> bool {
        if now_ms() < self.floor.asked_at_ms + self.settled.config.health.period_ms {
            return false;
        }
        let floor = match self.floor.known() {
            Some((epoch, lsn)) if epoch == self.topology.epoch => lsn,
            // That of an older epoch may be one that nobody reaches any more: the answer replaces it.
            _ => Lsn(0),
        };
        self.topology
            .standbys()
            .any(|(index, server)| server.lsn >= floor && self.topology.primary != Some(index))
    }

    pub(super) fn choose(&mut self, request: &Request, may_wait: bool) -> (Target, Option<DecisionReason>) {
        if self.force_primary {
            return (Target::Primary, None);
        }
        if !self.settled.config.split.enabled || self.identity.session_mode {
            return (Target::Primary, Some(DecisionReason::SplitOff));
        }
        let hint = request.decisive.as_ref().and_then(|analyzed| analyzed.analysis.hints.target.as_ref());
        let known = request.decisive.is_some() || request.whole;
        let class = if known && !pins(request) { request.class } else { Class::Write };
        let now = match self.settled.config.split.consistency {
            // The age of an observation counts against a bound.
            Consistency::Bounded => now_ms(),
            _ => coarse_ms(),
        };
        let seed = match self.settled.config.split.consistency {
            Consistency::Session => self.id.0.wrapping_mul(0x9E37_79B9_7F4A_7C15),
            // Any well-mixed number will do; it need not be secret.
            _ => self.next_seed(),
        };
        let view = SessionView {
            in_transaction: request.opening.opens || !request.whole,
            read_only: request.whole
                && (request.opening.read_only
                    || self.settings.get("default_transaction_read_only") == Some("on")),
            serializable: request.opening.serializable
                || self
                    .settings
                    .get("default_transaction_isolation")
                    .is_some_and(|level| level.eq_ignore_ascii_case("serializable"))
                // Whatever the session has set instead: a standby's connection could not even be given that.
                || self.identity.database.is_serializable(&self.identity.user),
            floor: self.floor.known(),
            floor_pending: self.floor.pending || self.floor.is_fresh(self.settled.window_ms, now_ms),
            last_read: self.floor.last_read,
            database: &self.identity.database.name,
            user: &self.identity.user,
            application_name: self.settings.get("application_name").unwrap_or(""),
        };
        let wanted = route::Request { class, hint, may_wait };
        let decision = route::route(&wanted, &view, &self.topology, &self.settled.policy, seed, now);
        (decision.target, Some(decision.reason))
    }

    fn next_seed(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.seed;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Where a request would go now.
    pub(super) fn would_go(&mut self, request: &Request) -> Route {
        self.look_at_topology();
        let decisive = request.decisive.clone();
        if let Some(lease) = &self.lease
            && lease.conn.status != TransactionStatus::Idle
        {
            // A transaction stays where it began.
            return Route { server: Some(lease.conn.server), reason: self.route_reason, decisive };
        }
        let (target, reason) = self.choose(request, false);
        let server = match target {
            Target::Primary => self.topology.primary,
            Target::Server(index) | Target::WaitForFloor { server: index, .. } => Some(index),
            Target::None => None,
        };
        Route { server, reason, decisive }
    }

    /// Counts why a read goes to the primary, and remembers where the request goes.
    pub(super) fn note_route(&mut self, conn: &ServerConn, request: &Request, is_standby: bool) {
        let counters = &self.gateway.counters;
        // Without a decisive statement it was not looked into: splitting is off, or there is none in it.
        let is_read = request.decisive.is_some() && request.class == Class::Read;
        let reason = match self.route_reason {
            Some(reason) => ReadToPrimary::of(reason),
            None => Some(ReadToPrimary::Refused),
        };
        if let Some(reason) = reason.filter(|_| is_read && !is_standby) {
            counters.read_to_primary(reason);
        }
        if !request.is_for_komainu() {
            let decisive = request.decisive.clone();
            self.last_route = Some(Route { server: Some(conn.server), reason: self.route_reason, decisive });
        }
    }
}

/// Whether the session will stay with the server connection, which must then be one to the primary.
fn pins(request: &Request) -> bool {
    let is_prepare =
        |analyzed: &Arc<route::Analyzed>| analyzed.analysis.kind == route::StatementKind::Prepare;
    let is_virtual = request.is_query && request.decisive.as_ref().is_some_and(is_prepare);
    !Pins::from_effects(request.effects).is_empty()
        || request.effects.intersects(route::Effects::SQL_PREPARE) && !is_virtual
}
