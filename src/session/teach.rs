//! Making virtual statements known: to the session under the client's name, to a server connection under ours.
//!
//! Invariant: a statement counts as known to a connection exactly from the moment its Parse is in the output, and as
//! read under the settings in force there: nobody is given one that was read for somebody with others.

use std::sync::Arc;

use super::inbound::FITS;
use super::pins::PinReason;
use super::prepared;
use super::session::Session;
use super::settle::UNKNOWN_UNNAMED;
use crate::backend::ServerConn;
use crate::backend::conn::Alike;
use crate::backend::expect::{For, Owed, Reply};
use crate::backend::statement::{InForce, NameChange, Origin, Prepared, UNKNOWN_PREFIX};
use crate::wire::message::{self, Report};
use crate::wire::sqlstate;

/// What PostgreSQL says of a prepared statement whose result would have other columns than it had (SQLSTATE 0A000, which
/// by itself says much else), and the routine that does.
const PLAN_CHANGED: &str = "cached plan must not change result type";
pub(super) const PLAN_CHANGED_ROUTINE: &str = "RevalidateCachedQuery";

/// In which PREPARE is executed; no client's portal is called so.
const PORTAL: &[u8] = b"_k prepare";

impl Session {
    /// The settings in force for what is sent now.
    pub(super) fn in_force(&self) -> InForce {
        // Redshift is not asked what was set.
        match self.transaction.may_set_meaning || self.pins.has(PinReason::CannotAsk) {
            true => self.in_doubt(),
            false => InForce::Known(self.settings.semantic_hash()),
        }
    }

    fn in_doubt(&self) -> InForce {
        InForce::Unknown { session: self.id, transaction: self.transaction.number }
    }

    /// Of a statement that is parsed now. Where a function may have set something unseen it is nobody else's.
    pub(super) fn content_context(&mut self) -> prepared::Context {
        match self.in_force() {
            // Over one temporary table it is another statement than over the next of that name.
            settings @ InForce::Known(_)
                if !self.transaction.hidden_state && !self.pins.has(PinReason::TemporaryObject) =>
            {
                prepared::Context {
                    database: self.identity.database.id,
                    settings,
                    schema_generation: self.identity.database.schema_generation(),
                    alone: 0,
                }
            }
            _ => self.own_context(),
        }
    }

    /// Of a statement that is nobody else's.
    pub(super) fn own_context(&mut self) -> prepared::Context {
        prepared::Context {
            database: self.identity.database.id,
            settings: self.in_doubt(),
            schema_generation: self.identity.database.schema_generation(),
            alone: self.new_unnamed_id(),
        }
    }

    /// As `teach`; but what komainu itself answers is put into words anew.
    pub(super) fn make_known(&mut self, prepared: &Arc<Prepared>, audience: For) -> bool {
        let answer = prepared.is_answered_here.then(|| self.own_rows(&prepared.analyzed()));
        let in_force = self.in_force();
        let conn = &mut self.lease.as_mut().expect("called with a lease").conn;
        match answer {
            Some(answer) => {
                note_known(conn, prepared, in_force);
                parse(conn, prepared, answer.as_bytes(), audience);
                true
            }
            None => teach(conn, prepared, in_force, audience),
        }
    }

    /// Whether a statement that was prepared under another schema, and is to be parsed anew here, still has the parameters
    /// and columns by which its client goes. If that is to be asked, it is.
    pub(super) fn answers_alike(&mut self, prepared: &Arc<Prepared>) -> Alike {
        let in_force = self.in_force();
        let is_outdated = prepared.schema_generation != self.identity.database.schema_generation();
        if !is_outdated || !prepared.was_described() || prepared.is_answered_here {
            return Alike::Yes;
        }
        let conn = &mut self.lease.as_mut().expect("called with a lease").conn;
        teach(conn, prepared, in_force, For::Prelude);
        let alike = conn.known.alike(prepared.id);
        if alike == Alike::Unknown {
            message::describe_statement(&mut conn.output, &prepared.server_name).expect(FITS);
            let describes = Some(prepared.clone());
            conn.expected.push(Owed { describes, ..Owed::prelude(Reply::Description) });
            conn.known.is_alike(prepared.id, Alike::Asked);
            return Alike::Asked;
        }
        alike
    }

    pub(super) fn add_name(
        &mut self,
        name: &[u8],
        prepared: Arc<Prepared>,
    ) -> Result<NameChange, prepared::TooMany> {
        let limits = &self.settled.config.limits;
        self.names.insert(
            name,
            prepared,
            limits.max_prepared_statements_per_session,
            limits.max_prepared_bytes_per_session,
        )
    }

    /// In place of a Parse that is not sent: something that fails there as well, with the same effect on batch and
    /// transaction, while the client is told why.
    pub(super) fn refuse_parse(&mut self, report: &Report<'_>) {
        let lease = self.lease.as_mut().expect("called with a lease");
        message::bind_text(&mut lease.conn.output, b"", UNKNOWN_PREFIX.as_bytes(), &[]).expect(FITS);
        let mut owed = Owed::client(Reply::BindComplete);
        owed.instead = Some(report.body());
        lease.conn.expected.push(owed);
    }

    pub(super) fn pins_no_sql(&self) -> bool {
        !self.pins.has(PinReason::SqlPrepare)
    }
}

/// Of a statement that has changed so, where PostgreSQL itself cannot know.
pub(super) fn plan_changed() -> Box<[u8]> {
    Report::error(sqlstate::FEATURE_NOT_SUPPORTED, PLAN_CHANGED).routine(PLAN_CHANGED_ROUTINE).body()
}

/// Makes sure the server knows the statement before it is named to it; `audience` says where. True if it did not.
pub(super) fn teach(
    conn: &mut ServerConn,
    prepared: &Arc<Prepared>,
    in_force: InForce,
    audience: For,
) -> bool {
    if conn.known.serves(prepared, in_force) {
        return false;
    }
    note_known(conn, prepared, in_force);
    match prepared.origin {
        Origin::Parse => parse(conn, prepared, &prepared.text, audience),
        // Not as a simple Query, which would end the transaction of a batch.
        Origin::Sql => {
            let out = &mut conn.output;
            message::parse(out, b"", &prepared.text, &[0, 0]).expect(FITS);
            message::bind_text(out, PORTAL, b"", &[]).expect(FITS);
            message::execute(out, PORTAL).expect(FITS);
            message::close_portal(out, PORTAL).expect(FITS);
            conn.unnamed = Some(UNKNOWN_UNNAMED);
            for owed in [
                Owed::before(Reply::ParseComplete, audience),
                Owed::before(Reply::BindComplete, audience),
                Owed { learns: Some(prepared.id), ..Owed::before(Reply::Execution, audience) },
                Owed::before(Reply::CloseComplete, audience),
            ] {
                conn.expected.push(owed);
            }
        }
    }
    true
}

fn parse(conn: &mut ServerConn, prepared: &Prepared, text: &[u8], audience: For) {
    message::parse(&mut conn.output, &prepared.server_name, text, &prepared.types).expect(FITS);
    let parse = Owed::before(Reply::ParseComplete, audience);
    conn.expected.push(Owed { learns: Some(prepared.id), ..parse });
}

/// Notes that the server will know the statement, and closes what it should forget for it. To be called
/// before the statement's own message is written: what is closed is sent first.
pub(super) fn note_known(conn: &mut ServerConn, prepared: &Arc<Prepared>, in_force: InForce) {
    for old in conn.known.insert(prepared, in_force) {
        message::close_statement(&mut conn.output, &old.server_name).expect(FITS);
        let learns = (old.id == prepared.id).then_some(old.id);
        conn.expected.push(Owed { learns, ..Owed::prelude(Reply::CloseComplete) });
    }
}
