//! Physical replication slots: what they are called, and how they are made, moved and dropped.
//!
//! Invariant: no slot is dropped that komainu did not name, nor one that is in use.

use super::conversation::Conversation;
use super::privilege::Privilege;
use super::{Done, Fault};
use crate::topology::Lsn;

const PREFIX: &str = "komainu_";
/// `NAMEDATALEN` less its end.
const NAME_LEN: usize = 63;

/// The slot of a standby, on whatever server it follows. PostgreSQL allows lower-case letters, digits and underscores.
pub fn slot_name(id: &str) -> String {
    let fits = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    PREFIX.chars().chain(id.chars().map(fits)).take(NAME_LEN).collect()
}

pub fn is_ours(slot: &str) -> bool {
    slot.starts_with(PREFIX)
}

pub(super) async fn keep(
    with: &mut Conversation,
    wanted: &[String],
    unwanted: &[String],
) -> Result<Done, Fault> {
    let create = "SELECT pg_catalog.pg_create_physical_replication_slot($1, true) \
                  WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots \
                                     WHERE slot_name = $1 AND slot_type = 'physical')";
    let drop = "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots \
                 WHERE slot_name = $1 AND slot_type = 'physical' AND NOT active";
    let mut done = Done::Already;
    // Dropped first: there may be no room else.
    for name in unwanted.iter().filter(|name| is_ours(name) && !wanted.contains(name)) {
        done = either(done, with.ask(drop, &[name], Privilege::Slots).await?.len());
    }
    for name in wanted {
        done = either(done, with.ask(create, &[name], Privilege::Slots).await?.len());
    }
    Ok(done)
}

pub(super) async fn advance(with: &mut Conversation, positions: &[(String, Lsn)]) -> Result<Done, Fault> {
    // No further than what this server itself has, which the function sees to. Who uses it moves it by itself.
    let advance = "SELECT pg_catalog.pg_replication_slot_advance(slot_name, $2::pg_catalog.pg_lsn) \
                     FROM pg_catalog.pg_replication_slots \
                    WHERE slot_name = $1 AND slot_type = 'physical' AND NOT active \
                      AND restart_lsn < $2::pg_catalog.pg_lsn";
    let mut done = Done::Already;
    for (name, position) in positions {
        let rows = with.ask(advance, &[name, &position.to_string()], Privilege::Slots).await?;
        done = either(done, rows.len());
    }
    Ok(done)
}

fn either(done: Done, rows: usize) -> Done {
    if rows > 0 { Done::Now } else { done }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_named_as_postgresql_allows() {
        assert_eq!(slot_name("db-1.Eu_2"), "komainu_db_1_eu_2");
        assert_eq!(slot_name(&"x".repeat(63)).len(), NAME_LEN);
        assert!(is_ours(&slot_name("a")) && !is_ours("backup"));
    }
}
