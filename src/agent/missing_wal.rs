//! Whether the primary still has the WAL that a standby goes on from.
//!
//! Owns no data, changes nothing. Told by files, not by what a server answers to a standby: that is in its own language.

use super::conninfo::Conninfo;
use super::control::Control;
use super::error::WorkError;
use super::postmaster::Server;
use super::{kept_wal, plan, source};
use crate::topology::Lsn;

/// In words. None: it has, or that cannot be told, or an archive may have it.
pub async fn why(server: &Server, control: &Control, rewind: &Conninfo) -> Option<String> {
    match gap(server, control, rewind).await {
        Ok(gap) => gap.map(|(has, oldest)| {
            format!("it goes on from {has}, and the primary has WAL from {oldest} on only")
        }),
        Err(error) => {
            tracing::debug!(%error, "whether the primary has the WAL that this server lacks is not known");
            None
        }
    }
}

/// Where the last record of this server begins, and where the primary's WAL does.
async fn gap(server: &Server, control: &Control, rewind: &Conninfo) -> Result<Option<(Lsn, Lsn)>, WorkError> {
    let newest = server.data.newest_timeline(control.segment_bytes);
    let timeline = plan::timeline(control, newest);
    let Some(replayed) = replayed(control, timeline) else { return Ok(None) };
    if !server.setting("restore_command").await?.is_empty() {
        return Ok(None);
    }
    let oldest = source::oldest_wal(&server.programs, rewind, control.segment_bytes).await?;
    let segment = |lsn: Lsn| lsn.0 / control.segment_bytes;
    // Most are not behind, so what they have is read only if need be.
    let Some(oldest) = oldest.filter(|oldest| segment(replayed) < segment(*oldest)) else { return Ok(None) };
    let (received, whole) = kept_wal::count(server, control.segment_bytes, (timeline, replayed)).await?;
    let has = received.last.unwrap_or(replayed);
    Ok((whole && segment(has) < segment(oldest)).then_some((has, oldest)))
}

/// What it surely has, on its timeline.
fn replayed(control: &Control, timeline: u32) -> Option<Lsn> {
    let on_it =
        [(control.checkpoint_timeline, control.redo), (control.min_recovery_timeline, control.min_recovery)];
    on_it.into_iter().filter(|(of, lsn)| *of == timeline && lsn.0 > 0).map(|(_, lsn)| lsn).max()
}

#[cfg(test)]
mod tests {
    use super::super::control::tests::PRINTED;
    use super::super::job::tests::{request, work};
    use super::*;

    const SEGMENT: u64 = 16 << 20;

    /// The control file says that it has replayed up to `0/2000028` on the first timeline.
    async fn told(waldump: &str, psql: &str, restore_command: &str) -> Option<String> {
        let scratch = tempfile::tempdir().unwrap();
        let postgres = format!("echo '{restore_command}'");
        let scripts = [("pg_waldump", waldump), ("psql", psql), ("postgres", &postgres)];
        let work = work(scratch.path(), &scripts);
        let mut control = Control::parse(PRINTED).unwrap();
        control.state = "shut down in recovery".to_owned();
        (control.checkpoint_timeline, control.redo) = (1, Lsn(2 * SEGMENT + 0x28));
        (control.min_recovery_timeline, control.min_recovery) = (0, Lsn(0));
        control.segment_bytes = SEGMENT;
        let pg_wal = work.server.data.join("pg_wal");
        std::fs::create_dir_all(&pg_wal).unwrap();
        std::fs::write(pg_wal.join("000000010000000000000002"), "what is in it").unwrap();
        let rewind = work.access.rewind(&request(1).primary, "postgres");
        why(&work.server, &control, &rewind).await
    }

    #[tokio::test]
    async fn wal_is_missing_if_the_primary_begins_behind_all_that_a_standby_has() {
        const ENDS: &str = "echo 'pg_waldump: error: could not find a valid record after 0/1' >&2; exit 1";
        let up_to = |lsn: &str| {
            format!("echo 'rmgr: Heap len (rec/tot): 59/59, tx: 7, lsn: {lsn}, desc: INSERT'; {ENDS}")
        };
        let from = |segment: &str| format!("echo {segment}");
        for (waldump, psql, restore_command, is_missing) in [
            (up_to("0/03000060"), from("0000000000000004"), "", true),
            (up_to("0/03000060"), from("0000000100000000"), "", true),
            (ENDS.to_owned(), from("0000000000000003"), "", true),
            (up_to("0/03000060"), from("0000000000000003"), "", false),
            (up_to("0/04000060"), from("0000000000000004"), "", false),
            (ENDS.to_owned(), from("0000000000000002"), "", false),
            (up_to("0/03000060"), from("0000000000000004"), "cp /archive/%f %p", false),
            (up_to("0/03000060"), "echo permission denied >&2; exit 1".to_owned(), "", false),
            (up_to("0/03000060"), "echo".to_owned(), "", false),
            ("kill -KILL $$".to_owned(), from("0000000000000004"), "", false),
        ] {
            let why = told(&waldump, &psql, restore_command).await;
            assert_eq!(why.is_some(), is_missing, "{waldump}, {psql}, {restore_command}: {why:?}");
        }
        let why = told(&up_to("0/03000060"), &from("0000000000000004"), "").await.unwrap();
        assert_eq!(why, "it goes on from 0/3000060, and the primary has WAL from 0/4000000 on only");
    }
}
