//! The SQLSTATE codes komainu itself sends or acts upon.
//! Source: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.

/// Five characters, as the protocol carries them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState(pub [u8; 5]);

impl SqlState {
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("XX000")
    }
}

impl std::fmt::Display for SqlState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

macro_rules! states {
    ($($name:ident = $code:literal;)*) => { $(pub const $name: SqlState = SqlState(*$code);)* };
}

states! {
    CONNECTION_DOES_NOT_EXIST = b"08003";
    SERVER_REJECTED_CONNECTION = b"08004";
    CONNECTION_FAILURE = b"08006";
    TRANSACTION_RESOLUTION_UNKNOWN = b"08007";
    PROTOCOL_VIOLATION = b"08P01";
    FEATURE_NOT_SUPPORTED = b"0A000";
    INVALID_PARAMETER_VALUE = b"22023";
    CHARACTER_NOT_IN_REPERTOIRE = b"22021";
    ACTIVE_SQL_TRANSACTION = b"25001";
    READ_ONLY_SQL_TRANSACTION = b"25006";
    IN_FAILED_SQL_TRANSACTION = b"25P02";
    IDLE_IN_TRANSACTION_SESSION_TIMEOUT = b"25P03";
    INVALID_SQL_STATEMENT_NAME = b"26000";
    INVALID_AUTHORIZATION = b"28000";
    INVALID_PASSWORD = b"28P01";
    INVALID_SAVEPOINT = b"3B001";
    INVALID_CATALOG_NAME = b"3D000";
    INSUFFICIENT_PRIVILEGE = b"42501";
    SYNTAX_ERROR = b"42601";
    DUPLICATE_PREPARED_STATEMENT = b"42P05";
    TOO_MANY_CONNECTIONS = b"53300";
    DISK_FULL = b"53100";
    OUT_OF_MEMORY = b"53200";
    PROGRAM_LIMIT_EXCEEDED = b"54000";
    QUERY_CANCELED = b"57014";
    ADMIN_SHUTDOWN = b"57P01";
    CRASH_SHUTDOWN = b"57P02";
    CANNOT_CONNECT_NOW = b"57P03";
    IDLE_SESSION_TIMEOUT = b"57P05";
    IO_ERROR = b"58030";
    INTERNAL_ERROR = b"XX000";
}
