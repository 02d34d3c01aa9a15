//! What the operating role must be allowed, and the SQL that allows it.
//!
//! Pure. Invariant: `docs/privileges.md` shows each of them (a test sees to it).

/// Parameters can be granted from here on, and `pg_checkpoint` is there.
const GRANTS_SETTINGS: u32 = 150_000;
const HAS_ATTRIBUTE: &str =
    "(SELECT $ FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) CURRENT_USER)";

/// One thing that a statement of an operation needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// Everybody may.
    Nothing,
    /// To read `primary_conninfo`.
    ReadSettings,
    Promote,
    Reload,
    /// From PostgreSQL 15 on; before, only superusers set parameters.
    Set(&'static str),
    Slots,
    /// From PostgreSQL 15 on; before, only superusers.
    Checkpoint,
}

impl Privilege {
    pub const ALL: &[Privilege] = &[
        Privilege::ReadSettings,
        Privilege::Promote,
        Privilege::Reload,
        Privilege::Set(super::CONNINFO),
        Privilege::Set(super::SLOT_NAME),
        Privilege::Set(super::SYNCHRONOUS),
        Privilege::Slots,
        Privilege::Checkpoint,
    ];

    /// An expression that is true if the current role has it. Before PostgreSQL 15 superusers alone have some.
    pub fn held_sql(self, version: u32) -> String {
        let since_15 = |test: String| match version >= GRANTS_SETTINGS {
            true => test,
            false => HAS_ATTRIBUTE.replace("$", "rolsuper"),
        };
        let executes =
            |function: &str| format!("pg_catalog.has_function_privilege('pg_catalog.{function}', 'EXECUTE')");
        match self {
            Privilege::Nothing => "true".to_owned(),
            Privilege::ReadSettings => "pg_catalog.pg_has_role('pg_read_all_settings', 'USAGE')".to_owned(),
            Privilege::Promote => executes("pg_promote(boolean, integer)"),
            Privilege::Reload => executes("pg_reload_conf()"),
            Privilege::Set(parameter) => {
                since_15(format!("pg_catalog.has_parameter_privilege('{parameter}', 'ALTER SYSTEM')"))
            }
            Privilege::Slots => HAS_ATTRIBUTE.replace("$", "rolreplication OR rolsuper"),
            Privilege::Checkpoint => since_15("pg_catalog.pg_has_role('pg_checkpoint', 'USAGE')".to_owned()),
        }
    }

    pub fn grant(self, role: &str) -> String {
        let role = identifier(role);
        match self {
            Privilege::Nothing => String::new(),
            Privilege::ReadSettings => format!("GRANT pg_monitor TO {role};"),
            Privilege::Promote => {
                format!("GRANT EXECUTE ON FUNCTION pg_catalog.pg_promote(boolean, integer) TO {role};")
            }
            Privilege::Reload => format!("GRANT EXECUTE ON FUNCTION pg_catalog.pg_reload_conf() TO {role};"),
            Privilege::Set(parameter) => format!("GRANT ALTER SYSTEM ON PARAMETER {parameter} TO {role};"),
            Privilege::Slots => format!("ALTER ROLE {role} REPLICATION;"),
            Privilege::Checkpoint => format!("GRANT pg_checkpoint TO {role};"),
        }
    }
}

fn identifier(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    match name.chars().all(plain) && !name.starts_with(|c: char| c.is_ascii_digit()) {
        true => name.to_owned(),
        false => format!("\"{}\"", name.replace('"', "\"\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_shows_every_grant() {
        let page = include_str!("../../../docs/privileges.md");
        for privilege in Privilege::ALL {
            let grant = privilege.grant("komainu_operator");
            assert!(page.lines().any(|line| line.trim() == grant), "docs/privileges.md lacks {grant}");
        }
        assert_eq!(Privilege::Slots.grant("Ops \"1\""), "ALTER ROLE \"Ops \"\"1\"\"\" REPLICATION;");
    }
}
