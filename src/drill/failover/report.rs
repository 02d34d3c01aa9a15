//! What a drill of failovers found, as a table for people and as JSON for programs.
//!
//! Pure. The JSON's shape is a contract: keys are only ever added.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::beside::Found;
use super::throughput::{Second, plot};
use crate::drill::grid::{draw, median, worst};
use crate::drill::phases::Phase;
use crate::drill::report::{by_name, tenths};

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct FailoverReport {
    pub runs: Vec<FailoverRun>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FailoverRun {
    pub event: &'static str,
    /// The server that was broken, or was the primary.
    pub from: String,
    /// The primary afterwards, if another.
    pub to: Option<String>,
    /// From the last row acknowledged before to the first one after.
    #[serde(serialize_with = "tenths")]
    pub outage_ms: f64,
    #[serde(rename = "phases_ms", serialize_with = "by_name")]
    pub phases: Vec<Phase>,
    /// The longest that any reader went without an answer.
    #[serde(serialize_with = "tenths")]
    pub read_outage_ms: f64,
    /// What a standby had received and not replayed when it broke, if that was wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backlog_bytes: Option<u64>,
    /// From when it was mended until every server was attached and streamed.
    #[serde(serialize_with = "tenths")]
    pub rejoin_ms: f64,
    /// Rows.
    pub acknowledged: usize,
    /// Of those, how many are not there.
    pub lost: usize,
    /// Rows that are there more than once.
    pub twice: usize,
    /// Seen by clients that sat between two transactions.
    pub errors: usize,
    pub error_texts: Vec<String>,
    /// Seen by the clients of `--load`, which may have been in the middle of something.
    pub load_errors: BTreeMap<String, u32>,
    pub throughput: Vec<Second>,
    /// What the same clients saw through it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pgbouncer: Option<Found>,
    #[serde(skip)]
    pub loaded: bool,
}

impl FailoverReport {
    pub fn lost(&self) -> usize {
        self.runs.iter().map(|run| run.lost).sum()
    }

    pub fn twice(&self) -> usize {
        self.runs.iter().map(|run| run.twice).sum()
    }

    fn compares(&self) -> bool {
        self.runs.iter().any(|run| run.pgbouncer.is_some())
    }

    /// Of all runs, in the order in which they first occur; what is last in each comes last.
    fn phase_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for phase in self.runs.iter().flat_map(|run| &run.phases) {
            if !names.contains(&phase.name.as_str()) {
                names.push(&phase.name);
            }
        }
        names.sort_by_key(|name| *name == "publish");
        names
    }

    /// A row of times, put together from all runs.
    fn all(&self, names: &[&str], together: fn(Vec<f64>) -> f64) -> Vec<String> {
        let of = |value: &dyn Fn(&FailoverRun) -> Option<f64>| {
            format!("{:.0}", together(self.runs.iter().filter_map(value).collect()))
        };
        let mut row = vec![of(&|run| Some(run.outage_ms))];
        row.extend(names.iter().map(|name| of(&|run| run.phase(name))));
        row.extend([of(&|run| Some(run.read_outage_ms)), of(&|run| Some(run.rejoin_ms))]);
        row.extend(["", "", ""].map(str::to_owned));
        if self.compares() {
            row.push(of(&|run| run.pgbouncer.as_ref().map(|found| found.outage_ms)));
            row.push(String::new());
        }
        row
    }
}

impl FailoverRun {
    fn phase(&self, name: &str) -> Option<f64> {
        self.phases.iter().find(|phase| phase.name == name).map(|phase| phase.ms)
    }

    fn row(&self, number: usize, names: &[&str]) -> Vec<String> {
        let whole = |ms: f64| format!("{ms:.0}");
        let to = self.to.as_deref().unwrap_or("-");
        let mut row = vec![number.to_string(), self.from.clone(), to.to_owned(), whole(self.outage_ms)];
        row.extend(names.iter().map(|name| self.phase(name).map_or("-".to_owned(), whole)));
        row.extend([whole(self.read_outage_ms), whole(self.rejoin_ms)]);
        row.extend([self.errors, self.acknowledged, self.lost].map(|count| count.to_string()));
        if let Some(found) = &self.pgbouncer {
            let not_over = if found.recovered { "" } else { ">" };
            row.extend([format!("{not_over}{}", whole(found.outage_ms)), found.errors.to_string()]);
        }
        row
    }
}

impl fmt::Display for FailoverReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(first) = self.runs.first() else { return Ok(()) };
        let names = self.phase_names();
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let mut rows = vec![owned(&["run", "from", "to", "outage"])];
        rows[0].extend(owned(&names));
        rows[0].extend(owned(&["reads", "rejoin", "errors", "rows", "lost"]));
        if self.compares() {
            rows[0].extend(owned(&["pgbouncer outage", "pgbouncer errors"]));
        }
        rows.extend(self.runs.iter().zip(1..).map(|(run, number)| run.row(number, &names)));
        for (name, together) in [("median", median as fn(Vec<f64>) -> f64), ("worst", worst)] {
            let mut row = owned(&[name, "", ""]);
            row.extend(self.all(&names, together));
            rows.push(row);
        }
        writeln!(f, "event {}; times in milliseconds\n", first.event)?;
        draw(f, &rows, 3)?;
        for (run, number) in self.runs.iter().zip(1..) {
            if let Some(bytes) = run.backlog_bytes {
                let mb = bytes as f64 / f64::from(1 << 20);
                writeln!(f, "\nrun {number}: {mb:.1} MB were received and not replayed when it broke")?;
            }
            if run.loaded {
                writeln!(f, "\nrun {number}, each second from the break on")?;
                plot(f, &run.throughput)?;
            }
            for text in &run.error_texts {
                writeln!(f, "run {number}: between transactions: {text}")?;
            }
            for text in run.pgbouncer.iter().flat_map(|found| &found.error_texts) {
                writeln!(f, "run {number}: PgBouncer, between transactions: {text}")?;
            }
            for (text, times) in &run.load_errors {
                writeln!(f, "run {number}: under load, {times} times: {text}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(outage_ms: f64, loaded: bool) -> FailoverRun {
        let phase = |name: &str, ms| Phase { name: name.to_owned(), ms };
        FailoverRun {
            event: "kill",
            from: "pg1".into(),
            to: Some("pg2".into()),
            outage_ms,
            phases: vec![phase("detection", 300.0), phase("promotion", 200.0), phase("publish", 10.0)],
            read_outage_ms: 20.0,
            backlog_bytes: None,
            rejoin_ms: 2_000.04,
            acknowledged: 120,
            lost: 0,
            twice: 0,
            errors: 0,
            error_texts: Vec::new(),
            load_errors: BTreeMap::new(),
            throughput: vec![Second { second: -1, reads: 3, writes: 2 }],
            pgbouncer: None,
            loaded,
        }
    }

    #[test]
    fn the_json_has_the_agreed_shape() {
        let report = FailoverReport { runs: vec![run(512.34, true)] };
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"{"runs":[{"event":"kill","from":"pg1","to":"pg2","outage_ms":512.3,"phases_ms":{"detection":300.0,"promotion":200.0,"publish":10.0},"read_outage_ms":20.0,"rejoin_ms":2000.0,"acknowledged":120,"lost":0,"twice":0,"errors":0,"error_texts":[],"load_errors":{},"throughput":[{"second":-1,"reads":3,"writes":2}]}]}"#
        );
    }

    #[test]
    fn the_table_has_a_line_for_each_run_and_the_load_s_seconds() {
        let report = FailoverReport { runs: vec![run(512.0, false), run(600.0, false)] };
        assert_eq!(
            report.to_string(),
            "event kill; times in milliseconds\n\n\
             run     from  to   outage  detection  promotion  publish  reads  rejoin  errors  rows  lost\n\
             1       pg1   pg2     512        300        200       10     20    2000       0   120     0\n\
             2       pg1   pg2     600        300        200       10     20    2000       0   120     0\n\
             median                556        300        200       10     20    2000\n\
             worst                 600        300        200       10     20    2000\n"
        );
        let backlog = FailoverRun { backlog_bytes: Some(3 << 19), ..run(1.0, true) };
        let told = FailoverReport { runs: vec![backlog] }.to_string();
        assert!(told.contains("\nrun 1: 1.5 MB were received and not replayed when it broke\n"), "{told}");
        let found =
            Found { outage_ms: 7_000.04, recovered: false, errors: 2, error_texts: vec!["read only".into()] };
        let compared =
            FailoverReport { runs: vec![FailoverRun { pgbouncer: Some(found), ..run(512.0, false) }] };
        let text = compared.to_string();
        let says =
            |line: &str, end: &str| text.lines().any(|one| one.starts_with(line) && one.ends_with(end));
        assert!(
            says("run ", "pgbouncer outage  pgbouncer errors") && says("1 ", ">7000                 2"),
            "{text}"
        );
        assert!(
            says("median", " 7000") && text.contains("PgBouncer, between transactions: read only"),
            "{text}"
        );
        let json = serde_json::to_value(&compared).unwrap();
        assert_eq!(json["runs"][0]["pgbouncer"]["outage_ms"], 7_000.0);
        assert!(
            FailoverReport { runs: vec![run(1.0, true)] }.to_string().contains("  -1 s  writes      2 #")
        );
    }
}
