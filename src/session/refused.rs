//! A write that the primary has refused because it takes none (25006), where AWS makes the writer: a reason to look again.
//!
//! Such a refusal is certain: nothing of the write was done. It waits for what the next look at that server says. If that
//! is a writer all the same, the error was the client's own doing, and it is told. Invariant: in one epoch no write is
//! sent again to the server that has refused it, unless that server was seen to take none since.

use super::batch::Request;
use super::session::{End, Session};
use super::waiting::Wait;
use crate::clock::now_ms;
use crate::cluster::reason::Reason;
use crate::route::{Effects, StatementKind};
use crate::topology::Epoch;
use crate::wire::message;

/// Larger writes are not kept for that.
const KEPT_BYTES: usize = 64 * 1024;
/// With one of these, part of a request could last although another part is refused.
const IN_PARTS: Effects = Effects::BEGINS.union(Effects::ENDS_TRANSACTION).union(Effects::UNKNOWN_EFFECTS);

#[derive(Debug)]
pub struct Refused {
    epoch: Epoch,
    at_ms: u64,
    /// The body of the server's ErrorResponse.
    error: Vec<u8>,
}

impl Session {
    /// Whether a request to the primary is kept until it is known that it is not refused so.
    pub(super) fn may_be_refused(&self, request: &Request) -> bool {
        let is_dml = |kind: &StatementKind| matches!(kind, StatementKind::Dml);
        self.settled.config.failover.mode.is_managed()
            && request.len <= KEPT_BYTES
            && request.decisive.as_ref().is_some_and(|analyzed| is_dml(&analyzed.analysis.kind))
            && !request.opening.opens
            && !request.effects.intersects(IN_PARTS)
            // Who wants to write nothing is to hear that.
            && self.settings.get("default_transaction_read_only") != Some("on")
    }

    /// The primary has refused what is kept of a request.
    pub(super) fn note_refusal(&mut self, epoch: Epoch, error: Vec<u8>) {
        self.refused = Some(Refused { epoch, at_ms: now_ms(), error });
        self.asked_again += 1;
    }

    /// Holds or answers a request for the primary that it has refused before. The request comes back if it may be sent.
    pub(super) fn after_refusal(
        &mut self,
        request: Request,
        wait: Wait,
    ) -> Result<Option<(Request, Wait)>, End> {
        let Some(refused) = &self.refused else { return Ok(Some((request, wait))) };
        let primary = self.topology.primary_server();
        if primary.is_none() || self.topology.epoch != refused.epoch {
            // It was seen not to be the writer; whoever is next is asked.
            self.refused = None;
            return Ok(Some((request, wait)));
        }
        if primary.is_some_and(|primary| primary.observed_at_ms <= refused.at_ms) {
            self.hold_for_primary(request, wait, Reason::PrimaryReadOnly);
            return Ok(None);
        }
        let error = self.refused.take().map(|refused| refused.error).unwrap_or_default();
        self.slot.wait_ended();
        (self.asked_again, self.force_primary) = (0, false);
        message::frame(&mut self.to_client, b'E', |out| out.extend_from_slice(&error))
            .expect("it came in one message and fits one");
        self.drop_request(&request);
        Ok(None)
    }
}
