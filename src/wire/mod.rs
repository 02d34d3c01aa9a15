//! The PostgreSQL frontend/backend protocol, version 3: frames, and the few messages we look into.
//!
//! Pure: bytes in, values out. Never decodes a row, never allocates for a message it only passes on.
//! Source: <https://www.postgresql.org/docs/current/protocol-message-formats.html>.

pub mod authentication;
pub mod fields;
pub mod frame;
pub mod md5;
pub mod message;
pub mod options;
pub mod scram;
pub mod sqlstate;
pub mod startup;
