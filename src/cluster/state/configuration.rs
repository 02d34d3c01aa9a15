//! The cluster's configuration: its text, by version.
//!
//! Pure. The text is checked by who proposes it; here it is text. Invariant: versions only rise, also by going back: an
//! old text comes back as a new version, so a version never means two texts.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::incidents::Entry;
use super::{Accepted, Command, Refusal};

/// The manual's example with every key and a comment for each is a tenth of it.
pub const MAX_CONFIGURATION_BYTES: usize = 256 * 1024;
/// How many are kept, the current one included.
pub const MAX_CONFIGURATION_VERSIONS: usize = 20;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    pub version: u64,
    pub at_ms: u64,
    pub node: String,
    pub cause: String,
    /// The version whose text this is again.
    #[serde(default)]
    pub back_to: Option<u64>,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Configuration {
    /// Oldest first; the last is the current one.
    versions: VecDeque<Version>,
}

impl Configuration {
    pub fn current(&self) -> Option<&Version> {
        self.versions.back()
    }

    /// 0: there is none.
    pub fn version(&self) -> u64 {
        self.current().map_or(0, |current| current.version)
    }

    /// Oldest first.
    pub fn versions(&self) -> impl DoubleEndedIterator<Item = &Version> {
        self.versions.iter()
    }

    pub fn get(&self, version: u64) -> Option<&Version> {
        self.versions.iter().find(|kept| kept.version == version)
    }

    pub(super) fn apply(
        &mut self,
        command: &Command,
        expected: u64,
        text: &str,
    ) -> Result<(Accepted, Option<Entry>), Refusal> {
        self.expect(expected)?;
        if text.len() > MAX_CONFIGURATION_BYTES {
            let what = "the length of the configuration in bytes".to_owned();
            return Err(Refusal::TooMuch { what, limit: MAX_CONFIGURATION_BYTES as u64 });
        }
        if self.current().is_some_and(|current| current.text == text) {
            return Ok((Accepted::Unchanged, None));
        }
        self.push(command, None, text.to_owned())
    }

    pub(super) fn roll_back(
        &mut self,
        command: &Command,
        expected: u64,
        to: u64,
    ) -> Result<(Accepted, Option<Entry>), Refusal> {
        self.expect(expected)?;
        let text = self.get(to).ok_or(Refusal::NoSuchVersion { version: to })?.text.clone();
        self.push(command, Some(to), text)
    }

    fn expect(&self, expected: u64) -> Result<(), Refusal> {
        match self.version() == expected {
            true => Ok(()),
            false => Err(Refusal::StaleVersion { expected, current: self.version() }),
        }
    }

    fn push(
        &mut self,
        command: &Command,
        back_to: Option<u64>,
        text: String,
    ) -> Result<(Accepted, Option<Entry>), Refusal> {
        let version = self.version() + 1;
        let Command { at_ms, node, cause, .. } = command;
        let (at_ms, node, cause) = (*at_ms, node.clone(), cause.clone());
        self.versions.push_back(Version { version, at_ms, node, cause, back_to, text });
        if self.versions.len() > MAX_CONFIGURATION_VERSIONS {
            self.versions.pop_front();
        }
        let text = match back_to {
            Some(to) => format!("version {version} is in force, the text of version {to}"),
            None => format!("version {version} is in force"),
        };
        Ok((Accepted::Version(version), Some(Entry { subject: "configuration".to_owned(), text })))
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let rising =
            self.versions.iter().zip(self.versions.iter().skip(1)).all(|(a, b)| a.version < b.version);
        match rising {
            true => Ok(()),
            false => Err("the versions of the configuration do not rise".to_owned()),
        }
    }
}
