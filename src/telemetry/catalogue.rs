//! Every metric komainu emits, once: its names, kind, unit, dimensions and meaning.
//!
//! Pure data. A metric has its Prometheus name, in base units; CloudWatch is shown it under the names that operators know
//! from RDS Proxy and the like, each of which is a `View` of one metric. Invariant: a name stands here, in
//! `docs/metrics.md`, which is generated from this, and on the ways out, or nowhere.

#[cfg(test)]
mod grafana;
#[cfg(test)]
mod manual;
mod table;

pub use table::*;

use super::labels::Label;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only rises, from when this process began or something was added.
    Counter,
    /// A counter of the cluster's: every node tells the same.
    SharedCounter,
    Gauge,
    Histogram,
    /// A sum and a count.
    Summary,
}

impl Kind {
    /// As Prometheus calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Counter | Kind::SharedCounter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
            Kind::Summary => "summary",
        }
    }
}

/// One metric, as Prometheus is shown it.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub labels: &'static [Dimension],
    pub help: &'static str,
    /// How CloudWatch is shown it.
    pub views: &'static [View],
}

/// A metric of CloudWatch's: what of a metric is left, and by what. The rest is added up. Counters become what was added
/// since the last time, histograms and summaries the mean of that.
#[derive(Debug, Clone, Copy)]
pub struct View {
    pub name: &'static str,
    pub unit: Unit,
    /// A label, and the one value of it that counts.
    pub only: Option<(&'static str, &'static str)>,
    /// Labels of the metric that become dimensions.
    pub by: &'static [Dimension],
}

/// Every view has these besides: which cluster (a node on its own has none), and which node.
pub const CLUSTER: &str = "Cluster";
pub const NODE: &str = "Node";

/// A label, or dimension. Its values are bounded, so that no client can add to what is kept of it.
#[derive(Debug, Clone, Copy)]
pub struct Dimension {
    /// As Prometheus calls it.
    pub label: &'static str,
    /// As CloudWatch does.
    pub name: &'static str,
    pub values: Values,
}

#[derive(Debug, Clone, Copy)]
pub enum Values {
    /// As many as the configuration names; in words.
    Configured(&'static str),
    /// Known when komainu is built: value and meaning.
    Known(fn() -> Vec<(&'static str, &'static str)>),
}

impl Dimension {
    pub fn is_known(&self) -> bool {
        matches!(self.values, Values::Known(_))
    }
}

fn values<L: Label>() -> Vec<(&'static str, &'static str)> {
    L::ALL.iter().map(|label| (label.as_str(), label.meaning())).collect()
}

/// Of a view. Metrics are in seconds, bytes and numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    None,
    Count,
    Bytes,
    Seconds,
    Milliseconds,
    Microseconds,
    /// CloudWatch has none for it.
    Days,
}

impl Unit {
    /// As CloudWatch calls it.
    pub fn name(self) -> &'static str {
        match self {
            Unit::None | Unit::Days => "None",
            Unit::Count => "Count",
            Unit::Bytes => "Bytes",
            Unit::Seconds => "Seconds",
            Unit::Milliseconds => "Milliseconds",
            Unit::Microseconds => "Microseconds",
        }
    }

    /// From the metric's own unit.
    pub fn scale(self, value: f64) -> f64 {
        match self {
            Unit::None | Unit::Count | Unit::Bytes | Unit::Seconds => value,
            Unit::Milliseconds => value * 1e3,
            Unit::Microseconds => value * 1e6,
            Unit::Days => value / 86_400.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn views() -> impl Iterator<Item = (&'static Metric, &'static View)> {
        ALL.iter().flat_map(|metric| metric.views.iter().map(move |view| (metric, view)))
    }

    #[test]
    fn names_are_unique_and_conventional() {
        let names: BTreeSet<_> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            assert_eq!(metric.name.ends_with("_total"), metric.kind.as_str() == "counter", "{}", metric.name);
            let known = metric.labels.iter().all(|label| label.label.bytes().all(|b| b.is_ascii_lowercase()));
            assert!(known, "{}", metric.name);
        }
        let (known, count): (BTreeSet<_>, _) =
            (views().map(|(_, view)| view.name).collect(), views().count());
        assert_eq!(known.len(), count, "two views share a name");
        for name in known {
            assert!(name.starts_with(|c: char| c.is_ascii_uppercase()), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_alphanumeric()), "{name}");
        }
    }

    #[test]
    fn a_unit_is_that_of_the_name() {
        for (metric, view) in views() {
            let in_time =
                matches!(view.unit, Unit::Seconds | Unit::Milliseconds | Unit::Microseconds | Unit::Days);
            let name = metric.name.strip_suffix("_total").unwrap_or(metric.name);
            assert_eq!(name.ends_with("_seconds"), in_time, "{}", metric.name);
            assert_eq!(name.contains("bytes"), view.unit == Unit::Bytes, "{}", metric.name);
        }
        assert_eq!((Unit::Milliseconds.scale(1.5), Unit::Days.scale(43_200.0)), (1500.0, 0.5));
    }

    #[test]
    fn a_view_is_of_labels_that_its_metric_has() {
        for (metric, view) in views() {
            let has = |name: &str| metric.labels.iter().any(|label| label.label == name);
            assert!(view.by.iter().all(|label| has(label.label)), "{}", view.name);
            let Some((label, value)) = view.only else { continue };
            let label = metric.labels.iter().find(|known| known.label == label).expect(view.name);
            let Values::Known(values) = label.values else {
                panic!("{}: {value} may be anything", view.name)
            };
            assert!(values().iter().any(|(known, _)| *known == value), "{}: {value} is never", view.name);
        }
    }

    #[test]
    fn dimensions_have_one_name_each_that_is_no_metric() {
        let of = |metric: &'static Metric| metric.labels.iter().map(|label| (label.label, label.name));
        let pairs: BTreeSet<_> = ALL.iter().flat_map(of).collect();
        let (labels, names): (BTreeSet<_>, BTreeSet<_>) = pairs.iter().copied().unzip();
        assert_eq!((labels.len(), names.len()), (pairs.len(), pairs.len()));
        assert!(!names.contains(CLUSTER) && !names.contains(NODE));
        for (_, view) in views() {
            assert!(!names.contains(view.name) && ![CLUSTER, NODE].contains(&view.name), "{}", view.name);
        }
    }
}
