//! What is wrong with a configuration, in the words its author needs.
//!
//! Owns the one form of every complaint: `file:line: key: what is wrong; what to do`. Pure. Invariant: a
//! report holds everything that was found, in the order of the file.

use std::fmt;
use std::path::{Path, PathBuf};

/// One complaint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub file: PathBuf,
    /// From 1; none where the fault is that something is absent, or the file as a whole.
    pub line: Option<usize>,
    /// The key, or the column of an HBA line.
    pub key: String,
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

/// What one may live with, but should know.
pub type Warning = Finding;

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if !self.key.is_empty() {
            write!(f, " {}:", self.key)?;
        }
        write!(f, " {}; {}", self.problem, self.remedy)
    }
}

/// Why a configuration was refused: at least one problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub problems: Vec<Finding>,
    pub warnings: Vec<Warning>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}

/// Collects findings about one configuration file and the files it names.
#[derive(Debug)]
pub(super) struct Findings {
    file: PathBuf,
    /// Where each line begins.
    line_starts: Vec<usize>,
    problems: Vec<Finding>,
    warnings: Vec<Finding>,
}

impl Findings {
    pub(super) fn new(file: &Path, text: &str) -> Self {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { file: file.to_owned(), line_starts, problems: Vec::new(), warnings: Vec::new() }
    }

    /// The line that byte `offset` is on.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    pub(super) fn problem(
        &mut self,
        line: Option<usize>,
        key: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let file = self.file.clone();
        self.problem_in(&file, line, key, problem, remedy);
    }

    /// As `problem`, in another file.
    pub(super) fn problem_in(
        &mut self,
        file: &Path,
        line: Option<usize>,
        key: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.problems.push(finding(file, line, key.into(), problem.into(), remedy.into()));
    }

    pub(super) fn warn(
        &mut self,
        line: Option<usize>,
        key: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let file = self.file.clone();
        self.warn_in(&file, line, key, problem, remedy);
    }

    pub(super) fn warn_in(
        &mut self,
        file: &Path,
        line: Option<usize>,
        key: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.warnings.push(finding(file, line, key.into(), problem.into(), remedy.into()));
    }

    /// The warnings if there were no problems.
    pub(super) fn conclude(mut self) -> Result<Vec<Warning>, Report> {
        let main = self.file;
        // The configuration file first, then the files it names; what concerns a whole file before its lines.
        for findings in [&mut self.problems, &mut self.warnings] {
            findings
                .sort_by(|a, b| (a.file != main, &a.file, a.line).cmp(&(b.file != main, &b.file, b.line)));
            findings.dedup();
        }
        if self.problems.is_empty() {
            return Ok(self.warnings);
        }
        Err(Report { problems: self.problems, warnings: self.warnings })
    }
}

fn finding(file: &Path, line: Option<usize>, key: String, problem: String, remedy: String) -> Finding {
    Finding { file: file.to_owned(), line, key, problem, remedy }
}
