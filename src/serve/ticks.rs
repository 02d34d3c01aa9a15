//! Housekeeping by coarse ticks: deadlines, expiry, catalogs, epochs.
//!
//! Invariant: no tick does more than a bounded amount of work for each session or pool.

use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::session::Gateway;
use crate::session::registry::Order;
use crate::topology::{Admission, Health, ServerIndex, Snapshot};

/// Deadlines are kept to this precision.
const TICK: Duration = Duration::from_millis(100);
/// Between two looks at what can be forgotten, in ticks.
const SWEEP_EVERY: u32 = 100;
/// Between two looks at the pools, in ticks.
const POOLS_EVERY: u32 = 2;

/// A server that keeps a session waiting for so long is looked at without waiting for its turn: it may hang.
const PATIENT_MS: u64 = 200;

pub async fn keep_house(gateway: Arc<Gateway>) {
    let mut topology = gateway.topology.clone();
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut epoch = topology.borrow_and_update().epoch;
    let mut had_primary = topology.borrow().primary.is_some();
    let mut count = 0u32;
    let mut closed = Vec::new();
    let mut standing = Standing::default();
    standing.has_fallen(&topology.borrow());
    let mut ticked_at_ms = clock::now_ms();
    loop {
        tokio::select! {
            _ = interval.tick() => {
                count = count.wrapping_add(1);
                let now_ms = clock::tick();
                gateway.sessions.tick(now_ms);
                look_at_the_slow(&gateway, ticked_at_ms, now_ms);
                ticked_at_ms = now_ms;
                gateway.refresh_catalogs();
                if count.is_multiple_of(POOLS_EVERY) {
                    let withdrawn = gateway.view.borrow().withdrawn();
                    let snapshot = topology.borrow().clone();
                    gateway.pools.tick(snapshot.epoch, |server| snapshot.server(server).is_some(), &withdrawn);
                }
                if count.is_multiple_of(SWEEP_EVERY) {
                    gateway.statements.sweep();
                    gateway.databases.sweep();
                }
            }
            changed = topology.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = topology.borrow_and_update().epoch;
                let has_primary = topology.borrow().primary.is_some();
                let closes = some_close(&mut closed, &topology.borrow());
                let lost_primary = std::mem::replace(&mut had_primary, has_primary) && !has_primary;
                let has_fallen = standing.has_fallen(&topology.borrow());
                if now != epoch {
                    // A new primary: nothing of the old one's is used again.
                    epoch = now;
                    gateway.pools.retire_other_epochs(epoch);
                    gateway.sessions.tell_all(Order::Look);
                } else if has_fallen || lost_primary || closes {
                    gateway.sessions.tell_all(Order::Look);
                } else {
                    gateway.sessions.look_if_waiting();
                }
            }
        }
    }
}

/// Whether a server has just been closed to what is still under way there; keeps which are.
fn some_close(closed: &mut Vec<ServerIndex>, snapshot: &Snapshot) -> bool {
    let now = snapshot.indexed().filter(|(_, server)| server.admission == Admission::Closed);
    let now: Vec<_> = now.map(|(index, _)| index).collect();
    let some = now.iter().any(|index| !closed.contains(index));
    *closed = now;
    some
}

/// Each wait asks for one look, unless the server has answered one since it began.
fn look_at_the_slow(gateway: &Gateway, last_tick_ms: u64, now_ms: u64) {
    let began_ms = last_tick_ms.saturating_sub(PATIENT_MS)..now_ms.saturating_sub(PATIENT_MS);
    let topology = gateway.topology.borrow().clone();
    for (server, since_ms) in gateway.sessions.kept_waiting(began_ms) {
        let seen_ms = topology.server(ServerIndex(server)).map_or(0, |server| server.observed_at_ms);
        // It may have begun a tick later than it says.
        if seen_ms <= since_ms + TICK.as_millis() as u64 {
            gateway.looks.server(ServerIndex(server));
        }
    }
}

/// Which servers sessions may have something under way on.
#[derive(Default)]
struct Standing {
    standbys: Vec<ServerIndex>,
    not_down: Vec<ServerIndex>,
}

impl Standing {
    /// Takes in what is so now. Whether a server that was up as a standby is not any more, or one that was not down is.
    fn has_fallen(&mut self, snapshot: &Snapshot) -> bool {
        let standbys: Vec<_> = snapshot.standbys().map(|(index, _)| index).collect();
        let not_down = snapshot.indexed().filter(|(_, server)| server.health != Health::Down);
        let not_down: Vec<_> = not_down.map(|(index, _)| index).collect();
        let fallen = self.standbys.iter().any(|index| !standbys.contains(index))
            || self.not_down.iter().any(|index| !not_down.contains(index));
        *self = Standing { standbys, not_down };
        fallen
    }
}
