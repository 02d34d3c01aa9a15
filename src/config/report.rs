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
    pub(super) problems: List,
    pub(super) warnings: List,
    /// Where each line begins.
    line_starts: Vec<usize>,
}

/// Findings of one kind.
#[derive(Debug)]
pub(super) struct List {
    /// The configuration file.
    file: PathBuf,
    findings: Vec<Finding>,
}

impl List {
    pub(super) fn add(
        &mut self,
        line: Option<usize>,
        key: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add_in(&self.file.clone(), line, key, problem, remedy);
    }

    /// In another file than the configuration's.
    pub(super) fn add_in(
        &mut self,
        file: &Path,
        line: Option<usize>,
        key: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.findings.push(Finding {
            file: file.to_owned(),
            line,
            key: key.into(),
            problem: problem.into(),
            remedy: remedy.into(),
        });
    }

    /// The configuration file first, then the files it names; what concerns a whole file before its lines.
    fn sorted(mut self) -> Vec<Finding> {
        let main = self.file;
        self.findings
            .sort_by(|a, b| (a.file != main, &a.file, a.line).cmp(&(b.file != main, &b.file, b.line)));
        self.findings.dedup();
        self.findings
    }
}

impl Findings {
    pub(super) fn new(file: &Path, text: &str) -> Self {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        let list = || List { file: file.to_owned(), findings: Vec::new() };
        Self { problems: list(), warnings: list(), line_starts }
    }

    /// The line that byte `offset` is on.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|start| *start <= offset)
    }

    /// The warnings if there were no problems.
    pub(super) fn conclude(self) -> Result<Vec<Warning>, Report> {
        let (problems, warnings) = (self.problems.sorted(), self.warnings.sorted());
        if problems.is_empty() { Ok(warnings) } else { Err(Report { problems, warnings }) }
    }
}
