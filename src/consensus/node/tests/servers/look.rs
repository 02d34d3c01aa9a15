//! What a server answers to a probe's question.

use super::server::Process;
use super::wal::lsn;
use super::{World, cut};
use crate::cluster::blue_green::BlueGreen;
use crate::cluster::conninfo::Conninfo;
use crate::cluster::model::{Facts, Receiver, Sender, Slot};
use crate::cluster::operate::slots::slot_name;
use crate::cluster::reason::Reason;

pub const SYSTEM: u64 = 7_713_098_723_540_679_867;
const VERSION: u32 = 150_004;

impl World {
    /// Whether anybody listens there. None: no answer at all.
    pub fn door(&self, index: usize) -> Option<Result<(), Reason>> {
        let server = &self.servers[index];
        match server.process {
            // The host is there, whatever its processes do: its kernel refuses.
            Process::Down => Some(Err(Reason::ConnectRefused)),
            _ if self.is_frozen(index) => None,
            Process::Starting { .. } | Process::Stopping { .. } => Some(Err(Reason::StartingUp)),
            Process::Running => Some(Ok(())),
        }
    }

    pub fn is_frozen(&self, index: usize) -> bool {
        self.now_ms < self.servers[index].frozen_until_ms
    }

    pub fn can_reach(&self, from: &str, to: &str) -> bool {
        !cut(&self.cut, from, to)
    }

    /// As `question::answer` reads them; the times are the asker's.
    pub fn facts(&self, index: usize) -> Facts {
        let server = &self.servers[index];
        let wal = &server.disk.wal;
        let receiver = self.streams.iter().find(|stream| stream.to == index && stream.receiver_open());
        let received = wal.timeline_at(server.disk.flushed);
        let control = &server.disk.control;
        let standby = server.disk.standby;
        let timeline = match (standby, receiver) {
            (false, _) => wal.timeline(),
            (true, Some(_)) => received.max(control.timeline).max(control.min_recovery_timeline),
            (true, None) => control.timeline.max(control.min_recovery_timeline),
        };
        let streaming = self.streams.iter().enumerate().filter(|(_, stream)| stream.from == index);
        let senders = streaming.filter_map(|(at, stream)| {
            let sender = stream.sender.as_ref()?;
            let sync_state = if self.named(at).is_some() { "quorum" } else { "async" };
            Some(Sender {
                name: self.servers[stream.to].id.to_owned(),
                state: "streaming".to_owned(),
                sync_state: sync_state.to_owned(),
                sent_lsn: Some(lsn(sender.sent)),
                // It has said nothing yet.
                flush_lsn: (sender.flushed > 0).then(|| lsn(sender.flushed)),
            })
        });
        // None of the model's keeps log that anybody would miss.
        let at = lsn(if standby { server.replayed } else { wal.end() });
        let slot = |name: &String| Slot { name: name.clone(), active: false, restart_lsn: Some(at) };
        let upstream = Conninfo::parse(&server.disk.conninfo).ok().and_then(|conninfo| conninfo.upstream());
        Facts {
            asked_at_ms: 0,
            answered_at_ms: 0,
            in_recovery: standby,
            read_only: false,
            timeline,
            lsn: lsn(if standby { server.replayed } else { wal.end() }),
            flushed_lsn: (!standby).then(|| lsn(wal.end())),
            received_lsn: (standby && server.asks_for_more).then(|| lsn(server.disk.flushed)),
            replay_lag_ms: standby.then_some(0),
            system_identifier: SYSTEM,
            version: VERSION,
            receiver: receiver.filter(|_| standby).map(|stream| Receiver {
                status: "streaming".to_owned(),
                name: server.id.to_owned(),
                message_age_ms: Some(self.now_ms.saturating_sub(stream.heard_ms)),
                timeline: Some(received),
            }),
            senders: senders.collect(),
            upstream: upstream.filter(|_| standby),
            slot_name: server.disk.by_slot.then(|| slot_name(server.id)),
            synchronous_standby_names: server.disk.synchronous.clone(),
            slots: server.disk.slots.iter().map(slot).collect(),
            wal_log_hints: true,
            data_checksums: false,
            started_at_ms: server.life,
            archive: None,
            timeouts: Default::default(),
            connections: None,
            aurora: None,
            blue_green: BlueGreen::None,
            given_away: false,
            members: Vec::new(),
        }
    }
}
