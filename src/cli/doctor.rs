//! `komainu doctor`: what would go wrong tonight, as one node finds it.

use clap::Args;
use serde::Deserialize;

use super::ask::{Ask, AskError, Done};
use super::text::table;

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// What is fine, too
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Debug, Deserialize)]
struct Report {
    findings: Vec<Finding>,
}

#[derive(Debug, Deserialize)]
struct Finding {
    about: String,
    subject: String,
    verdict: String,
    text: String,
}

impl Report {
    fn count(&self, verdict: &str) -> usize {
        self.findings.iter().filter(|finding| finding.verdict == verdict).count()
    }
}

pub fn run(args: &DoctorArgs) -> Result<Done, AskError> {
    let answer = args.ask.get::<Report>("/doctor")?;
    args.ask.print(&answer, |report| render(report, args.all))?;
    Ok(if answer.content.count("wrong") > 0 { Done::Alarm } else { Done::Fine })
}

fn render(report: &Report, all: bool) -> String {
    let shown = report.findings.iter().filter(|finding| all || finding.verdict != "fine");
    let row = |finding: &Finding| {
        let Finding { about, subject, verdict, text } = finding;
        [verdict.clone(), about.clone(), subject.clone(), text.clone()]
    };
    let rows: Vec<_> = shown.map(row).collect();
    let mut text = String::new();
    if !rows.is_empty() {
        text = table(["VERDICT", "ABOUT", "WHICH", "WHAT"], &rows) + "\n";
    }
    let (wrong, unknown, fine) = (report.count("wrong"), report.count("unknown"), report.count("fine"));
    text + &format!("{wrong} wrong, {unknown} not known, {fine} fine, as this node finds it\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_fine_is_only_counted() {
        let finding = |verdict: &str, subject: &str| Finding {
            about: "node".to_owned(),
            subject: subject.to_owned(),
            verdict: verdict.to_owned(),
            text: "…".to_owned(),
        };
        let mut report = Report { findings: vec![finding("fine", "a"), finding("wrong", "b")] };
        assert_eq!(
            render(&report, false),
            "VERDICT  ABOUT  WHICH  WHAT\nwrong    node   b      …\n\n1 wrong, 0 not known, 1 fine, as this node finds it\n"
        );
        assert!(render(&report, true).contains("fine     node   a      …\n"));
        report.findings.pop();
        assert_eq!(render(&report, false), "0 wrong, 0 not known, 1 fine, as this node finds it\n");
    }
}
