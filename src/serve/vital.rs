//! Tasks without which this process only seems to serve: deadlines, probes, orders, accepting.
//!
//! Invariant: none of them ends without the process: whoever watches it starts it anew, and in a cluster another node
//! takes over meanwhile.

use std::any::Any;
use std::collections::HashMap;
use std::future::Future;
use std::panic::{PanicHookInfo, resume_unwind};

use tokio::task::{Id, JoinError, JoinHandle, JoinSet};

/// One of them has ended before its time.
#[derive(Debug, thiserror::Error)]
#[error("what keeps {what} has ended, and komainu with it: {why}")]
pub struct Fallen {
    what: &'static str,
    why: String,
}

impl Fallen {
    pub fn new(what: &'static str, how: Result<(), JoinError>) -> Self {
        let why = match how.map_err(JoinError::try_into_panic) {
            Ok(()) => "it had nothing more to do".to_owned(),
            Err(Ok(panic)) => format!("it panicked: {}", message(&*panic)),
            Err(Err(error)) => error.to_string(),
        };
        Fallen { what, why }
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let literal = panic.downcast_ref::<&str>().copied();
    literal.or(panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a word")
}

/// They end with it.
#[derive(Debug, Default)]
pub struct Vital {
    tasks: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

impl Vital {
    /// `what` it keeps, for the error.
    pub fn spawn(&mut self, what: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let id = self.tasks.spawn(task).id();
        self.names.insert(id, what);
    }

    /// One of another runtime: it ends with that.
    pub fn watch(&mut self, what: &'static str, task: JoinHandle<()>) {
        self.spawn(what, async move {
            if let Err(Ok(panic)) = task.await.map_err(JoinError::try_into_panic) {
                resume_unwind(panic);
            }
        });
    }

    /// Waits until one ends, which none should.
    pub async fn one_has_ended(&mut self) -> Fallen {
        let Some(ended) = self.tasks.join_next_with_id().await else { return std::future::pending().await };
        let (id, how) = match ended {
            Ok((id, ())) => (id, Ok(())),
            Err(error) => (error.id(), Err(error)),
        };
        Fallen::new(self.names.get(&id).copied().unwrap_or_default(), how)
    }
}

/// A panic is said where everything else is, with the way that led to it.
pub fn log_panics() {
    std::panic::set_hook(Box::new(|panic: &PanicHookInfo<'_>| {
        let at = panic.location().map(ToString::to_string);
        let backtrace = std::backtrace::Backtrace::force_capture();
        tracing::error!(at, %backtrace, "a task panicked, please report this: {}", message(panic.payload()));
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_one_that_ends_is_named_and_why() {
        let mut vital = Vital::default();
        vital.spawn("time", std::future::pending());
        vital.spawn("orders", async { panic!("no {}", "more") });
        let fallen = vital.one_has_ended().await.to_string();
        assert_eq!(fallen, "what keeps orders has ended, and komainu with it: it panicked: no more");
        vital.spawn("orders", async {});
        let fallen = vital.one_has_ended().await.to_string();
        assert_eq!(fallen, "what keeps orders has ended, and komainu with it: it had nothing more to do");
    }

    #[tokio::test]
    async fn one_that_runs_elsewhere_is_watched_as_well() {
        let mut vital = Vital::default();
        let elsewhere = tokio::runtime::Builder::new_current_thread().build().unwrap();
        vital.watch("time", elsewhere.spawn(std::future::pending()));
        vital.watch("decisions", elsewhere.spawn(async { panic!("no {}", "more") }));
        let thread = std::thread::spawn(move || elsewhere.block_on(tokio::task::yield_now()));
        tokio::task::spawn_blocking(|| thread.join()).await.unwrap().unwrap();
        let fallen = vital.one_has_ended().await.to_string();
        assert_eq!(fallen, "what keeps decisions has ended, and komainu with it: it panicked: no more");
    }

    #[tokio::test(start_paused = true)]
    async fn as_long_as_all_go_on_nothing_is_said() {
        let mut vital = Vital::default();
        let soon = std::time::Duration::from_secs(1);
        assert!(tokio::time::timeout(soon, vital.one_has_ended()).await.is_err());
        vital.spawn("time", std::future::pending());
        assert!(tokio::time::timeout(soon, vital.one_has_ended()).await.is_err());
    }
}
