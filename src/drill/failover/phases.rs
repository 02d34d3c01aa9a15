//! Where the time of a failover went, from the incident timeline.
//!
//! Pure. Times are wall clock, in milliseconds since 1970. Invariant: no phase is negative, and together they
//! are the outage.

use crate::drill::phases::{Incident, Phase};

/// When the primary was taken from one server and given to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Steps {
    pub begun_ms: Option<u64>,
    pub fenced_ms: Option<u64>,
    pub passed_ms: Option<u64>,
    pub named_ms: Option<u64>,
    /// When the named one had replayed all it had received, if anybody watched.
    pub replayed_ms: Option<u64>,
    pub confirmed_ms: Option<u64>,
}

impl Steps {
    /// The first of each in these incidents, which are in order. The texts are `cluster::state`'s.
    pub fn find(from: &str, incidents: &[Incident]) -> Self {
        let mut found = Self::default();
        for incident in incidents {
            let (text, at) = (incident.text.as_str(), Some(incident.at_ms));
            let is = |begin: &str, has: &str| text.starts_with(begin) && text.contains(has);
            if incident.subject == from && (is("failover", " begins") || is("switchover", " begins")) {
                found.begun_ms = found.begun_ms.or(at);
            } else if incident.subject == "primary" && is("epoch ", " is fenced") {
                found.fenced_ms = found.fenced_ms.or(at);
            } else if incident.subject == "primary" && is("nobody acts on epoch ", "") {
                found.passed_ms = found.passed_ms.or(at);
            } else if text.contains(" is named primary of epoch ") {
                found.named_ms = found.named_ms.or(at);
            } else if text.contains(" is primary of epoch ") {
                found.confirmed_ms = found.confirmed_ms.or(at);
            }
        }
        found
    }

    /// What it was made of where a service made the writer: until the first connection to that, and the rest.
    pub fn of_service(killed_ms: f64, accepted_ms: f64, recovered_ms: f64) -> Vec<Phase> {
        let accepted_ms = accepted_ms.clamp(killed_ms, recovered_ms.max(killed_ms));
        let phase = |name: &str, ms| Phase { name: name.to_owned(), ms };
        let komainu = (recovered_ms - accepted_ms).max(0.0);
        vec![phase("server", accepted_ms - killed_ms), phase("komainu", komainu)]
    }

    /// What the outage was made of, in order. A moment nobody noted lends its time to the phase behind it.
    pub fn phases(self, began_ms: f64, recovered_ms: f64) -> Vec<Phase> {
        // A failover is fenced as it begins; a switchover lets transactions run out before.
        let hold = self.fenced_ms.filter(|fenced| Some(*fenced) != self.begun_ms);
        let steps = [
            ("detection", self.begun_ms.or(self.fenced_ms)),
            ("hold", hold.filter(|_| self.begun_ms.is_some())),
            ("fence", self.passed_ms),
            ("choice", self.named_ms),
            ("replay", self.replayed_ms.filter(|_| self.named_ms.is_some())),
            ("promotion", self.confirmed_ms),
        ];
        let mut at = began_ms;
        let mut all = Vec::new();
        let phase = |name: &str, ms| Phase { name: name.to_owned(), ms };
        for (name, moment) in steps {
            if let Some(moment) = moment {
                // Clocks may differ by a little.
                let moment = (moment as f64).clamp(at, recovered_ms.max(at));
                all.push(phase(name, moment - at));
                at = moment;
            }
        }
        all.push(phase("publish", (recovered_ms - at).max(0.0)));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incident(at_ms: u64, subject: &str, text: &str) -> Incident {
        Incident { id: at_ms, at_ms, subject: subject.into(), text: text.into() }
    }

    fn of(phases: &[Phase]) -> Vec<(&str, f64)> {
        phases.iter().map(|phase| (phase.name.as_str(), phase.ms)).collect()
    }

    #[test]
    fn a_failover_s_phases_are_the_outage() {
        let steps = Steps::find(
            "pg1",
            &[
                incident(1_300, "pg1", "failover begins: pg1 is lost, epoch 4 ends"),
                incident(1_400, "primary", "nobody acts on epoch 4 any more"),
                incident(1_420, "pg2", "pg2 is named primary of epoch 5"),
                incident(1_700, "pg2", "pg2 is primary of epoch 5, timeline 2"),
                incident(1_800, "app", "epoch 9 is fenced"),
            ],
        );
        let found = steps.phases(1_000.0, 1_750.0);
        let expected = [
            ("detection", 300.0),
            ("fence", 100.0),
            ("choice", 20.0),
            ("promotion", 280.0),
            ("publish", 50.0),
        ];
        assert_eq!(of(&found), expected);
    }

    #[test]
    fn what_was_still_to_be_replayed_is_a_phase_when_it_was_watched() {
        let named = Steps {
            begun_ms: Some(1_300),
            passed_ms: Some(1_400),
            named_ms: Some(1_420),
            confirmed_ms: Some(2_000),
            ..Steps::default()
        };
        for (replayed_ms, replay) in [(1_900, 480.0), (1_410, 0.0), (2_500, 630.0)] {
            let steps = Steps { replayed_ms: Some(replayed_ms), ..named };
            let found = steps.phases(1_000.0, 2_050.0);
            let of = |name| found.iter().find(|phase| phase.name == name).map(|phase| phase.ms);
            assert_eq!(of("replay"), Some(replay), "{found:?}");
            let sum: f64 = found.iter().map(|phase| phase.ms).sum();
            assert_eq!(sum, 1_050.0);
        }
    }

    #[test]
    fn a_switchover_holds_first() {
        let steps = Steps::find(
            "pg1",
            &[
                incident(1_010, "pg1", "switchover from pg1 to pg2 begins: nothing new is sent to pg1"),
                incident(1_050, "primary", "epoch 4 is fenced"),
                incident(1_060, "primary", "nobody acts on epoch 4 any more"),
                incident(1_160, "pg2", "pg2 is named primary of epoch 5"),
            ],
        );
        let found = steps.phases(1_000.0, 1_200.0);
        let expected =
            [("detection", 10.0), ("hold", 40.0), ("fence", 10.0), ("choice", 100.0), ("publish", 40.0)];
        assert_eq!(of(&found), expected);
    }

    #[test]
    fn a_service_s_part_is_told_from_komainu_s() {
        let found = |accepted_ms| Steps::of_service(1_000.0, accepted_ms, 1_800.0);
        assert_eq!(of(&found(1_500.0)), [("server", 500.0), ("komainu", 300.0)]);
        assert_eq!(
            of(&found(1_900.0)),
            [("server", 800.0), ("komainu", 0.0)],
            "it is asked now and then only"
        );
    }

    #[test]
    fn what_nobody_noted_is_the_last_phase_s() {
        assert_eq!(of(&Steps::default().phases(0.0, 70.0)), [("publish", 70.0)]);
    }
}
