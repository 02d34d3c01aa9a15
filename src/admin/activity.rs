//! The documents `/sessions`, `/pools` and `/health`: who is connected, which connections are lent, how the probes fare.
//!
//! Pure. Invariants: no document is longer than its limit, however many clients there are; nothing that a client sent
//! but its names is in one. Keys are only ever added.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::cluster::model::View;
use crate::cluster::probe_counts::ProbeCounts;
use crate::config::PoolLimits;
use crate::config::words::Words as _;
use crate::pool::{PoolCounts, PoolKey};
use crate::session::SessionId;
use crate::session::glimpse::Glimpse;
use crate::session::registry::Who;
use crate::telemetry::labels::Label;
use crate::topology::{Health, Role, ServerIndex, Snapshot};

const SESSIONS_SHOWN: usize = 100;
const MAX_SESSIONS_SHOWN: usize = 10_000;
const POOLS_SHOWN: usize = 1_000;
const MAX_POOLS_SHOWN: usize = 10_000;

/// Which sessions or pools are asked for.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Filter {
    limit: Option<usize>,
    user: Option<String>,
    database: Option<String>,
}

impl Filter {
    fn fits(&self, user: &str, database: &str) -> bool {
        let is = |wanted: &Option<String>, name| wanted.as_deref().is_none_or(|wanted| wanted == name);
        is(&self.user, user) && is(&self.database, database)
    }

    fn sessions(&self) -> usize {
        self.limit.unwrap_or(SESSIONS_SHOWN).min(MAX_SESSIONS_SHOWN)
    }

    fn pools(&self) -> usize {
        self.limit.unwrap_or(POOLS_SHOWN).min(MAX_POOLS_SHOWN)
    }
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sessions {
    /// Of those asked for, the oldest first.
    sessions: Vec<Session>,
    /// How many there are of them.
    total: usize,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Session {
    id: String,
    user: String,
    database: String,
    /// Address and port; `[local]` by the Unix socket.
    peer: String,
    state: &'static str,
    /// How long it has been in this state there, to a tenth of a second.
    state_ms: u64,
    waiting_for: &'static str,
    server: Option<String>,
    /// Why it keeps its server connection.
    pinned: Vec<&'static str>,
    connected_at_ms: u64,
    connected_ms: u64,
}

/// One session as it was found.
pub struct Seen<'a> {
    pub id: SessionId,
    pub who: &'a Who,
    pub glimpse: Glimpse,
    pub glimpse_since_ms: u64,
}

/// Takes one session after the other. `wall_ms` makes milliseconds since 1970 of the process's clock.
pub struct SessionsAsked<'a> {
    which: &'a Filter,
    snapshot: &'a Snapshot,
    now_ms: u64,
    wall_ms: &'a dyn Fn(u64) -> u64,
    found: Sessions,
}

impl<'a> SessionsAsked<'a> {
    pub fn new(
        which: &'a Filter,
        snapshot: &'a Snapshot,
        now_ms: u64,
        wall_ms: &'a dyn Fn(u64) -> u64,
    ) -> Self {
        SessionsAsked { which, snapshot, now_ms, wall_ms, found: Sessions::default() }
    }

    pub fn take(&mut self, seen: &Seen<'_>) {
        let Seen { id, who, glimpse, glimpse_since_ms } = seen;
        if !self.which.fits(&who.user, &who.database) {
            return;
        }
        self.found.total += 1;
        if self.found.sessions.len() >= self.which.sessions() {
            return;
        }
        self.found.sessions.push(Session {
            id: id.0.to_string(),
            user: who.user.to_string(),
            database: who.database.to_string(),
            peer: who.peer.to_string(),
            state: glimpse.activity.name(),
            state_ms: self.now_ms.saturating_sub(*glimpse_since_ms),
            waiting_for: glimpse.activity.waits_for(),
            server: glimpse.server.and_then(|server| server_id(self.snapshot, server)),
            pinned: glimpse.pins.iter().map(|pin| pin.as_str()).collect(),
            connected_at_ms: (self.wall_ms)(who.since_ms),
            connected_ms: self.now_ms.saturating_sub(who.since_ms),
        });
    }

    pub fn found(self) -> Sessions {
        self.found
    }
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pools {
    pools: Vec<Pool>,
    /// How many there are of those asked for.
    total: usize,
    servers: Vec<ServerTotal>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Pool {
    server: String,
    database: String,
    user: String,
    epoch: u64,
    open: usize,
    idle: usize,
    leased: usize,
    opening: usize,
    waiting: usize,
    /// How long the first of those who wait has done so.
    longest_wait_ms: Option<u64>,
    mode: &'static str,
    /// Its limits.
    size: usize,
    reserve: usize,
    min: usize,
}

/// Of all pools of a server.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct ServerTotal {
    server: String,
    open: usize,
    max: usize,
}

/// One pool as it was found.
pub struct SeenPool {
    pub key: PoolKey,
    pub counts: PoolCounts,
    pub limits: PoolLimits,
    pub waiting_since_ms: Option<u64>,
}

/// `totals`: of each server how many connections are open, and may be.
pub fn pools(
    which: &Filter,
    snapshot: &Snapshot,
    now_ms: u64,
    seen: Vec<SeenPool>,
    totals: &[(ServerIndex, usize, usize)],
) -> Pools {
    let mut fitting: Vec<_> =
        seen.into_iter().filter(|seen| which.fits(&seen.key.user, &seen.key.database)).collect();
    let order = |seen: &SeenPool| {
        let PoolKey { server, epoch, database, user } = seen.key.clone();
        (server, epoch, database, user)
    };
    fitting.sort_by_cached_key(order);
    let total = fitting.len();
    let pool = |seen: SeenPool| {
        let SeenPool { key, counts, limits, waiting_since_ms } = seen;
        Pool {
            server: server_id(snapshot, key.server).unwrap_or_default(),
            database: key.database.to_string(),
            user: key.user.to_string(),
            epoch: key.epoch.0,
            open: counts.open,
            idle: counts.idle,
            leased: counts.leased(),
            opening: counts.opening,
            waiting: counts.waiting,
            longest_wait_ms: waiting_since_ms.map(|since| now_ms.saturating_sub(since)),
            mode: limits.mode.word(),
            size: limits.size,
            reserve: limits.reserve,
            min: limits.min,
        }
    };
    let server = |&(server, open, max): &(ServerIndex, usize, usize)| {
        Some(ServerTotal { server: server_id(snapshot, server)?, open, max })
    };
    Pools {
        pools: fitting.into_iter().take(which.pools()).map(pool).collect(),
        total,
        servers: totals.iter().filter_map(server).collect(),
    }
}

/// `/health`, with what Pgpool-II shows as `POOL_HEALTH_CHECK_STATS`.
#[derive(Debug, PartialEq, Serialize)]
pub struct HealthPage {
    servers: Vec<ServerHealth>,
}

#[derive(Debug, PartialEq, Serialize)]
struct ServerHealth {
    server: String,
    role: &'static str,
    health: &'static str,
    /// How long role and health have been as they are.
    since_ms: u64,
    looks: u64,
    failed: u64,
    failed_in_a_row: u64,
    /// How long looks took that were answered.
    last_ms: Option<f64>,
    average_ms: Option<f64>,
    shortest_ms: Option<f64>,
    longest_ms: Option<f64>,
    last_at_ms: Option<u64>,
    last_answered_at_ms: Option<u64>,
    last_failure: Option<LastFailure>,
}

#[derive(Debug, PartialEq, Serialize)]
struct LastFailure {
    reason: &'static str,
    detail: String,
    at_ms: u64,
}

pub fn health(
    view: &View,
    looks: &BTreeMap<ServerIndex, ProbeCounts>,
    now_ms: u64,
    wall_ms: &dyn Fn(u64) -> u64,
) -> HealthPage {
    let servers = view.snapshot.servers.iter().zip(&view.details);
    let servers =
        servers.map(|(state, detail)| (state, detail, looks.get(&state.index).cloned().unwrap_or_default()));
    let servers = servers.map(|(state, detail, looks)| ServerHealth {
        server: state.id.to_string(),
        role: match state.role {
            Role::Primary => "primary",
            Role::Standby => "standby",
            Role::Unknown => "unknown",
        },
        health: match state.health {
            Health::Up => "up",
            Health::Down => "down",
            Health::Unknown => "unknown",
        },
        since_ms: now_ms.saturating_sub(detail.since_ms),
        looks: looks.made,
        failed: looks.failed,
        failed_in_a_row: looks.failed_in_a_row,
        last_ms: looks.last.map(milliseconds),
        average_ms: looks.average().map(milliseconds),
        shortest_ms: looks.shortest.map(milliseconds),
        longest_ms: looks.longest.map(milliseconds),
        last_at_ms: looks.last_at_ms.map(wall_ms),
        last_answered_at_ms: looks.last_answered_at_ms.map(wall_ms),
        last_failure: looks.last_failure.as_ref().map(|failure| LastFailure {
            reason: failure.reason.code(),
            detail: failure.detail.clone(),
            at_ms: wall_ms(failure.at_ms),
        }),
    });
    HealthPage { servers: servers.collect() }
}

fn server_id(snapshot: &Snapshot, server: ServerIndex) -> Option<String> {
    snapshot.server(server).map(|server| server.id.to_string())
}

/// To the microsecond.
fn milliseconds(span: Duration) -> f64 {
    span.as_micros() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::model::Failure;
    use crate::cluster::reason::Reason;
    use crate::config::PoolMode;
    use crate::session::glimpse::{Activity, WaitsFor};
    use crate::session::pins::{PinReason, Pins};
    use crate::topology::Epoch;

    fn view() -> View {
        let server = |id: &str| crate::config::Server::at(id, "db.example", 5432);
        View::new(&[server("pg1"), server("pg2")])
    }

    fn wall_ms(ms: u64) -> u64 {
        1_000_000 + ms
    }

    #[test]
    fn sessions_are_told_up_to_the_limit_and_counted_beyond() {
        let (view, mut pins) = (view(), Pins::default());
        pins.insert(PinReason::Listen);
        let which = Filter { limit: Some(1), user: Some("app".to_owned()), database: None };
        let mut asked = SessionsAsked::new(&which, &view.snapshot, 9_000, &wall_ms);
        for (id, user) in [(1, "other"), (2, "app"), (3, "app")] {
            let who = Who {
                user: user.into(),
                database: "shop".into(),
                peer: "10.0.0.1:5".into(),
                since_ms: 1_000,
            };
            let activity = Activity::Waits(WaitsFor::Connection);
            let glimpse = Glimpse { activity, server: Some(ServerIndex(1)), pins };
            asked.take(&Seen { id: SessionId(id), who: &who, glimpse, glimpse_since_ms: 8_500 });
        }
        assert_eq!(
            serde_json::to_value(asked.found()).unwrap(),
            json!({ "total": 2, "sessions": [
                { "id": "2", "user": "app", "database": "shop", "peer": "10.0.0.1:5", "state": "waiting",
                  "state_ms": 500, "waiting_for": "connection", "server": "pg2", "pinned": ["listen"],
                  "connected_at_ms": 1_001_000, "connected_ms": 8_000 }] })
        );
    }

    #[test]
    fn pools_are_told_in_order_with_their_limits() {
        let seen = |server, user: &str| SeenPool {
            key: PoolKey {
                server: ServerIndex(server),
                epoch: Epoch(3),
                database: "shop".into(),
                user: user.into(),
            },
            counts: PoolCounts { open: 5, idle: 1, opening: 1, waiting: 2 },
            limits: PoolLimits {
                mode: PoolMode::Transaction,
                size: 5,
                min: 0,
                reserve: 2,
                reserve_after_ms: 1000,
            },
            waiting_since_ms: Some(700),
        };
        let seen = vec![seen(1, "a"), seen(0, "b"), seen(0, "a")];
        let which = Filter { limit: Some(2), ..Filter::default() };
        let pools = pools(&which, &view().snapshot, 1_000, seen, &[(ServerIndex(0), 10, 50)]);
        let told = serde_json::to_value(&pools).unwrap();
        assert_eq!(
            told["pools"][0],
            json!({ "server": "pg1", "database": "shop", "user": "a", "epoch": 3, "open": 5, "idle": 1, "leased": 3,
                    "opening": 1, "waiting": 2, "longest_wait_ms": 300, "mode": "transaction", "size": 5,
                    "reserve": 2, "min": 0 })
        );
        assert_eq!(
            (&told["pools"][1]["user"], &told["pools"][2], &told["total"]),
            (&json!("b"), &Value::Null, &json!(3))
        );
        assert_eq!(told["servers"], json!([{ "server": "pg1", "open": 10, "max": 50 }]));
    }

    #[test]
    fn the_probes_are_told_with_their_last_failure() {
        let mut looks = BTreeMap::<_, ProbeCounts>::new();
        let failure =
            Failure { reason: Reason::ConnectRefused, detail: "Connection refused".to_owned(), at_ms: 40 };
        looks.entry(ServerIndex(1)).or_default().record(Some(&failure), Duration::from_millis(3), 41);
        let told = serde_json::to_value(health(&view(), &looks, 100, &wall_ms)).unwrap();
        assert_eq!(
            (&told["servers"][0]["looks"], &told["servers"][0]["average_ms"]),
            (&json!(0), &Value::Null)
        );
        assert_eq!(
            told["servers"][1],
            json!({ "server": "pg2", "role": "unknown", "health": "unknown", "since_ms": 100, "looks": 1, "failed": 1,
                    "failed_in_a_row": 1, "last_ms": null, "average_ms": null, "shortest_ms": null,
                    "longest_ms": null, "last_at_ms": 1_000_041, "last_answered_at_ms": null,
                    "last_failure": { "reason": "connect_refused", "detail": "Connection refused",
                                      "at_ms": 1_000_040 } })
        );
    }
}
