//! Making virtual statements known: to the session under the client's name, to a server connection under ours.
//!
//! Invariant: a statement counts as known to a connection exactly from the moment its Parse is in the output.

use std::sync::Arc;

use super::inbound::FITS;
use super::pins::PinReason;
use super::prepared::{self, Origin, Prepared};
use super::session::{End, Session};
use crate::backend::ServerConn;
use crate::backend::expect::{Owed, Reply};
use crate::wire::message;
use crate::wire::sqlstate;

impl Session {
    pub(super) fn content_context(&self) -> prepared::Context {
        prepared::Context {
            database: self.identity.database.id,
            settings: self.settings.semantic_hash(),
            schema_generation: self.identity.database.schema_generation(),
        }
    }

    pub(super) fn add_name(
        &mut self,
        name: &[u8],
        prepared: Arc<Prepared>,
    ) -> Result<prepared::NameChange, End> {
        let limits = &self.settled.config.limits;
        self.names
            .insert(
                name,
                prepared,
                limits.max_prepared_statements_per_session,
                limits.max_prepared_bytes_per_session,
            )
            .map_err(|e| End::fatal(sqlstate::PROGRAM_LIMIT_EXCEEDED, e.to_string()))
    }

    pub(super) fn pins_no_sql(&self) -> bool {
        !self.pins.has(PinReason::SqlPrepare)
    }
}

/// Makes sure the server knows the statement before it is named to it.
pub(super) fn teach(conn: &mut ServerConn, prepared: &Arc<Prepared>) {
    if conn.known.touch(prepared.id) {
        return;
    }
    note_known(conn, prepared);
    let mut owed = match prepared.origin {
        Origin::Parse => {
            message::parse(&mut conn.output, &prepared.server_name, &prepared.text, &prepared.types)
                .expect(FITS);
            Owed::prelude(Reply::ParseComplete)
        }
        Origin::Sql => {
            message::query(&mut conn.output, &prepared.text).expect(FITS);
            conn.unnamed = None;
            Owed::prelude(Reply::Query)
        }
    };
    owed.learns = Some(prepared.id);
    conn.expected.push(owed);
}

/// Notes that the server will know the statement, and closes what it should forget for it. To be called
/// before the statement's own message is written: what is closed is sent first.
pub(super) fn note_known(conn: &mut ServerConn, prepared: &Arc<Prepared>) {
    for old in conn.known.insert(prepared) {
        message::close_statement(&mut conn.output, &old.server_name).expect(FITS);
        conn.expected.push(Owed::prelude(Reply::CloseComplete));
    }
}
