//! What a former primary has and the others lack: counted, and its WAL kept.
//!
//! Owns the directories under `kept` in the state directory. Never judges what is lost. Invariant: what is kept is
//! bounded in number and in bytes; what did not fit is said.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use super::error::WorkError;
use super::postmaster::Server;
use super::wal::{self, Summary};
use super::wire::Lost;
use crate::topology::Lsn;

const PROGRAM: &str = "pg_waldump";
const DIRECTORY: &str = "kept";
const REPORT: &str = "report.json";
/// Relations that are told by name.
const MAX_NAMED: usize = 20;
/// Of one former primary.
const MAX_BYTES: u64 = 4 << 30;
/// Former primaries; the oldest go first.
const MAX_KEPT: usize = 4;

/// What `pg_waldump` says where WAL ends, in the words of all versions from 11 on: the next record is none, or its file is
/// not there. Behind the program's name and a level, which differ.
const ENDS: [&str; 3] =
    ["error in WAL record at ", "could not find a valid record after ", "could not find file "];

/// What there is on `timeline` from a position on. An error: it was not read up to where it ends.
pub async fn count(
    server: &Server,
    segment_bytes: u64,
    (timeline, from): (u32, Lsn),
) -> Result<(Summary, bool), WorkError> {
    let there = segments(&server.data.join("pg_wal"), timeline, segment_bytes)?;
    count_in(server, &there, segment_bytes, (timeline, from)).await
}

/// The same, in these files of the timeline.
async fn count_in(
    server: &Server,
    there: &[(Lsn, PathBuf)],
    segment_bytes: u64,
    (timeline, from): (u32, Lsn),
) -> Result<(Summary, bool), WorkError> {
    let mut summary = Summary::default();
    let Some((first, last)) = between(there, from, segment_bytes)? else { return Ok((summary, true)) };
    let wal = server.data.join("pg_wal").display().to_string();
    let (number, start) = (timeline.to_string(), from.to_string());
    // Not told which files, it asks any for their size, and fails at one of zeros.
    let arguments = ["-p", &wal, "-t", &number, "-s", &start, &first, &last];
    let mut has_ended = false;
    let heard = |line: &str| {
        has_ended |= line.starts_with(PROGRAM) && ENDS.iter().any(|end| line.contains(end));
        summary.add(line);
    };
    // It ends with an error where WAL ends, and so always. One that was killed has read a part.
    match server.programs.follow(PROGRAM, &arguments, heard).await {
        Ok(_) => Ok((summary, true)),
        Err(WorkError::Program { status, .. }) if status.code().is_some() && has_ended => Ok((summary, true)),
        Err(WorkError::Slow { .. }) => Ok((summary, false)),
        Err(other) => Err(other),
    }
}

/// Counts it and keeps it. Fails only if it cannot be looked at; that it cannot be kept is said in the report.
pub async fn keep(
    server: &Server,
    state_directory: &Path,
    (epoch, segment_bytes): (u64, u64),
    (timeline, from): (u32, Lsn),
) -> Result<Lost, WorkError> {
    let there = segments(&server.data.join("pg_wal"), timeline, segment_bytes)?;
    let start = first_there(&there, from, segment_bytes);
    let (summary, whole) = count_in(server, &there, segment_bytes, (timeline, start)).await?;
    let complete = whole && start == from;
    let mut lost = Lost {
        timeline,
        from,
        to: summary.last.unwrap_or(from),
        records: summary.records,
        commits: summary.commits,
        relations: summary.relations(),
        relation_files: summary.first_relations(MAX_NAMED),
        complete,
        kept_in: None,
    };
    if lost.records == 0 {
        return Ok(lost);
    }
    let to = lost.to;
    let kept = state_directory.join(DIRECTORY);
    let directory = kept.join(format!("epoch-{epoch:010}-timeline-{timeline}"));
    let target = directory.clone();
    let copied = tokio::task::spawn_blocking(move || {
        make_room(&kept, &target)?;
        copy(there, &target, segment_bytes, (from, to))
    });

    match copied.await {
        Ok(Ok(())) => lost.kept_in = Some(directory.display().to_string()),
        Ok(Err(error)) => tracing::error!(%error, "the WAL that the others lack is not kept"),
        Err(error) => tracing::error!(%error, "the WAL that the others lack is not kept"),
    }
    if let (Some(_), Ok(text)) = (&lost.kept_in, serde_json::to_vec_pretty(&lost)) {
        let path = directory.join(REPORT);
        if let Err(error) = fs::write(&path, text) {
            tracing::warn!(%error, path = %path.display(), "the report is not kept beside its WAL");
        }
    }
    Ok(lost)
}

/// For one more.
fn make_room(kept: &Path, target: &Path) -> Result<(), WorkError> {
    let mut there: Vec<PathBuf> =
        fs::read_dir(kept).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    there.retain(|path| path != target && path.is_dir());
    there.sort();
    let too_many = (there.len() + 1).saturating_sub(MAX_KEPT);
    for oldest in &there[..too_many] {
        fs::remove_dir_all(oldest).map_err(WorkError::io("remove", oldest))?;
    }
    Ok(())
}

/// The files of a timeline, and where each begins, in order.
pub fn segments(pg_wal: &Path, timeline: u32, segment_bytes: u64) -> Result<Vec<(Lsn, PathBuf)>, WorkError> {
    let mut segments = Vec::new();
    for entry in fs::read_dir(pg_wal).map_err(WorkError::io("read", pg_wal))? {
        let path = entry.map_err(WorkError::io("read", pg_wal))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if let Some((of, at)) = wal::segment(name, segment_bytes)
            && of == timeline
        {
            segments.push((at, path));
        }
    }
    segments.sort();
    Ok(segments)
}

/// The names of the file with a position and of the last one. None: nothing was written there.
fn between(
    segments: &[(Lsn, PathBuf)],
    from: Lsn,
    segment_bytes: u64,
) -> Result<Option<(String, String)>, WorkError> {
    let mut whole = segments.iter().filter(|(_, path)| path.extension().is_none());
    let has_it = |(at, _): &&(Lsn, PathBuf)| *at <= from && from.0 - at.0 < segment_bytes;
    let Some((_, first)) = whole.find(has_it) else { return Ok(None) };
    // One that was made ready for later, and not out of an older one, is all zeros: so is its magic number.
    let mut magic = [0_u8; 2];
    let read = fs::File::open(first).and_then(|mut file| file.read_exact(&mut magic));
    read.map_err(WorkError::io("read", first))?;
    let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let last = whole.next_back().map_or(first, |(_, last)| last);
    Ok((magic != [0; 2]).then(|| (name(first), name(last))))
}

/// From `from` on, or from where there is WAL at all: of a server that ran on for long, its beginning is gone.
fn first_there(segments: &[(Lsn, PathBuf)], from: Lsn, segment_bytes: u64) -> Lsn {
    let there = segments.iter().find(|(at, _)| at.0.saturating_add(segment_bytes) > from.0);
    there.map_or(from, |(at, _)| (*at).max(from))
}

fn copy(
    segments: Vec<(Lsn, PathBuf)>,
    target: &Path,
    segment_bytes: u64,
    (from, to): (Lsn, Lsn),
) -> Result<(), WorkError> {
    let first = Lsn(from.0 / segment_bytes * segment_bytes);
    // What is beyond the last record are files made ready for later. A record may go on in the next one.
    let last = Lsn((to.0 / segment_bytes).saturating_add(1).saturating_mul(segment_bytes));
    let segments: Vec<_> = segments.into_iter().filter(|(at, _)| (first..=last).contains(at)).collect();
    if segments.len() as u64 * segment_bytes > MAX_BYTES {
        return Err(WorkError::Not(format!(
            "{} segments are more than the {} GiB that are kept",
            segments.len(),
            MAX_BYTES >> 30
        )));
    }
    fs::create_dir_all(target).map_err(WorkError::io("create", target))?;
    for (_, segment) in segments {
        let to = target.join(segment.file_name().unwrap_or_default());
        fs::copy(&segment, &to).map_err(WorkError::io("copy", &segment))?;
        fs::File::open(&to).and_then(|file| file.sync_all()).map_err(WorkError::io("sync", &to))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::directory::DataDirectory;
    use super::super::programs::tests::written;
    use super::*;

    #[tokio::test]
    async fn a_program_that_was_ended_has_not_said_that_there_is_nothing() {
        const RECORD: &str =
            "echo 'rmgr: Heap len (rec/tot): 59/59, tx: 724, lsn: 0/03027838, desc: INSERT off 93'";
        const SOME: Option<u64> = Some(1);
        for (script, expected) in [
            ("kill -KILL $$".to_owned(), None),
            (format!("{RECORD}; kill -KILL $$"), None),
            ("echo 'pg_waldump: error: could not open directory \"x\"' >&2; exit 1".to_owned(), None),
            ("exit 1".to_owned(), None),
            (
                "echo 'pg_waldump: error: could not find a valid record after 0/3000000' >&2; exit 1"
                    .to_owned(),
                Some(0),
            ),
            (
                format!(
                    "{RECORD}; echo 'pg_waldump: fatal: could not find file \"000000010000000000000004\": No such file or directory' >&2; exit 1"
                ),
                SOME,
            ),
            (
                format!(
                    "{RECORD}; echo 'pg_waldump: error: error in WAL record at 0/3027838: invalid record length at 0/3027878: wanted 24, got 0' >&2; exit 1"
                ),
                SOME,
            ),
            (
                format!(
                    "{RECORD}; echo 'pg_waldump: FATAL:  error in WAL record at 0/3027838: unexpected pageaddr' >&2; exit 1"
                ),
                SOME,
            ),
        ] {
            let scratch = tempfile::tempdir().unwrap();
            let server = Server {
                data: DataDirectory::new(scratch.path()),
                programs: written(scratch.path(), &[("pg_waldump", &script)]),
                log_file: scratch.path().join("log"),
            };
            let pg_wal = scratch.path().join("pg_wal");
            fs::create_dir(&pg_wal).unwrap();
            fs::write(pg_wal.join("000000010000000000000003"), "what is in it").unwrap();
            let counted = count(&server, 16 << 20, (1, Lsn(0x300_0000))).await;
            let found = counted.as_ref().ok().map(|(summary, whole)| (summary.records, *whole));
            assert_eq!(found, expected.map(|records| (records, true)), "{script}: {:?}", counted.err());
        }
    }

    #[test]
    fn a_file_of_zeros_has_nothing_and_is_asked_nothing() {
        let pg_wal = tempfile::tempdir().unwrap();
        let file = |number: u64, holds: &[u8]| {
            fs::write(pg_wal.path().join(format!("0000000100000000{number:08X}")), holds).unwrap();
        };
        file(3, b"WAL");
        file(4, b"WAL");
        file(5, &[0; 64]);
        fs::write(pg_wal.path().join("000000010000000000000006.partial"), "WAL").unwrap();
        fs::write(pg_wal.path().join("000000020000000000000007"), "WAL").unwrap();
        let there = segments(pg_wal.path(), 1, 16 << 20).unwrap();
        let files = |from| between(&there, Lsn(from), 16 << 20).unwrap();
        let named = |first: &str, last: &str| Some((first.to_owned(), last.to_owned()));
        assert_eq!(files(0x2FF_FFFF), None);
        assert_eq!(files(0x300_0028), named("000000010000000000000003", "000000010000000000000005"));
        assert_eq!(files(0x4FF_FFFF), named("000000010000000000000004", "000000010000000000000005"));
        assert_eq!(files(0x500_0000), None, "the log ends where the file begins");
        assert_eq!(files(0x600_0000), None);
        file(5, b"");
        assert!(between(&there, Lsn(0x500_0000), 16 << 20).is_err(), "it cannot be looked at");
    }

    #[test]
    fn what_is_gone_is_not_looked_for() {
        let there = [(Lsn(0x300_0000), PathBuf::new()), (Lsn(0x400_0000), PathBuf::new())];
        let first = |from| first_there(&there, Lsn(from), 16 << 20);
        assert_eq!(first(0x100_0028), Lsn(0x300_0000));
        assert_eq!(first(0x300_0028), Lsn(0x300_0028));
        assert_eq!(first(0x500_0000), Lsn(0x500_0000));
    }

    #[test]
    fn segments_from_the_fork_on_are_kept_and_the_oldest_make_room() {
        let scratch = tempfile::tempdir().unwrap();
        let (pg_wal, kept) = (scratch.path().join("pg_wal"), scratch.path().join("kept"));
        fs::create_dir(&pg_wal).unwrap();
        for name in [
            "000000010000000000000002",
            "000000010000000000000003",
            "000000010000000000000004",
            "000000010000000000000005",
            "000000020000000000000003",
            "00000002.history",
        ] {
            fs::write(pg_wal.join(name), name).unwrap();
        }
        for epoch in 1..=5 {
            let target = kept.join(format!("epoch-{epoch}"));
            make_room(&kept, &target).unwrap();
            let there = segments(&pg_wal, 1, 16 << 20).unwrap();
            copy(there, &target, 16 << 20, (Lsn(0x3FF_FFFF), Lsn(0x3FF_FFFF))).unwrap();
        }
        let names = |path: &Path| {
            let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
            let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&kept), ["epoch-2", "epoch-3", "epoch-4", "epoch-5"]);
        assert_eq!(names(&kept.join("epoch-5")), ["000000010000000000000003", "000000010000000000000004"]);
    }
}
