//! Reads and checks a configuration file, and the files that it names.
//!
//! Owns the order of the steps, and the file system. Invariant: a `Config` comes out only when there was no
//! problem at all; otherwise all of them come out, in one report.

use std::io::Read as _;
use std::path::Path;

use super::document::Document;
use super::report::{Findings, Report, Warning};
use super::{Config, build, check, references};

/// No file that komainu reads is near this size; a device or a mistaken path is.
const MAX_FILE_BYTES: u64 = 16 * 1024 * 1024;

/// Reads `path` and whatever it names. Relative paths in it are relative to its directory.
pub fn load(path: &Path) -> Result<(Config, Vec<Warning>), Report> {
    let text = match read_text(path) {
        Ok(text) => text,
        Err(error) => {
            let mut findings = Findings::new(path, "");
            findings.problems.add(
                None,
                "",
                format!("it cannot be read: {error}"),
                "correct the path or its permissions",
            );
            return findings.conclude().map(|_| unreachable!("there is a problem"));
        }
    };
    let (document, config, mut findings) = validate(&text, path, cpus());
    if document.is_complete() {
        references::check(&document, &config, &mut findings);
    }
    findings.conclude().map(|warnings| (config, warnings))
}

/// All that the text alone says, without looking at any other file. `path` is for messages and relative paths.
pub fn parse(text: &str, path: &Path, cpus: usize) -> Result<(Config, Vec<Warning>), Report> {
    let (_, config, findings) = validate(text, path, cpus);
    findings.conclude().map(|warnings| (config, warnings))
}

fn validate(text: &str, path: &Path, cpus: usize) -> (Document, Config, Findings) {
    let mut findings = Findings::new(path, text);
    let document = Document::read(text, &mut findings);
    let config = build::build(&document, path.parent().unwrap_or(Path::new("")), cpus);
    if document.is_complete() {
        check::check(&document, &config, &mut findings);
    }
    (document, config, findings)
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// A whole text file of bounded size.
pub fn read_text(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let read = std::fs::File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if read as u64 > MAX_FILE_BYTES {
        return Err(std::io::Error::other(format!("it is longer than {MAX_FILE_BYTES} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests;
