//! The Grafana dashboard asks for metrics and labels that there are, in queries that can be.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{ALL, Kind, Metric};

const DASHBOARD: &str = include_str!("../../../docs/grafana/komainu.json");
/// The alarms of CloudWatch.
const ALARMS: &str = include_str!("../../../terraform/modules/observability/alarms.tf");
/// What Prometheus adds by itself.
const BY_PROMETHEUS: &[&str] = &["job", "instance"];

/// Every text of that key, wherever it is.
fn texts<'a>(value: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if let Some(text) = value.as_str().filter(|_| name == key) {
                    found.push(text);
                }
                texts(value, key, found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| texts(value, key, found)),
        _ => {}
    }
}

/// The names of series in a query, with what is in the braces behind each.
fn selectors(query: &str) -> Vec<(&str, &str)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(at) = rest.find("komainu_").into_iter().chain(rest.find("process_")).min() {
        rest = &rest[at..];
        let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
        let (name, behind) = rest.split_at(end);
        let braces = behind.strip_prefix('{').and_then(|inside| inside.split_once('}'));
        found.push((name, braces.map_or("", |(inside, _)| inside)));
        rest = behind;
    }
    found
}

fn metric(series: &str) -> &'static Metric {
    let parts: &[(&str, &[Kind])] = &[
        ("_bucket", &[Kind::Histogram]),
        ("_sum", &[Kind::Histogram, Kind::Summary]),
        ("_count", &[Kind::Histogram, Kind::Summary]),
    ];
    let is = |metric: &&Metric| match metric.kind {
        Kind::Histogram | Kind::Summary => parts.iter().any(|(suffix, kinds)| {
            kinds.contains(&metric.kind) && series.strip_suffix(suffix) == Some(metric.name)
        }),
        _ => series == metric.name,
    };
    ALL.iter().find(is).unwrap_or_else(|| panic!("{series} is nothing that komainu emits"))
}

#[test]
fn every_query_is_of_metrics_and_labels_that_there_are() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let mut queries = Vec::new();
    texts(&dashboard, "expr", &mut queries);
    assert!(queries.len() > 20, "{}", queries.len());
    for query in queries {
        let selectors = selectors(query);
        assert!(!selectors.is_empty(), "{query}");
        let mut labels: BTreeSet<&str> = BY_PROMETHEUS.iter().copied().collect();
        for (series, inside) in selectors {
            let metric = metric(series);
            labels.extend(metric.labels.iter().map(|label| label.label));
            if metric.kind == Kind::Histogram {
                labels.insert("le");
            }
            for matcher in inside.split(',').filter(|matcher| !matcher.is_empty()) {
                let label = matcher.split(['=', '!']).next().unwrap_or_default().trim();
                let has = metric.labels.iter().any(|known| known.label == label);
                assert!(has || BY_PROMETHEUS.contains(&label), "{series} has no label {label}");
            }
            // A counter that is not asked for its rise shows nothing but how long the process has run.
            if metric.kind == Kind::Counter {
                assert!(query.contains("rate(") || query.contains("increase("), "{query}");
            }
        }
        for by in query.split(" by (").skip(1) {
            let names = by.split(')').next().unwrap_or_default().split(',').map(str::trim);
            for name in names {
                assert!(labels.contains(name), "{query}: no label {name}");
            }
        }
    }
    let mut legends = Vec::new();
    texts(&dashboard, "legendFormat", &mut legends);
    let known: BTreeSet<_> = ALL.iter().flat_map(|metric| metric.labels).map(|label| label.label).collect();
    for name in legends.iter().flat_map(|legend| legend.split("{{").skip(1)) {
        let name = name.split("}}").next().unwrap_or_default();
        assert!(known.contains(name) || BY_PROMETHEUS.contains(&name), "{name}");
    }
}

#[test]
fn what_an_alarm_of_cloudwatch_is_about_can_be_seen() {
    let mut looked_at = BTreeSet::new();
    for behind in ALARMS.split("{ name = \"").skip(1) {
        let name = behind.split('"').next().unwrap_or_default();
        let shown = |metric: &&Metric| metric.views.iter().any(|view| view.name == name);
        let metric = ALL.iter().find(shown).unwrap_or_else(|| panic!("komainu sends no {name}"));
        looked_at.insert(metric.name);
    }
    assert!(looked_at.len() >= 12, "{looked_at:?}");
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let mut queries = Vec::new();
    texts(&dashboard, "expr", &mut queries);
    let asked: BTreeSet<_> =
        queries.iter().flat_map(|query| selectors(query)).map(|(name, _)| name).collect();
    assert_eq!(looked_at.difference(&asked).collect::<Vec<_>>(), [] as [&&str; 0]);
}
