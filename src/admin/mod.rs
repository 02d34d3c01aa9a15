//! Looking in from outside: `/metrics`, `/live`, `/ready` and `/status` over HTTP, and `SHOW POOL_*`.
//!
//! Reads what others publish and changes nothing. Invariant: nothing it shows comes from a
//! configuration's secrets; it never holds one.

mod listener;
pub mod show;
mod status;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::sync::watch;

use crate::cluster::clock::Clock;
use crate::cluster::model::View;
use crate::telemetry::counters::Counters;
use crate::telemetry::process::Process;
use crate::telemetry::render::{self, Numbers, PoolCensus};

pub use listener::{AdminListener, BindError, serve};

/// No request of ours has a body; what comes later will be short commands.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// Everything the admin pages are made of.
#[derive(Clone)]
pub struct AdminState {
    pub view: watch::Receiver<Arc<View>>,
    pub counters: Arc<Counters>,
    /// Counts what the pools hold, when somebody asks.
    pub census: Arc<dyn Fn() -> PoolCensus + Send + Sync>,
    /// Whether clients are being accepted: false before the listener stands and while draining.
    pub listening: Arc<AtomicBool>,
    pub clock: Clock,
}

impl fmt::Debug for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminState").field("listening", &self.listening).finish_non_exhaustive()
    }
}

/// The pages, for `serve`; later commands are added to it.
pub fn router(state: AdminState) -> Router {
    Router::new()
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(state)
}

async fn live() -> &'static str {
    "live\n"
}

/// Whether it makes sense to send clients here. A load balancer reads the code, a person the body.
async fn ready(State(state): State<AdminState>) -> Response {
    let view = state.view.borrow().clone();
    let refusal = if state.listening.load(Ordering::Relaxed) {
        view.no_primary
            .filter(|_| view.snapshot.primary.is_none())
            .map(|reason| (reason.code(), reason.sentence()))
    } else {
        Some(("not_listening", "clients are not accepted, either not yet or no more"))
    };
    match refusal {
        None => Json(serde_json::json!({ "ready": true })).into_response(),
        Some((code, sentence)) => {
            let body = serde_json::json!({ "ready": false, "reason": code, "message": sentence });
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

async fn metrics(State(state): State<AdminState>) -> Response {
    let view = state.view.borrow().clone();
    let page = render::page(&Numbers {
        version: env!("CARGO_PKG_VERSION"),
        totals: &state.counters.totals(),
        census: &(state.census)(),
        snapshot: &view.snapshot,
        process: Process::read(),
        started_at: state.clock.wall_time(0),
    });
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page).into_response()
}

async fn status(State(state): State<AdminState>) -> Response {
    let view = state.view.borrow().clone();
    Json(status::status(&view, state.clock.now_ms())).into_response()
}

#[cfg(test)]
mod tests;
