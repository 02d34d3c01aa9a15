//! The roles komainu has on the servers: to operate them, and to rewind one from another.
//!
//! Pure. Owns what they may do, as SQL, and how their passwords are kept for libpq. Invariant: none of them is
//! a superuser where PostgreSQL can do without.

use super::servers::literal;

pub const OPERATOR: &str = "komainu_operator";
pub const REWINDER: &str = "komainu_rewind";
/// Where functions are granted, since each database has its own; and what the roles connect to.
pub const DATABASE: &str = "postgres";

/// What komainu sets on a running server.
const PARAMETERS: &str = "primary_conninfo, primary_slot_name, synchronous_standby_names";
/// From this version on a parameter can be granted, and a checkpoint.
const GRANTS_PARAMETERS: u32 = 15;

/// A role of the servers and its secret.
#[derive(Debug, Clone)]
pub struct Login {
    pub user: String,
    pub password: String,
}

/// Creates both roles; to be run in [`DATABASE`] by a superuser.
pub fn create(operator: &Login, rewinder: &Login, major_version: u32) -> String {
    let (operator_name, rewinder_name) = (&operator.user, &rewinder.user);
    let mut sql = format!(
        "CREATE ROLE {operator_name} LOGIN REPLICATION PASSWORD {} IN ROLE pg_monitor;\n\
         CREATE ROLE {rewinder_name} LOGIN PASSWORD {};\n\
         GRANT EXECUTE ON FUNCTION pg_promote(boolean, integer), pg_reload_conf() TO {operator_name};\n",
        literal(&operator.password),
        literal(&rewinder.password),
    );
    // As pg_rewind's manual has it.
    for function in [
        "pg_ls_dir(text, boolean, boolean)",
        "pg_stat_file(text, boolean)",
        "pg_read_binary_file(text)",
        "pg_read_binary_file(text, bigint, bigint, boolean)",
    ] {
        sql += &format!("GRANT EXECUTE ON FUNCTION {function} TO {rewinder_name};\n");
    }
    if major_version >= GRANTS_PARAMETERS {
        sql += &format!(
            "GRANT ALTER SYSTEM ON PARAMETER {PARAMETERS} TO {operator_name};\n\
             GRANT pg_checkpoint TO {operator_name}, {rewinder_name};\n"
        );
    } else {
        // Nobody else may set a parameter there.
        sql += &format!("ALTER ROLE {operator_name} SUPERUSER;\n");
    }
    sql
}

/// For any server and database: lines of libpq's password file.
pub fn passfile(logins: &[&Login]) -> String {
    let escaped = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
    logins
        .iter()
        .map(|login| format!("*:*:*:{}:{}\n", escaped(&login.user), escaped(&login.password)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_file_survives_its_own_separators() {
        let login = |user: &str, password: &str| Login { user: user.into(), password: password.into() };
        let (one, two) = (login("a", r"p:q\r"), login("b", "it's"));
        assert_eq!(passfile(&[&one, &two]), "*:*:*:a:p\\:q\\\\r\n*:*:*:b:it's\n");
    }

    #[test]
    fn a_superuser_is_made_only_where_parameters_cannot_be_granted() {
        let login = |user: &str| Login { user: user.into(), password: "secret".into() };
        let made = |version| create(&login(OPERATOR), &login(REWINDER), version);
        assert!(made(14).contains("SUPERUSER") && !made(14).contains("ON PARAMETER"));
        assert!(made(15).contains("ON PARAMETER") && !made(15).contains("SUPERUSER"));
    }
}
