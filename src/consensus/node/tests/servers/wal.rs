//! A server's log: records that are told apart by who wrote them, not by where they stand.
//!
//! Two servers that were promoted apart have the same timeline numbers and the same positions; here their records differ
//! all the same, so that a fork that was followed is seen.

use crate::topology::Lsn;

const BEGIN: u64 = 0x200_0000;
const RECORD_BYTES: u64 = 0x60;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// No other record anywhere has it.
    pub number: u64,
    pub timeline: u32,
    /// What a client wrote.
    pub row: Option<u64>,
}

#[derive(Debug, Clone, Default)]
pub struct Wal(Vec<Record>);

/// Where the record behind the first `position` ones begins.
pub fn lsn(position: usize) -> Lsn {
    Lsn(BEGIN + position as u64 * RECORD_BYTES)
}

pub fn position(lsn: Lsn) -> usize {
    usize::try_from(lsn.0.saturating_sub(BEGIN) / RECORD_BYTES).unwrap()
}

impl Wal {
    pub fn end(&self) -> usize {
        self.0.len()
    }

    pub fn push(&mut self, record: Record) {
        self.0.push(record);
    }

    pub fn truncate(&mut self, end: usize) {
        self.0.truncate(end);
    }

    pub fn copy(&self, end: usize) -> Wal {
        Wal(self.0[..end].to_vec())
    }

    pub fn between(&self, begin: usize, end: usize) -> &[Record] {
        &self.0[begin..end]
    }

    /// Of the record before that position; the first timeline, if there is none.
    pub fn timeline_at(&self, position: usize) -> u32 {
        self.0[..position].last().map_or(1, |record| record.timeline)
    }

    pub fn timeline(&self) -> u32 {
        self.timeline_at(self.end())
    }

    /// Where a timeline was left for the next. None: it is the last one, or no part of this log.
    pub fn left_at(&self, timeline: u32) -> Option<usize> {
        let last = self.0.iter().rposition(|record| record.timeline == timeline)?;
        (last + 1 < self.end()).then_some(last + 1)
    }

    /// Every timeline before `timeline`, and where it was left.
    pub fn history(&self, timeline: u32) -> Vec<(u32, usize)> {
        let ends = self.0.windows(2).enumerate().filter(|(_, two)| two[0].timeline != two[1].timeline);
        ends.map(|(at, two)| (two[0].timeline, at + 1)).filter(|(left, _)| *left < timeline).collect()
    }

    /// Whether both have the same records up to there. A record stands behind the same ones wherever it was copied to.
    pub fn agrees(&self, other: &Wal, position: usize) -> bool {
        position == 0 || self.0.get(position - 1) == other.0.get(position - 1)
    }

    pub fn rows(&self) -> impl Iterator<Item = u64> {
        self.0.iter().filter_map(|record| record.row)
    }
}
