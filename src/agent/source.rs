//! Asks the server that is to be followed or copied who it is, and has it keep what will be needed.
//!
//! Over the replication protocol, which the replication role may speak and little else. Never a password: libpq finds it.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::conninfo::Conninfo;
use super::error::WorkError;
use super::history::History;
use super::plan::Primary;
use super::programs::Programs;
use super::wal;
use super::wire::Source;
use crate::topology::Lsn;

const QUICK: Duration = Duration::from_secs(20);
/// A checkpoint writes out what is dirty, spread or not.
const CHECKPOINT_WITHIN: Duration = Duration::from_secs(600);
/// For a checkpoint that the caller has begun, if the role may begin none.
const CONTROL_FILE_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// A server, as it says itself.
pub async fn identify(
    programs: &Programs,
    source: &Source,
    replication: &Conninfo,
    system_identifier: u64,
) -> Result<u32, WorkError> {
    let said = ask(programs, &for_replication(replication), "IDENTIFY_SYSTEM", QUICK).await?;
    let mut fields = said.trim().split('|');
    let (found, timeline) =
        (fields.next().unwrap_or_default(), fields.next().and_then(|text| text.parse().ok()));
    let (Ok(found), Some(timeline)) = (found.parse::<u64>(), timeline) else {
        return Err(WorkError::Not(format!("{} does not say who it is: {said:?}", source.id)));
    };
    match found == system_identifier {
        true => Ok(timeline),
        false => Err(WorkError::Not(format!(
            "{} belongs to another cluster: its system identifier is {found}, not {system_identifier}",
            source.id
        ))),
    }
}

pub async fn primary(
    programs: &Programs,
    source: &Source,
    replication: &Conninfo,
    (system_identifier, at_least): (u64, u32),
) -> Result<Primary, WorkError> {
    let timeline = identify(programs, source, replication, system_identifier).await?;
    if timeline < at_least {
        return Err(WorkError::Not(format!(
            "{} is on timeline {timeline}, and the primary to follow is on {at_least}",
            source.id
        )));
    }
    if timeline == 1 {
        return Ok(Primary { timeline, history: History::default() });
    }
    let command = format!("TIMELINE_HISTORY {timeline}");
    let said = ask(programs, &for_replication(replication), &command, QUICK).await?;
    // The file's name, then what is in it.
    let text = said.split_once('|').map_or("", |(_, text)| text);
    Ok(Primary { timeline, history: History::parse(text)? })
}

/// The slot by which the primary keeps WAL for this server from now on; one that is there stays as it is.
pub async fn make_slot(programs: &Programs, replication: &Conninfo, slot: &str) -> Result<(), WorkError> {
    let command = format!("CREATE_REPLICATION_SLOT \"{slot}\" PHYSICAL RESERVE_WAL");
    match ask(programs, &for_replication(replication), &command, QUICK).await {
        Err(WorkError::Program { output, .. }) if output.contains("already exists") => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// `pg_rewind` reads the source's control file, which knows of the new timeline only after a checkpoint.
pub async fn checkpointed(programs: &Programs, rewind: &Conninfo, timeline: u32) -> Result<(), WorkError> {
    const TIMELINE: &str = "SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()";
    if let Err(error) = ask(programs, rewind, "CHECKPOINT", CHECKPOINT_WITHIN).await {
        tracing::debug!(%error, "no checkpoint by the rewinding role; one that was begun is waited for");
    }
    let deadline = Instant::now() + CONTROL_FILE_WITHIN;
    loop {
        let said = ask(programs, rewind, TIMELINE, QUICK).await?;
        if said.trim().parse::<u32>().is_ok_and(|known| known >= timeline) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(WorkError::Not(format!(
                "the primary has had no checkpoint on timeline {timeline}: run CHECKPOINT there, or grant pg_checkpoint to the rewinding role"
            )));
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Where the WAL begins that it still has, of whatever timeline.
pub async fn oldest_wal(
    programs: &Programs,
    rewind: &Conninfo,
    segment_bytes: u64,
) -> Result<Option<Lsn>, WorkError> {
    const OLDEST: &str = "SELECT pg_catalog.min(pg_catalog.right(file, 16)) \
                            FROM pg_catalog.pg_ls_dir('pg_wal', true, false) file \
                           WHERE file OPERATOR(pg_catalog.~) '^[0-9A-F]{24}$'";
    let said = ask(programs, rewind, OLDEST, QUICK).await?;
    // Numbers of segments grow over all timelines.
    Ok(wal::segment(&format!("00000001{}", said.trim()), segment_bytes).map(|(_, at)| at))
}

fn for_replication(conninfo: &Conninfo) -> Conninfo {
    conninfo.clone().with("replication", "true")
}

async fn ask(
    programs: &Programs,
    conninfo: &Conninfo,
    command: &str,
    within: Duration,
) -> Result<String, WorkError> {
    let arguments = ["-XAtqw", "-v", "ON_ERROR_STOP=1", "-d", conninfo.as_str(), "-c", command];
    Ok(programs.run("psql", &arguments, within).await?.out)
}
