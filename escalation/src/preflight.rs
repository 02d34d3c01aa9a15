//! Looks again and again whether a move would succeed, as long as somebody wants to know.

use crate::aws::{checks, permissions, quotas};
use crate::endpoint::Cloud;
use crate::finding::{Finding, Verdict};
use crate::settings::MethodSettings;
use std::time::Duration;
use tokio::sync::watch;

/// A missing permission has usually been missing since yesterday: minutes are soon enough, and cost next to nothing.
pub const EVERY: Duration = Duration::from_secs(300);

/// What could not be found out, perhaps since AWS did not answer just then, is looked at again after this, then after
/// twice as long each time: some of it nobody can ever know.
const UNKNOWN_AGAIN: Duration = Duration::from_secs(5);

/// Permissions, then the state of things, then what the account may still have.
pub async fn look(cloud: &Cloud, method: &MethodSettings) -> Vec<Finding> {
    let mut findings = permissions::probe(&cloud.aws, &cloud.identity, method).await;
    findings.extend(checks::check(&cloud.aws, &cloud.identity, method).await);
    findings.extend(quotas::check(&cloud.aws, method).await);
    findings
}

/// Publishes what it finds, and logs what is newly wrong. Ends when nobody listens any more.
pub async fn watch(
    cloud: Cloud,
    endpoint: String,
    method: MethodSettings,
    findings: watch::Sender<Vec<Finding>>,
) {
    let mut unknown_again = UNKNOWN_AGAIN;
    loop {
        let found = look(&cloud, &method).await;
        for finding in &found {
            if let Verdict::Wrong { reason, detail } = &finding.verdict
                && !findings.borrow().contains(finding)
            {
                tracing::warn!(endpoint, subject = finding.subject, reason = %reason, detail, "{}", reason.sentence());
            }
        }
        let again;
        (again, unknown_again) = match found.iter().any(Finding::is_unknown) {
            true => (unknown_again, EVERY.min(2 * unknown_again)),
            false => (EVERY, UNKNOWN_AGAIN),
        };
        findings.send_replace(found);
        tokio::select! {
            () = findings.closed() => return,
            () = tokio::time::sleep(again) => {}
        }
    }
}
