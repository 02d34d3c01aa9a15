//! An Elastic IP's rules: compare and swap. Pure.
//!
//! Only the association that was seen is removed, and an association is only made where there is none. So of two nodes
//! exactly one wins, and a late request of a former owner is refused. Reassociating in one call would save a round trip
//! and lose that; it is not used, not even as a last resort: a predecessor has at most one request on its way, so the
//! next look wins.

use crate::claim::Desired;
use crate::method::{Gap, Holding, Plan, Rules};
use std::net::Ipv4Addr;

/// Where this node wants the address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElasticIpRules {
    pub interface: String,
    pub private_ip: Ipv4Addr,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub association: Option<Association>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Association {
    pub id: String,
    pub interface: Option<String>,
    pub private_ip: Option<Ipv4Addr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Disassociate { association: String },
    Associate,
}

impl ElasticIpRules {
    fn is_mine(&self, association: &Association) -> bool {
        association.interface.as_ref() == Some(&self.interface)
            && association.private_ip == Some(self.private_ip)
    }
}

impl Rules for ElasticIpRules {
    type Observed = Address;
    type Step = Step;

    fn plan(&self, observed: &Address, desired: Desired) -> Plan<Step> {
        let association = observed.association.as_ref();
        let mine = association.is_some_and(|association| self.is_mine(association));
        let plan = Plan::new(Holding::one(mine));
        let disassociate = || {
            association.map(|seen| Step::Disassociate { association: seen.id.clone() }).into_iter().collect()
        };
        match desired {
            Desired::Hold { .. } if mine => plan,
            Desired::Hold { .. } => plan.stage("disassociate", Gap::Opens, disassociate()).stage(
                "associate",
                Gap::Closes,
                vec![Step::Associate],
            ),
            Desired::Release { .. } if mine => plan.stage("disassociate", Gap::None, disassociate()),
            Desired::Release { .. } | Desired::Doubt => plan,
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
    use crate::method::Stage;

    const HOLD: Desired = Desired::Hold { epoch: 3 };
    const RELEASE: Desired = Desired::Release { epoch: 4 };

    fn rules() -> ElasticIpRules {
        ElasticIpRules { interface: "eni-1".into(), private_ip: Ipv4Addr::new(10, 0, 0, 1) }
    }

    fn at(interface: &str, last: u8) -> Address {
        Address {
            association: Some(Association {
                id: "eipassoc-9".into(),
                interface: Some(interface.into()),
                private_ip: Some(Ipv4Addr::new(10, 0, 0, last)),
            }),
        }
    }

    fn steps(plan: Plan<Step>) -> Vec<Step> {
        plan.stages.into_iter().flat_map(|stage| stage.steps).collect()
    }

    #[test]
    fn taking_swaps_exactly_what_was_seen() {
        let seen = Step::Disassociate { association: "eipassoc-9".into() };
        assert_eq!(steps(rules().plan(&at("eni-1", 1), HOLD)), []);
        assert_eq!(steps(rules().plan(&Address { association: None }, HOLD)), [Step::Associate]);
        for other in [at("eni-2", 1), at("eni-1", 2)] {
            let plan = rules().plan(&other, HOLD);
            assert!(matches!(plan.stages[0], Stage { gap: Gap::Opens, .. }));
            assert_eq!(steps(plan), [seen.clone(), Step::Associate]);
        }
    }

    #[test]
    fn giving_up_touches_only_what_is_mine() {
        let seen = Step::Disassociate { association: "eipassoc-9".into() };
        assert_eq!(steps(rules().plan(&at("eni-1", 1), RELEASE)), [seen]);
        for other in [at("eni-2", 1), at("eni-1", 2), Address { association: None }] {
            assert_eq!(steps(rules().plan(&other, RELEASE)), []);
        }
        assert_eq!(steps(rules().plan(&at("eni-1", 1), Desired::Doubt)), []);
    }
}
