//! Samples as CloudWatch is shown them: what happened since the last time, by the views of the catalogue.
//!
//! Pure. Invariant: what happened before the first round is nobody's; after that nothing is shown twice or left out.

use std::collections::{BTreeMap, HashSet};

use komainu_escalation::metrics::Datum;

use super::catalogue::{Dimension, Kind, Metric, View};
use super::samples::{Family, Sample, Value};

/// One series: a view, and the values of its dimensions.
type Series = (&'static str, Vec<String>);

/// A sum, and of how many.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Total {
    sum: f64,
    count: f64,
}

/// What was shown last.
#[derive(Debug)]
pub struct Rounds {
    /// Dimensions that all of it has.
    around: Vec<(&'static str, String)>,
    before: BTreeMap<Series, Total>,
    is_first: bool,
    /// Of a view by values known beforehand: the series that have ever been other than 0. The others are not worth their
    /// price.
    lively: HashSet<Series>,
}

impl Rounds {
    pub fn new(around: Vec<(&'static str, String)>) -> Rounds {
        Rounds { around, before: BTreeMap::new(), is_first: true, lively: HashSet::new() }
    }

    pub fn next(&mut self, families: &[Family]) -> Vec<Datum> {
        let mut data = Vec::new();
        let mut totals = BTreeMap::new();
        for family in families {
            for view in family.metric.views {
                self.show(family, view, &mut totals, &mut data);
            }
        }
        self.before = totals;
        self.is_first = false;
        data
    }

    fn show(
        &mut self,
        Family { metric, samples }: &Family,
        view: &View,
        totals: &mut BTreeMap<Series, Total>,
        data: &mut Vec<Datum>,
    ) {
        let mut seen = BTreeMap::<Vec<String>, Total>::new();
        for sample in samples.iter().filter(|sample| counts(metric, view, sample)) {
            let values = view.by.iter().map(|by| value_of(metric, by, sample)).collect();
            let total = seen.entry(values).or_default();
            match &sample.value {
                Value::Number(number) => total.sum += number,
                Value::Distribution { sum, count, .. } => {
                    total.sum += sum;
                    total.count += *count as f64;
                }
            }
        }
        for (values, total) in seen {
            let series = (view.name, values);
            let shown = self.shown(metric.kind, &series, total);
            if metric.kind != Kind::Gauge {
                totals.insert(series.clone(), total);
            }
            let Some(value) = shown.map(|value| view.unit.scale(value)) else { continue };
            if view.by.iter().any(Dimension::is_known) {
                if value != 0.0 {
                    self.lively.insert(series.clone());
                } else if !self.lively.contains(&series) {
                    continue;
                }
            }
            let own = view.by.iter().map(|by| by.name).zip(series.1);
            let dimensions = self.around.iter().cloned().chain(own).collect();
            data.push(Datum { name: view.name, unit: view.unit.name(), dimensions, value });
        }
    }

    fn shown(&self, kind: Kind, series: &Series, now: Total) -> Option<f64> {
        let before = match (self.before.get(series), kind) {
            (_, Kind::Gauge) => return Some(now.sum),
            (Some(before), _) => *before,
            (None, Kind::SharedCounter) => return None,
            (None, _) if self.is_first => return None,
            (None, _) => Total::default(),
        };
        // One that is smaller was begun anew.
        let begun_anew = now.sum < before.sum || now.count < before.count;
        let before = if begun_anew { Total::default() } else { before };
        let (sum, count) = (now.sum - before.sum, now.count - before.count);
        match kind {
            Kind::Histogram | Kind::Summary => (count > 0.0).then(|| sum / count),
            _ => Some(sum),
        }
    }
}

fn counts(metric: &Metric, view: &View, sample: &Sample) -> bool {
    let Some((label, value)) = view.only else { return true };
    metric.labels.iter().zip(&sample.labels).any(|(known, is)| known.label == label && is == value)
}

fn value_of(metric: &Metric, by: &Dimension, sample: &Sample) -> String {
    let mut labels = metric.labels.iter().zip(&sample.labels);
    let found = labels.find(|(known, _)| known.label == by.label);
    found.map(|(_, value)| value.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Counters;
    use crate::telemetry::catalogue;
    use crate::telemetry::samples::everything::{count, everything_with};
    use std::collections::BTreeSet;

    fn values<'a>(data: &'a [Datum], name: &str) -> Vec<(Vec<&'a str>, f64)> {
        // A difference of sums is not exact.
        let rounded = |value: f64| (value * 1e6).round() / 1e6;
        let of = |datum: &'a Datum| {
            (datum.dimensions.iter().map(|(_, value)| value.as_str()).collect(), rounded(datum.value))
        };
        data.iter().filter(|datum| datum.name == name).map(of).collect()
    }

    #[test]
    fn a_round_tells_what_came_since_the_last_one() {
        let counters = Counters::default();
        count(&counters);
        let mut rounds = Rounds::new(vec![("Node", "n1".to_owned())]);
        let first = rounds.next(&everything_with(&counters));
        assert_eq!(values(&first, "QueryRequests"), [], "what was before is not of this minute");
        assert_eq!(values(&first, "ClientConnections"), [(vec!["n1"], 1.0)]);
        assert_eq!(values(&first, "ReplicationLag"), [(vec!["n1", "b\\\"\n"], 1.5)]);
        assert_eq!(values(&first, "QuorumLeaseRemaining"), [(vec!["n1"], 1500.0)]);
        assert_eq!(values(&first, "CertificateDaysLeft"), [(vec!["n1"], -1.0)]);
        count(&counters);
        count(&counters);
        let second = rounds.next(&everything_with(&counters));
        assert_eq!(values(&second, "QueryRequests"), [(vec!["n1"], 6.0)]);
        assert_eq!(values(&second, "ReadsByServer"), [(vec!["n1", "a"], 0.0), (vec!["n1", "b\\\"\n"], 2.0)]);
        assert_eq!(values(&second, "DatabaseConnections"), [(vec!["n1"], 12.0)]);
        assert_eq!(values(&second, "DatabaseConnectionsCurrentlyBorrowed"), [(vec!["n1"], 4.0)]);
        assert_eq!(values(&second, "DatabaseConnectionsBorrowLatency"), [(vec!["n1"], 1000.0)]);
        assert_eq!(values(&second, "QueryDatabaseResponseLatency"), [(vec!["n1"], 100_000.0)]);
        let third = rounds.next(&everything_with(&counters));
        assert_eq!(values(&third, "QueryRequests"), [(vec!["n1"], 0.0)]);
        assert_eq!(values(&third, "QueryDatabaseResponseLatency"), [], "no mean of nothing");
    }

    #[test]
    fn what_has_never_happened_by_a_reason_is_not_shown_until_it_has() {
        let counters = Counters::default();
        let mut rounds = Rounds::new(Vec::new());
        rounds.next(&everything_with(&counters));
        let before = rounds.next(&everything_with(&counters));
        assert_eq!(values(&before, "ClientConnectionsSetupFailed"), []);
        count(&counters);
        let then = rounds.next(&everything_with(&counters));
        assert_eq!(values(&then, "ClientConnectionsSetupFailed"), [(vec!["hba"], 1.0)]);
        let after = rounds.next(&everything_with(&counters));
        assert_eq!(values(&after, "ClientConnectionsSetupFailed"), [(vec!["hba"], 0.0)]);
    }

    #[test]
    fn what_an_alarm_looks_at_is_one_number_whatever_the_reason() {
        let mut rounds = Rounds::new(vec![("Node", "n1".to_owned())]);
        let shown = rounds.next(&everything_with(&Counters::default()));
        for name in ["FailoverStandstill", "InstancesTrouble"] {
            assert_eq!(values(&shown, name), [(vec!["n1"], 1.0)], "{name}");
        }
        assert_eq!(values(&shown, "PasswordTroubles"), [(vec!["n1"], 3.0)]);
        assert_eq!(values(&shown, "InstancesTroubleByReason"), [(vec!["n1", "throttled"], 1.0)]);
    }

    #[test]
    fn what_comes_later_counts_from_0_unless_all_nodes_share_it() {
        let counters = Counters::default();
        let mut families = everything_with(&counters);
        let mut rounds = Rounds::new(Vec::new());
        let late = ["komainu_endpoint_move_seconds", "komainu_failovers_total"];
        for family in families.iter_mut().filter(|family| late.contains(&family.metric.name)) {
            family.samples.clear();
        }
        rounds.next(&families);
        let then = rounds.next(&everything_with(&counters));
        assert_eq!(
            values(&then, "EndpointMoveTime"),
            [(vec!["elastic-ip", "associate"], 100.0), (vec!["elastic-ip", "total"], 666.666667)]
        );
        assert_eq!(values(&then, "FailoverCount"), [], "the node has only now heard of them");
    }

    #[test]
    fn a_counter_that_was_begun_anew_counts_from_0() {
        let counters = Counters::default();
        (0..3).for_each(|_| count(&counters));
        let mut rounds = Rounds::new(Vec::new());
        rounds.next(&everything_with(&counters));
        let anew = Counters::default();
        count(&anew);
        let data = rounds.next(&everything_with(&anew));
        assert_eq!(values(&data, "QueryRequests"), [(vec![], 3.0)]);
    }

    #[test]
    fn all_that_the_catalogue_has_is_shown_and_nothing_else() {
        let counters = Counters::default();
        let mut rounds = Rounds::new(Vec::new());
        rounds.next(&everything_with(&Counters::default()));
        count(&counters);
        let mut shown: BTreeSet<_> =
            rounds.next(&everything_with(&counters)).iter().map(|datum| datum.name).collect();
        // The moment has the same ones each time.
        for same in ["FailoverCount", "EndpointMoveTime"] {
            assert!(shown.insert(same), "{same}");
        }
        let known: BTreeSet<_> =
            catalogue::ALL.iter().flat_map(|metric| metric.views.iter().map(|view| view.name)).collect();
        assert_eq!(shown, known);
    }
}
