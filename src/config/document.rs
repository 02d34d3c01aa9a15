//! The file as checked values by section and key, with the line of each.
//!
//! Owns the comparison of a file with the table of keys: unknown keys, wrong types, absent ones. Pure.
//! Invariant: it goes on after a bad key, so that all of them are in one report; where a value is bad or
//! absent the default stands in, and the report makes sure that nobody uses it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;

use komainu_escalation::MethodSettings;
use komainu_escalation::program::ProgramSettings;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::PreferenceTarget;
use super::keys::{self, Key, Kind, Preset, SECTIONS, Section, Shape};
use super::report::Findings;
use super::value::Value;
use super::words::Words;

/// Every section of a file; those of shape `Table` are always there.
#[derive(Debug)]
pub(super) struct Document {
    tables: BTreeMap<&'static str, Table>,
    lists: BTreeMap<&'static str, Vec<Table>>,
    complete: bool,
}

impl Document {
    /// Reads `text` and reports what is no TOML, no key or no value.
    pub(super) fn read(text: &str, findings: &mut Findings) -> Self {
        let (root, errors) = DeTable::parse_recoverable(text.trim_start_matches('\u{feff}'));
        for error in &errors {
            let line = error.span().map(|span| findings.line(span.start));
            let problem = error.message().trim().replace('\n', ", ");
            findings.problems.add(
                line,
                "",
                format!("this is not TOML: {problem}"),
                "see https://toml.io for the format",
            );
        }
        let mut document =
            Self { tables: BTreeMap::new(), lists: BTreeMap::new(), complete: errors.is_empty() };
        document.walk("", root.get_ref(), None, findings);
        for section in SECTIONS {
            match section.shape {
                Shape::Top | Shape::Table => {
                    document.tables.entry(section.name).or_insert_with(|| Table::new(section, None));
                }
                Shape::List => {
                    document.lists.entry(section.name).or_default();
                }
                Shape::Optional => {}
            }
        }
        if document.complete {
            for table in document.tables.values().chain(document.lists.values().flatten()) {
                table.report_missing(findings);
            }
        }
        document
    }

    /// Whether all of it was TOML: a broken line swallows keys, and what follows from their absence is noise.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// A section that is always there.
    pub(super) fn table(&self, name: &'static str) -> &Table {
        self.tables.get(name).expect("read() makes every section of shape Table")
    }

    pub(super) fn optional(&self, name: &'static str) -> Option<&Table> {
        self.tables.get(name)
    }

    pub(super) fn list(&self, name: &'static str) -> &[Table] {
        self.lists.get(name).map_or(&[], Vec::as_slice)
    }

    /// Sorts the entries of one TOML table into keys and sections.
    fn walk(&mut self, name: &str, entries: &DeTable<'_>, line: Option<usize>, findings: &mut Findings) {
        let Some(section) = keys::section(name) else { return };
        let mut table = Table::new(section, line);
        for (key, value) in entries {
            let line = findings.line(key.span().start);
            let qualified = section.qualified(key.get_ref());
            match (section.key(key.get_ref()), keys::section(&qualified)) {
                (Some(key), _) => table.set(key, value, line, findings),
                (None, Some(child)) => self.child(child, value, line, findings),
                (None, None) => report_unknown(section, key.get_ref(), value.get_ref(), line, findings),
            }
        }
        match section.shape {
            Shape::List => self.lists.entry(section.name).or_default().push(table),
            _ => {
                self.tables.insert(section.name, table);
            }
        }
    }

    fn child(
        &mut self,
        section: &'static Section,
        value: &Spanned<DeValue<'_>>,
        line: usize,
        findings: &mut Findings,
    ) {
        let expected = format!("write {} above its keys", section.header());
        match (section.shape, value.get_ref()) {
            (Shape::List, DeValue::Array(items)) => {
                for item in items {
                    let line = findings.line(item.span().start);
                    match item.get_ref() {
                        DeValue::Table(entries) => self.walk(section.name, entries, Some(line), findings),
                        _ => findings.problems.add(
                            Some(line),
                            section.name,
                            "this is a section",
                            expected.clone(),
                        ),
                    }
                }
            }
            (Shape::List, DeValue::Table(_)) => {
                findings.problems.add(Some(line), section.name, "there may be several of these", expected);
            }
            (_, DeValue::Table(entries)) => self.walk(section.name, entries, Some(line), findings),
            (_, DeValue::Array(_)) => {
                findings.problems.add(Some(line), section.name, "there may be only one of these", expected);
            }
            _ => findings.problems.add(Some(line), section.name, "this is a section, not a key", expected),
        }
    }
}

/// The keys of one section.
#[derive(Debug)]
pub(super) struct Table {
    section: &'static Section,
    line: Option<usize>,
    values: BTreeMap<&'static str, (Value, usize)>,
    /// Written, but not as they must be.
    bad: BTreeSet<&'static str>,
}

impl Table {
    fn new(section: &'static Section, line: Option<usize>) -> Self {
        Self { section, line, values: BTreeMap::new(), bad: BTreeSet::new() }
    }

    fn set(&mut self, key: &'static Key, value: &Spanned<DeValue<'_>>, line: usize, findings: &mut Findings) {
        match Value::read(key, value) {
            Ok(value) => {
                self.values.insert(key.name, (value, line));
            }
            Err(mismatch) => {
                self.bad.insert(key.name);
                findings.problems.add(
                    Some(mismatch.offset.map_or(line, |offset| findings.line(offset))),
                    self.section.qualified(key.name),
                    mismatch.problem,
                    mismatch.remedy,
                );
            }
        }
    }

    fn report_missing(&self, findings: &mut Findings) {
        for key in self.section.keys.iter().filter(|key| key.default == Preset::Required) {
            if !self.has(key.name) && !self.bad.contains(key.name) {
                let remedy = format!("write {} = … under {}", key.name, self.section.header());
                findings.problems.add(self.line, self.section.qualified(key.name), "it is missing", remedy);
            }
        }
    }

    /// Whether the file gives it a good value.
    pub(super) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// The keys that the file gives good values.
    pub(super) fn written(&self) -> impl Iterator<Item = &'static str> {
        self.values.keys().copied()
    }

    /// Whether the file gives it a bad one: what follows from it is not worth a complaint.
    pub(super) fn is_bad(&self, name: &str) -> bool {
        self.bad.contains(name)
    }

    /// Where the key is written; else where its section begins.
    pub(super) fn line(&self, name: &str) -> Option<usize> {
        self.values.get(name).map(|(_, line)| *line).or(self.line)
    }

    /// The value written, or the table's default; None where that is no value.
    fn value(&self, name: &str) -> Option<Value> {
        if let Some((value, _)) = self.values.get(name) {
            return Some(value.clone());
        }
        let key = self.section.key(name).expect("only keys of the table are asked for");
        let Preset::Value(text) = key.default else { return None };
        let value = DeValue::parse(text).expect("defaults are TOML: tested");
        Some(Value::read(key, &value).expect("defaults fit their keys: tested"))
    }

    pub(super) fn bool(&self, name: &str) -> bool {
        matches!(self.value(name), Some(Value::Bool(true)))
    }

    pub(super) fn number(&self, name: &str) -> Option<u64> {
        match self.value(name) {
            Some(Value::Integer(number)) => Some(number),
            _ => None,
        }
    }

    pub(super) fn u64(&self, name: &str) -> u64 {
        self.number(name).unwrap_or_default()
    }

    pub(super) fn u32(&self, name: &str) -> u32 {
        u32::try_from(self.u64(name)).expect("the key's range ends below 2^32")
    }

    pub(super) fn usize(&self, name: &str) -> usize {
        usize::try_from(self.u64(name)).expect("the key's range ends below 2^32")
    }

    pub(super) fn optional_text(&self, name: &str) -> Option<String> {
        match self.value(name) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// Empty if it is required and absent, which was reported.
    pub(super) fn text(&self, name: &str) -> String {
        self.optional_text(name).unwrap_or_default()
    }

    /// None if it is not written and has no default.
    pub(super) fn optional_choice<T: Words>(&self, name: &str) -> Option<T> {
        let key = self.section.key(name).expect("only keys of the table are asked for");
        assert_eq!(key.kind, Kind::Choice(T::WORDS), "{name} has another type in the table");
        let word = self.optional_text(name)?;
        Some(T::of(&word).expect("a choice is one of its words"))
    }

    pub(super) fn choice<T: Words>(&self, name: &str) -> T {
        self.optional_choice(name).expect("only a choice with a default is asked for so: tested")
    }

    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.optional_text(name).map(PathBuf::from)
    }

    pub(super) fn names(&self, name: &str) -> Vec<String> {
        match self.value(name) {
            Some(Value::Names(names)) => names,
            _ => Vec::new(),
        }
    }

    pub(super) fn address(&self, name: &str) -> Option<SocketAddr> {
        match self.value(name) {
            Some(Value::Address(address)) => Some(address),
            _ => None,
        }
    }

    pub(super) fn addresses(&self, name: &str) -> Vec<SocketAddr> {
        match self.value(name) {
            Some(Value::Addresses(addresses)) => addresses,
            _ => Vec::new(),
        }
    }

    pub(super) fn target(&self, name: &str) -> PreferenceTarget {
        match self.value(name) {
            Some(Value::Target(target)) => target,
            _ => PreferenceTarget::Standbys,
        }
    }

    pub(super) fn method(&self, name: &str) -> Option<MethodSettings> {
        match self.value(name) {
            Some(Value::Method(method)) => Some(method),
            _ => None,
        }
    }

    pub(super) fn program(&self, name: &str) -> Option<ProgramSettings> {
        match self.value(name) {
            Some(Value::Program(program)) => Some(program),
            _ => None,
        }
    }
}

fn report_unknown(section: &Section, key: &str, value: &DeValue<'_>, line: usize, findings: &mut Findings) {
    let nested = matches!(value, DeValue::Table(_))
        || matches!(value, DeValue::Array(items) if items.iter().any(|item| item.get_ref().is_table()));
    let qualified = section.qualified(key);
    let (problem, remedy) = if nested {
        let near = closest(&qualified, SECTIONS.iter().filter(|s| s.shape != Shape::Top).map(|s| s.name));
        let remedy = near
            .and_then(|(near, _)| keys::section(near))
            .map(|near| format!("did you mean {}?", near.header()));
        ("there is no such section", remedy)
    } else {
        ("there is no such key", near_key(section, key))
    };
    let remedy = remedy.unwrap_or_else(|| "remove it; docs/configuration.md lists them all".to_owned());
    findings.problems.add(Some(line), qualified, problem, remedy);
}

/// The key meant: one of nearly the same name, or the same one of another section.
fn near_key(section: &Section, key: &str) -> Option<String> {
    if section.name == "listen" && matches!(key, "host" | "port" | "address") {
        return Some("write addresses = [\"127.0.0.1:9999\"]".to_owned());
    }
    let (near, alike) = closest(key, section.keys.iter().map(|key| key.name)).unzip();
    let did_you_mean = near.map(|near| format!("did you mean {near}?"));
    if alike.is_some_and(|alike| alike > SURELY_ALIKE) {
        return did_you_mean;
    }
    let elsewhere: Vec<_> =
        SECTIONS.iter().filter(|other| other.key(key).is_some()).map(Section::header).collect();
    if let Some((last, head)) = elsewhere.split_last() {
        let places = if head.is_empty() { last.clone() } else { format!("{} or {last}", head.join(", ")) };
        return Some(format!("it belongs in {places}"));
    }
    did_you_mean.or_else(|| {
        let (near, _) =
            closest(key, SECTIONS.iter().flat_map(|other| other.keys.iter().map(|key| key.name)))?;
        let other = SECTIONS.iter().find(|other| other.key(near).is_some())?;
        Some(format!("did you mean {near} in {}?", other.header()))
    })
}

const ALIKE: f64 = 0.8;
const SURELY_ALIKE: f64 = 0.93;

/// The known word most like this one, and how much alike they are, from 0 to 1.
fn closest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<(&'a str, f64)> {
    let word = word.to_ascii_lowercase().replace('-', "_");
    let close =
        known.map(|name| (name, strsim::jaro_winkler(&word, name))).filter(|(_, alike)| *alike > ALIKE);
    close.max_by(|a, b| a.1.total_cmp(&b.1))
}
