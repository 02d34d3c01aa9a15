//! Housekeeping by coarse ticks: deadlines, expiry, catalogs, epochs.
//!
//! Invariant: no tick does more than a bounded amount of work for each session or pool.

use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::session::Gateway;
use crate::session::registry::Order;
use crate::topology::{Admission, ServerIndex, Snapshot};

/// Deadlines are kept to this precision.
const TICK: Duration = Duration::from_millis(100);
/// Between two looks at what can be forgotten, in ticks.
const SWEEP_EVERY: u32 = 100;
/// Between two looks at the pools, in ticks.
const POOLS_EVERY: u32 = 2;

pub async fn keep_house(gateway: Arc<Gateway>) {
    let mut topology = gateway.topology.clone();
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut epoch = topology.borrow_and_update().epoch;
    let mut had_primary = topology.borrow().primary.is_some();
    let mut count = 0u32;
    let (mut up, mut closed) = (Vec::new(), Vec::new());
    loop {
        tokio::select! {
            _ = interval.tick() => {
                count = count.wrapping_add(1);
                gateway.sessions.tick(clock::tick());
                gateway.refresh_catalogs();
                if count.is_multiple_of(POOLS_EVERY) {
                    let withdrawn = gateway.view.borrow().withdrawn();
                    let snapshot = topology.borrow().clone();
                    gateway.pools.tick(|server| snapshot.server(server).is_some(), &withdrawn);
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
                if now != epoch {
                    // A new primary: nothing of the old one's is used again.
                    epoch = now;
                    gateway.pools.retire_other_epochs(epoch);
                    gateway.sessions.tell_all(Order::Look);
                } else if standbys_lost(&mut up, &topology.borrow()) || lost_primary || closes {
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

/// Whether a server that was up as a standby is not any more; keeps which are.
fn standbys_lost(up: &mut Vec<ServerIndex>, snapshot: &Snapshot) -> bool {
    let now: Vec<_> = snapshot.standbys().map(|(index, _)| index).collect();
    let lost = up.iter().any(|index| !now.contains(index));
    *up = now;
    lost
}
