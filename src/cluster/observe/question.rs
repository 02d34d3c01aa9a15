//! The one question a probe asks, and how its answer is read.
//!
//! Pure. One statement, so one round trip and one moment. It works on PostgreSQL 11 to 18 for a member
//! of `pg_monitor`. Invariant: every name is qualified, so no schema of a database can answer for the catalog.

use crate::cluster::blue_green::BlueGreen;
use crate::cluster::conninfo::Conninfo;
use crate::cluster::model::{Archive, Facts, Receiver, ReplicationTimeouts, Sender, Slot};
use crate::topology::Lsn;

/// Whether the server takes no writes by its own configuration.
macro_rules! read_only {
    () => {
        r"
       pg_catalog.current_setting('default_transaction_read_only') = 'on'
           AND EXISTS (SELECT 1 FROM pg_catalog.pg_settings p
                        WHERE p.name = 'default_transaction_read_only'
                          AND p.source IN ('configuration file', 'command line', 'environment variable'))"
    };
}
pub(super) use read_only;

/// One row of 29 columns.
///
/// - The timeline of a primary is the one it inserts into, which the name of its WAL file tells: the
///   control file may still have the old one until the checkpoint after a promotion.
/// - The timeline of a standby is the highest it has proof of; its control file alone lags behind.
/// - `pg_current_wal_insert_lsn` and the like fail in recovery, hence the CASEs.
/// - A standby that has replayed all it received is not behind, however long nothing was written; a
///   transaction's age says something only when there is more to replay, or nobody to receive from.
/// - A message that a standby has received in the future, since its clock was set back, is no message of a moment ago. By a
///   second it may be off.
/// - A server that is to take no writes has `default_transaction_read_only` in its own configuration; what a role or a
///   database was given says nothing of it.
/// - Passwords in `primary_conninfo` stay on the server. Before PostgreSQL 12 it is no setting, and who has no
///   `pg_monitor` must not ask for it.
pub const QUESTION: &str = concat!(
    r"
SELECT s.recovering,
       pg_catalog.current_setting('server_version_num'),
       i.system_identifier,
       CASE WHEN NOT s.recovering THEN pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()) END,
       GREATEST(CASE WHEN w.status = 'streaming' THEN w.received_tli END,
                r.min_recovery_end_timeline, c.timeline_id),
       CASE WHEN NOT s.recovering THEN pg_catalog.pg_current_wal_insert_lsn() END,
       s.replayed,
       s.received,
       CASE WHEN w.status = 'streaming' AND s.replayed >= s.received THEN 0
            ELSE pg_catalog.floor(1000 * GREATEST(0, pg_catalog.date_part('epoch',
                     pg_catalog.clock_timestamp() - pg_catalog.pg_last_xact_replay_timestamp())))::pg_catalog.int8
       END,
       w.status,
       COALESCE(pg_catalog.substring(w.conninfo, '(?:^| )application_name=([^ ]+)'),
                CASE WHEN pg_catalog.current_setting('server_version_num')::pg_catalog.int4 >= 120000
                     THEN NULLIF(pg_catalog.current_setting('cluster_name'), '') END,
                'walreceiver'),
       CASE WHEN pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - w.last_msg_receipt_time) > -1 THEN
           pg_catalog.floor(1000 * GREATEST(0, pg_catalog.date_part('epoch',
               pg_catalog.clock_timestamp() - w.last_msg_receipt_time)))::pg_catalog.int8 END,
       (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
                    t.application_name, t.state, t.sync_state, t.sent_lsn, t.flush_lsn))
          FROM pg_catalog.pg_stat_replication t),
       b.wal_block_size,
       b.bytes_per_wal_segment,
       CASE WHEN pg_catalog.pg_has_role('pg_read_all_settings', 'USAGE') THEN
           pg_catalog.regexp_replace(pg_catalog.regexp_replace(
               pg_catalog.current_setting('primary_conninfo', true),
               $r$password\s*=\s*('([^'\\]|\\.)*'|([^'\s\\]|\\.)([^\s\\]|\\.)*)$r$, 'password=x', 'g'),
               '://[^/?]*@', '://') END,
       NULLIF(pg_catalog.current_setting('primary_slot_name', true), ''),
       pg_catalog.current_setting('synchronous_standby_names'),
       (SELECT pg_catalog.json_agg(pg_catalog.json_build_array(l.slot_name, l.active::text, l.restart_lsn))
          FROM pg_catalog.pg_replication_slots l
         WHERE l.slot_type = 'physical' AND NOT l.temporary),
       pg_catalog.current_setting('wal_log_hints'),
       pg_catalog.current_setting('data_checksums'),
       CASE WHEN w.status = 'streaming' THEN w.received_tli END,
       pg_catalog.floor(1000 * pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time()))::pg_catalog.int8,
       CASE WHEN NOT s.recovering AND pg_catalog.current_setting('archive_mode') <> 'off' THEN
           (SELECT pg_catalog.json_build_array(pg_catalog.json_build_array(
                       a.last_archived_wal,
                       pg_catalog.floor(1000 * GREATEST(0, pg_catalog.date_part('epoch',
                           pg_catalog.clock_timestamp() - a.last_archived_time)))::pg_catalog.int8::text,
                       COALESCE(a.last_failed_time > COALESCE(a.last_archived_time, '-infinity'), false)::text))
              FROM pg_catalog.pg_stat_archiver a) END,
       CASE WHEN NOT s.recovering THEN pg_catalog.pg_current_wal_flush_lsn() END,
       pg_catalog.floor(1000 * pg_catalog.date_part('epoch',
           pg_catalog.current_setting('wal_sender_timeout')::pg_catalog.interval))::pg_catalog.int8,
       pg_catalog.floor(1000 * pg_catalog.date_part('epoch',
           pg_catalog.current_setting('wal_receiver_timeout')::pg_catalog.interval))::pg_catalog.int8,
",
    read_only!(),
    r",
       pg_catalog.current_setting('max_connections')::pg_catalog.int4
           - pg_catalog.current_setting('superuser_reserved_connections')::pg_catalog.int4
           - COALESCE(pg_catalog.current_setting('reserved_connections', true)::pg_catalog.int4, 0)
  FROM (SELECT pg_catalog.pg_is_in_recovery() AS recovering,
               pg_catalog.pg_last_wal_receive_lsn() AS received,
               pg_catalog.pg_last_wal_replay_lsn() AS replayed
        OFFSET 0) s
 CROSS JOIN pg_catalog.pg_control_system() i
 CROSS JOIN pg_catalog.pg_control_checkpoint() c
 CROSS JOIN pg_catalog.pg_control_recovery() r
 CROSS JOIN pg_catalog.pg_control_init() b
  LEFT JOIN pg_catalog.pg_stat_wal_receiver w ON true"
);

/// A column that is missing, NULL where it must not be, or no such value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("column {0} of the answer is not understood")]
pub struct AnswerError(pub(super) usize);

/// Reads the row, whose columns `text` gives as text; `None` is NULL.
pub fn answer<'a>(
    text: impl Fn(usize) -> Option<&'a str>,
    asked_at_ms: u64,
    answered_at_ms: u64,
) -> Result<Facts, AnswerError> {
    let in_recovery = match text(0) {
        Some("t") => true,
        Some("f") => false,
        _ => return Err(AnswerError(0)),
    };
    let (timeline, lsn) = if in_recovery {
        // A standby that has nothing to replay yet answers NULL.
        (required(&text, 4)?, optional(&text, 6)?.unwrap_or_default())
    } else {
        let (block, segment) = (required(&text, 13)?, required(&text, 14)?);
        let timeline = text(3).and_then(timeline_of_wal_file).ok_or(AnswerError(3))?;
        (timeline, end_of_record(required(&text, 5)?, block, segment))
    };
    let receiver = match text(9).filter(|_| in_recovery) {
        Some(status) => Some(Receiver {
            status: status.to_owned(),
            name: text(10).ok_or(AnswerError(10))?.to_owned(),
            message_age_ms: optional(&text, 11)?,
            timeline: optional(&text, 21)?,
        }),
        None => None,
    };
    // A string that libpq refuses is one that leads to nobody.
    let conninfo = text(15).filter(|_| in_recovery).and_then(|text| Conninfo::parse(text).ok());
    Ok(Facts {
        asked_at_ms,
        answered_at_ms,
        in_recovery,
        read_only: text(27) == Some("t") && !in_recovery,
        timeline,
        lsn,
        flushed_lsn: optional::<Lsn>(&text, 24)?.filter(|_| !in_recovery),
        received_lsn: optional::<Lsn>(&text, 7)?.filter(|_| in_recovery),
        replay_lag_ms: optional::<u64>(&text, 8)?.filter(|_| in_recovery),
        system_identifier: required(&text, 2)?,
        version: required(&text, 1)?,
        receiver,
        senders: senders(&text)?,
        upstream: conninfo.and_then(|conninfo| conninfo.upstream()),
        slot_name: text(16).map(str::to_owned),
        synchronous_standby_names: text(17).ok_or(AnswerError(17))?.to_owned(),
        slots: slots(&text)?,
        wal_log_hints: text(19) == Some("on"),
        data_checksums: text(20) == Some("on"),
        started_at_ms: required(&text, 22)?,
        archive: archive(&text)?,
        timeouts: ReplicationTimeouts {
            sender_ms: optional(&text, 25)?.unwrap_or_default(),
            receiver_ms: optional(&text, 26)?.unwrap_or_default(),
        },
        connections: optional(&text, 28)?,
        aurora: None,
        blue_green: BlueGreen::None,
        given_away: false,
        members: Vec::new(),
    })
}

fn senders<'a>(text: impl Fn(usize) -> Option<&'a str>) -> Result<Vec<Sender>, AnswerError> {
    let rows = rows::<5>(text(12)).ok_or(AnswerError(12))?.into_iter();
    let sender = |[name, state, sync_state, sent, flushed]: [Option<String>; 5]| {
        // Without pg_monitor the states are hidden: such a row says nothing.
        let (Some(name), Some(state), Some(sync_state)) = (name, state, sync_state) else { return Ok(None) };
        let (sent_lsn, flush_lsn) = (lsn(sent, 12)?, lsn(flushed, 12)?);
        Ok(Some(Sender { name, state, sync_state, sent_lsn, flush_lsn }))
    };
    rows.filter_map(|row| sender(row).transpose()).collect()
}

fn slots<'a>(text: impl Fn(usize) -> Option<&'a str>) -> Result<Vec<Slot>, AnswerError> {
    let rows = rows::<3>(text(18)).ok_or(AnswerError(18))?.into_iter();
    rows.map(|[name, active, restart]| {
        let name = name.ok_or(AnswerError(18))?;
        Ok(Slot { name, active: active.as_deref() == Some("true"), restart_lsn: lsn(restart, 18)? })
    })
    .collect()
}

fn archive<'a>(text: impl Fn(usize) -> Option<&'a str>) -> Result<Option<Archive>, AnswerError> {
    let row = rows::<3>(text(23)).ok_or(AnswerError(23))?.into_iter().next();
    let read = |[last, age_ms, fails]: [Option<String>; 3]| {
        let age_ms = age_ms.map(|age| age.parse().map_err(|_| AnswerError(23))).transpose()?;
        Ok(Archive { last, age_ms, fails: fails.as_deref() == Some("true") })
    };
    row.map(read).transpose()
}

/// Of an aggregate, which is NULL without any.
pub(super) fn rows<const COLUMNS: usize>(json: Option<&str>) -> Option<Vec<[Option<String>; COLUMNS]>>
where
    [Option<String>; COLUMNS]: serde::de::DeserializeOwned,
{
    json.map_or(Some(Vec::new()), |json| serde_json::from_str(json).ok())
}

fn lsn(text: Option<String>, column: usize) -> Result<Option<Lsn>, AnswerError> {
    text.map(|text| text.parse().map_err(|_| AnswerError(column))).transpose()
}

/// Where the last record ends, of a position to insert at. They differ when a record, or a switch to
/// the next segment, has filled a page: the next record goes behind the header of the next page, a
/// position no standby reports before there is a next record.
pub fn end_of_record(insert: Lsn, block: u64, segment: u64) -> Lsn {
    const LONG_HEADER: u64 = 40;
    const SHORT_HEADER: u64 = 24;
    let into = |unit: u64| insert.0.checked_rem(unit);
    match (into(block), into(segment)) {
        (_, Some(LONG_HEADER)) => Lsn(insert.0 - LONG_HEADER),
        (Some(SHORT_HEADER), _) => Lsn(insert.0 - SHORT_HEADER),
        _ => insert,
    }
}

fn optional<'a, T: std::str::FromStr>(
    text: impl Fn(usize) -> Option<&'a str>,
    column: usize,
) -> Result<Option<T>, AnswerError> {
    text(column).map(|value| value.parse().map_err(|_| AnswerError(column))).transpose()
}

pub(super) fn required<'a, T: std::str::FromStr>(
    text: impl Fn(usize) -> Option<&'a str>,
    column: usize,
) -> Result<T, AnswerError> {
    optional(text, column)?.ok_or(AnswerError(column))
}

/// The first eight of its 24 hexadecimal digits.
fn timeline_of_wal_file(name: &str) -> Option<u32> {
    (name.len() == 24).then(|| u32::from_str_radix(name.get(..8)?, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::conninfo::Upstream;

    type Row = [Option<&'static str>; 29];

    const PRIMARY: Row = [
        Some("f"),
        Some("150004"),
        Some("7573209450985230341"),
        Some("0000000A0000000000000003"),
        Some("9"),
        Some("0/3000148"),
        Some("0/2000000"),
        Some("0/2000000"),
        Some("12"),
        None,
        Some("walreceiver"),
        None,
        Some(
            r#"[["s1", "streaming", "async", "0/3000148", "0/3000100"], ["hidden", null, null, null, null]]"#,
        ),
        Some("8192"),
        Some("16777216"),
        Some("host=old"),
        None,
        Some("ANY 1 (s1)"),
        Some(r#"[["komainu_s1", "true", "0/3000100"], ["new", "false", null]]"#),
        Some("on"),
        Some("off"),
        None,
        Some("1700000000000"),
        Some(r#"[["0000000A0000000000000002", "900", "true"]]"#),
        Some("0/3000140"),
        Some("60000"),
        Some("0"),
        Some("f"),
        Some("97"),
    ];
    const STANDBY: Row = [
        Some("t"),
        Some("110022"),
        Some("7573209450985230341"),
        None,
        Some("2"),
        None,
        Some("0/3000000"),
        Some("0/3000148"),
        Some("1500"),
        Some("streaming"),
        Some("s1"),
        Some("40"),
        None,
        Some("8192"),
        Some("16777216"),
        Some("host=db1 password=x application_name=s1"),
        Some("komainu_s1"),
        Some(""),
        None,
        Some("off"),
        Some("on"),
        Some("2"),
        Some("1700000000500"),
        None,
        None,
        Some("2000"),
        Some("2500"),
        Some("t"),
        Some("297"),
    ];

    fn read(row: Row) -> Result<Facts, AnswerError> {
        answer(|column| row[column], 5, 8)
    }

    #[test]
    fn a_primary_and_a_standby_are_understood() {
        let sender = Sender {
            name: "s1".to_owned(),
            state: "streaming".to_owned(),
            sync_state: "async".to_owned(),
            sent_lsn: Some(Lsn(0x300_0148)),
            flush_lsn: Some(Lsn(0x300_0100)),
        };
        let slot = |name: &str, active, restart_lsn| Slot { name: name.to_owned(), active, restart_lsn };
        let primary = Facts {
            asked_at_ms: 5,
            answered_at_ms: 8,
            in_recovery: false,
            read_only: false,
            timeline: 10,
            lsn: Lsn(0x300_0148),
            flushed_lsn: Some(Lsn(0x300_0140)),
            received_lsn: None,
            replay_lag_ms: None,
            system_identifier: 7573209450985230341,
            version: 150004,
            receiver: None,
            senders: vec![sender],
            upstream: None,
            slot_name: None,
            synchronous_standby_names: "ANY 1 (s1)".to_owned(),
            slots: vec![slot("komainu_s1", true, Some(Lsn(0x300_0100))), slot("new", false, None)],
            wal_log_hints: true,
            data_checksums: false,
            started_at_ms: 1_700_000_000_000,
            archive: Some(Archive {
                last: Some("0000000A0000000000000002".to_owned()),
                age_ms: Some(900),
                fails: true,
            }),
            timeouts: ReplicationTimeouts { sender_ms: 60_000, receiver_ms: 0 },
            connections: Some(97),
            aurora: None,
            blue_green: BlueGreen::None,
            given_away: false,
            members: Vec::new(),
        };
        assert_eq!(read(PRIMARY), Ok(primary));
        let receiver = Receiver {
            status: "streaming".to_owned(),
            name: "s1".to_owned(),
            message_age_ms: Some(40),
            timeline: Some(2),
        };
        let upstream =
            Upstream { host: "db1".to_owned(), port: 5432, application_name: Some("s1".to_owned()) };
        let standby = Facts {
            asked_at_ms: 5,
            answered_at_ms: 8,
            in_recovery: true,
            read_only: false,
            timeline: 2,
            lsn: Lsn(0x300_0000),
            flushed_lsn: None,
            received_lsn: Some(Lsn(0x300_0148)),
            replay_lag_ms: Some(1500),
            system_identifier: 7573209450985230341,
            version: 110022,
            receiver: Some(receiver),
            senders: Vec::new(),
            upstream: Some(upstream),
            slot_name: Some("komainu_s1".to_owned()),
            synchronous_standby_names: String::new(),
            slots: Vec::new(),
            wal_log_hints: false,
            data_checksums: true,
            started_at_ms: 1_700_000_000_500,
            archive: None,
            timeouts: ReplicationTimeouts { sender_ms: 2_000, receiver_ms: 2_500 },
            connections: Some(297),
            aurora: None,
            blue_green: BlueGreen::None,
            given_away: false,
            members: Vec::new(),
        };
        assert_eq!(read(STANDBY), Ok(standby));
        let read_only = read(with(PRIMARY, 27, "t")).unwrap();
        assert!(read_only.read_only && !read_only.says_primary());
        let silent = [7, 8, 9, 11].into_iter().fold(STANDBY, |row, column| without(row, column));
        let facts = read(silent).unwrap();
        assert_eq!((facts.receiver, facts.received_lsn, facts.replay_lag_ms), (None, None, None));
    }

    fn with(mut row: Row, column: usize, value: &'static str) -> Row {
        row[column] = Some(value);
        row
    }

    fn without(mut row: Row, column: usize) -> Row {
        row[column] = None;
        row
    }

    #[test]
    fn nonsense_is_named_by_its_column() {
        for (row, columns) in
            [(PRIMARY, &[0, 1, 2, 3, 5, 13, 14, 17, 22][..]), (STANDBY, &[0, 1, 2, 4, 17, 22])]
        {
            for &column in columns {
                assert_eq!(read(without(row, column)), Err(AnswerError(column)));
            }
            let words = [9, 10, 15, 16, 17, 19, 20, 27];
            for column in (0..29).filter(|&column| row[column].is_some() && !words.contains(&column)) {
                let mut wrong = row;
                wrong[column] = Some("x");
                let used =
                    if row == PRIMARY { ![4, 6].contains(&column) } else { ![13, 14].contains(&column) };
                assert_eq!(read(wrong).err(), used.then_some(AnswerError(column)), "{column}");
            }
        }
    }

    #[test]
    fn a_filled_page_ends_before_the_next_header() {
        for (insert, end) in [
            ("0/3000028", "0/3000000"),
            ("0/3002018", "0/3002000"),
            ("0/3002028", "0/3002028"),
            ("0/3000148", "0/3000148"),
            ("0/0", "0/0"),
        ] {
            assert_eq!(end_of_record(insert.parse().unwrap(), 8192, 16 << 20).to_string(), end);
        }
        assert_eq!(end_of_record(Lsn(5), 0, 0), Lsn(5));
    }
}
