//! How many roles lack the password that AWS should give, by why. Pure.

use komainu_escalation::Finding;
use komainu_escalation::finding::Verdict;

use crate::telemetry::labels::{Label, PasswordTrouble};

/// By `PasswordTrouble`.
pub fn troubles(findings: &[(String, Finding)]) -> [u64; PasswordTrouble::COUNT] {
    let mut counts = [0; PasswordTrouble::COUNT];
    for (_, finding) in findings {
        if let Verdict::Wrong { reason, .. } = finding.verdict {
            counts[PasswordTrouble::of(reason).index()] += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use komainu_escalation::Reason;

    #[test]
    fn only_what_is_wrong_is_counted_and_under_its_reason() {
        let of = |finding| ("app".to_owned(), finding);
        let found = [
            of(Finding::fine("a")),
            of(Finding::unknown("b", "being fetched")),
            of(Finding::wrong("c", Reason::SecretMissing, "")),
            of(Finding::wrong("d", Reason::OutcomeUnknown, "")),
        ];
        let counts = troubles(&found);
        assert_eq!(counts[PasswordTrouble::SecretMissing.index()], 1);
        assert_eq!(counts[PasswordTrouble::Unreachable.index()], 1);
        assert_eq!(counts.iter().sum::<u64>(), 2);
    }
}
