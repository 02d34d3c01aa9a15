//! Which certificates end soon: this node's own, those in files that the configuration names, and those that agents show.
//!
//! Pure.

use std::time::SystemTime;

use super::{Examined, Finding, Verdict, add};
use crate::pki::Found;

/// In the files that the configuration names.
pub struct Certificates {
    pub found: Vec<Found>,
    pub at: SystemTime,
}

pub(super) fn certificates(
    findings: &mut Vec<Finding>,
    files: &Certificates,
    examined: Option<&Examined<'_>>,
) {
    if let Some(examined) = examined {
        own(findings, examined);
    }
    files.found.iter().for_each(|found| file(findings, found, files.at));
    for ready in examined.iter().flat_map(|examined| &examined.readiness) {
        if let Some(certificate) = &ready.certificate {
            let (verdict, text) = match certificate.expiry_warning(files.at) {
                Some(warning) => (Verdict::Wrong, format!("its agent: {warning}")),
                None => (Verdict::Fine, "its agent's does not end soon".to_owned()),
            };
            add(findings, "certificate", &ready.server, verdict, text);
        }
    }
}

fn own(findings: &mut Vec<Finding>, examined: &Examined<'_>) {
    let (verdict, text) = match &examined.certificate {
        Some(warning) => (Verdict::Wrong, warning.clone()),
        None => (Verdict::Fine, "it does not expire soon".to_owned()),
    };
    add(findings, "certificate", &examined.now.node.node, verdict, text);
}

fn file(findings: &mut Vec<Finding>, found: &Found, at: SystemTime) {
    let (key, path) = (found.file.key, found.file.path.display());
    let warnings = found.warnings(at);
    match &found.certificates {
        Err(problem) => add(findings, "certificate", key, Verdict::Unknown, problem.clone()),
        Ok(all) if warnings.is_empty() => {
            let text = match all.len() {
                1 => format!("{path}: it does not end soon"),
                many => format!("{path}: none of {many} ends soon"),
            };
            add(findings, "certificate", key, Verdict::Fine, text);
        }
        Ok(_) => {
            for warning in warnings {
                add(findings, "certificate", key, Verdict::Wrong, warning);
            }
        }
    }
}
