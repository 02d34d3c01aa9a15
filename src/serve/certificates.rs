//! Tells in the log of certificates that end soon, in every file that the configuration names.
//!
//! The one that this node shows its peers is not among them: the peers' TLS looks after it. Never changes anything.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use crate::admin::Configured;
use crate::pki::Found;

const REMIND_EVERY: Duration = Duration::from_secs(86_400);

/// At the start, then once a day.
pub async fn remind(configured: watch::Receiver<Arc<Configured>>) {
    let mut interval = tokio::time::interval(REMIND_EVERY);
    loop {
        interval.tick().await;
        let files = configured.borrow().in_force.certificate_files();
        let look = || files.into_iter().map(Found::look).collect::<Vec<_>>();
        // It panics only if the process ends.
        for found in tokio::task::spawn_blocking(look).await.unwrap_or_default() {
            let key = found.file.key;
            if let Err(error) = &found.certificates {
                tracing::warn!(key, error, "it is not known when certificates end");
            }
            for warning in found.warnings(SystemTime::now()) {
                tracing::warn!(key, "{warning}");
            }
        }
    }
}
