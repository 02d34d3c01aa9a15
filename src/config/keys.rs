//! Every key of the configuration file: its kind, unit, range, default and meaning, in one table.
//!
//! The table drives the reading of each key (`document`), the answer to whether a change can be made live
//! (`reload`) and whether it is the node's own (`shared`), and `docs/configuration.md`, which a test compares
//! with it. Pure data. Invariant: what is not in this table is not a key.

mod table;

pub use table::SECTIONS;

/// What a key may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Bool,
    /// From the first to the second, both included.
    Integer(u64, u64),
    /// Not empty.
    Text,
    /// Relative to the configuration file.
    Path,
    /// IP address and port.
    Address,
    /// At least one.
    Addresses,
    Names,
    /// Permission bits, in octal.
    Mode,
    Choice(&'static [&'static str]),
    /// `"primary"`, `"standbys"`, or a table of server ids and weights.
    Target,
    /// A table of one way to move an endpoint, by its name.
    Method,
    /// A table of a command and its deadline.
    Program,
}

/// Whose a key is, once nodes form a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// What is on the machine: always as the node's own file has it.
    Node,
    /// The same on every node: as the cluster's configuration has it.
    Cluster,
}

impl Scope {
    pub fn name(self) -> &'static str {
        match self {
            Scope::Node => "node",
            Scope::Cluster => "cluster",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// There is none: the key must be written.
    Required,
    /// The thing is off, or absent.
    Unset,
    /// As it would be written in the file.
    Value(&'static str),
    /// Found out at start; in words.
    Computed(&'static str),
    /// As another key.
    As(&'static str),
}

#[derive(Debug, Clone, Copy)]
pub struct Key {
    pub name: &'static str,
    pub kind: Kind,
    /// Empty for what has none.
    pub unit: &'static str,
    pub default: Preset,
    /// Whether SIGHUP applies a change; else it waits for a restart.
    pub live: bool,
    pub scope: Scope,
    /// One line of Markdown.
    pub meaning: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Keys before the first header.
    Top,
    /// `[name]`, and its defaults if it is not written.
    Table,
    /// `[name]`; without it the feature is off.
    Optional,
    /// `[[name]]`, any number of times.
    List,
}

#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// Dotted; empty for the top.
    pub name: &'static str,
    pub shape: Shape,
    pub keys: &'static [Key],
}

impl Section {
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        let name = match name {
            // As Pgpool-II has called it.
            "ALWAYS_PRIMARY" | "ALWAYS_MASTER" => "always_primary",
            name => name,
        };
        self.keys.iter().find(|key| key.name == name)
    }

    /// `[pool]`, `[[server]]`.
    pub fn header(&self) -> String {
        match self.shape {
            Shape::Top => "the top of the file".to_owned(),
            Shape::Table | Shape::Optional => format!("[{}]", self.name),
            Shape::List => format!("[[{}]]", self.name),
        }
    }

    pub fn qualified(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }
}

/// The section called `name`.
pub fn section(name: &str) -> Option<&'static Section> {
    SECTIONS.iter().find(|section| section.name == name)
}

/// The key called `name`, with its section: `pool.size`.
pub fn key(name: &str) -> Option<&'static Key> {
    let (section_name, key_name) = name.rsplit_once('.').unwrap_or(("", name));
    section(section_name)?.key(key_name)
}

impl Key {
    /// The unit, or for what has none, the kind.
    pub fn unit_or_kind(&self) -> String {
        match self.kind {
            _ if !self.unit.is_empty() => self.unit.to_owned(),
            Kind::Bool => "true, false".to_owned(),
            Kind::Integer(..) => "number".to_owned(),
            Kind::Text => "text".to_owned(),
            Kind::Path => "path".to_owned(),
            Kind::Address => "address:port".to_owned(),
            Kind::Addresses => "list of address:port".to_owned(),
            Kind::Names => "list of names".to_owned(),
            Kind::Mode => "octal".to_owned(),
            Kind::Choice(words) => words.join(", "),
            Kind::Target => "see there".to_owned(),
            Kind::Method => "one method".to_owned(),
            Kind::Program => "program".to_owned(),
        }
    }

    pub fn default_text(&self) -> String {
        match self.default {
            Preset::Required => "required".to_owned(),
            Preset::Unset => "unset".to_owned(),
            Preset::Value(text) => format!("`{text}`"),
            Preset::Computed(words) => words.to_owned(),
            Preset::As(key) => format!("as `{key}`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows that `docs/configuration.md` must have, one for each key.
    fn rows() -> Vec<String> {
        let row = |section: &Section, key: &Key| {
            let live = if key.live { "live" } else { "restart" };
            let (name, unit, default) = (section.qualified(key.name), key.unit_or_kind(), key.default_text());
            let scope = key.scope.name();
            format!("| `{name}` | {unit} | {default} | {live} | {scope} | {} |", key.meaning)
        };
        SECTIONS.iter().flat_map(|section| section.keys.iter().map(move |key| row(section, key))).collect()
    }

    #[test]
    fn the_documentation_has_every_key_and_no_other() {
        let text = include_str!("../../docs/configuration.md");
        let documented: Vec<_> = text.lines().filter(|line| line.starts_with("| `")).collect();
        let rows = rows();
        let missing: Vec<_> = rows.iter().filter(|row| !documented.contains(&row.as_str())).collect();
        let missing = missing.into_iter().map(|row| format!("{row}\n")).collect::<String>();
        assert!(missing.is_empty(), "docs/configuration.md lacks these rows:\n{missing}");
        for row in &documented {
            assert!(
                rows.iter().any(|known| known == row),
                "docs/configuration.md has a row that is no key\n{row}"
            );
        }
        assert_eq!(documented.len(), rows.len(), "docs/configuration.md names a key twice");
        for section in SECTIONS.iter().filter(|section| section.shape != Shape::Top) {
            assert!(text.contains(&format!("`{}`", section.header())), "no section {}", section.header());
        }
    }

    #[test]
    fn keys_are_found_by_their_names() {
        assert_eq!(key("pool.override.size").map(|key| key.default), Some(Preset::As("pool.size")));
        assert_eq!(key("workers").map(|key| (key.live, key.scope)), Some((false, Scope::Node)));
        assert_eq!(key("server.ALWAYS_MASTER").map(|key| key.name), Some("always_primary"));
        assert!(key("pool.ALWAYS_MASTER").is_none());
        assert!(key("pool.sise").is_none() && key("size").is_none());
    }
}
