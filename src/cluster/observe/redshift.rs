//! What Redshift is asked, and what follows from its answering at all.
//!
//! Pure. It has no standbys, no recovery and no log that one could ask for: it knows neither the functions nor the settings
//! by which PostgreSQL tells of these. Invariant: whoever answers is the primary.

use crate::cluster::model::Facts;

/// One row of one column, which nothing is read from.
pub const QUESTION: &str = "SELECT pg_catalog.version()";

/// What it says of itself: 8.0.2.
const VERSION: u32 = 80_002;

/// It shows neither a timeline nor when it was started. A new start ends its connections, which tells as much.
pub fn answer(asked_at_ms: u64, answered_at_ms: u64) -> Facts {
    Facts::without_replication(asked_at_ms, answered_at_ms, VERSION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_answers_is_the_primary() {
        let facts = answer(5, 8);
        assert!(facts.says_primary());
        assert_eq!((facts.asked_at_ms, facts.answered_at_ms, facts.version), (5, 8, 80_002));
    }
}
