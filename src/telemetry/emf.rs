//! Lines in CloudWatch's embedded metric format, from which CloudWatch Logs takes metrics.
//!
//! Pure: numbers in, lines out. Source:
//! <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>
//! Invariant: a line keeps to the specification's limits, however much there is to tell.

use std::collections::BTreeMap;
use std::time::SystemTime;

use komainu_escalation::metrics::Datum;
use serde_json::{Map, Value, json};

/// In one directive.
pub const MAX_METRICS: usize = 100;

/// How metrics are to be kept.
#[derive(Debug, Clone, Copy)]
pub struct Kept<'a> {
    pub namespace: &'a str,
    /// By the second rather than by the minute.
    pub high_resolution: bool,
}

/// One JSON object a line: what has the same dimensions stands together.
pub fn lines(kept: Kept, at: SystemTime, data: &[Datum]) -> String {
    let at_ms = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let mut together = BTreeMap::<_, Vec<&Datum>>::new();
    for datum in data {
        together.entry(&datum.dimensions).or_default().push(datum);
    }
    let mut out = String::new();
    for (dimensions, data) in together {
        for data in data.chunks(MAX_METRICS) {
            let directive = json!({
                "Namespace": kept.namespace,
                "Dimensions": [dimensions.iter().map(|(name, _)| name).collect::<Vec<_>>()],
                "Metrics": data.iter().map(|datum| definition(kept, datum)).collect::<Vec<_>>(),
            });
            let metadata = json!({ "Timestamp": at_ms as u64, "CloudWatchMetrics": [directive] });
            let mut line = Map::from_iter([("_aws".to_owned(), metadata)]);
            line.extend(dimensions.iter().map(|(name, value)| ((*name).to_owned(), json!(value))));
            line.extend(data.iter().map(|datum| (datum.name.to_owned(), json!(datum.value))));
            out += &Value::Object(line).to_string();
            out.push('\n');
        }
    }
    out
}

fn definition(kept: Kept, datum: &Datum) -> Value {
    let mut definition = json!({ "Name": datum.name, "Unit": datum.unit });
    if kept.high_resolution {
        definition["StorageResolution"] = json!(1);
    }
    definition
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::telemetry::Counters;
    use crate::telemetry::cloudwatch::Rounds;
    use crate::telemetry::samples::everything::{count, everything_with};
    use std::time::Duration;

    const UNITS: &[&str] = &[
        "Seconds",
        "Microseconds",
        "Milliseconds",
        "Bytes",
        "Kilobytes",
        "Megabytes",
        "Gigabytes",
        "Terabytes",
        "Bits",
        "Kilobits",
        "Megabits",
        "Gigabits",
        "Terabits",
        "Percent",
        "Count",
        "Bytes/Second",
        "Kilobytes/Second",
        "Megabytes/Second",
        "Gigabytes/Second",
        "Terabytes/Second",
        "Bits/Second",
        "Kilobits/Second",
        "Megabits/Second",
        "Gigabits/Second",
        "Terabits/Second",
        "Count/Second",
        "None",
    ];

    fn keys(value: &Value) -> Vec<&str> {
        value.as_object().expect("an object").keys().map(String::as_str).collect()
    }

    fn text(value: &Value, longest: usize) -> &str {
        let text = value.as_str().expect("a string");
        assert!((1..=longest).contains(&text.len()), "{text}");
        text
    }

    /// Asserts each rule of the specification that a line can break, and what its JSON schema demands. Gives the names and
    /// values of its metrics.
    pub fn by_the_book(line: &str) -> Vec<(String, f64)> {
        assert!(line.len() <= 256 * 1024, "longer than a log event may be: {}", line.len());
        let root: Value = serde_json::from_str(line).expect("one JSON object and nothing around it");
        let metadata = &root["_aws"];
        assert_eq!(keys(metadata), ["CloudWatchMetrics", "Timestamp"]);
        assert!(metadata["Timestamp"].is_u64(), "milliseconds since 1970, as an integer");
        let directives = metadata["CloudWatchMetrics"].as_array().expect("an array");
        assert!(!directives.is_empty());
        let mut found = Vec::new();
        for directive in directives {
            assert_eq!(keys(directive), ["Dimensions", "Metrics", "Namespace"]);
            text(&directive["Namespace"], 1024);
            let sets = directive["Dimensions"].as_array().expect("an array of dimension sets");
            assert!(!sets.is_empty());
            for set in sets {
                let set = set.as_array().expect("a dimension set");
                assert!(set.len() <= 30, "{} dimensions", set.len());
                for name in set {
                    let value = &root[text(name, 250)];
                    let value = value.as_str().expect("the target of a dimension is a string at the root");
                    assert!((1..=1024).contains(&value.chars().count()), "{name} is {value:?}");
                }
            }
            let metrics = directive["Metrics"].as_array().expect("an array of metrics");
            assert!((1..=100).contains(&metrics.len()), "{} metrics", metrics.len());
            for metric in metrics {
                for key in keys(metric) {
                    assert!(["Name", "Unit", "StorageResolution"].contains(&key), "{key}");
                }
                let name = text(&metric["Name"], 1024);
                assert!(metric.get("Unit").is_none_or(|unit| UNITS.contains(&unit.as_str().unwrap())));
                let resolution = metric.get("StorageResolution");
                assert!(resolution.is_none_or(|resolution| [1, 60].contains(&resolution.as_u64().unwrap())));
                let value = root[name].as_f64().expect("the target of a metric is a number at the root");
                assert!(value == 0.0 || (8.515_920e-109..1.174_271e+108).contains(&value.abs()), "{value}");
                assert!(!found.iter().any(|(known, _)| known == name), "{name} twice");
                found.push((name.to_owned(), value));
            }
        }
        found
    }

    const KEPT: Kept = Kept { namespace: "komainu", high_resolution: false };

    fn data() -> Vec<Datum> {
        let counters = Counters::default();
        let around = vec![("Cluster", "shop".to_owned()), ("Node", "n1".to_owned())];
        let mut rounds = Rounds::new(around);
        rounds.next(&everything_with(&counters));
        count(&counters);
        rounds.next(&everything_with(&counters))
    }

    #[test]
    fn lines_are_as_the_specification_wants_them_and_tell_everything() {
        let (at, data) = (SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123), data());
        let lines = lines(KEPT, at, &data);
        let mut told: Vec<_> = lines.lines().flat_map(by_the_book).collect();
        let mut known: Vec<_> = data.iter().map(|datum| (datum.name.to_owned(), datum.value)).collect();
        told.sort_by(|a, b| a.partial_cmp(b).unwrap());
        known.sort_by(|a, b| a.partial_cmp(b).unwrap());
        assert_eq!(told.len(), known.len());
        for ((name, value), (known, exactly)) in told.iter().zip(&known) {
            // As the test's reader of JSON reads them.
            assert!(
                name == known && (value - exactly).abs() <= exactly.abs() * 1e-12,
                "{name} {value} {exactly}"
            );
        }
        let one: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        assert_eq!(one["_aws"]["Timestamp"], 1_700_000_000_123_u64);
        assert_eq!((&one["Cluster"], &one["Node"]), (&json!("shop"), &json!("n1")));
        assert!(!lines.contains("StorageResolution"));
    }

    #[test]
    fn more_than_a_directive_takes_is_more_lines() {
        let names: Vec<&'static str> = (0..250).map(|n| &*format!("M{n}").leak()).collect();
        let datum = |name: &&'static str| Datum { name, unit: "Count", dimensions: Vec::new(), value: 1.0 };
        let data: Vec<_> = names.iter().map(datum).collect();
        let lines = lines(Kept { high_resolution: true, ..KEPT }, SystemTime::now(), &data);
        assert_eq!(lines.lines().map(|line| by_the_book(line).len()).collect::<Vec<_>>(), [100, 100, 50]);
        assert_eq!(lines.matches("\"StorageResolution\":1").count(), 250);
    }
}
