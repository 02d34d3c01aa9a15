//! What a drill found, as a table for people and as JSON for programs.
//!
//! Pure. The JSON's shape is a contract: keys are only ever added.

use std::fmt;

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};

use super::grid::{draw, median, rounded, worst};
use super::phases::Phase;

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    pub runs: Vec<Run>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Run {
    pub method: String,
    pub event: &'static str,
    /// Who was broken.
    pub owner: String,
    /// It led the cluster, too, so that a new leader had to be elected first.
    pub owner_led: bool,
    /// From the last row acknowledged before to the first one after.
    #[serde(serialize_with = "tenths")]
    pub outage_ms: f64,
    #[serde(rename = "phases_ms", serialize_with = "by_name")]
    pub phases: Vec<Phase>,
    /// Rows.
    pub acknowledged: usize,
    /// Of those, how many are not there.
    pub lost: usize,
    /// Rows that are there more than once.
    pub twice: usize,
}

pub(super) fn tenths<S: Serializer>(ms: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(rounded(*ms))
}

pub(super) fn by_name<S: Serializer>(phases: &[Phase], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(phases.len()))?;
    for phase in phases {
        map.serialize_entry(&phase.name, &rounded(phase.ms))?;
    }
    map.end()
}

impl Report {
    pub fn lost(&self) -> usize {
        self.runs.iter().map(|run| run.lost).sum()
    }

    pub fn twice(&self) -> usize {
        self.runs.iter().map(|run| run.twice).sum()
    }
}

impl Table<'_> {
    /// Of all runs, in the order in which they first occur.
    fn phase_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for phase in self.runs.iter().flat_map(|run| &run.phases) {
            if !names.contains(&phase.name.as_str()) {
                names.push(&phase.name);
            }
        }
        // Whatever a method calls its phases, the client's comes last.
        names.sort_by_key(|name| *name == "client");
        names
    }

    /// A row of times: the outage and each phase, put together from all runs.
    fn all(&self, names: &[&str], together: impl Fn(Vec<f64>) -> f64) -> Vec<String> {
        let outage = together(self.runs.iter().map(|run| run.outage_ms).collect());
        let phases = names.iter().map(|name| {
            let known: Vec<f64> = self.runs.iter().filter_map(|run| run.phase(name)).collect();
            together(known)
        });
        std::iter::once(outage).chain(phases).map(|ms| format!("{ms:.0}")).collect()
    }
}

impl Run {
    fn phase(&self, name: &str) -> Option<f64> {
        self.phases.iter().find(|phase| phase.name == name).map(|phase| phase.ms)
    }

    fn row(&self, number: usize, names: &[&str]) -> Vec<String> {
        let led = if self.owner_led { "yes" } else { "no" };
        let mut row = vec![number.to_string(), self.owner.clone(), led.to_owned()];
        row.push(format!("{:.0}", self.outage_ms));
        let phase = |name: &&str| self.phase(name).map_or("-".to_owned(), |ms| format!("{ms:.0}"));
        row.extend(names.iter().map(phase));
        row.extend([self.acknowledged.to_string(), self.lost.to_string()]);
        row
    }
}

/// A table for each method, in the order in which they were drilled.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, runs) in self.runs.chunk_by(|one, next| one.method == next.method).enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            Table { runs }.fmt(f)?;
        }
        Ok(())
    }
}

/// The runs of one method.
struct Table<'a> {
    /// At least one.
    runs: &'a [Run],
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.phase_names();
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let mut rows = vec![owned(&["run", "owner", "led", "outage"])];
        rows[0].extend(owned(&names));
        rows[0].extend(owned(&["rows", "lost"]));
        rows.extend(self.runs.iter().zip(1..).map(|(run, number)| run.row(number, &names)));
        for (name, together) in [("median", median as fn(Vec<f64>) -> f64), ("worst", worst)] {
            let mut row = owned(&[name, "", ""]);
            row.extend(self.all(&names, together));
            row.extend(owned(&["", ""]));
            rows.push(row);
        }
        let Run { method, event, .. } = &self.runs[0];
        writeln!(f, "method {method}, event {event}; times in milliseconds\n")?;
        // Words to the left, numbers to the right.
        draw(f, &rows, 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(outage_ms: f64, phases: &[(&str, f64)], lost: usize) -> Run {
        let phase = |(name, ms): &(&str, f64)| Phase { name: (*name).to_owned(), ms: *ms };
        Run {
            method: "command".into(),
            event: "kill",
            owner: "node1".into(),
            owner_led: outage_ms > 1_000.0,
            outage_ms,
            phases: phases.iter().map(phase).collect(),
            acknowledged: 120,
            lost,
            twice: 0,
        }
    }

    #[test]
    fn the_json_has_the_agreed_shape() {
        let report = Report { runs: vec![run(1_234.567, &[("detection", 900.04), ("client", 20.0)], 0)] };
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            r#"{"runs":[{"method":"command","event":"kill","owner":"node1","owner_led":true,"outage_ms":1234.6,"phases_ms":{"detection":900.0,"client":20.0},"acknowledged":120,"lost":0,"twice":0}]}"#
        );
    }

    #[test]
    fn the_table_has_a_line_for_each_run_and_the_median_and_the_worst() {
        let report = Report {
            runs: vec![
                run(900.0, &[("detection", 700.0), ("client", 200.0)], 0),
                run(1_400.0, &[("detection", 1_000.0), ("program takes", 40.4), ("client", 360.0)], 2),
            ],
        };
        assert_eq!(
            report.to_string(),
            "method command, event kill; times in milliseconds\n\n\
             run     owner  led  outage  detection  program takes  client  rows  lost\n\
             1       node1  no      900        700              -     200   120     0\n\
             2       node1  yes    1400       1000             40     360   120     2\n\
             median                1150        850             40     280\n\
             worst                 1400       1000             40     360\n"
        );
        assert_eq!(report.lost(), 2);
    }

    #[test]
    fn each_method_has_a_table_of_its_own() {
        let of = |method: &str| Run { method: method.into(), ..run(900.0, &[("client", 900.0)], 0) };
        let text = Report { runs: vec![of("elastic-ip"), of("elastic-ip"), of("route53")] }.to_string();
        let tables: Vec<&str> = text.split("\n\nmethod ").collect();
        assert_eq!(tables.len(), 2, "{text}");
        assert!(tables[0].starts_with("method elastic-ip") && tables[0].contains("\n2 "), "{text}");
        assert!(tables[1].starts_with("route53") && !tables[1].contains("\n2 "), "{text}");
    }

    #[test]
    fn of_no_runs_there_is_nothing_to_say() {
        assert_eq!(Report::default().to_string(), "");
    }
}
