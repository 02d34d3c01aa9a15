//! What komainu itself answers in SQL: `SHOW POOL_NODES` and the like, the explain hint, tokens, pins.
//!
//! Never answers past the server: an answer is a query that a server evaluates, so that it stands in its order
//! and in its transaction.

use std::sync::Arc;

use super::answers::rows_as_select;
use super::batch::Request;
use super::choose::Route;
use super::floor::{InvalidToken, TOKEN, read_token};
use super::pins::PinReason;
use super::rewrite;
use super::session::Session;
use crate::admin::show;
use crate::backend::expect::Question;
use crate::clock;
use crate::route::statement::PoolShow;
use crate::route::{Analyzed, StatementKind};
use crate::wire::message::Report;
use crate::wire::sqlstate;

impl Session {
    /// The session's token is asked for before the position of its last write is known.
    pub(super) fn waits_for_floor(&mut self, analyzed: &Analyzed) -> bool {
        let wants = matches!(&analyzed.analysis.kind,
            StatementKind::ShowPool(PoolShow::Komainu(name)) if **name == *"token");
        if !wants || !self.is_idle() {
            return false;
        }
        let Some(lease) = &mut self.lease else { return false };
        let expected = &lease.conn.expected;
        // A write that was sent ahead: its position is asked for once it is answered. Not one of the same batch, which
        // is committed later than this is answered.
        let is_writing = self.transaction.may_write && !expected.has_open_batch();
        if !self.floor.pending && !is_writing {
            return false;
        }
        // Behind the beginning of a batch nothing can be asked before its end.
        if expected.has_open_batch() && !expected.asks(Question::Floor) {
            return false;
        }
        if expected.is_empty() && !lease.is_standby {
            // The answer was lost with the connection it was asked on.
            lease.conn.ask(Question::Floor, self.settled.floor, &[]);
            lease.ours_first = true;
        }
        self.batch.clear();
        !lease.is_standby
    }

    /// A comment that looks like a hint and is none must not be ignored in silence.
    pub(super) fn report_hints(&mut self, analyzed: &Analyzed) {
        if let Some(error) = &analyzed.analysis.hints.error {
            self.notify_client(&Report::warning(sqlstate::INVALID_PARAMETER_VALUE, &error.to_string()));
        }
    }

    /// What komainu itself answers, as a query for the server; `None` if it is not asked.
    pub(super) fn own_answer(&mut self, analyzed: &Arc<Analyzed>, sql: &[u8]) -> Option<String> {
        if analyzed.analysis.is_answered_here() {
            return Some(self.own_rows(analyzed));
        }
        match &analyzed.analysis.kind {
            StatementKind::Set { name, .. } if **name == *TOKEN => {
                let token = rewrite::set_value(sql).filter(|value| !value.is_empty())?;
                read_token(&token).is_err().then(|| invalid_token(&token))
            }
            _ => None,
        }
    }

    /// What it is answered with now.
    pub(super) fn own_rows(&mut self, analyzed: &Arc<Analyzed>) -> String {
        if analyzed.analysis.hints.explain {
            let request = Request {
                class: analyzed.routed.class,
                decisive: Some(analyzed.clone()),
                opening: super::transaction::Opening::of(analyzed),
                effects: analyzed.analysis.effects,
                whole: true,
                is_query: true,
                len: 0,
            };
            let route = self.would_go(&request);
            return self.show_route(Some(&route));
        }
        match &analyzed.analysis.kind {
            StatementKind::ShowPool(PoolShow::Nodes) => {
                let view = self.gateway.view.borrow().clone();
                let totals = self.gateway.counters.totals();
                let reads_from = self.floor.last_read.map(|read| read.server);
                let table = show::pool_nodes(&view, &totals, reads_from, |ms| clock::process().wall_time(ms));
                rows_as_select(table.columns, &table.rows)
            }
            StatementKind::ShowPool(PoolShow::Version) => {
                let table = show::pool_version();
                rows_as_select(table.columns, &table.rows)
            }
            StatementKind::ShowPool(PoolShow::Pools) => self.show_pools(),
            StatementKind::ShowPool(PoolShow::Processes) => {
                let clients = self.gateway.sessions.len().to_string();
                let held = self.gateway.held.count().to_string();
                rows_as_select(&["clients", "held"], &[vec![clients, held]])
            }
            StatementKind::ShowPool(PoolShow::Route) => {
                self.look_at_topology();
                self.show_route(self.last_route.as_ref())
            }
            StatementKind::ShowPool(PoolShow::Komainu(name)) => match &**name {
                "token" => rows_as_select(&["token"], &[vec![self.floor.token()]]),
                "pins" => {
                    let rows: Vec<_> = self.pins.iter().map(|r| vec![label(r)]).collect();
                    rows_as_select(&["reason"], &rows)
                }
                other => {
                    let text = format!("komainu has no \"{other}\": there are token and pins");
                    rows_as_select(&["error"], &[vec![text]])
                }
            },
            _ => rows_as_select(&["answer"], &[]),
        }
    }

    fn show_route(&self, route: Option<&Route>) -> String {
        // In another encoding a name that the reason tells might be no text at all.
        let told = |why: String| match self.believed.reading().foreign {
            true => why.replace(|letter: char| !letter.is_ascii(), "?"),
            false => why,
        };
        let row = |route: &Route| {
            let server = route.server.and_then(|at| self.topology.server(at));
            vec![server.map_or_else(|| "none".to_owned(), |server| server.id.to_string()), told(route.why())]
        };
        let rows: Vec<_> = route.map(row).into_iter().collect();
        rows_as_select(&["server", "reason"], &rows)
    }

    fn show_pools(&self) -> String {
        let mut rows: Vec<_> = self
            .gateway
            .pools
            .counts()
            .into_iter()
            .map(|(key, counts)| {
                let server = self.topology.server(key.server);
                vec![
                    server.map_or_else(String::new, |server| server.id.to_string()),
                    key.database.to_string(),
                    key.user.to_string(),
                    counts.open.to_string(),
                    counts.idle.to_string(),
                    counts.waiting.to_string(),
                ]
            })
            .collect();
        rows.sort();
        rows_as_select(&["server", "database", "user", "open", "idle", "waiting"], &rows)
    }
}

/// Fails on any server, with the effect an error has on the transaction.
fn invalid_token(token: &str) -> String {
    let message = format!("invalid value for parameter \"{TOKEN}\": \"{token}\"").replace('\'', "''");
    let mut tag = String::from("k");
    while message.contains(&tag) {
        tag.push('k');
    }
    format!(
        "DO ${tag}$ BEGIN RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = '{message}', \
         HINT = '{InvalidToken}'; END ${tag}$ LANGUAGE plpgsql"
    )
}

fn label(reason: PinReason) -> String {
    use crate::telemetry::labels::Label;
    reason.as_str().to_owned()
}
