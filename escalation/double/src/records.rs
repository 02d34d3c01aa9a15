//! Records of a name server of ours, which move when they are told to, early or late.
//!
//! Invariant: a record that is to move later has its old address until then.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::dns::Answer;
use crate::locked;

#[derive(Debug, Clone)]
pub struct Records {
    ttl_s: u32,
    /// By name, where it leads and since when, the latest last.
    moves: Arc<Mutex<BTreeMap<String, Moves>>>,
}

type Moves = Vec<(Instant, Option<Ipv4Addr>)>;

impl Records {
    pub fn new(ttl_s: u32) -> Self {
        Records { ttl_s, moves: Arc::default() }
    }

    /// From now on a name leads there; None: nowhere.
    pub fn set(&self, name: &str, address: Option<Ipv4Addr>) {
        self.set_after(name, address, Duration::ZERO);
    }

    /// The same, and resolvers do not know it for a while.
    pub fn set_after(&self, name: &str, address: Option<Ipv4Addr>, delay: Duration) {
        let mut moves = locked(&self.moves);
        moves.entry(name.to_lowercase()).or_default().push((Instant::now() + delay, address));
    }

    pub(crate) fn ask(&self, name: &str) -> Option<Answer> {
        let moves = locked(&self.moves);
        let now = Instant::now();
        let moved = moves.get(&name.trim_end_matches('.').to_lowercase())?;
        let (_, address) = moved.iter().rfind(|(at, _)| *at <= now)?;
        Some(Answer { address: (*address)?.into(), ttl_s: self.ttl_s })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_moves_when_its_time_has_come() {
        let records = Records::new(5);
        let (old, new) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        assert_eq!(records.ask("db.test"), None);
        records.set("db.test", Some(old));
        records.set_after("db.test", Some(new), Duration::from_secs(3600));
        assert_eq!(records.ask("DB.test."), Some(Answer { address: old.into(), ttl_s: 5 }));
        records.set("db.test", Some(new));
        assert_eq!(records.ask("db.test").map(|answer| answer.address), Some(new.into()));
        records.set("db.test", None);
        assert_eq!(records.ask("db.test"), None);
    }
}
