//! What would go wrong tonight: the results of looking for it beforehand.

use crate::reason::Reason;

/// One thing that was looked at. `doctor` prints them all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at: an id, a name, an IAM action.
    pub subject: String,
    pub verdict: Verdict,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Fine,
    Wrong {
        reason: Reason,
        detail: String,
    },
    /// Could not be found out: neither good nor bad.
    Unknown {
        detail: String,
    },
}

impl Finding {
    pub fn fine(subject: impl Into<String>) -> Finding {
        Finding { subject: subject.into(), verdict: Verdict::Fine }
    }

    pub fn wrong(subject: impl Into<String>, reason: Reason, detail: impl Into<String>) -> Finding {
        Finding { subject: subject.into(), verdict: Verdict::Wrong { reason, detail: detail.into() } }
    }

    pub fn unknown(subject: impl Into<String>, detail: impl Into<String>) -> Finding {
        Finding { subject: subject.into(), verdict: Verdict::Unknown { detail: detail.into() } }
    }

    pub fn is_wrong(&self) -> bool {
        matches!(self.verdict, Verdict::Wrong { .. })
    }

    pub fn is_unknown(&self) -> bool {
        matches!(self.verdict, Verdict::Unknown { .. })
    }
}
