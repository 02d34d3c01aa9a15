//! Rules for an address on one of this host's network interfaces. Pure.
//!
//! The address is given a lifetime, renewed while this node holds the endpoint: when komainu is killed or frozen the
//! kernel takes it away by itself, where otherwise it would go on answering for it beside the new owner.

use crate::claim::Desired;
use crate::method::{Gap, Holding, Plan, Problem, Rules};
use crate::reason::Reason;
use ipnet::IpNet;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceRules {
    pub device: String,
    /// With the prefix it has on the interface.
    pub address: IpNet,
    /// None: it stays until it is taken away.
    pub lifetime_s: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// None: there is no such interface.
    pub index: Option<u32>,
    pub address: Option<Present>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Present {
    /// None: for ever.
    pub remaining_s: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Add {
        index: u32,
    },
    /// Gives it its whole lifetime again.
    Renew {
        index: u32,
    },
    /// Tells the neighbours.
    Announce {
        index: u32,
    },
    Remove {
        index: u32,
    },
}

/// It is renewed this often; a lifetime must be longer than two of these.
const RENEW_EVERY_MS: u64 = 1_000;
pub const LIFETIME_MIN_S: u32 = 3;

impl Rules for InterfaceRules {
    type Observed = Link;
    type Step = Step;

    fn plan(&self, observed: &Link, desired: Desired) -> Plan<Step> {
        let mut plan = Plan::new(Holding::one(observed.address.is_some()));
        let Some(index) = observed.index else {
            if let Desired::Hold { .. } = desired {
                plan.problems.push(Problem {
                    reason: Reason::TargetMissing,
                    detail: format!("there is no network interface {}", self.device),
                });
            }
            return plan;
        };
        match (desired, observed.address) {
            (Desired::Hold { .. }, None) => plan
                .stage("add address", Gap::None, vec![Step::Add { index }])
                .stage("announce", Gap::None, vec![Step::Announce { index }]),
            (Desired::Hold { .. }, Some(present)) => {
                let renew = match (self.lifetime_s, present.remaining_s) {
                    (Some(lifetime_s), Some(remaining_s)) => remaining_s < lifetime_s,
                    // Left over from a run with other settings, or set by hand.
                    (lifetime, remaining) => lifetime.is_some() != remaining.is_some(),
                };
                let steps = if renew { vec![Step::Renew { index }] } else { Vec::new() };
                plan.stage("renew", Gap::None, steps)
            }
            (Desired::Release { .. } | Desired::Doubt, Some(_)) => {
                plan.stage("remove address", Gap::None, vec![Step::Remove { index }])
            }
            (Desired::Release { .. } | Desired::Doubt, None) => plan,
        }
    }

    fn upkeep_ms(&self) -> Option<u64> {
        self.lifetime_s.map(|_| RENEW_EVERY_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD: Desired = Desired::Hold { epoch: 3 };

    fn steps(lifetime_s: Option<u32>, address: Option<Present>, desired: Desired) -> Vec<Step> {
        let rules =
            InterfaceRules { device: "eth0".into(), address: "10.0.0.9/24".parse().unwrap(), lifetime_s };
        let plan = rules.plan(&Link { index: Some(2), address }, desired);
        plan.stages.into_iter().flat_map(|stage| stage.steps).collect()
    }

    fn for_seconds(seconds: u32) -> Option<Present> {
        Some(Present { remaining_s: Some(seconds) })
    }

    const FOR_EVER: Option<Present> = Some(Present { remaining_s: None });

    #[test]
    fn it_is_added_announced_renewed_and_taken_away() {
        assert_eq!(steps(Some(4), None, HOLD), [Step::Add { index: 2 }, Step::Announce { index: 2 }]);
        assert_eq!(steps(Some(4), for_seconds(4), HOLD), []);
        assert_eq!(steps(Some(4), for_seconds(3), HOLD), [Step::Renew { index: 2 }]);
        assert_eq!(steps(Some(4), FOR_EVER, HOLD), [Step::Renew { index: 2 }]);
        assert_eq!(steps(None, FOR_EVER, HOLD), []);
        assert_eq!(steps(None, for_seconds(3), HOLD), [Step::Renew { index: 2 }]);
        for desired in [Desired::Release { epoch: 4 }, Desired::Doubt] {
            assert_eq!(steps(Some(4), for_seconds(3), desired), [Step::Remove { index: 2 }]);
            assert_eq!(steps(Some(4), None, desired), []);
        }
    }

    #[test]
    fn a_missing_interface_is_said_only_by_an_owner() {
        let rules = InterfaceRules {
            device: "eth0".into(),
            address: "10.0.0.9/24".parse().unwrap(),
            lifetime_s: Some(4),
        };
        let link = Link { index: None, address: None };
        assert_eq!(rules.plan(&link, HOLD).problems[0].reason, Reason::TargetMissing);
        assert!(rules.plan(&link, Desired::Doubt).problems.is_empty());
    }
}
