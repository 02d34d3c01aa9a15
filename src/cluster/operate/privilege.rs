//! What the operating role must be allowed, and the SQL that allows it.
//!
//! Pure. Invariant: `docs/privileges.md` shows each of them (a test sees to it).

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
