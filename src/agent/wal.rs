//! What WAL holds, by `pg_waldump`'s lines, and the names of its files.
//!
//! The names are those of `src/include/access/xlog_internal.h`. Pure.

use std::collections::BTreeSet;

use crate::topology::Lsn;

/// Different relations that are told apart; beyond that, the number is "at least".
const MAX_RELATIONS: usize = 100_000;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    pub records: u64,
    pub commits: u64,
    /// Where the last record begins.
    pub last: Option<Lsn>,
    relations: BTreeSet<String>,
}

impl Summary {
    pub fn relations(&self) -> u64 {
        self.relations.len() as u64
    }

    pub fn first_relations(&self, count: usize) -> Vec<String> {
        self.relations.iter().take(count).cloned().collect()
    }

    /// Takes up a line such as `rmgr: Heap … lsn: 0/03027838, prev 0/030277F8, desc: INSERT …, blkref #0: rel 1663/5/1 …`.
    pub fn add(&mut self, line: &str) {
        if !line.starts_with("rmgr: ") {
            return;
        }
        let between = |opening: &str, closing: char| {
            let (_, rest) = line.split_once(opening)?;
            rest.split(closing).next()
        };
        self.records += 1;
        self.last = between("lsn: ", ',').and_then(|lsn| lsn.trim().parse().ok()).or(self.last);
        let of = between("rmgr: ", ' ').unwrap_or_default();
        let what = between("desc: ", ' ').unwrap_or_default();
        if of == "Transaction" && what.starts_with("COMMIT") {
            self.commits += 1;
        }
        for reference in line.split("blkref #").skip(1) {
            let relation = reference.split_once("rel ").map(|(_, rest)| rest.split([' ', ',']).next());
            if let Some(Some(relation)) = relation
                && self.relations.len() < MAX_RELATIONS
            {
                self.relations.insert(relation.to_owned());
            }
        }
    }
}

/// A file of `pg_wal`: its timeline, and where what it holds begins. None: it is no segment.
pub fn segment(name: &str, segment_bytes: u64) -> Option<(u32, Lsn)> {
    let plain =
        name.split_once('.').map_or(name, |(name, suffix)| if suffix == "partial" { name } else { "" });
    if plain.len() != 24 || !plain.bytes().all(|byte| byte.is_ascii_hexdigit()) || segment_bytes == 0 {
        return None;
    }
    let number = |at: usize| u64::from_str_radix(&plain[at..at + 8], 16).ok();
    let (timeline, high, low) = (number(0)?, number(8)?, number(16)?);
    let start = (high << 32).checked_add(low.checked_mul(segment_bytes)?)?;
    Some((u32::try_from(timeline).ok()?, Lsn(start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "rmgr: Heap        len (rec/tot):     59/    59, tx:        724, lsn: 0/03027838, prev 0/030277F8, desc: INSERT off 93 flags 0x00, blkref #0: rel 1663/5/16384 blk 4\n\
        rmgr: Heap        len (rec/tot):     59/    59, tx:        724, lsn: 0/03027878, prev 0/03027838, desc: UPDATE off 94, blkref #0: rel 1663/5/16384 blk 4, blkref #1: rel 1663/5/16390 fork vm blk 4 FPW\n\
        rmgr: Transaction len (rec/tot):    405/   405, tx:        724, lsn: 0/03027938, prev 0/030278F8, desc: COMMIT 2026-11-28 06:02:21.291598 UTC; inval msgs: catcache 80\n\
        pg_waldump: error: error in WAL record at 0/3027938: invalid record length at 0/3027AD0: wanted 24, got 0\n";

    #[test]
    fn records_are_counted_by_what_they_are() {
        let mut summary = Summary::default();
        LINES.lines().for_each(|line| summary.add(line));
        assert_eq!((summary.records, summary.commits, summary.relations()), (3, 1, 2));
        assert_eq!(summary.first_relations(1), ["1663/5/16384"]);
        assert_eq!(summary.last, Some(Lsn(0x302_7938)));
    }

    #[test]
    fn a_segment_s_name_says_where_it_begins() {
        let of = |name| segment(name, 16 << 20);
        assert_eq!(of("000000020000000100000003"), Some((2, Lsn(0x1_0300_0000))));
        assert_eq!(of("00000002000000010000000A.partial"), Some((2, Lsn(0x1_0A00_0000))));
        assert_eq!(of("000000020000000100000003.00000028.backup"), None);
        assert_eq!(of("00000002.history"), None);
        assert_eq!(of("archive_status"), None);
    }
}
