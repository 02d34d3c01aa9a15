//! Streaming replication: who may stream from whom, what is under way between two servers, and when either end gives up.

use std::collections::VecDeque;

use super::server::Process;
use super::wal::Record;
use super::{World, cut};
use crate::cluster::sync_set::SyncSet;

/// `wal_sender_timeout` and `wal_receiver_timeout`.
const TIMEOUT_MS: u64 = 2_000;
/// `wal_receiver_status_interval`, and how often an idle sender says that it lives.
const STATUS_MS: u64 = 1_000;
/// `wal_retrieve_retry_interval`
const RETRY_MS: u64 = 200;
/// libpq waits so long for an address that does not answer.
const CONNECT_MS: u64 = 2_000;

/// From the sender.
enum Message {
    Records(Vec<Record>),
    Keepalive,
    End,
}

/// One connection.
pub struct Stream {
    pub from: usize,
    pub to: usize,
    pub sender: Option<Sender>,
    /// When the receiver last had a message.
    pub heard_ms: u64,
    receiver_open: bool,
    down: VecDeque<(u64, Message)>,
    up: VecDeque<(u64, usize)>,
    said: usize,
    said_at_ms: u64,
}

/// A walsender.
pub struct Sender {
    pub sent: usize,
    pub sent_at_ms: u64,
    pub flushed: usize,
    heard_ms: u64,
    /// The setting as this process has read it, and when it reads the next.
    pub setting: SyncSet,
    pub reads: Option<(u64, SyncSet)>,
}

impl Stream {
    pub fn receiver_open(&self) -> bool {
        self.receiver_open
    }
}

impl World {
    /// A standby's startup process looks for somebody to receive from.
    pub(super) fn connect(&mut self, to: usize) {
        let standby = &self.servers[to];
        let busy = self.streams.iter().any(|stream| stream.to == to && stream.receiver_open);
        let may = standby.disk.standby
            && standby.asks_for_more
            && standby.promoting.is_none()
            && standby.process == Process::Running;
        if busy || !may || standby.receiver_ends_at_ms.is_some() || self.now_ms < standby.receive_again_at_ms
        {
            return;
        }
        let Some(from) = standby.upstream().and_then(|host| self.find(&host)) else { return };
        let reached = !cut(&self.cut, standby.id, self.servers[from].id)
            && !cut(&self.cut, self.servers[from].id, standby.id);
        let answers = reached && self.now_ms >= self.servers[from].frozen_until_ms;
        let pause = if answers { RETRY_MS } else { CONNECT_MS };
        self.servers[to].receive_again_at_ms = self.now_ms + pause;
        if !answers || self.servers[from].process != Process::Running || from == to {
            return;
        }
        let is_in_use = |stream: &Stream| stream.from == from && stream.to == to && stream.sender.is_some();
        if self.servers[to].disk.by_slot && self.streams.iter().any(is_in_use) {
            return;
        }
        if let Some(at) = self.begins_at(from, to) {
            self.begin(from, to, at);
        }
    }

    /// As the two processes negotiate it, by numbers alone: where streaming begins. None: it is refused.
    fn begins_at(&self, from: usize, to: usize) -> Option<usize> {
        let (upstream, standby) = (&self.servers[from], &self.servers[to]);
        let own = standby.disk.wal.timeline();
        let theirs = upstream.disk.wal.timeline_at(upstream.sendable());
        let end = standby.disk.wal.end();
        if theirs < own {
            return None;
        }
        if theirs == own {
            return (end <= upstream.sendable()).then_some(end);
        }
        let left = upstream.disk.wal.left_at(own)?;
        // What was received beyond and not replayed is read again, from the newer timeline.
        (standby.replayed <= left).then_some(end.min(left))
    }

    fn begin(&mut self, from: usize, to: usize, at: usize) {
        let (upstream, standby) = (&self.servers[from].disk.wal, &self.servers[to].disk.wal);
        if !upstream.agrees(standby, at) {
            let (from, to) = (self.servers[from].id, self.servers[to].id);
            self.violations
                .push(format!("{to} streams from {from} behind {at}, and has another record there"));
        }
        let known = upstream.timeline();
        let standby = &mut self.servers[to];
        standby.disk.wal.truncate(at);
        standby.disk.flushed = standby.disk.flushed.min(at);
        standby.flushing = None;
        standby.disk.known_timeline = standby.disk.known_timeline.max(known);
        let setting = self.setting(from);
        let sender = Sender {
            sent: at,
            sent_at_ms: self.now_ms,
            flushed: 0,
            heard_ms: self.now_ms,
            setting,
            reads: None,
        };
        self.streams.push(Stream {
            from,
            to,
            sender: Some(sender),
            heard_ms: self.now_ms,
            receiver_open: true,
            down: VecDeque::new(),
            up: VecDeque::new(),
            said: 0,
            said_at_ms: 0,
        });
    }

    pub fn streams_to(&self, to: usize) -> bool {
        self.streams.iter().any(|stream| stream.to == to && stream.receiver_open)
    }

    pub(super) fn stream(&mut self) {
        for index in 0..self.streams.len() {
            self.send(index);
            self.receive(index);
            self.reply(index);
            self.take_reply(index);
        }
        let servers = &self.servers;
        self.streams.retain(|stream| {
            let lives = |server: usize| servers[server].process != Process::Down;
            stream.receiver_open && lives(stream.to) || stream.sender.is_some() && lives(stream.from)
        });
    }

    fn send(&mut self, index: usize) {
        let stream = &mut self.streams[index];
        let upstream = &self.servers[stream.from];
        let Some(sender) = &mut stream.sender else { return };
        if upstream.process == Process::Down {
            stream.sender = None;
            stream.down.push_back((self.now_ms + 1, Message::End));
            return;
        }
        if !upstream.runs(self.now_ms) {
            return;
        }
        if let Some((at_ms, next)) = sender.reads.take_if(|(at_ms, _)| *at_ms <= self.now_ms) {
            let _ = at_ms;
            sender.setting = next;
        }
        if self.now_ms >= sender.heard_ms + TIMEOUT_MS {
            stream.sender = None;
            stream.down.push_back((self.now_ms + 1, Message::End));
            return;
        }
        let end = upstream.sendable();
        // One that is shutting down is no cascading sender: it has promoted or ended.
        let late = self.late_ms;
        let due = self.now_ms + 1 + late;
        if end > sender.sent {
            let records = upstream.disk.wal.between(sender.sent, end).to_vec();
            stream.down.push_back((due, Message::Records(records)));
            (sender.sent, sender.sent_at_ms) = (end, self.now_ms);
        } else if self.now_ms >= sender.sent_at_ms + STATUS_MS {
            stream.down.push_back((due, Message::Keepalive));
            sender.sent_at_ms = self.now_ms;
        }
    }

    fn receive(&mut self, index: usize) {
        let stream = &mut self.streams[index];
        if !stream.receiver_open {
            return;
        }
        let (from, to) = (self.servers[stream.from].id, self.servers[stream.to].id);
        let standby = &mut self.servers[stream.to];
        if standby.process == Process::Down || standby.promoted_at_ms.is_some() {
            stream.receiver_open = false;
            return;
        }
        if !standby.runs(self.now_ms) {
            return;
        }
        let mut gone = false;
        if !cut(&self.cut, from, to) {
            while let Some((_, message)) = stream.down.pop_front_if(|(due, _)| *due <= self.now_ms) {
                stream.heard_ms = self.now_ms;
                match message {
                    Message::Records(records) => {
                        for record in records {
                            standby.disk.wal.push(record);
                        }
                    }
                    Message::Keepalive => {}
                    Message::End => gone = true,
                }
            }
        }
        let silent = self.now_ms >= stream.heard_ms + TIMEOUT_MS;
        let told = standby.receiver_ends_at_ms.is_some_and(|at_ms| {
            // The startup process looks at it when there is nothing left to replay.
            self.now_ms >= at_ms && standby.replayed == standby.disk.flushed
        });
        let promotes = standby.promoting.is_some() && standby.replayed == standby.disk.flushed;
        if gone || silent || told || promotes {
            stream.receiver_open = false;
            standby.receive_again_at_ms = self.now_ms + RETRY_MS;
            if told {
                standby.receiver_ends_at_ms = None;
            }
        }
    }

    fn reply(&mut self, index: usize) {
        let stream = &mut self.streams[index];
        let standby = &self.servers[stream.to];
        if !stream.receiver_open || !standby.runs(self.now_ms) {
            return;
        }
        let flushed = standby.disk.flushed;
        if flushed > stream.said || self.now_ms >= stream.said_at_ms + STATUS_MS {
            (stream.said, stream.said_at_ms) = (flushed, self.now_ms);
            stream.up.push_back((self.now_ms + 1 + self.late_ms, flushed));
        }
    }

    fn take_reply(&mut self, index: usize) {
        let stream = &mut self.streams[index];
        let (from, to) = (stream.from, stream.to);
        if !self.servers[from].runs(self.now_ms) || cut(&self.cut, self.servers[to].id, self.servers[from].id)
        {
            return;
        }
        let mut heard = false;
        while let Some((_, flushed)) = stream.up.pop_front_if(|(due, _)| *due <= self.now_ms) {
            let Some(sender) = &mut stream.sender else { continue };
            sender.flushed = sender.flushed.max(flushed);
            sender.heard_ms = self.now_ms;
            heard = true;
        }
        if heard {
            self.release(index);
        } else if !stream.receiver_open && stream.up.is_empty() {
            // Its end of the connection was closed.
            stream.sender = None;
        }
    }
}
