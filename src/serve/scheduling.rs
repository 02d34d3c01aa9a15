//! How Linux schedules the threads that serve clients.
//!
//! A thread of the policy `SCHED_BATCH` does not interrupt whoever runs when it is woken. On a machine that is
//! not busy nothing changes. On one that is, it finds more messages when its turn comes, and neither it nor the
//! PostgreSQL backends beside it are stopped half-way for each of them (docs/decisions/0016). Invariant: only
//! threads that serve clients are touched; probes keep the policy the process was started with.

use thread_priority::unix::{NormalThreadSchedulePolicy, ThreadSchedulePolicy};
use thread_priority::{ThreadPriority, set_thread_priority_and_policy, thread_native_id};

use crate::config::Scheduling;

/// What the library takes for a niceness of 0, which it sets together with the policy.
const ORDINARY: u8 = 49;

/// For the calling thread. Threads it starts from now on inherit it.
pub fn apply(scheduling: Scheduling) {
    // Whoever gave the process a niceness has decided how it is scheduled.
    if scheduling == Scheduling::Normal || rustix::process::getpriority_process(None) != Ok(0) {
        return;
    }
    let policy = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Batch);
    let result = ThreadPriority::try_from(ORDINARY).map_err(|error| error.to_owned()).and_then(|ordinary| {
        set_thread_priority_and_policy(thread_native_id(), ordinary, policy)
            .map_err(|error| format!("{error:?}"))
    });
    if let Err(error) = result {
        tracing::debug!(error, "this thread keeps its scheduling policy");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> String {
        // Field 41 of proc_pid_stat(5); the name in front of it may have spaces.
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let fields = stat.rsplit_once(')').unwrap().1;
        fields.split_whitespace().nth(41 - 3).unwrap().to_owned()
    }

    #[test]
    fn only_batch_changes_the_policy_and_never_the_niceness() {
        let niceness = || rustix::process::getpriority_process(None).unwrap();
        let other = |scheduling| {
            std::thread::spawn(move || {
                let before = niceness();
                apply(scheduling);
                (policy(), niceness() - before)
            })
            .join()
            .unwrap()
        };
        const SCHED_BATCH: &str = "3";
        assert_eq!(other(Scheduling::Normal), (policy(), 0));
        let expected = if niceness() == 0 { SCHED_BATCH.to_owned() } else { policy() };
        assert_eq!(other(Scheduling::Batch), (expected, 0));
    }
}
