//! Commits, and the standbys they wait for, as `syncrep.c` has it.
//!
//! A backend waits if the checkpointer has said that there are synchronous standbys. Who has replied last releases
//! commits by the setting that its own process has read: n of those whose own processes find themselves named must have
//! flushed them. A reload reaches each process in its own time.

use tokio::sync::oneshot;

use super::World;
use super::server::{Answer, Process, Waiter};
use super::wal::Record;
use crate::cluster::sync_set::SyncSet;

/// Within this every walsender has read a new setting: `RELOADED_AFTER_MS` counts on more.
const READ_WITHIN_MS: u64 = 400;

impl World {
    pub(super) fn setting(&self, server: usize) -> SyncSet {
        SyncSet::parse(&self.servers[server].disk.synchronous).unwrap_or_default()
    }

    /// A client's row arrives. None: nobody takes connections.
    pub fn write(&mut self, server: usize, row: u64) -> Option<oneshot::Receiver<Answer>> {
        let (answer, answered) = oneshot::channel();
        if self.servers[server].process != Process::Running {
            return None;
        }
        if !self.servers[server].is_primary() {
            let _ = answer.send(Answer::Refused);
            return Some(answered);
        }
        let times = self.arrived.entry(row).or_default();
        *times += 1;
        if *times > 1 {
            self.violations.push(format!("row {row} was sent twice"));
        }
        self.append(server, Some(row));
        let server = &mut self.servers[server];
        let end = server.disk.wal.end();
        server.waiters.push(Waiter { end, answer });
        Some(answered)
    }

    pub(super) fn append(&mut self, server: usize, row: Option<u64>) {
        self.last_number += 1;
        let wal = &mut self.servers[server].disk.wal;
        let timeline = wal.timeline();
        wal.push(Record { number: self.last_number, timeline, row });
    }

    /// `ALTER SYSTEM`, a reload, and a record that wakes those who wait.
    pub fn set_synchronous(&mut self, server: usize, names: &str) {
        if self.servers[server].disk.synchronous == names {
            return;
        }
        names.clone_into(&mut self.servers[server].disk.synchronous);
        let set = self.setting(server);
        let at_ms = self.now_ms + self.ms(0, READ_WITHIN_MS);
        self.servers[server].waits_change = Some((at_ms, set.promises()));
        for index in 0..self.streams.len() {
            let at_ms = self.now_ms + self.ms(0, READ_WITHIN_MS);
            let stream = &mut self.streams[index];
            if let Some(sender) = stream.sender.as_mut().filter(|_| stream.from == server) {
                sender.reads = Some((at_ms, set.clone()));
            }
        }
        if self.servers[server].is_primary() {
            self.append(server, None);
        }
    }

    /// The sender of that stream has heard how far its standby has come.
    pub(super) fn release(&mut self, index: usize) {
        let from = self.streams[index].from;
        let Some(setting) = self.named(index) else { return };
        let mut flushed: Vec<usize> = (0..self.streams.len())
            .filter(|&other| self.streams[other].from == from && self.named(other).is_some())
            .filter_map(|other| Some(self.streams[other].sender.as_ref()?.flushed))
            .collect();
        flushed.sort_unstable_by(|a, b| b.cmp(a));
        if let Some(&all_have) = flushed.get((setting.count as usize).wrapping_sub(1)) {
            let server = &mut self.servers[from];
            server.released = server.released.max(all_have);
        }
    }

    /// The setting by which a stream's sender finds itself named.
    pub(super) fn named(&self, index: usize) -> Option<SyncSet> {
        let stream = &self.streams[index];
        let sender = stream.sender.as_ref()?;
        let id = self.servers[stream.to].id;
        (sender.setting.promises() && sender.setting.names.contains(id)).then(|| sender.setting.clone())
    }

    /// Answers the commits that need wait no longer.
    pub(super) fn acknowledge(&mut self, index: usize) {
        let now_ms = self.now_ms;
        let server = &mut self.servers[index];
        if let Some((_, waits)) = server.waits_change.take_if(|(at_ms, _)| *at_ms <= now_ms) {
            server.waits_for_standbys = waits;
        }
        let may = match server.waits_for_standbys {
            true => server.disk.flushed.min(server.released),
            false => server.disk.flushed,
        };
        let (done, waiting) =
            std::mem::take(&mut server.waiters).into_iter().partition(|waiter| waiter.end <= may);
        server.waiters = waiting;
        for waiter in done as Vec<Waiter> {
            let _ = waiter.answer.send(Answer::Committed);
        }
    }

    /// Somebody cancels the commits that wait for a standby: they are done, and the guarantee is not.
    pub fn cancel_waits(&mut self, server: usize) {
        let server = &mut self.servers[server];
        let flushed = server.disk.flushed;
        let (cancelled, waiting) =
            std::mem::take(&mut server.waiters).into_iter().partition(|waiter| waiter.end <= flushed);
        server.waiters = waiting;
        for waiter in cancelled as Vec<Waiter> {
            let _ = waiter.answer.send(Answer::Unconfirmed);
        }
    }
}
