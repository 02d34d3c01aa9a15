//! All pools, by server, epoch, database and user.
//!
//! Invariant: when an epoch ends its pools are retired at once; one that somebody asks for afterwards, who has not seen
//! that yet, ends with the next tick.

use std::collections::{BinaryHeap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;

use super::PoolKey;
use super::gate::ServerGate;
use super::pool::{Pool, PoolCounts};
use crate::backend::connect::{ConnectTarget, Credential};
use crate::clock::now_ms;
use crate::config::{self, PoolLimits};
use crate::net::tls::ServerTlsContext;
use crate::topology::{Epoch, ServerIndex, ServerState};

#[derive(Debug)]
pub struct Pools {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    config: Arc<config::Pool>,
    tls: Arc<ServerTlsContext>,
    gates: HashMap<ServerIndex, Arc<ServerGate>>,
    pools: HashMap<PoolKey, Arc<Pool>, RandomState>,
}

/// A pool without connections or clients is forgotten after this.
const FORGET_AFTER_MS: u64 = 10 * 60 * 1000;
/// The same where no server lets anybody in: one client can cause any number of these.
const FORGET_REFUSED_AFTER_MS: u64 = 1000;

impl Pools {
    pub fn new(config: config::Pool, tls: Arc<ServerTlsContext>) -> Self {
        let config = Arc::new(config);
        Pools { state: Mutex::new(State { config, tls, gates: HashMap::new(), pools: HashMap::default() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pool for `key`, made if need be; `credential` is what a new one logs in with.
    pub fn get(&self, key: &PoolKey, server: &ServerState, credential: &Credential) -> Arc<Pool> {
        let mut state = self.state();
        if let Some(pool) = state.pools.get(key) {
            return pool.clone();
        }
        let config = state.config.clone();
        let gate = state
            .gates
            .entry(key.server)
            .or_insert_with(|| ServerGate::new(config.max_server_connections, config.connect_rate))
            .clone();
        let target = ConnectTarget { host: server.host.clone(), port: server.port, tls: state.tls.clone() };
        let pool = Pool::new(key.clone(), target, gate, config, credential.clone());
        state.pools.insert(key.clone(), pool.clone());
        pool
    }

    /// Ends the pools of every other epoch.
    pub fn retire_other_epochs(&self, epoch: Epoch) {
        let old: Vec<_> =
            self.state().pools.extract_if(|key, _| key.epoch != epoch).map(|(_, pool)| pool).collect();
        old.iter().for_each(|pool| pool.retire());
    }

    /// Housekeeping. Of the servers `withdrawn` nothing is kept that nobody uses, and of those not `known` nothing is
    /// lent any more.
    pub fn tick(&self, epoch: Epoch, known: impl Fn(ServerIndex) -> bool, withdrawn: &[ServerIndex]) {
        let now = now_ms();
        let (pools, gates, strangers): (Vec<_>, Vec<_>, Vec<_>) = {
            let mut state = self.state();
            state.gates.retain(|server, gate| known(*server) || gate.open_count() > 0);
            // Whoever has not seen yet that its epoch has ended has made another pool of it.
            let strangers = state.pools.extract_if(|key, _| key.epoch != epoch || !known(key.server));
            let strangers = strangers.map(|(_, pool)| pool).collect();
            state.pools.retain(|_, pool| {
                // Ours is the only reference to a pool no session remembers.
                Arc::strong_count(pool) > 1
                    || !pool.is_forgettable(now, FORGET_AFTER_MS, FORGET_REFUSED_AFTER_MS)
            });
            let gates = state.gates.iter().map(|(server, gate)| (*server, gate.clone())).collect();
            (state.pools.values().cloned().collect(), gates, strangers)
        };
        strangers.iter().for_each(|pool: &Arc<Pool>| pool.retire());
        let (leaving, staying): (Vec<_>, Vec<_>) =
            pools.into_iter().partition(|pool| withdrawn.contains(&pool.key.server));
        leaving.iter().for_each(|pool| pool.withdraw());
        staying.iter().for_each(Pool::tick);
        for (server, gate) in gates {
            let of_server: Vec<_> = staying.iter().filter(|pool| pool.key.server == server).collect();
            make_room(&gate, &of_server, now);
        }
    }

    /// Takes a new configuration over. New `tls` ends the pools that know the old one: what is idle is
    /// closed now, what is lent when it comes back, and whoever waits asks again.
    pub fn reconfigure(&self, config: config::Pool, tls: Arc<ServerTlsContext>) {
        let config = Arc::new(config);
        let outdated: Vec<_> = {
            let mut state = self.state();
            for gate in state.gates.values() {
                gate.set_limits(config.max_server_connections, config.connect_rate);
            }
            state.pools.values().for_each(|pool| pool.reconfigure(&config));
            state.config = config;
            let is_new = *state.tls != *tls;
            state.tls = tls;
            if is_new { state.pools.drain().map(|(_, pool)| pool).collect() } else { Vec::new() }
        };
        outdated.iter().for_each(|pool| pool.retire());
    }

    pub fn counts(&self) -> Vec<(PoolKey, PoolCounts)> {
        self.state().pools.iter().map(|(key, pool)| (key.clone(), pool.counts())).collect()
    }

    pub fn all(&self) -> Vec<Arc<Pool>> {
        self.state().pools.values().cloned().collect()
    }

    /// What all pools of a server have together; none if no pool of it was ever used.
    pub fn gate(&self, server: ServerIndex) -> Option<Arc<ServerGate>> {
        self.state().gates.get(&server).cloned()
    }

    /// Where a server is, for a connection that belongs to no pool.
    pub fn target(&self, server: &ServerState) -> ConnectTarget {
        ConnectTarget { host: server.host.clone(), port: server.port, tls: self.state().tls.clone() }
    }

    pub fn retire_all(&self) {
        let all: Vec<_> = self.state().pools.drain().map(|(_, pool)| pool).collect();
        all.iter().for_each(|pool| pool.retire());
    }
}

/// A server's pools close what is above a lowered limit: what has been idle longest, and what comes back while there is too
/// much. For those that wait for a place, others give up what is idle, most idle first, and if that is not enough for those
/// that have none, what comes back to them.
fn make_room(gate: &Arc<ServerGate>, pools: &[&Arc<Pool>], now_ms: u64) {
    let excess = gate.excess();
    if excess > 0 {
        let since =
            pools.iter().flat_map(|pool| pool.idle_since_ms().into_iter().map(move |since| (since, pool)));
        let mut idle: Vec<_> = since.collect();
        idle.sort_by_key(|(since, _)| *since);
        idle.iter().take(excess).for_each(|(_, pool)| pool.give_up_one_idle());
    }
    if gate.waiting_count() > 0 {
        gate.fill();
        let pools: Vec<_> = pools.iter().map(|pool| (pool, pool.counts())).collect();
        let mut idle: BinaryHeap<_> =
            pools.iter().enumerate().map(|(at, (_, counts))| (counts.idle, at)).collect();
        for _ in 0..gate.waiting_count() {
            let Some(mut most) = idle.peek_mut().filter(|most| most.0 > 0) else { break };
            pools[most.1].0.give_up_one_idle();
            most.0 -= 1;
        }
        let most = pools.iter().map(|(_, counts)| counts.open).max();
        gate.ask(most.unwrap_or(0), now_ms);
    } else {
        gate.ask(0, now_ms);
    }
}

/// The limits of the first override that fits, else the general ones.
pub fn limits_for<'a>(config: &'a config::Pool, database: &str, user: &str) -> &'a PoolLimits {
    let fits = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
    config
        .overrides
        .iter()
        .find(|o| fits(&o.database, database) && fits(&o.user, user))
        .map_or(&config.limits, |o| &o.limits)
}
