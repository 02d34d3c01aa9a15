//! A record that was cut at the end of a segment.
//!
//! A primary whose disk is full has begun its last record in one segment and could not make the next. PostgreSQL has a standby
//! that holds the beginning ask for the next segment only, from whoever is the primary now; there the record is another one,
//! or none yet. So the standby waits for ever, or acknowledges what it lacks and panics. Without that beginning it asks for
//! it anew, with all that follows.
//! Invariant: nothing goes that a whole record is in.

use std::fs;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use super::control::Control;
use super::directory::DataDirectory;
use super::error::WorkError;
use super::kept_wal;
use crate::topology::Lsn;

/// Before what a page holds; the first page of a segment has a longer one. Those of `xlog_internal.h`, aligned.
const PAGE_HEADER: u64 = 24;
const FIRST_PAGE_HEADER: u64 = 40;

/// To be called where no record ends behind the fork, while no server runs there. Whether one begins there and goes on in
/// another segment.
pub fn erase(data: &DataDirectory, control: &Control, timeline: u32, fork: Lsn) -> Result<bool, WorkError> {
    let pg_wal = data.join("pg_wal");
    let mut there = kept_wal::segments(&pg_wal, timeline, control.segment_bytes)?;
    there.retain(|(at, path)| path.extension().is_none() && at.0 + control.segment_bytes > fork.0);
    let Some(((first, path), others)) = there.split_first().filter(|((at, _), _)| *at <= fork) else {
        return Ok(false);
    };
    let pages = Pages { segment_bytes: control.segment_bytes, page_bytes: control.wal_block_bytes };
    let begins = pages.record_at(fork);
    let offset = begins.0 - first.0;
    if !pages.goes_on(begins, length_at(path, offset)?) {
        return Ok(false);
    }
    data.must_not_run()?;
    // Its beginning at last: whoever is stopped on the way finds it still there.
    for (_, other) in others {
        fs::remove_file(other).map_err(WorkError::io("remove", other))?;
    }
    blank(path, offset, control.segment_bytes).map_err(WorkError::io("write", path))?;
    let synced = fs::File::open(&pg_wal).and_then(|directory| directory.sync_all());
    synced.map_err(WorkError::io("sync", &pg_wal))?;
    Ok(true)
}

/// Of a record: its first four bytes, which are never on two pages.
fn length_at(segment: &Path, offset: u64) -> Result<u32, WorkError> {
    let mut length = [0; 4];
    let mut read = || {
        let mut file = fs::File::open(segment)?;
        file.seek(SeekFrom::Start(offset))?;
        file.read_exact(&mut length)
    };
    read().map_err(WorkError::io("read", segment))?;
    Ok(u32::from_ne_bytes(length))
}

/// As a segment that was made and not written to.
fn blank(segment: &Path, from: u64, to: u64) -> io::Result<()> {
    let mut file = fs::File::options().write(true).open(segment)?;
    file.seek(SeekFrom::Start(from))?;
    io::copy(&mut io::repeat(0).take(to.saturating_sub(from)), &mut file)?;
    file.sync_all()
}

struct Pages {
    segment_bytes: u64,
    page_bytes: u64,
}

impl Pages {
    /// Where the next record begins, if the last one ends here.
    fn record_at(&self, end: Lsn) -> Lsn {
        Lsn(match (end.0 % self.segment_bytes, end.0 % self.page_bytes) {
            (0, _) => end.0 + FIRST_PAGE_HEADER,
            (_, 0) => end.0 + PAGE_HEADER,
            _ => end.0,
        })
    }

    /// Whether a record of that length goes on in the next segment.
    fn goes_on(&self, begins: Lsn, length: u32) -> bool {
        let page_left = self.page_bytes - begins.0 % self.page_bytes;
        let pages_left = (self.segment_bytes - begins.0 % self.segment_bytes - page_left) / self.page_bytes;
        u64::from(length) > page_left + pages_left * (self.page_bytes - PAGE_HEADER)
    }
}

#[cfg(test)]
mod tests {
    use super::super::control::tests::PRINTED;
    use super::*;

    const PAGES: Pages = Pages { segment_bytes: 16 << 20, page_bytes: 8192 };

    #[test]
    fn a_record_begins_behind_the_header_of_its_page() {
        for (end, begins) in [(0x400_0028, 0x400_0028), (0x400_2000, 0x400_2018), (0x400_0000, 0x400_0028)] {
            assert_eq!(PAGES.record_at(Lsn(end)), Lsn(begins), "{end:x}");
        }
    }

    #[test]
    fn a_record_goes_on_in_the_next_segment_if_the_pages_that_are_left_do_not_hold_it() {
        for (begins, length, expected) in [
            (0x4ff_fff0, 16, false),
            (0x4ff_fff0, 17, true),
            // A page more, and its header.
            (0x4ff_dff0, 16 + 8192 - 24, false),
            (0x4ff_dff0, 16 + 8192 - 23, true),
            (0x400_0028, 0, false),
            (0x400_0028, u32::MAX, true),
        ] {
            assert_eq!(PAGES.goes_on(Lsn(begins), length), expected, "{begins:x}, {length}");
        }
    }

    #[test]
    fn a_cut_record_is_erased_with_the_segments_of_its_timeline_that_follow() {
        const NAMES: [&str; 5] = [
            "000000010000000000000003",
            "000000010000000000000004",
            "000000010000000000000005",
            "000000020000000000000005",
            "00000002.history",
        ];
        let fork = Lsn(0x4ff_fff0);
        for (length, is_cut) in [(16_u32, false), (47, true)] {
            let scratch = tempfile::tempdir().unwrap();
            let data = DataDirectory::new(scratch.path());
            fs::create_dir_all(data.join("pg_wal")).unwrap();
            let mut bytes = vec![7; 16 << 20];
            bytes[0xff_fff0..0xff_fff4].copy_from_slice(&length.to_ne_bytes());
            for name in NAMES {
                fs::write(data.join("pg_wal").join(name), &bytes).unwrap();
            }
            let control = Control::parse(PRINTED).unwrap();
            assert_eq!(erase(&data, &control, 1, fork).unwrap(), is_cut);
            for (at, name) in NAMES.into_iter().enumerate() {
                let left = fs::read(data.join("pg_wal").join(name)).ok();
                let mut expected = Some(bytes.clone());
                match (is_cut, at) {
                    (true, 1) => expected.as_mut().unwrap()[0xff_fff0..].fill(0),
                    (true, 2) => expected = None,
                    _ => {}
                }
                assert!(left == expected, "{name}");
            }
        }
    }
}
