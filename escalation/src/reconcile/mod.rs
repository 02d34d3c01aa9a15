//! The loop of one endpoint: does what `core` says, and tells it what came of it.
//!
//! Owns the waiting, the clock and the channels; decides nothing. It ends when the sender of the claim is dropped.
//! Dropping its future is safe between two changes; a change already sent is not taken back by that.

pub mod core;
mod journal;
pub mod pace;

use crate::authority::{Authority, Permit};
use crate::claim::{Claim, Desired, Owner};
use crate::error::{Error, Fault};
use crate::method::{Confirmation, Method, Rules};
use crate::program::{self, Call, ProgramSettings};
use crate::status::{Event, Status};
use core::{Action, Reconciler, When};
pub use journal::Entry;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

/// How often an owner reads the clock to see that its lease is still there.
const LEASE_CHECK_MS: u64 = 200;

/// Everything the loop needs besides the method.
pub struct Surroundings {
    pub endpoint: Arc<str>,
    /// As configured: `elastic-ip` …
    pub method_name: &'static str,
    pub node: Arc<str>,
    pub before: Option<ProgramSettings>,
    pub after: Option<ProgramSettings>,
    pub claim: watch::Receiver<Claim>,
    pub authority: Arc<dyn Authority>,
    pub status: watch::Sender<Status>,
    pub events: mpsc::Sender<Event>,
    /// Milliseconds that go on while the machine sleeps; a simulation has its own.
    pub now_ms: Clock,
}

pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// The machine's own clock.
pub fn boottime() -> Clock {
    Arc::new(boottime_ms)
}

pub async fn run<M: Method>(method: Arc<M>, mut reconciler: Reconciler<M::Rules>, mut around: Surroundings) {
    let mut confirmation = JoinSet::new();
    while let Some(action) = select(&mut reconciler, &mut around, &mut confirmation).await {
        if !perform(&method, &mut reconciler, &mut around, action).await {
            break;
        }
        if reconciler.take_confirmation_due() {
            let method = method.clone();
            confirmation.spawn(async move { method.confirm().await });
        }
        around.publish(&mut reconciler);
    }
}

/// Waits until there is something to do. None: nobody sends claims any more.
async fn select<R: Rules>(
    reconciler: &mut Reconciler<R>,
    around: &mut Surroundings,
    confirmation: &mut JoinSet<Confirmation>,
) -> Option<Action<R::Step>> {
    loop {
        let now_ms = (around.now_ms)();
        let claim = *around.claim.borrow_and_update();
        let before = reconciler.desired();
        reconciler.claimed(now_ms, claim, around.permitted(claim));
        if reconciler.desired() != before {
            confirmation.abort_all();
        }
        around.publish(reconciler);
        let until_ms = match reconciler.next(now_ms) {
            Action::Rest { until_ms } => until_ms,
            action => return Some(action),
        };
        let wait_ms = until_ms.saturating_sub(now_ms);
        let wait_ms = if claim.owner == Owner::This { wait_ms.min(LEASE_CHECK_MS) } else { wait_ms };
        tokio::select! {
            changed = around.claim.changed() => changed.ok()?,
            () = tokio::time::sleep(Duration::from_millis(wait_ms)) => {}
            Some(finished) = confirmation.join_next() => {
                if let Ok(confirmation) = finished {
                    reconciler.confirmed(confirmation);
                }
            }
        }
    }
}

/// False: nobody sends claims any more.
async fn perform<M: Method>(
    method: &Arc<M>,
    reconciler: &mut Reconciler<M::Rules>,
    around: &mut Surroundings,
    action: Action<<M::Rules as Rules>::Step>,
) -> bool {
    let started = Instant::now();
    match action {
        Action::Rest { .. } => true,
        Action::Look => {
            // A look that hangs must not keep a new owner waiting.
            match unless_desire_changes(around, reconciler.desired(), method.inspect()).await {
                Interrupted::Finished(result) => reconciler.looked((around.now_ms)(), ms(started), result),
                Interrupted::OtherDesire => {}
                Interrupted::NobodyCares => return false,
            }
            true
        }
        Action::Change { intent, epoch, stage } => {
            let permit = Permit::new(
                around.endpoint.clone(),
                intent,
                epoch,
                around.claim.clone(),
                around.authority.clone(),
            );
            let steps = stage.steps.iter().map(|step| method.apply(step, &permit));
            let results = futures_util::future::join_all(steps).await;
            log_failures(&around.endpoint, epoch, &results);
            reconciler.changed((around.now_ms)(), ms(started), results);
            true
        }
        Action::Program { when, intent, epoch } => {
            let settings = match when {
                When::Before => around.before.clone(),
                When::After => around.after.clone(),
            };
            let Some(settings) = settings else {
                reconciler.programmed((around.now_ms)(), 0.0, when, None);
                return true;
            };
            let call = Call {
                action: intent.word(),
                when: Some(if when == When::Before { "before" } else { "after" }),
                endpoint: &around.endpoint.clone(),
                method: around.method_name,
                node: &around.node.clone(),
                epoch,
            };
            let desired = reconciler.desired();
            match unless_desire_changes(around, desired, program::run(&settings, &call)).await {
                Interrupted::Finished(result) => {
                    reconciler.programmed((around.now_ms)(), ms(started), when, Some(result));
                }
                Interrupted::OtherDesire => {
                    tracing::warn!(endpoint = %around.endpoint, "killed a program: the endpoint's owner changed meanwhile");
                }
                Interrupted::NobodyCares => return false,
            }
            true
        }
    }
}

enum Interrupted<T> {
    Finished(T),
    OtherDesire,
    NobodyCares,
}

async fn unless_desire_changes<T>(
    around: &mut Surroundings,
    desired: Desired,
    work: impl Future<Output = T>,
) -> Interrupted<T> {
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            result = &mut work => return Interrupted::Finished(result),
            changed = around.claim.changed() => {
                if changed.is_err() {
                    return Interrupted::NobodyCares;
                }
            }
            () = tokio::time::sleep(Duration::from_millis(LEASE_CHECK_MS)) => {}
        }
        let claim = *around.claim.borrow_and_update();
        if Desired::of(claim, around.permitted(claim)) != desired {
            return Interrupted::OtherDesire;
        }
    }
}

impl Surroundings {
    fn permitted(&self, claim: Claim) -> bool {
        claim.owner == Owner::This && self.authority.allows(&self.endpoint, claim.epoch)
    }

    fn publish<R: Rules>(&self, reconciler: &mut Reconciler<R>) {
        for entry in reconciler.take_entries() {
            let Entry { epoch, state, reason, detail, phases } = entry;
            tracing::info!(endpoint = %self.endpoint, epoch, ?state, reason = %reason, detail, "{}", reason.sentence());
            let event = Event { endpoint: self.endpoint.clone(), epoch, state, reason, detail, phases };
            if self.events.try_send(event).is_err() {
                tracing::debug!(endpoint = %self.endpoint, "nobody takes the endpoint's events fast enough");
            }
        }
        self.status.send_if_modified(|known| {
            let news = known != reconciler.status();
            if news {
                known.clone_from(reconciler.status());
            }
            news
        });
    }
}

fn log_failures<T>(endpoint: &str, epoch: u64, results: &[Result<T, Error>]) {
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        match error.fault() {
            Fault::Conflict | Fault::Withdrawn => tracing::debug!(endpoint, epoch, %error, "change not made"),
            _ => tracing::warn!(endpoint, epoch, %error, "change failed"),
        }
    }
}

fn ms(started: Instant) -> f64 {
    started.elapsed().as_secs_f64() * 1e3
}

/// CLOCK_BOOTTIME: it goes on while the machine sleeps, so what is overdue afterwards is seen to be.
fn boottime_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}
