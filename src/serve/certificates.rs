//! Looks when certificates end, in every file that the configuration names, and tells of those that end soon in the log.
//!
//! The one that this node shows its peers is not among them: the peers' TLS looks after it. Never changes anything.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

use crate::admin::Configured;
use crate::pki::Found;

const LOOK_EVERY: Duration = Duration::from_secs(3_600);
const REMIND_EVERY: Duration = Duration::from_secs(86_400);

/// At the start, with each new configuration, and once an hour; reminds at the start and once a day. `first`: when the
/// first file is of no use any more.
pub async fn watch(
    mut configured: watch::Receiver<Arc<Configured>>,
    first: watch::Sender<Option<SystemTime>>,
) {
    let mut interval = tokio::time::interval(LOOK_EVERY);
    let mut reminded: Option<Instant> = None;
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            changed = configured.changed() => if changed.is_err() { return },
        }
        let files = configured.borrow_and_update().in_force.certificate_files();
        let look = || files.into_iter().map(Found::look).collect::<Vec<_>>();
        // It panics only if the process ends.
        let all = tokio::task::spawn_blocking(look).await.unwrap_or_default();
        first.send_replace(all.iter().filter_map(Found::ends).min());
        if reminded.is_none_or(|reminded| reminded.elapsed() >= REMIND_EVERY) {
            reminded = Some(Instant::now());
            all.iter().for_each(remind);
        }
    }
}

fn remind(found: &Found) {
    let key = found.file.key;
    if let Err(error) = &found.certificates {
        tracing::warn!(key, error, "it is not known when certificates end");
    }
    for warning in found.warnings(SystemTime::now()) {
        tracing::warn!(key, "{warning}");
    }
}
