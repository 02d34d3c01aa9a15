//! A blue/green deployment, as the servers of RDS and Aurora tell those who may ask: how far its switchover has come.
//!
//! Pure. Invariant: a server that was seen to give its place away does not take writes again by its own word alone, unless
//! the service has called the switchover off.

use super::model::Facts;

/// What a server says of the deployment it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BlueGreen {
    /// There is none, or nothing that tells of one.
    #[default]
    None,
    /// It could not be asked, or says what nobody knows yet.
    Unknown,
    Available,
    Initiated,
    /// The blue side is cut off, and what it had last reaches the green one.
    InProgress,
    /// The green side is the writer; names move.
    PostProcessing,
    Completed,
}

impl BlueGreen {
    /// As AWS's own drivers read it.
    pub fn of_status(status: &str) -> BlueGreen {
        match status {
            "AVAILABLE" => BlueGreen::Available,
            "SWITCHOVER_INITIATED" => BlueGreen::Initiated,
            "SWITCHOVER_IN_PROGRESS" => BlueGreen::InProgress,
            "SWITCHOVER_IN_POST_PROCESSING" => BlueGreen::PostProcessing,
            "SWITCHOVER_COMPLETED" => BlueGreen::Completed,
            _ => BlueGreen::Unknown,
        }
    }

    /// Another server may answer at this one's name any moment.
    pub fn is_under_way(self) -> bool {
        matches!(self, BlueGreen::Initiated | BlueGreen::InProgress | BlueGreen::PostProcessing)
    }

    /// Whether a server that says this gives its place away, as far as one look tells.
    pub fn gives_away(self) -> bool {
        self == BlueGreen::InProgress
    }

    /// The same of a server that had given it away before, in the same life: at a stale name the blue side may look as if it
    /// took writes, and its row is gone when all is over. One that was called off has its row still, as before.
    pub fn still_gives_away(self) -> bool {
        !matches!(self, BlueGreen::Available | BlueGreen::Initiated)
    }
}

impl Facts {
    /// What was seen of this server before in the same life.
    pub(super) fn keep_given_away(&mut self, before: &Facts) {
        let same =
            self.system_identifier == before.system_identifier && self.started_at_ms == before.started_at_ms;
        if same && before.given_away && self.blue_green.still_gives_away() {
            self.given_away = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(status: BlueGreen, started_at_ms: u64) -> Facts {
        let given_away = status.gives_away();
        Facts { blue_green: status, given_away, started_at_ms, ..Facts::bare(false, 1, 7) }
    }

    #[test]
    fn the_blue_side_stays_given_away_until_the_switchover_is_called_off() {
        let progress = facts(BlueGreen::InProgress, 5);
        assert!(!progress.says_primary());
        let after = |status, life| {
            let mut facts = facts(status, life);
            facts.keep_given_away(&progress);
            facts.says_primary()
        };
        for status in [BlueGreen::PostProcessing, BlueGreen::Completed, BlueGreen::Unknown, BlueGreen::None] {
            assert!(!after(status, 5), "{status:?}");
            assert!(after(status, 6), "the green side: {status:?}");
        }
        for status in [BlueGreen::Available, BlueGreen::Initiated] {
            assert!(after(status, 5), "{status:?}");
        }
    }

    #[test]
    fn statuses_are_those_of_the_drivers() {
        assert_eq!(BlueGreen::of_status("SWITCHOVER_IN_PROGRESS"), BlueGreen::InProgress);
        assert_eq!(BlueGreen::of_status("SWITCHOVER_ROLLED_SIDEWAYS"), BlueGreen::Unknown);
        let under_way: Vec<_> =
            ["AVAILABLE", "SWITCHOVER_INITIATED", "SWITCHOVER_IN_POST_PROCESSING", "SWITCHOVER_COMPLETED"]
                .map(|status| BlueGreen::of_status(status).is_under_way())
                .into();
        assert_eq!(under_way, [false, true, true, false]);
    }
}
