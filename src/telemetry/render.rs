//! The `/metrics` page, in Prometheus' text format 0.0.4.
//!
//! Pure: samples in, text out. Source: <https://prometheus.io/docs/instrumenting/exposition_formats/>.
//! Invariant: each metric has its HELP and TYPE lines once, with or without samples.

use std::fmt::{Display, Write};

use super::samples::{Family, Sample, Value};

pub fn page(families: &[Family]) -> String {
    let mut out = String::with_capacity(16 * 1024);
    for Family { metric, samples } in families {
        let (name, help, kind) = (metric.name, metric.help, metric.kind.as_str());
        put(&mut out, format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        for Sample { labels, value } in samples {
            let names = metric.labels.iter().map(|label| label.label);
            let labels: Vec<_> = names.zip(labels.iter().map(String::as_str)).collect();
            match value {
                Value::Number(number) => line(&mut out, name, "", &labels, number),
                Value::Distribution { buckets, sum, count } => {
                    for (bound, within) in buckets {
                        bucket(&mut out, name, &labels, &bound.to_string(), *within);
                    }
                    if !buckets.is_empty() {
                        bucket(&mut out, name, &labels, "+Inf", *count);
                    }
                    line(&mut out, name, "_sum", &labels, sum);
                    line(&mut out, name, "_count", &labels, count);
                }
            }
        }
    }
    out
}

fn bucket(out: &mut String, name: &str, labels: &[(&str, &str)], bound: &str, within: u64) {
    let labels = [labels, &[("le", bound)]].concat();
    line(out, name, "_bucket", &labels, within);
}

fn line(out: &mut String, name: &str, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
    put(out, format_args!("{name}{suffix}"));
    for (position, (label, text)) in labels.iter().enumerate() {
        out.push(if position == 0 { '{' } else { ',' });
        put(out, format_args!("{label}=\""));
        for character in text.chars() {
            match character {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                other => out.push(other),
            }
        }
        out.push('"');
    }
    if !labels.is_empty() {
        out.push('}');
    }
    put(out, format_args!(" {value}\n"));
}

fn put(out: &mut String, text: std::fmt::Arguments) {
    out.write_fmt(text).expect("a String takes all that is written to it");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::catalogue;
    use crate::telemetry::samples::everything::everything;
    use std::collections::BTreeSet;

    #[test]
    fn numbers_are_where_a_scraper_looks_for_them() {
        let page = page(&everything());
        for line in [
            r#"komainu_queries_total{server="b\\\"\n",class="read"} 1"#,
            r#"komainu_queries_total{server="a",class="read"} 0"#,
            r#"komainu_bytes_total{direction="to_clients"} 5"#,
            r#"komainu_sessions_pinned{reason="listen"} 1"#,
            r#"komainu_pins_total{reason="listen"} 2"#,
            r#"komainu_server_connections{server="a",state="active"} 2"#,
            "komainu_pool_waiters 4",
            "komainu_clients_held 6",
            "komainu_held_bytes 70",
            "komainu_floors_lowered_total 1",
            r#"komainu_archive_age_seconds{server="a"} 2.5"#,
            r#"komainu_hooks_total{hook="on_detach",result="timed_out"} 1"#,
            r#"komainu_hooks_total{hook="on_detach",result="ok"} 0"#,
            r#"komainu_acquire_seconds_bucket{le="0.0001"} 1"#,
            r#"komainu_acquire_seconds_bucket{le="0.001"} 1"#,
            r#"komainu_acquire_seconds_bucket{le="0.005"} 2"#,
            r#"komainu_acquire_seconds_bucket{le="+Inf"} 2"#,
            "komainu_acquire_seconds_sum 0.002",
            "komainu_acquire_seconds_count 2",
            r#"komainu_rejoin_phase{server="b",phase="copying"} 1"#,
            r#"komainu_rejoin_phase{server="b",phase="done"} 0"#,
            r#"komainu_rejoin_bytes_done{server="b"} 10"#,
            r#"komainu_rejoin_bytes_expected{server="b"} 30"#,
            r#"komainu_rejoin_failures{server="b"} 2"#,
            "komainu_response_seconds_sum 0.3",
            "komainu_response_seconds_count 3",
            r#"komainu_password_troubles{reason="secret_missing"} 2"#,
            r#"komainu_instances_trouble{reason="throttled"} 1"#,
            r#"komainu_instances_trouble{reason="refused"} 0"#,
            "komainu_epoch 7",
            r#"komainu_failovers_total{kind="switchover"} 2"#,
            r#"komainu_failover_standstill{reason="failover_paused"} 1"#,
            r#"komainu_failover_standstill{reason="no_candidate"} 0"#,
            "komainu_quorum_lease_remaining_seconds 1.5",
            r#"komainu_endpoint_owner{endpoint="app"} 1"#,
            r#"komainu_endpoint_owner{endpoint="reports"} 0"#,
            r#"komainu_endpoint_move_seconds_sum{method="elastic-ip",phase="total"} 2"#,
            r#"komainu_endpoint_move_seconds_count{method="elastic-ip",phase="total"} 3"#,
            r#"komainu_endpoint_drift_corrected_total{endpoint="app"} 5"#,
            r#"komainu_api_throttled_total{endpoint="app"} 6"#,
            "komainu_certificate_remaining_seconds -86400",
            r#"komainu_metrics_dropped_total{way="put_metric_data"} 4"#,
            r#"komainu_primary{server="a"} 1"#,
            r#"komainu_server_up{server="a"} 1"#,
            r#"komainu_replication_lag_bytes{server="b\\\"\n"} 8192"#,
            r#"komainu_replication_lag_seconds{server="b\\\"\n"} 1.5"#,
            r#"komainu_build_info{version="1.2.3"} 1"#,
            "process_cpu_seconds_total 1.25",
            "process_resident_memory_bytes 99",
            "process_start_time_seconds 10",
        ] {
            assert!(page.lines().any(|candidate| candidate == line), "{line} is not in\n{page}");
        }
        assert!(!page.contains(r#"lag_bytes{server="a"}"#));
    }

    #[test]
    fn each_metric_is_declared_once_and_then_sampled_and_no_other_is() {
        let page = page(&everything());
        let mut declared = BTreeSet::new();
        let mut current = "";
        let mut sampled = BTreeSet::new();
        for line in page.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                current = rest.split(' ').next().unwrap();
                assert!(declared.insert(current), "{current} is declared twice");
            } else if !line.starts_with('#') {
                assert!(line.starts_with(current), "{line} does not belong to {current}");
                sampled.insert(current);
            }
        }
        let known: BTreeSet<&str> = catalogue::ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(declared, known);
        assert_eq!(sampled, known);
    }
}
