//! `komainu pools`: the server connections of a node, by server, database and user.

use clap::Args;
use serde::Deserialize;

use super::ask::{Ask, AskError, Done};
use super::filter::Filter;
use super::text::{of_these, short_span, table};

#[derive(Debug, Args)]
pub struct PoolsArgs {
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Debug, Deserialize)]
struct Pools {
    pools: Vec<Pool>,
    total: usize,
    servers: Vec<ServerTotal>,
}

#[derive(Debug, Deserialize)]
struct Pool {
    server: String,
    database: String,
    user: String,
    open: usize,
    idle: usize,
    leased: usize,
    opening: usize,
    waiting: usize,
    longest_wait_ms: Option<u64>,
    mode: String,
    size: usize,
    reserve: usize,
}

#[derive(Debug, Deserialize)]
struct ServerTotal {
    server: String,
    open: usize,
    max: usize,
}

pub fn run(args: &PoolsArgs) -> Result<Done, AskError> {
    let answer = args.ask.get::<Pools>(&args.filter.path("/pools"))?;
    args.ask.print(&answer, render)?;
    Ok(Done::Fine)
}

fn render(pools: &Pools) -> String {
    let row = |pool: &Pool| {
        let limit = match pool.reserve {
            0 => pool.size.to_string(),
            reserve => format!("{}+{reserve}", pool.size),
        };
        [
            pool.server.clone(),
            pool.database.clone(),
            pool.user.clone(),
            pool.mode.clone(),
            pool.open.to_string(),
            pool.idle.to_string(),
            pool.leased.to_string(),
            pool.opening.to_string(),
            limit,
            pool.waiting.to_string(),
            pool.longest_wait_ms.map(short_span).unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = pools.pools.iter().map(row).collect();
    let head = [
        "SERVER", "DATABASE", "USER", "MODE", "OPEN", "IDLE", "LEASED", "OPENING", "LIMIT", "WAITING",
        "LONGEST",
    ];
    let mut text = table(head, &rows) + &of_these(rows.len(), pools.total, "pools");
    if !pools.servers.is_empty() {
        let row = |total: &ServerTotal| [total.server.clone(), total.open.to_string(), total.max.to_string()];
        let rows: Vec<_> = pools.servers.iter().map(row).collect();
        text += &format!("\n{}", table(["SERVER", "OPEN IN ALL", "LIMIT"], &rows));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn people_see_who_waits_and_what_the_limits_are() {
        let pools: Pools = serde_json::from_str(
            r#"{"total": 1, "servers": [{"server": "pg1", "open": 5, "max": 50}], "pools": [
              {"server": "pg1", "database": "shop", "user": "app", "epoch": 1, "open": 5, "idle": 0, "leased": 5,
               "opening": 0, "waiting": 2, "longest_wait_ms": 1250, "mode": "transaction", "size": 4,
               "reserve": 1, "min": 0}]}"#,
        )
        .unwrap();
        assert_eq!(
            render(&pools),
            "SERVER  DATABASE  USER  MODE         OPEN  IDLE  LEASED  OPENING  LIMIT  WAITING  LONGEST\n\
             pg1     shop      app   transaction  5     0     5       0        4+1    2        1.2 s\n\n\
             SERVER  OPEN IN ALL  LIMIT\n\
             pg1     5            50\n"
        );
    }
}
