//! `SHOW POOL_NODES` and `SHOW POOL_VERSION`, in Pgpool-II's columns, for the scripts that read them.
//!
//! Pure: a view and counts in, rows of text out; the session encodes them.
//! Source: <https://www.pgpool.net/docs/latest/en/html/sql-show-pool-nodes.html>.
//! Invariant: every row has one value for each column.

use std::time::{Duration, SystemTime};

use crate::cluster::model::{Detail, View};
use crate::telemetry::counters::Totals;
use crate::telemetry::labels::QueryClass;
use crate::topology::{Health, Role, ServerIndex, ServerState};

/// A result of text columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub columns: &'static [&'static str],
    pub rows: Vec<Vec<String>>,
}

const POOL_NODES: &[&str] = &[
    "node_id",
    "hostname",
    "port",
    "status",
    "pg_status",
    "lb_weight",
    "role",
    "pg_role",
    "select_cnt",
    "load_balance_node",
    "replication_delay",
    "replication_state",
    "replication_sync_state",
    "last_status_change",
];

/// `reads_from` is the server this session's reads go to; `wall_time` turns the view's milliseconds
/// into a time of day, which is shown in UTC.
pub fn pool_nodes(
    view: &View,
    totals: &Totals,
    reads_from: Option<ServerIndex>,
    wall_time: impl Fn(u64) -> SystemTime,
) -> Table {
    let weights: u64 = view.snapshot.servers.iter().map(|server| u64::from(server.weight)).sum();
    let rows = view.snapshot.indexed().zip(&view.details).map(|((index, server), detail)| {
        vec![
            index.0.to_string(),
            server.host.to_string(),
            server.port.to_string(),
            status(server).to_owned(),
            pg_status(server).to_owned(),
            format!("{:.6}", f64::from(server.weight) / weights.max(1) as f64),
            // What we use it as; what it says itself is `pg_role`.
            if view.snapshot.primary.or(view.paused_primary) == Some(index) { "primary" } else { "standby" }
                .to_owned(),
            pg_role(detail).to_owned(),
            totals.queries_of(index, QueryClass::Read).to_string(),
            (reads_from == Some(index)).to_string(),
            server.lag_bytes.unwrap_or(0).to_string(),
            detail.replication_state.clone().unwrap_or_default(),
            detail.sync_state.clone().unwrap_or_default(),
            date_time(wall_time(detail.since_ms)),
        ]
    });
    Table { columns: POOL_NODES, rows: rows.collect() }
}

pub fn pool_version() -> Table {
    Table { columns: &["pool_version"], rows: vec![vec![format!("komainu {}", env!("CARGO_PKG_VERSION"))]] }
}

fn status(server: &ServerState) -> &'static str {
    match (server.health, server.role) {
        (Health::Up, Role::Primary | Role::Standby) => "up",
        // It answers, and we keep our hands off it.
        (Health::Up, Role::Unknown) => "quarantine",
        (Health::Down, _) => "down",
        (Health::Unknown, _) => "waiting",
    }
}

fn pg_status(server: &ServerState) -> &'static str {
    match server.health {
        Health::Up => "up",
        Health::Down => "down",
        Health::Unknown => "unknown",
    }
}

fn pg_role(detail: &Detail) -> &'static str {
    match detail.says {
        Role::Primary => "primary",
        Role::Standby => "standby",
        Role::Unknown => "unknown",
    }
}

/// `2026-11-21 06:30:00`, in UTC.
pub fn date_time(time: SystemTime) -> String {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let of_day = seconds % 86_400;
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

/// The Gregorian date of a day counted from 1970-01-01.
fn civil(mut days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    loop {
        let length = 365 + u64::from(leap(year));
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::reason::Reason;
    use crate::config;
    use crate::telemetry::Counters;
    use crate::topology::Snapshot;

    #[test]
    fn pool_nodes_tells_what_is_used_and_what_the_servers_say() {
        let server = |id: &str, weight| config::Server {
            weight,
            ..config::Server::at(id, format!("{id}.example"), 5432)
        };
        let mut view = View::new(&[server("a", 1), server("b", 2), server("c", 0), server("d", 1)]);
        let states = [
            (Health::Up, Role::Primary, Role::Primary),
            (Health::Up, Role::Standby, Role::Standby),
            (Health::Up, Role::Unknown, Role::Primary),
            (Health::Down, Role::Unknown, Role::Unknown),
        ];
        for (index, (health, role, says)) in states.into_iter().enumerate() {
            view.snapshot.servers[index].health = health;
            view.snapshot.servers[index].role = role;
            view.details[index].says = says;
        }
        view.snapshot =
            Snapshot { primary: Some(ServerIndex(0)), servers: view.snapshot.servers, ..Snapshot::default() };
        view.snapshot.servers[1].lag_bytes = Some(4096);
        view.details[1].replication_state = Some("streaming".to_owned());
        view.details[1].sync_state = Some("quorum".to_owned());
        view.details[2].reason = Some(Reason::SecondPrimary);
        view.details[3].since_ms = 61_000;
        let counters = Counters::default();
        counters.queries(ServerIndex(1), QueryClass::Read, 1);
        counters.queries(ServerIndex(1), QueryClass::Write, 1);

        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_709_164_740);
        let table = pool_nodes(&view, &counters.totals(), Some(ServerIndex(1)), |ms| {
            start + Duration::from_millis(ms)
        });
        let lines: Vec<String> = table.rows.iter().map(|row| row.join("|")).collect();
        assert_eq!(
            lines,
            [
                "0|a.example|5432|up|up|0.250000|primary|primary|0|false|0|||2024-02-28 23:59:00",
                "1|b.example|5432|up|up|0.500000|standby|standby|1|true|4096|streaming|quorum|2024-02-28 23:59:00",
                "2|c.example|5432|quarantine|up|0.000000|standby|primary|0|false|0|||2024-02-28 23:59:00",
                "3|d.example|5432|down|down|0.250000|standby|unknown|0|false|0|||2024-02-29 00:00:01",
            ]
        );
        assert!(table.rows.iter().all(|row| row.len() == table.columns.len()));
        assert_eq!(pool_version().rows[0].len(), pool_version().columns.len());
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_868_799, "2000-02-29 23:59:59"),
            (4_107_542_400, "2100-03-01 00:00:00"),
        ] {
            assert_eq!(date_time(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}
