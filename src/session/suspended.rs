//! A primary that this node may not use for want of a lease, and the work of a session that is under way there.
//!
//! Leases end with their leader, and come back with the next one a moment later; mostly the primary is the same. So the
//! work waits: nothing is sent, and nothing of what the server says is looked at. Invariant: what the server said
//! meanwhile is relayed only once this node has a lease again *and* the epoch is still the server's, which is what
//! is asked of any answer. `docs/decisions/0029-work-waits-for-the-lease.md` says why that is safe.

use std::io;

use super::session::{End, Session};
use crate::clock::now_ms;
use crate::cluster::right::Standing;

const NO_RIGHT: &str = "this node may not use it any more: its lease has ended, or another primary was named";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Usable {
    Now,
    /// Perhaps later.
    Later,
    /// The session has no server connection any more.
    Gone,
}

impl Session {
    /// Whether the session's server may be used at this moment. Gives it up if it will not be, or not in time.
    pub(super) fn usable(&mut self) -> Result<Usable, End> {
        let Some(lease) = &mut self.lease else { return Ok(Usable::Gone) };
        match lease.standing(&self.gateway.right) {
            Standing::Good => {
                lease.suspended_since_ms = None;
                return Ok(Usable::Now);
            }
            Standing::Suspended => {
                let now_ms = now_ms();
                let since_ms = *lease.suspended_since_ms.get_or_insert(now_ms);
                if now_ms < since_ms + self.settled.config.lease_awaited_ms() {
                    return Ok(Usable::Later);
                }
            }
            Standing::Over => {}
        }
        self.server_gone(io::Error::new(io::ErrorKind::PermissionDenied, NO_RIGHT))?;
        Ok(Usable::Gone)
    }

    /// What the server has said while nobody was to hear it. `None`: nothing.
    pub(super) fn hear_late(&mut self) -> Result<Option<bool>, End> {
        if !self.lease.as_ref().is_some_and(|lease| lease.unheard) {
            return Ok(None);
        }
        match self.usable()? {
            Usable::Now => {}
            Usable::Later => return Ok(Some(false)),
            Usable::Gone => return Ok(Some(true)),
        }
        if let Some(lease) = &mut self.lease {
            lease.unheard = false;
        }
        self.process_server()?;
        Ok(Some(true))
    }
}
