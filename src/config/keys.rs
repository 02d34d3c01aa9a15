//! Every key of the configuration file: its kind, unit, range, default and meaning, in one table.
//!
//! The table drives the reading of each key (`document`), the answer to whether a change can be made live
//! (`reload`), and `docs/configuration.md`, which a test compares with it. Pure data. Invariant: what is not
//! in this table is not a key.

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

/// A month: longer is surely a mistake of the unit.
const MS: u64 = 2_592_000_000;
const CONNECTIONS: u64 = 1_000_000;
const GIB: u64 = 1_073_741_824;
/// PostgreSQL's own ceiling for one message, `PQ_LARGE_MESSAGE_LIMIT`.
const MESSAGE: u64 = GIB - 1;
const WEIGHT: u64 = 10_000;
const LIVE: bool = true;
const RESTART: bool = false;

const fn key_of(
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    default: Preset,
    live: bool,
    meaning: &'static str,
) -> Key {
    Key { name, kind, unit, default, live, meaning }
}

use Kind::{Address, Addresses, Bool, Choice, Integer, Mode, Names, Path, Target, Text};
use Preset::{As, Computed, Required, Unset, Value};

/// PostgreSQL's own catalog, for which the role must be a superuser; managed services need a function
/// (`docs/configuration.md` shows one). `CONNECTION LIMIT 0` bars a role from logging in too.
const AUTH_QUERY: &str = "\"select rolpassword, rolcanlogin and rolconnlimit <> 0 and (rolvaliduntil is null or rolvaliduntil > pg_catalog.now()) from pg_catalog.pg_authid where rolname = $1\"";

const POOL_MODES: &[&str] = &["transaction", "session"];

pub static SECTIONS: &[Section] = &[
    Section {
        name: "",
        shape: Shape::Top,
        keys: &[
            key_of(
                "zone",
                Text,
                "",
                Unset,
                LIVE,
                "Availability zone of this node, compared with `server.zone` when `split.prefer_same_zone` is on.",
            ),
            key_of(
                "workers",
                Integer(1, 1024),
                "threads",
                Computed("the number of CPUs"),
                RESTART,
                "Threads that serve clients.",
            ),
        ],
    },
    Section {
        name: "listen",
        shape: Shape::Table,
        keys: &[
            key_of(
                "addresses",
                Addresses,
                "",
                Required,
                RESTART,
                "Where clients connect over TCP: `\"127.0.0.1:9999\"`, `\"[::]:5432\"`, …",
            ),
            key_of(
                "unix_socket_directory",
                Path,
                "",
                Unset,
                RESTART,
                "Also listen on the Unix socket `.s.PGSQL.<port>` in this directory; the port is that of the first address.",
            ),
            key_of(
                "unix_socket_mode",
                Mode,
                "octal",
                Value("0o777"),
                RESTART,
                "Permission bits of the Unix socket.",
            ),
            key_of(
                "backlog",
                Integer(1, 65_535),
                "connections",
                Value("1024"),
                RESTART,
                "Connections the kernel keeps waiting to be accepted; it caps them at `net.core.somaxconn` too.",
            ),
        ],
    },
    Section {
        name: "admin",
        shape: Shape::Table,
        keys: &[
            key_of(
                "address",
                Address,
                "",
                Unset,
                RESTART,
                "HTTP address of `/metrics`, `/live` and `/ready`. It asks for no password: keep it on a private address.",
            ),
            key_of(
                "socket",
                Path,
                "",
                Unset,
                RESTART,
                "The same over a Unix socket at this path, guarded by its file permissions.",
            ),
        ],
    },
    Section {
        name: "log",
        shape: Shape::Table,
        keys: &[
            key_of(
                "level",
                Text,
                "",
                Value("\"info\""),
                LIVE,
                "`error`, `warn`, `info`, `debug`, `trace`, or a `tracing` filter such as `info,komainu::pool=debug`.",
            ),
            key_of(
                "format",
                Choice(&["text", "json"]),
                "",
                Value("\"text\""),
                RESTART,
                "Lines to read, or one JSON object a line.",
            ),
        ],
    },
    Section {
        name: "limits",
        shape: Shape::Table,
        keys: &[
            key_of(
                "max_client_connections",
                Integer(1, CONNECTIONS),
                "connections",
                Value("10000"),
                RESTART,
                "More clients than this are refused with 53300.",
            ),
            key_of(
                "max_unauthenticated_per_address",
                Integer(1, CONNECTIONS),
                "connections",
                Value("1000"),
                LIVE,
                "Connections of one address that have not logged in yet; more are refused.",
            ),
            key_of(
                "startup_timeout_ms",
                Integer(1, MS),
                "ms",
                Value("15000"),
                LIVE,
                "A client that has not logged in by then is disconnected.",
            ),
            key_of(
                "client_idle_timeout_ms",
                Integer(0, MS),
                "ms",
                Value("0"),
                LIVE,
                "A client idle outside a transaction for longer is ended (57P05). 0: never.",
            ),
            key_of(
                "idle_in_transaction_timeout_ms",
                Integer(0, MS),
                "ms",
                Value("0"),
                LIVE,
                "A client idle inside a transaction for longer is ended (25P03). 0: never.",
            ),
            key_of(
                "shutdown_timeout_ms",
                Integer(0, MS),
                "ms",
                Value("30000"),
                LIVE,
                "How long running transactions may go on after SIGTERM. 0: they are ended at once.",
            ),
            key_of(
                "max_message_bytes",
                Integer(65_536, MESSAGE),
                "bytes",
                Value("1073741823"),
                LIVE,
                "Largest single message of a client that has logged in; the default is PostgreSQL's own limit.",
            ),
            key_of(
                "max_inspected_statement_bytes",
                Integer(1024, MESSAGE),
                "bytes",
                Value("1048576"),
                LIVE,
                "A longer statement is not looked into: it goes to the primary and pins its session to one connection.",
            ),
            key_of(
                "max_prepared_statements_per_session",
                Integer(1, CONNECTIONS),
                "statements",
                Value("5000"),
                LIVE,
                "Named statements one client may hold.",
            ),
            key_of(
                "max_prepared_bytes_per_session",
                Integer(1024, MESSAGE),
                "bytes",
                Value("16777216"),
                LIVE,
                "Bytes of the texts of those statements.",
            ),
        ],
    },
    Section {
        name: "client_tls",
        shape: Shape::Table,
        keys: &[
            key_of(
                "mode",
                Choice(&["off", "allow", "require", "verify"]),
                "",
                Value("\"off\""),
                LIVE,
                "`allow`: for clients that ask; `require`: no client over TCP without it; `verify`: and none without a certificate signed by `client_ca_file`.",
            ),
            key_of(
                "cert_file",
                Path,
                "",
                Unset,
                LIVE,
                "Certificate chain (PEM), this node's first; needed unless `mode` is `off`.",
            ),
            key_of("key_file", Path, "", Unset, LIVE, "Its private key (PEM)."),
            key_of(
                "client_ca_file",
                Path,
                "",
                Unset,
                LIVE,
                "Authorities (PEM) that sign clients' certificates; `verify` and the HBA file's `cert` and `clientcert` need it.",
            ),
        ],
    },
    Section {
        name: "server_tls",
        shape: Shape::Table,
        keys: &[
            key_of(
                "mode",
                Choice(&["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]),
                "",
                Value("\"prefer\""),
                LIVE,
                "As libpq's `sslmode`. Only `verify-ca` and `verify-full` make sure who the server is.",
            ),
            key_of(
                "ca_file",
                Path,
                "",
                Unset,
                LIVE,
                "Authorities (PEM) that sign the servers' certificates; `verify-ca` and `verify-full` need it.",
            ),
            key_of(
                "cert_file",
                Path,
                "",
                Unset,
                LIVE,
                "Certificate (PEM) shown to servers that ask for one.",
            ),
            key_of("key_file", Path, "", Unset, LIVE, "Its private key (PEM)."),
        ],
    },
    Section {
        name: "auth",
        shape: Shape::Table,
        keys: &[
            key_of(
                "hba_file",
                Path,
                "",
                Required,
                LIVE,
                "Who may connect from where and how, in `pg_hba.conf`'s format.",
            ),
            key_of(
                "user_file",
                Path,
                "",
                Unset,
                LIVE,
                "Users' secrets, in the format of PgBouncer's `userlist.txt`.",
            ),
        ],
    },
    Section {
        name: "auth.query",
        shape: Shape::Optional,
        keys: &[
            key_of(
                "user",
                Text,
                "",
                Required,
                LIVE,
                "The role that asks; `auth.user_file` must have its plain password.",
            ),
            key_of("database", Text, "", Value("\"postgres\""), LIVE, "Where it asks."),
            key_of(
                "query",
                Text,
                "",
                Value(AUTH_QUERY),
                LIVE,
                "Asked for a user whom `auth.user_file` does not name: `$1` is the user's name; the columns are the secret and whether the role may log in now. Write every name with its schema.",
            ),
            key_of(
                "cache_ms",
                Integer(0, MS),
                "ms",
                Value("10000"),
                LIVE,
                "An answer is believed for this long, also for users with open pools: a role that was dropped or locked gets in for no longer. 0: asked at every login.",
            ),
        ],
    },
    Section {
        name: "pool",
        shape: Shape::Table,
        keys: &[
            key_of(
                "mode",
                Choice(POOL_MODES),
                "",
                Value("\"transaction\""),
                LIVE,
                "A client holds a server connection for a transaction, or for its whole session.",
            ),
            key_of(
                "size",
                Integer(1, CONNECTIONS),
                "connections",
                Value("20"),
                LIVE,
                "Connections to one server for one database and user.",
            ),
            key_of(
                "min",
                Integer(0, CONNECTIONS),
                "connections",
                Value("0"),
                LIVE,
                "Of these, so many stay open after the user's first login.",
            ),
            key_of(
                "reserve",
                Integer(0, CONNECTIONS),
                "connections",
                Value("0"),
                LIVE,
                "Further connections once a client has waited `reserve_after_ms`.",
            ),
            key_of("reserve_after_ms", Integer(0, MS), "ms", Value("5000"), LIVE, "See `pool.reserve`."),
            key_of(
                "max_server_connections",
                Integer(1, CONNECTIONS),
                "connections",
                Value("90"),
                LIVE,
                "Connections to one server over all its pools; below the server's `max_connections` (100 by default) less what others need.",
            ),
            key_of(
                "acquire_timeout_ms",
                Integer(1, MS),
                "ms",
                Value("30000"),
                LIVE,
                "A client that waited this long for a server connection gets an error (53300).",
            ),
            key_of(
                "connect_timeout_ms",
                Integer(1, MS),
                "ms",
                Value("15000"),
                LIVE,
                "For reaching a server, TLS and login together; patient, since clouds are slow at times.",
            ),
            key_of(
                "connect_rate",
                Integer(1, CONNECTIONS),
                "per second",
                Value("50"),
                LIVE,
                "New connections to one server, so that a hiccup is not followed by a storm.",
            ),
            key_of(
                "idle_timeout_ms",
                Integer(0, MS),
                "ms",
                Value("600000"),
                LIVE,
                "A connection idle for longer is closed, down to `min`. 0: never.",
            ),
            key_of(
                "lifetime_ms",
                Integer(0, MS),
                "ms",
                Value("3600000"),
                LIVE,
                "A connection older than this is closed once it is idle. 0: never.",
            ),
            key_of(
                "check_after_idle_ms",
                Integer(0, MS),
                "ms",
                Value("30000"),
                LIVE,
                "A connection that idled longer is asked whether it lives before a client gets it. 0: always.",
            ),
            key_of(
                "max_prepared_statements",
                Integer(1, CONNECTIONS),
                "statements",
                Value("500"),
                LIVE,
                "Prepared statements on one server connection; the least recently used go first.",
            ),
            key_of(
                "max_prepared_bytes",
                Integer(1024, MESSAGE),
                "bytes",
                Value("8388608"),
                LIVE,
                "Bytes of their texts.",
            ),
        ],
    },
    Section {
        name: "pool.override",
        shape: Shape::List,
        keys: &[
            key_of(
                "database",
                Text,
                "",
                Unset,
                LIVE,
                "Only this database; unset: any. The first override that matches is taken.",
            ),
            key_of("user", Text, "", Unset, LIVE, "Only this user; unset: any."),
            key_of("mode", Choice(POOL_MODES), "", As("pool.mode"), LIVE, "Instead of `pool.mode`."),
            key_of(
                "size",
                Integer(1, CONNECTIONS),
                "connections",
                As("pool.size"),
                LIVE,
                "Instead of `pool.size`.",
            ),
            key_of(
                "min",
                Integer(0, CONNECTIONS),
                "connections",
                As("pool.min"),
                LIVE,
                "Instead of `pool.min`.",
            ),
            key_of(
                "reserve",
                Integer(0, CONNECTIONS),
                "connections",
                As("pool.reserve"),
                LIVE,
                "Instead of `pool.reserve`.",
            ),
            key_of(
                "reserve_after_ms",
                Integer(0, MS),
                "ms",
                As("pool.reserve_after_ms"),
                LIVE,
                "Instead of `pool.reserve_after_ms`.",
            ),
        ],
    },
    Section {
        name: "split",
        shape: Shape::Table,
        keys: &[
            key_of(
                "enabled",
                Bool,
                "",
                Value("true"),
                LIVE,
                "Whether reads go to standbys; off: everything goes to the primary.",
            ),
            key_of(
                "consistency",
                Choice(&["eventual", "bounded", "session"]),
                "",
                Value("\"session\""),
                LIVE,
                "`eventual`: any standby within the lag limits; `bounded`: and its lag must be known; `session`: a session reads its own writes and never goes back in time.",
            ),
            key_of(
                "max_lag_bytes",
                Integer(0, u64::MAX >> 1),
                "bytes",
                Value("0"),
                LIVE,
                "A standby further behind gets no reads. 0: no limit.",
            ),
            key_of(
                "max_lag_ms",
                Integer(0, MS),
                "ms",
                Value("10000"),
                LIVE,
                "The same by time. 0: no limit.",
            ),
            key_of(
                "floor_wait_ms",
                Integer(0, MS),
                "ms",
                Value("20"),
                LIVE,
                "How long a read waits for a standby to replay the session's last write before it goes to the primary. 0: it does not wait.",
            ),
            key_of(
                "prefer_same_zone",
                Bool,
                "",
                Value("false"),
                LIVE,
                "Read from standbys in this node's `zone` while there are any.",
            ),
            key_of(
                "prefer_least_lag",
                Bool,
                "",
                Value("false"),
                LIVE,
                "Read from the standby that is least behind rather than by weight.",
            ),
            key_of(
                "read_only_functions",
                Names,
                "",
                Value("[]"),
                LIVE,
                "Functions that only read, whatever the catalog says; each a name, or a schema and a name.",
            ),
            key_of(
                "write_functions",
                Names,
                "",
                Value("[]"),
                LIVE,
                "Functions that write, whatever the catalog says.",
            ),
            key_of(
                "catalog_max_age_ms",
                Integer(1000, MS),
                "ms",
                Value("60000"),
                LIVE,
                "The catalog of functions, tables and views is read again after this.",
            ),
        ],
    },
    Section {
        name: "split.preference",
        shape: Shape::List,
        keys: &[
            key_of(
                "application_name",
                Text,
                "",
                Unset,
                LIVE,
                "Only clients of this `application_name`; unset: any. The first preference that matches is taken.",
            ),
            key_of("database", Text, "", Unset, LIVE, "Only this database; unset: any."),
            key_of("user", Text, "", Unset, LIVE, "Only this user; unset: any."),
            key_of(
                "target",
                Target,
                "",
                Required,
                LIVE,
                "Where their reads go: `\"primary\"`, `\"standbys\"`, or servers by weight: `{ s2 = 3, s3 = 1 }`.",
            ),
        ],
    },
    Section {
        name: "health",
        shape: Shape::Table,
        keys: &[
            key_of(
                "user",
                Text,
                "",
                Value("\"komainu\""),
                LIVE,
                "The role that looks at the servers; `pg_monitor` is all it needs.",
            ),
            key_of(
                "password_file",
                Path,
                "",
                Unset,
                LIVE,
                "File with its password; unset: the one in `auth.user_file`.",
            ),
            key_of("database", Text, "", Value("\"postgres\""), LIVE, "The database it connects to."),
            key_of(
                "period_ms",
                Integer(50, MS),
                "ms",
                Value("1000"),
                LIVE,
                "How often each server is looked at.",
            ),
            key_of(
                "timeout_ms",
                Integer(10, MS),
                "ms",
                Value("3000"),
                LIVE,
                "A look that takes longer has failed.",
            ),
            key_of(
                "retries",
                Integer(1, 1000),
                "failures",
                Value("3"),
                LIVE,
                "Failures in a row before a server counts as down.",
            ),
        ],
    },
    Section {
        name: "server",
        shape: Shape::List,
        keys: &[
            key_of(
                "id",
                Text,
                "",
                Required,
                LIVE,
                "A name for logs, metrics and preferences: letters, digits, `_`, `-` and `.`.",
            ),
            key_of(
                "host",
                Text,
                "",
                Required,
                LIVE,
                "A name, an address, or the directory of a Unix socket (begins with `/`).",
            ),
            key_of("port", Integer(1, 65_535), "", Value("5432"), LIVE, "Its port."),
            key_of(
                "weight",
                Integer(0, WEIGHT),
                "share",
                Value("1"),
                LIVE,
                "Its share of the reads. 0: none while another standby lives.",
            ),
            key_of("zone", Text, "", Unset, LIVE, "Its availability zone."),
        ],
    },
];

impl Key {
    /// The unit, or for what has none, the kind.
    pub fn unit_or_kind(&self) -> String {
        match self.kind {
            _ if !self.unit.is_empty() => self.unit.to_owned(),
            Bool => "true, false".to_owned(),
            Integer(..) => "number".to_owned(),
            Text => "text".to_owned(),
            Path => "path".to_owned(),
            Address => "address:port".to_owned(),
            Addresses => "list of address:port".to_owned(),
            Names => "list of names".to_owned(),
            Mode => "octal".to_owned(),
            Choice(words) => words.join(", "),
            Target => "see there".to_owned(),
        }
    }

    pub fn default_text(&self) -> String {
        match self.default {
            Required => "required".to_owned(),
            Unset => "unset".to_owned(),
            Value(text) => format!("`{text}`"),
            Computed(words) => words.to_owned(),
            As(key) => format!("as `{key}`"),
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
            format!("| `{name}` | {unit} | {default} | {live} | {} |", key.meaning)
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
        assert_eq!(key("pool.override.size").map(|key| key.default), Some(As("pool.size")));
        assert_eq!(key("workers").map(|key| key.live), Some(false));
        assert!(key("pool.sise").is_none() && key("size").is_none());
    }

    #[test]
    fn only_what_is_bound_at_start_waits_for_a_restart() {
        let restart: Vec<_> = SECTIONS
            .iter()
            .flat_map(|section| {
                section.keys.iter().filter(|key| !key.live).map(|key| section.qualified(key.name))
            })
            .filter(|name| !name.starts_with("listen.") && !name.starts_with("admin."))
            .collect();
        assert_eq!(restart, ["workers", "log.format", "limits.max_client_connections"]);
    }
}
