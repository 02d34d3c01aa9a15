//! What an instance of Aurora is asked, and how its answer is read.
//!
//! Pure. Aurora has no WAL that we could ask for: positions are those of its shared volume, and its own functions tell
//! which instances there are. Invariant: an instance that its own answer does not name as the writer is none.

use std::sync::Arc;

use super::question::{AnswerError, read_only, required, rows};
use crate::cluster::aurora::{Instance, Instances};
use crate::cluster::model::Facts;
use crate::topology::Lsn;

/// Of the writer's row.
const WRITER: &str = "MASTER_SESSION_ID";
/// Aurora shows no timeline. What a timeline tells elsewhere, the start of the postmaster and the writer's name tell here.
const TIMELINE: u32 = 1;

/// One row of 6 columns. Rows of instances that have said nothing for five minutes are of instances that are gone.
pub const QUESTION: &str = concat!(
    r"
SELECT pg_catalog.pg_is_in_recovery(),
       pg_catalog.current_setting('server_version_num'),
       pg_catalog.aurora_db_instance_identifier(),
       pg_catalog.floor(1000 * pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time()))::pg_catalog.int8,
",
    read_only!(),
    r",
       (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
                    r.server_id, r.session_id, r.durable_lsn::text, r.current_read_lsn::text,
                    pg_catalog.round(r.replica_lag_in_msec::pg_catalog.numeric)::text))
          FROM pg_catalog.aurora_replica_status() r
         WHERE r.session_id = 'MASTER_SESSION_ID' OR r.last_update_timestamp IS NULL
            OR pg_catalog.clock_timestamp() - r.last_update_timestamp < '5 minutes'::pg_catalog.interval)"
);

/// Reads the row, whose columns `text` gives as text; `None` is NULL.
pub fn answer<'a>(
    text: impl Fn(usize) -> Option<&'a str>,
    asked_at_ms: u64,
    answered_at_ms: u64,
) -> Result<Facts, AnswerError> {
    let in_recovery = text(0).ok_or(AnswerError(0))? == "t";
    let me = text(2).ok_or(AnswerError(2))?.to_owned();
    let mut all = Vec::new();
    let (mut lsn, mut lag_ms) = (None, None);
    for [id, session, durable, read, lag] in rows::<5>(text(5)).ok_or(AnswerError(5))? {
        let (id, session) = (id.ok_or(AnswerError(5))?, session.ok_or(AnswerError(5))?);
        if id == me {
            let (durable, read) = (position(durable)?, position(read)?);
            // A reader shows a snapshot, which is no later than what it has applied.
            lsn = match in_recovery {
                true => durable.zip(read).map(|(durable, read)| durable.min(read)),
                false => durable,
            };
            lag_ms = lag.and_then(|lag| lag.parse::<i64>().ok()).map(|lag| lag.unsigned_abs());
        }
        all.push(Instance { writes: session == WRITER, id });
    }
    let instances = Instances { me, all };
    let takes_writes = text(4) != Some("t") && instances.name_me_writer();
    Ok(Facts {
        in_recovery,
        read_only: !in_recovery && !takes_writes,
        timeline: TIMELINE,
        lsn: lsn.unwrap_or_default(),
        replay_lag_ms: lag_ms.filter(|_| in_recovery),
        started_at_ms: required(&text, 3)?,
        aurora: Some(Arc::new(instances)),
        // It shows no system identifier either.
        ..Facts::without_replication(asked_at_ms, answered_at_ms, required(&text, 1)?)
    })
}

fn position(text: Option<String>) -> Result<Option<Lsn>, AnswerError> {
    text.map(|text| text.parse().map(Lsn).map_err(|_| AnswerError(5))).transpose()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::topology::Role;

    /// An answer of `me`, with a row for each of the instances: `a*,b,c`.
    pub fn row(me: &str, in_recovery: bool, instances: &str) -> [Option<String>; 6] {
        let rows: Vec<_> = instances
            .split(',')
            .map(|id| match id.strip_suffix('*') {
                Some(id) => format!(r#"["{id}", "{WRITER}", "900", "900", null]"#),
                None => format!(r#"["{id}", "uuid-of-{id}", "880", "870", "12"]"#),
            })
            .collect();
        let recovery = if in_recovery { "t" } else { "f" };
        let rows = format!("[{}]", rows.join(", "));
        [recovery, "150004", me, "1700000000000", "f", &rows].map(|text| Some(text.to_owned()))
    }

    fn read(row: &[Option<String>; 6]) -> Result<Facts, AnswerError> {
        answer(|column| row[column].as_deref(), 5, 8)
    }

    #[test]
    fn the_writer_is_who_takes_writes_and_is_named_by_its_own_answer() {
        let facts = read(&row("a", false, "a*,b")).unwrap();
        assert_eq!((facts.says(), facts.lsn, facts.replay_lag_ms), (Role::Primary, Lsn(900), None));
        assert_eq!((facts.timeline, facts.started_at_ms), (1, 1_700_000_000_000));
        let reader = read(&row("b", true, "a*,b")).unwrap();
        assert_eq!((reader.says(), reader.lsn, reader.replay_lag_ms), (Role::Standby, Lsn(870), Some(12)));
        let other = read(&row("b", false, "a*,b")).unwrap();
        assert_eq!(other.says(), Role::Unknown, "it names another one");
        let mut read_only = row("a", false, "a*,b");
        read_only[4] = Some("t".to_owned());
        assert_eq!(read(&read_only).unwrap().says(), Role::Unknown);
    }

    #[test]
    fn positions_that_are_not_told_are_not_known() {
        let without = |column: usize, value: Option<&str>| {
            let mut row = row("b", true, "a*,b");
            row[column] = value.map(str::to_owned);
            row
        };
        let none = read(&without(5, Some(r#"[["b", "u", null, null, null]]"#))).unwrap();
        assert_eq!((none.lsn, none.replay_lag_ms), (Lsn(0), None));
        assert_eq!(read(&without(5, None)).unwrap().says(), Role::Standby);
        for (column, value) in [(0, None), (1, None), (2, None), (3, None), (3, Some("x")), (5, Some("x"))] {
            assert_eq!(read(&without(column, value)), Err(AnswerError(column)), "{column}");
        }
        let nonsense = without(5, Some(r#"[["b", "u", "-1", null, null]]"#));
        assert_eq!(read(&nonsense), Err(AnswerError(5)));
    }
}
