//! Looks again and again whether a move would succeed, as long as somebody wants to know.

use crate::aws::{checks, permissions, quotas};
use crate::endpoint::Cloud;
use crate::finding::{Finding, Verdict};
use crate::settings::MethodSettings;
use std::time::Duration;
use tokio::sync::watch;

/// A missing permission has usually been missing since yesterday: minutes are soon enough, and cost next to nothing.
pub const EVERY: Duration = Duration::from_secs(300);

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
    loop {
        let found = look(&cloud, &method).await;
        for finding in &found {
            if let Verdict::Wrong { reason, detail } = &finding.verdict
                && !findings.borrow().contains(finding)
            {
                tracing::warn!(endpoint, subject = finding.subject, reason = %reason, detail, "{}", reason.sentence());
            }
        }
        findings.send_replace(found);
        tokio::select! {
            () = findings.closed() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}
