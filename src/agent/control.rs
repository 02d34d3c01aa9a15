//! What `pg_controldata` prints, read.
//!
//! Pure. Invariant: what a version prints beyond that is of no concern; what is missing is an error.

use std::str::FromStr;

use crate::topology::Lsn;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    pub system_identifier: u64,
    pub state: String,
    pub checkpoint: Lsn,
    pub redo: Lsn,
    pub checkpoint_timeline: u32,
    pub min_recovery: Lsn,
    pub min_recovery_timeline: u32,
    pub wal_log_hints: bool,
    pub data_checksums: bool,
    pub segment_bytes: u64,
    pub wal_block_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pg_controldata says nothing that can be used for {0:?}")]
pub struct ControlError(&'static str);

impl Control {
    pub fn parse(text: &str) -> Result<Self, ControlError> {
        Ok(Control {
            system_identifier: number(text, "Database system identifier")?,
            state: value(text, "Database cluster state")?.to_owned(),
            checkpoint: number(text, "Latest checkpoint location")?,
            redo: number(text, "Latest checkpoint's REDO location")?,
            checkpoint_timeline: number(text, "Latest checkpoint's TimeLineID")?,
            min_recovery: number(text, "Minimum recovery ending location")?,
            min_recovery_timeline: number(text, "Min recovery ending loc's timeline")?,
            wal_log_hints: value(text, "wal_log_hints setting")? == "on",
            data_checksums: number::<u32>(text, "Data page checksum version")? > 0,
            segment_bytes: number(text, "Bytes per WAL segment")?,
            wal_block_bytes: number(text, "WAL block size")?,
        })
    }

    /// It follows, or has last followed, another server.
    pub fn is_recovering(&self) -> bool {
        matches!(self.state.as_str(), "in archive recovery" | "shut down in recovery")
    }

    pub fn is_clean(&self) -> bool {
        matches!(self.state.as_str(), "shut down" | "shut down in recovery")
    }

    /// `pg_rewind` can tell which pages were changed.
    pub fn can_be_rewound(&self) -> bool {
        self.wal_log_hints || self.data_checksums
    }
}

fn value<'a>(text: &'a str, name: &'static str) -> Result<&'a str, ControlError> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
        .ok_or(ControlError(name))
}

fn number<T: FromStr>(text: &str, name: &'static str) -> Result<T, ControlError> {
    value(text, name)?.parse().map_err(|_| ControlError(name))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Of a server of version 15 that was killed.
    pub const PRINTED: &str = "pg_control version number:            1300\n\
        Database system identifier:           7713098723540679867\n\
        Database cluster state:               in production\n\
        pg_control last modified:             Sat Nov 28 06:02:20 2026\n\
        Latest checkpoint location:           0/2000060\n\
        Latest checkpoint's REDO location:    0/2000028\n\
        Latest checkpoint's REDO WAL file:    000000010000000000000002\n\
        Latest checkpoint's TimeLineID:       1\n\
        Latest checkpoint's PrevTimeLineID:   1\n\
        Minimum recovery ending location:     0/0\n\
        Min recovery ending loc's timeline:   0\n\
        wal_log_hints setting:                on\n\
        WAL block size:                       8192\n\
        Bytes per WAL segment:                16777216\n\
        Data page checksum version:           0\n";

    #[test]
    fn what_is_printed_is_read() {
        let control = Control::parse(PRINTED).unwrap();
        assert_eq!(control.system_identifier, 7_713_098_723_540_679_867);
        assert_eq!((control.checkpoint, control.redo), (Lsn(0x200_0060), Lsn(0x200_0028)));
        assert_eq!((control.checkpoint_timeline, control.segment_bytes), (1, 16 << 20));
        assert!(control.can_be_rewound() && !control.is_recovering() && !control.is_clean());
        let stopped = Control::parse(&PRINTED.replace("in production", "shut down in recovery")).unwrap();
        assert!(stopped.is_recovering() && stopped.is_clean());
        let without = Control::parse(&PRINTED.replace("setting:                on", "setting:       off"));
        assert!(!without.unwrap().can_be_rewound());
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = Control::parse(&PRINTED.replace("REDO location", "redo")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "pg_controldata says nothing that can be used for \"Latest checkpoint's REDO location\""
        );
    }
}
