//! What becomes of the server connection when its client leaves.
//!
//! Invariants: no transaction stays open for longer than it takes to say so, and nothing waits for what only its client
//! could send. A statement outside a transaction may finish, with the locks that it holds: its client asked for it and
//! may rely on it. What has not been sent goes to a primary only while this node may use it, as when the client was
//! there. A connection goes back only as what it is believed to be, although nobody waits any more for what was to make
//! it so.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::SessionId;
use super::cancel::CancelSlot;
use super::gateway::{Database, Gateway};
use super::lease::Lease;
use super::pins::PinReason;
use super::session::Session;
use super::settle::{UNKNOWN_UNNAMED, is_relied_upon};
use crate::backend::ServerConn;
use crate::backend::conn::{Alike, MAX_INSPECTED, parameter_status};
use crate::backend::connect;
use crate::backend::expect::{For, Question};
use crate::backend::settings::{IN_HOT_STANDBY, report};
use crate::cluster::right::{Standing, WriteRight};
use crate::route::Effects;
use crate::wire::frame::{HEADER_LEN, header};
use crate::wire::message::{self, TransactionStatus};

/// How long a statement outside a transaction may run on after its client has left.
const FINISH_DEADLINE: Duration = Duration::from_secs(60);
/// How long a server may take to take a cancel. Locks are held meanwhile, so this is no time for patience.
const CANCEL_DEADLINE: Duration = Duration::from_secs(5);
/// How long ROLLBACK, or the end of a cancelled statement, may take.
const ROLLBACK_DEADLINE: Duration = Duration::from_secs(5);

impl Session {
    /// Gives back or cleans up whatever the session holds.
    pub(super) fn leave(&mut self) {
        self.waiting = None;
        for reason in self.pins.iter() {
            self.gateway.counters.unpinned(reason);
        }
        let Some(mut lease) = self.lease.take() else { return };
        self.tally.hand_over(&self.gateway.counters, lease.conn.server);
        if tokio::runtime::Handle::try_current().is_err() {
            // The process ends; its sockets say the rest.
            return;
        }
        // What a session that broke down has noted is not to be built upon.
        lease.conn.doomed |= std::thread::panicking();
        // Half a message of the client's can neither be finished nor taken back; nor can half of ours to
        // it matter any more.
        lease.conn.is_midway = self.passing.is_forwarded();
        lease.conn.doomed |= lease.conn.is_midway;
        // What became of its settings was to be asked when the transaction ends; nobody will.
        const UNKNOWN: Effects = Effects::CHANGES_SETTINGS.union(Effects::UNKNOWN_EFFECTS);
        let settings_unknown = lease.settings_asked.is_some() || self.transaction.effects.intersects(UNKNOWN);
        if !self.pins.is_empty() || self.transaction.hidden_state || settings_unknown {
            lease.conn.leftover_of = Some(self.id);
        }
        if self.transaction.forgets {
            lease.conn.doomed = true;
        }
        let unmarked = lease.marked;
        lease.conn.input.consume(unmarked);
        lease.marked = 0;
        // Others may wait for what it has locked; what is only hidden can be wiped for whoever comes next.
        let wipes = !self.pins.is_empty() && lease.conn.forgets;
        let goes_at_once = lease.conn.doomed || lease.conn.is_clean() && !wipes;
        let alters = self.transaction.alters > 0;
        let altered = alters.then(|| Altered(self.gateway.clone(), self.identity.database.clone()));
        // DISCARD ALL unloads no library and ends no backup. What is under way may end before the connection does.
        lease.conn.doomed |= self.pins.has(PinReason::Load);
        if goes_at_once {
            drop(altered);
            self.slot.release(&lease.pool, lease.conn);
            return;
        }
        // A COMMIT on its way is the client's wish, and goodbye no reason to call it back.
        let may_end = self.transaction.effects.intersects(Effects::ENDS_TRANSACTION);
        tokio::spawn(clean_up(lease, may_end, wipes, altered, self.slot.clone(), self.gateway.right.clone()));
    }
}

/// Nobody hears whether a change of the schema was made, so it was, at the latest when this is dropped.
struct Altered(Arc<Gateway>, Arc<Database>);

impl Drop for Altered {
    fn drop(&mut self) {
        self.0.schema_changed(&self.1);
    }
}

async fn clean_up(
    mut lease: Lease,
    may_end: bool,
    wipes: bool,
    altered: Option<Altered>,
    slot: Arc<CancelSlot>,
    right: Arc<WriteRight>,
) {
    let expected = &lease.conn.expected;
    if expected.is_copy_in() || expected.has_open_batch() && expected.may_begin_copy() {
        // Where no COPY begins the server ignores it. Where one does, the ROLLBACK alone would end the connection.
        fail_copy(&mut lease.conn);
    }
    if lease.conn.expected.has_open_batch() {
        // A Sync alone would commit what its client never asked to be committed. After an error the server
        // ignores the ROLLBACK, up to the Sync.
        lease.conn.ask_simple(Question::Rollback, b"ROLLBACK");
        lease.conn.push_sync(Question::Rollback);
    } else if lease.conn.expected.is_skipping() {
        lease.conn.push_sync(Question::Rollback);
    }
    let in_transaction = lease.conn.status != TransactionStatus::Idle;
    if in_transaction && !may_end && !lease.conn.expected.is_empty() {
        // It will be rolled back anyway; waiting for its end would only hold its locks.
        cancel(&lease).await;
    }
    let deadline = if in_transaction && !may_end { ROLLBACK_DEADLINE } else { FINISH_DEADLINE };
    let mut finished = drained(&mut lease, &right, deadline).await;
    if finished && lease.conn.status != TransactionStatus::Idle {
        lease.conn.ask_simple(Question::Rollback, b"ROLLBACK");
        finished = drained(&mut lease, &right, ROLLBACK_DEADLINE).await;
    }
    if finished && wipes && !lease.conn.doomed {
        lease.conn.wipe();
        lease.conn.last_session = SessionId::NONE;
        finished = drained(&mut lease, &right, ROLLBACK_DEADLINE).await;
    }
    if !finished {
        cancel(&lease).await;
        lease.conn.doomed = true;
    }
    // Whoever gets the connection next is told nothing that was known before.
    drop(altered);
    slot.release(&lease.pool, lease.conn);
}

/// The data that a COPY waits for will not come. A cancel does not reach a server that waits for it.
fn fail_copy(conn: &mut ServerConn) {
    message::frame(&mut conn.output, b'f', |out| out.extend_from_slice(b"client left\0"))
        .expect("a short text fits");
    conn.expected.copy_in_ended();
}

async fn cancel(lease: &Lease) {
    let address = &lease.conn.cancel;
    if connect::cancel(lease.pool.target(), address.peer, address.pid, &address.key, CANCEL_DEADLINE)
        .await
        .is_err()
    {
        address.doubt();
    }
}

async fn drained(lease: &mut Lease, right: &WriteRight, deadline: Duration) -> bool {
    let drain = poll_fn(|cx| poll_drain(lease, right, cx));
    matches!(tokio::time::timeout(deadline, drain).await, Ok(Ok(())))
}

/// Reads and drops what the server still has to say, until it owes nothing. A COPY that begins is failed.
fn poll_drain(lease: &mut Lease, right: &WriteRight, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    loop {
        drop_messages(lease)?;
        let is_unsent = !lease.conn.output.is_empty() || lease.conn.unflushed;
        if is_unsent && lease.standing(right) != Standing::Good {
            // Nobody waits for it. The end of the connection ends its transaction.
            return Poll::Ready(Err(io::ErrorKind::PermissionDenied.into()));
        }
        let _ = lease.conn.poll_flush(cx)?;
        if lease.conn.expected.is_empty() && lease.conn.output.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let conn = &mut *lease.conn;
        match conn.input.poll_fill(&mut conn.stream, cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
        }
    }
}

fn drop_messages(lease: &mut Lease) -> io::Result<()> {
    let conn = &mut *lease.conn;
    loop {
        if lease.server_passing > 0 {
            let count = lease.server_passing.min(conn.input.len());
            conn.input.consume(count);
            lease.server_passing -= count;
            if lease.server_passing > 0 {
                return Ok(());
            }
        }
        let bytes = conn.input.bytes();
        let found = match header(bytes, 1 << 31) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(()),
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        };
        if found.tag == b'Z' {
            let Some(&status) = bytes.get(HEADER_LEN) else { return Ok(()) };
            conn.status = TransactionStatus::from_byte(status).unwrap_or(TransactionStatus::Failed);
        }
        if found.tag == b'S' && bytes.len() < found.len && found.len <= MAX_INSPECTED {
            conn.input.reserve(found.len);
            return Ok(());
        }
        if found.tag == b'S'
            && let Some(body) = bytes.get(HEADER_LEN..found.len)
            && let Some((name, value)) = parameter_status(body)
            && name != IN_HOT_STANDBY
        {
            // As when a SET is rolled back: the next client is told what differs from this.
            report(&mut conn.reported, name, value);
        }
        let mut doomed = conn.doomed;
        let mut described = None;
        let mut forgotten = Vec::new();
        let mut keeps_sequences = false;
        let unnamed = &mut conn.unnamed;
        match conn.expected.on_message(found.tag) {
            Ok((_, outcome)) => outcome.for_each(|owed, done| {
                if owed.audience == For::Prelude {
                    described = owed.describes.as_ref().map(|prepared| prepared.id).or(described);
                }
                if !done {
                    // A ROLLBACK is skipped where what it stands behind has failed.
                    doomed |= is_relied_upon(&owed) && owed.audience != For::Us(Question::Rollback);
                    forgotten.extend(owed.learns);
                    keeps_sequences |= owed.discards;
                    // What the server has by now is nobody's for certain.
                    *unnamed = Some(UNKNOWN_UNNAMED);
                }
            }),
            Err(_) => doomed = true,
        }
        // Nobody has looked how.
        described.into_iter().for_each(|id| conn.known.is_alike(id, Alike::Unknown));
        forgotten.into_iter().for_each(|id| conn.known.not_parsed(id));
        if keeps_sequences {
            conn.sequences_kept();
        }
        while conn.expected.pop_own().is_some() {}
        conn.doomed = doomed;
        if conn.expected.is_copy_in() {
            fail_copy(conn);
            if conn.expected.has_open_batch() {
                // The Sync that was sent behind it is ignored as the COPY's.
                conn.push_sync(Question::Rollback);
            }
        }
        lease.server_passing = found.len;
    }
}
