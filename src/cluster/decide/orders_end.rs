//! By when all that was sent to change a server's `synchronous_standby_names` has happened, or never will.
//!
//! Pure. What an earlier leader has sent ends a while after this one has begun; what this one has sent, when it is known to
//! be done, or that while after. Invariant: an order that has failed may still be carried out, whatever is done later.

use std::collections::BTreeMap;

use super::OPERATIONS_END_MS;

#[derive(Debug, Clone, Default)]
pub(super) struct OrdersEnd {
    /// When this leader has first looked.
    began_ms: Option<u64>,
    servers: BTreeMap<String, Sent>,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    ends_ms: u64,
    /// The last order is the only one that may be on its way.
    is_alone: bool,
}

impl OrdersEnd {
    pub fn look(&mut self, now_ms: u64) {
        self.began_ms.get_or_insert(now_ms);
        self.servers.retain(|_, sent| sent.ends_ms > now_ms);
    }

    pub fn sent(&mut self, server: &str, now_ms: u64) {
        let is_alone = self.servers.get(server).is_none_or(|sent| sent.ends_ms <= now_ms);
        self.servers.insert(server.to_owned(), Sent { ends_ms: now_ms + OPERATIONS_END_MS, is_alone });
    }

    /// The last one was carried out, or failed, and may be carried out yet.
    pub fn answered(&mut self, server: &str, now_ms: u64, is_done: bool) {
        if let Some(sent) = self.servers.get_mut(server) {
            match is_done && sent.is_alone {
                true => sent.ends_ms = now_ms,
                false => {
                    sent.ends_ms = sent.ends_ms.max(now_ms + if is_done { 0 } else { OPERATIONS_END_MS })
                }
            }
        }
    }

    pub fn of(&self, server: &str) -> u64 {
        let by_others_ms = self.began_ms.map_or(u64::MAX, |began_ms| began_ms + OPERATIONS_END_MS);
        self.servers.get(server).map_or(by_others_ms, |sent| sent.ends_ms.max(by_others_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_and_this_leader_have_sent_is_waited_for() {
        let mut orders = OrdersEnd::default();
        assert_eq!(orders.of("pg1"), u64::MAX, "nothing is known yet");
        orders.look(1_000);
        orders.look(2_000);
        assert_eq!(orders.of("pg1"), 4_000);
        orders.sent("pg1", 10_000);
        assert_eq!((orders.of("pg1"), orders.of("pg2")), (13_000, 4_000));
        orders.answered("pg1", 10_020, true);
        assert_eq!(orders.of("pg1"), 10_020);
        // One that failed is not over because another one was done.
        orders.sent("pg1", 20_000);
        orders.answered("pg1", 22_000, false);
        assert_eq!(orders.of("pg1"), 25_000);
        orders.sent("pg1", 23_000);
        orders.answered("pg1", 23_010, true);
        assert_eq!(orders.of("pg1"), 26_000);
        orders.look(26_000);
        assert_eq!(orders.of("pg1"), 4_000);
    }
}
