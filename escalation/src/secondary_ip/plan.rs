//! Rules for a secondary private address on the owner's network interface. Pure.
//!
//! Assigning with reassignment takes the address from whoever has it, with no condition: so, as with routes, the lease
//! and looking again must do. Giving it up names this node's own interface, so it can never hit a successor.

use crate::claim::Desired;
use crate::method::{Gap, Holding, Plan, Problem, Rules};
use crate::reason::Reason;
use std::net::Ipv4Addr;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecondaryIpRules {
    pub interface: String,
    pub address: Ipv4Addr,
}

/// Which network interface of the subnet has the address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub interface: Option<String>,
    /// It is that interface's first address, which cannot be moved.
    pub primary: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Assign,
    Unassign,
}

impl Rules for SecondaryIpRules {
    type Observed = Holder;
    type Step = Step;

    fn plan(&self, observed: &Holder, desired: Desired) -> Plan<Step> {
        let here = observed.interface.as_ref() == Some(&self.interface);
        let mut plan = Plan::new(Holding::one(here && !observed.primary));
        match desired {
            Desired::Hold { .. } if observed.primary => {
                plan.problems.push(Problem {
                    reason: Reason::NotOurs,
                    detail: format!(
                        "{} is the primary address of {}",
                        self.address,
                        observed.interface.as_deref().unwrap_or("a network interface")
                    ),
                });
                plan
            }
            Desired::Hold { .. } if !here => plan.stage("assign", Gap::None, vec![Step::Assign]),
            Desired::Release { .. } if here && !observed.primary => {
                plan.stage("unassign", Gap::None, vec![Step::Unassign])
            }
            Desired::Hold { .. } | Desired::Release { .. } | Desired::Doubt => plan,
        }
    }

    fn can_be_overwritten_late(&self) -> bool {
        true
    }

    fn may_act_on_last_sight(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(interface: Option<&str>, primary: bool, desired: Desired) -> (Vec<Step>, usize, usize) {
        let rules = SecondaryIpRules { interface: "eni-1".into(), address: Ipv4Addr::new(10, 0, 0, 9) };
        let plan = rules.plan(&Holder { interface: interface.map(str::to_owned), primary }, desired);
        let steps = plan.stages.into_iter().flat_map(|stage| stage.steps).collect();
        (steps, plan.holding.mine, plan.problems.len())
    }

    #[test]
    fn each_case() {
        let (hold, release) = (Desired::Hold { epoch: 3 }, Desired::Release { epoch: 3 });
        assert_eq!(plan(None, false, hold), (vec![Step::Assign], 0, 0));
        assert_eq!(plan(Some("eni-2"), false, hold), (vec![Step::Assign], 0, 0));
        assert_eq!(plan(Some("eni-1"), false, hold), (vec![], 1, 0));
        assert_eq!(plan(Some("eni-2"), true, hold), (vec![], 0, 1));
        assert_eq!(plan(Some("eni-1"), false, release), (vec![Step::Unassign], 1, 0));
        assert_eq!(plan(Some("eni-1"), true, release), (vec![], 0, 0));
        assert_eq!(plan(Some("eni-2"), false, release), (vec![], 0, 0));
        assert_eq!(plan(Some("eni-1"), false, Desired::Doubt), (vec![], 1, 0));
    }
}
