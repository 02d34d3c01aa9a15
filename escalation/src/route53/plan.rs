//! A Route 53 record's rules: each write is fenced by a TXT record with the epoch. Pure.
//!
//! A change batch is all or nothing, and a deletion must name the present value. So a batch that deletes the TXT record
//! as it was seen and creates it anew succeeds only if nobody wrote in between: a late write of a former owner is
//! refused as a whole. Each write has a number of its own, so that also a second arrival of the same one is refused, and
//! no batch creates what it deletes. The record is never deleted: it goes on naming a node that serves, until the next owner's write.

use crate::claim::Desired;
use crate::method::{Gap, Holding, Plan, Problem, Rules};
use crate::reason::Reason;
use std::net::IpAddr;

/// What this node wants the name to say: at most one address of each family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route53Rules {
    pub addresses: Vec<IpAddr>,
    pub ttl_s: u32,
}

/// What the zone says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Zone {
    pub fence: Option<Fence>,
    pub a: Option<Record>,
    pub aaaa: Option<Record>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub values: Vec<String>,
    pub ttl_s: i64,
    /// An alias, or one of several with weights or places: nothing komainu writes.
    pub foreign: bool,
}

/// The TXT record, exactly as it is, so that a deletion can name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    pub values: Vec<String>,
    pub ttl_s: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What the batch deletes: it fails if this is no longer so.
    pub seen: Option<Fence>,
    pub mark: Mark,
    pub addresses: Vec<IpAddr>,
}

/// What the TXT record says: who wrote last, and how many writes there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    pub epoch: u64,
    pub write: u64,
}

impl Mark {
    /// As the record holds it, quotes included.
    pub fn text(self) -> String {
        format!("\"epoch={} write={}\"", self.epoch, self.write)
    }
}

impl Fence {
    pub fn new(mark: Mark, ttl_s: u32) -> Fence {
        Fence { values: vec![mark.text()], ttl_s: ttl_s.into() }
    }

    /// None: it is none of ours.
    pub fn mark(&self) -> Option<Mark> {
        let [value] = &self.values[..] else { return None };
        let value = value.strip_prefix("\"epoch=")?.strip_suffix('"')?;
        let (epoch, write) = value.split_once(" write=")?;
        Some(Mark { epoch: epoch.parse().ok()?, write: write.parse().ok()? })
    }
}

impl Route53Rules {
    fn says(&self, record: Option<&Record>, address: IpAddr) -> bool {
        record.is_some_and(|record| {
            let [value] = &record.values[..] else { return false };
            !record.foreign && record.ttl_s == i64::from(self.ttl_s) && value.parse() == Ok(address)
        })
    }
}

impl Rules for Route53Rules {
    type Observed = Zone;
    type Step = Step;

    fn plan(&self, observed: &Zone, desired: Desired) -> Plan<Step> {
        let record = |address: &IpAddr| if address.is_ipv4() { &observed.a } else { &observed.aaaa }.as_ref();
        let mine = self.addresses.iter().filter(|address| self.says(record(address), **address)).count();
        let mut plan = Plan::new(Holding { mine, of: self.addresses.len() });
        let Desired::Hold { epoch } = desired else { return plan };
        let mut problem =
            |reason, detail: &str| plan.problems.push(Problem { reason, detail: detail.to_owned() });
        if self.addresses.iter().any(|address| record(address).is_some_and(|record| record.foreign)) {
            problem(Reason::NotOurs, "the record is an alias or has a routing policy");
        }
        let last = observed.fence.as_ref().map(|fence| fence.mark());
        match last {
            Some(None) => problem(Reason::NotOurs, "the TXT record for the epoch holds something else"),
            Some(Some(newer)) if newer.epoch > epoch => {
                let newer = newer.epoch;
                problem(Reason::Superseded, &format!("epoch {newer} is in the zone, this node has {epoch}"));
            }
            _ => {}
        }
        let last = last.flatten();
        if !plan.problems.is_empty() || (plan.holding.all() && last.is_some_and(|last| last.epoch == epoch)) {
            return plan;
        }
        let mark = Mark { epoch, write: last.map_or(0, |last| last.write).saturating_add(1) };
        let step = Step { seen: observed.fence.clone(), mark, addresses: self.addresses.clone() };
        plan.stage("change records", Gap::None, vec![step])
    }

    fn gives_up(&self) -> bool {
        false
    }

    fn may_act_on_last_sight(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Route53Rules {
        Route53Rules {
            addresses: vec!["10.0.0.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            ttl_s: 5,
        }
    }

    fn record(value: &str) -> Option<Record> {
        Some(Record { values: vec![value.into()], ttl_s: 5, foreign: false })
    }

    fn fence(epoch: u64) -> Option<Fence> {
        Some(Fence::new(Mark { epoch, write: 41 }, 5))
    }

    #[test]
    fn what_is_written_deletes_exactly_the_fence_that_was_seen() {
        let zone = Zone { fence: fence(8), a: record("10.0.0.2"), aaaa: None };
        let plan = rules().plan(&zone, Desired::Hold { epoch: 9 });
        let mark = Mark { epoch: 9, write: 42 };
        let expected = Step { seen: fence(8), mark, addresses: rules().addresses };
        assert_eq!(plan.stages[0].steps, [expected]);
        assert_eq!(plan.holding, Holding { mine: 0, of: 2 });
        let empty = rules().plan(&Zone::default(), Desired::Hold { epoch: 9 });
        assert_eq!(empty.stages[0].steps[0].seen, None);
    }

    #[test]
    fn settled_only_with_values_ttl_and_epoch() {
        let hold = Desired::Hold { epoch: 9 };
        let good = Zone { fence: fence(9), a: record("10.0.0.1"), aaaa: record("2001:0db8::1") };
        assert!(rules().plan(&good, hold).stages.is_empty());
        let mut old_epoch = good.clone();
        old_epoch.fence = fence(8);
        let mut long_ttl = good.clone();
        long_ttl.a.as_mut().unwrap().ttl_s = 300;
        let mut two = good.clone();
        two.a.as_mut().unwrap().values.push("10.0.0.2".into());
        for other in [old_epoch, long_ttl, two] {
            assert_eq!(rules().plan(&other, hold).stages.len(), 1);
        }
    }

    #[test]
    fn a_newer_epoch_or_something_foreign_is_left_alone() {
        let hold = Desired::Hold { epoch: 9 };
        let reason = |zone: Zone| {
            let plan = rules().plan(&zone, hold);
            assert!(plan.stages.is_empty());
            plan.problems[0].reason
        };
        assert_eq!(reason(Zone { fence: fence(10), ..Zone::default() }), Reason::Superseded);
        let other = Some(Fence { values: vec!["\"v=spf1\"".into()], ttl_s: 5 });
        assert_eq!(reason(Zone { fence: other, ..Zone::default() }), Reason::NotOurs);
        let alias = Some(Record { values: vec![], ttl_s: 0, foreign: true });
        assert_eq!(reason(Zone { a: alias, ..Zone::default() }), Reason::NotOurs);
    }

    #[test]
    fn nothing_is_ever_given_up() {
        let zone = Zone { fence: fence(9), a: record("10.0.0.1"), aaaa: None };
        for desired in [Desired::Release { epoch: 10 }, Desired::Doubt] {
            assert!(rules().plan(&zone, desired).stages.is_empty());
        }
    }
}
