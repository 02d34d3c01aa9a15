//! `docs/metrics.md` as far as it is generated, and the test that it is so.
//!
//! `make fix` writes it.

use std::fmt::Write;
use std::path::Path;

use super::{ALL, Kind, Metric, Unit, Values, View};

const BEGIN: &str = "<!-- from here on generated from src/telemetry/catalogue: `make fix` -->\n";
const WRITE: &str = "KOMAINU_WRITE_MANUAL";

#[test]
fn the_manual_is_what_the_catalogue_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (by_hand, found) = text.split_once(BEGIN).expect("it has the line where the generated part begins");
    let generated = generated();
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, format!("{by_hand}{BEGIN}{generated}")).unwrap();
        return;
    }
    assert!(found == generated, "docs/metrics.md is not what the catalogue says: `make fix` writes it anew");
}

fn generated() -> String {
    let mut out =
        "\n## All of them\n\n| Prometheus | kind | labels | CloudWatch | meaning |\n|---|---|---|---|---|\n"
            .to_owned();
    for metric in ALL {
        let Metric { name, kind, labels, help, views } = metric;
        let labels = list(labels.iter().map(|label| label.label));
        let views = list(views.iter().map(|view| view.name));
        writeln!(out, "| `{name}` | {} | {labels} | {views} | {help} |", kind.as_str()).unwrap();
    }
    out += "\n## As CloudWatch shows them\n\nIn the order of their names. Every one has the dimension `Node` besides, and in a cluster `Cluster`.\n\n";
    out += "| CloudWatch | unit | dimensions | what it is |\n|---|---|---|---|\n";
    let mut views: Vec<_> =
        ALL.iter().flat_map(|metric| metric.views.iter().map(move |view| (metric, view))).collect();
    views.sort_by_key(|(_, view)| view.name);
    for (metric, view) in views {
        let by = list(view.by.iter().map(|dimension| dimension.name));
        writeln!(out, "| `{}` | {} | {by} | {} |", view.name, unit(view.unit), made_of(metric, view))
            .unwrap();
    }
    out += "\n## Labels\n";
    for (label, name, metrics, values) in labels() {
        write!(out, "\n### `{label}` of {}\n\n", list(metrics.iter().copied())).unwrap();
        match values {
            Values::Configured(words) => writeln!(out, "In CloudWatch `{name}`: {words}.").unwrap(),
            Values::Known(values) => {
                writeln!(out, "In CloudWatch `{name}`.\n\n| value | meaning |\n|---|---|").unwrap();
                for (value, meaning) in values() {
                    writeln!(out, "| `{value}` | {meaning} |").unwrap();
                }
            }
        }
    }
    out
}

fn list<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

fn unit(unit: Unit) -> &'static str {
    match unit {
        Unit::Days => "None (days)",
        other => other.name(),
    }
}

/// In the words of Prometheus.
fn made_of(metric: &Metric, view: &View) -> String {
    let mut selector = metric.name.to_owned();
    if let Some((label, value)) = view.only {
        write!(selector, "{{{label}=\"{value}\"}}").unwrap();
    }
    let summed = metric.labels.len() > view.by.len() + usize::from(view.only.is_some());
    let of = if summed { "the sum of " } else { "" };
    match metric.kind {
        Kind::Counter | Kind::SharedCounter => format!("what {of}`{selector}` rose by"),
        Kind::Gauge => format!("{of}`{selector}`"),
        Kind::Histogram | Kind::Summary => format!("the mean of what came to `{selector}`"),
    }
}

type Labelled = (&'static str, &'static str, Vec<&'static str>, Values);

/// Each label with the metrics that have it and mean the same by it, in the order of the catalogue.
fn labels() -> Vec<Labelled> {
    let mut found: Vec<Labelled> = Vec::new();
    for metric in ALL {
        for label in metric.labels {
            let same = |(known, _, _, values): &&mut Labelled| {
                *known == label.label && is_same(*values, label.values)
            };
            match found.iter_mut().find(same) {
                Some((_, _, metrics, _)) => metrics.push(metric.name),
                None => found.push((label.label, label.name, vec![metric.name], label.values)),
            }
        }
    }
    found
}

fn is_same(one: Values, other: Values) -> bool {
    match (one, other) {
        (Values::Configured(one), Values::Configured(other)) => one == other,
        (Values::Known(one), Values::Known(other)) => one() == other(),
        _ => false,
    }
}
