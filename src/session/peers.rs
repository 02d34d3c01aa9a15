//! Whether client and server still live, while one of them is waited for.
//!
//! Both may take their time: a client that does not read, a server that waits for a lock. Only who gives no sign of
//! life has vanished, and the kernel alone would need a quarter of an hour to say so.

use std::io;
use std::time::Duration;

use super::session::{End, Session};
use crate::net::vanished::has_vanished;

impl Session {
    /// 0: none is due. Without a server connection nothing is held that others could miss.
    pub(super) fn next_look_at_peers(&self) -> u64 {
        match self.lease {
            Some(_) => self.looked_at_peers_ms + self.settled.config.limits.peer_gone_after_ms / 3,
            None => 0,
        }
    }

    /// True: the server has vanished, and the session is told.
    pub(super) fn look_at_peers(&mut self, now_ms: u64) -> Result<bool, End> {
        let due = self.next_look_at_peers();
        let Some(lease) = &self.lease else { return Ok(false) };
        if now_ms < due {
            return Ok(false);
        }
        self.looked_at_peers_ms = now_ms;
        let after = Duration::from_millis(self.settled.config.limits.peer_gone_after_ms);
        if has_vanished(&lease.conn.stream, after) {
            return self.server_gone(io::ErrorKind::TimedOut.into()).map(|()| true);
        }
        if has_vanished(&self.client, after) {
            return Err(End::Client(io::ErrorKind::TimedOut.into()));
        }
        Ok(false)
    }
}
