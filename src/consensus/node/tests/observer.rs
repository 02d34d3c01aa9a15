//! A node's observer over the model servers: the schedule of `observe::probe`, and the real conclusions.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::servers::{Ground, SERVERS};
use crate::cluster::model::{Facts, Failure, Named, Observation, REFUSALS_APART_MS, View};
use crate::cluster::primary;
use crate::cluster::reason::Reason;
use crate::config;

const MIN_GAP: Duration = Duration::from_millis(20);
const REFUSED_AGAIN: Duration = Duration::from_millis(REFUSALS_APART_MS + 10);

/// As by default.
pub fn health() -> config::Health {
    config::Health {
        user: String::new(),
        password_file: None,
        database: String::new(),
        period_ms: 1_000,
        timeout_ms: 1_500,
        connect_timeout_ms: 5_000,
        retries: 3,
    }
}

type Look = (usize, Result<Facts, Failure>);

/// Until it is dropped.
pub async fn observe(
    ground: Ground,
    wakes: Arc<[Arc<Notify>]>,
    named: watch::Receiver<Option<Named>>,
    view: watch::Sender<Arc<View>>,
) {
    let health = health();
    let (looks, mut taken) = mpsc::channel(16);
    let (unsettled, _) = watch::channel(true);
    let mut probes = JoinSet::new();
    for server in 0..SERVERS.len() {
        probes.spawn(probe(
            ground.clone(),
            server,
            wakes[server].clone(),
            looks.clone(),
            unsettled.subscribe(),
        ));
    }
    let mut observations = vec![Observation::of(health.retries); SERVERS.len()];
    while let Some((server, result)) = taken.recv().await {
        observations[server].record(result);
        let now_ms = (ground.now)();
        let by_the_log = named.borrow().clone().map(|named| Named { life: None, ..named });
        let next = primary::next(&view.borrow(), &observations, by_the_log.as_ref(), now_ms);
        unsettled
            .send_if_modified(|value| std::mem::replace(value, primary::unsettled(&next, now_ms)) != *value);
        view.send_replace(Arc::new(next));
    }
}

async fn probe(
    ground: Ground,
    server: usize,
    wake: Arc<Notify>,
    looks: mpsc::Sender<Look>,
    mut unsettled: watch::Receiver<bool>,
) {
    let health = health();
    let mut kept = None;
    let (mut failures, mut refusals) = (0, 0);
    loop {
        let begun = Instant::now();
        let result = ground.look(server, &mut kept, &health).await;
        failures = if result.is_ok() { 0 } else { failures + 1 };
        let refused = matches!(&result, Err(failure) if failure.reason == Reason::ConnectRefused);
        refusals = if refused { refusals + 1 } else { 0 };
        if looks.send((server, result)).await.is_err() {
            return;
        }
        let period = Duration::from_millis(health.period_ms);
        let (usual, fast) = match refusals {
            1..=2 => (REFUSED_AGAIN, REFUSED_AGAIN),
            _ if (1..health.retries).contains(&failures) => (period / 5, period / 5),
            _ => (period, period / 5),
        };
        let earliest = Instant::now() + MIN_GAP;
        loop {
            let due = begun + if *unsettled.borrow_and_update() { fast } else { usual };
            tokio::select! {
                () = sleep_until(due.max(earliest)) => break,
                () = wake.notified() => {}
                () = ground.interrupted(server, kept) => {}
                changed = unsettled.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            }
            sleep(earliest.saturating_duration_since(Instant::now())).await;
            break;
        }
    }
}
