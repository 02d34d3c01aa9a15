//! What the admin pages show of this process, gathered when somebody asks.
//!
//! Never changes anything. Invariant: no lock is held but for the time that copying numbers takes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::admin::ActivityPages;
use crate::admin::activity::{self, Filter, Pools, Seen, SeenPool, Sessions, SessionsAsked};
use crate::clock;
use crate::cluster::observe::Observer;
use crate::session::Gateway;
use crate::telemetry::labels::{ConnectionState, Label};
use crate::telemetry::samples::PoolCensus;

pub fn pages(gateway: &Arc<Gateway>, observer: &Observer) -> ActivityPages {
    let of = |gateway: &Arc<Gateway>| gateway.clone();
    let (for_census, for_sessions, for_pools) = (of(gateway), of(gateway), of(gateway));
    ActivityPages {
        census: Arc::new(move || census(&for_census)),
        sessions: Arc::new(move |which| sessions(&for_sessions, which)),
        pools: Arc::new(move |which| pools(&for_pools, which)),
        looks: observer.looks.clone(),
    }
}

/// What the pools hold now.
fn census(gateway: &Gateway) -> PoolCensus {
    let mut connections = BTreeMap::<_, [u64; ConnectionState::COUNT]>::new();
    let mut waiters = 0;
    for (key, counts) in gateway.pools.counts() {
        waiters += counts.waiting as u64;
        let server = connections.entry(key.server).or_default();
        server[ConnectionState::Idle.index()] += counts.idle as u64;
        server[ConnectionState::Connecting.index()] += counts.opening as u64;
        server[ConnectionState::Active.index()] += counts.leased() as u64;
    }
    let held = &gateway.held;
    PoolCensus { connections, waiters, held: held.count() as u64, held_bytes: held.bytes() as u64 }
}

fn sessions(gateway: &Gateway, which: &Filter) -> Sessions {
    let (snapshot, clock) = (gateway.topology.borrow().clone(), clock::process());
    let wall_ms = |ms| clock.wall_ms(ms);
    let mut asked = SessionsAsked::new(which, &snapshot, clock.now_ms(), &wall_ms);
    for (id, handle) in gateway.sessions.all() {
        let Some(who) = handle.who() else { continue };
        let (glimpse, glimpse_since_ms) = handle.glimpse();
        asked.take(&Seen { id, who, glimpse, glimpse_since_ms });
    }
    asked.found()
}

fn pools(gateway: &Gateway, which: &Filter) -> Pools {
    let snapshot = gateway.topology.borrow().clone();
    let seen = gateway.pools.all().into_iter().map(|pool| SeenPool {
        key: pool.key.clone(),
        counts: pool.counts(),
        limits: pool.limits(),
        waiting_since_ms: pool.waiting_since_ms(),
    });
    let total = |(index, _)| {
        let gate = gateway.pools.gate(index)?;
        Some((index, gate.open_count(), gate.max_connections()))
    };
    let totals: Vec<_> = snapshot.indexed().filter_map(total).collect();
    activity::pools(which, &snapshot, clock::now_ms(), seen.collect(), &totals)
}
