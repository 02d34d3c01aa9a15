//! Rules for routes that lead to the owner. Pure.
//!
//! AWS has no conditional form of replacing a route, so nothing refuses a late request: the lease, and looking again,
//! must do. A route is never deleted: the next owner replaces it, and until then it leads to a node that serves.

use crate::claim::Desired;
use crate::method::{Gap, Holding, Plan, Problem, Rules};
use crate::reason::Reason;
use ipnet::IpNet;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteTableRules {
    /// The network interface of this node.
    pub interface: String,
    pub tables: Vec<String>,
    pub destinations: Vec<IpNet>,
}

/// Each table that exists, with what it says of each destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tables(pub Vec<Table>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub id: String,
    pub routes: Vec<Route>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub destination: IpNet,
    /// None: it leads to something that is no network interface.
    pub interface: Option<String>,
    pub blackhole: bool,
    /// The route every table has for the network itself.
    pub local: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub table: String,
    pub destination: IpNet,
    /// It was not there when looked at.
    pub create: bool,
}

impl Rules for RouteTableRules {
    type Observed = Tables;
    type Step = Step;

    fn plan(&self, observed: &Tables, desired: Desired) -> Plan<Step> {
        let mut plan = Plan::new(Holding { mine: 0, of: self.tables.len() * self.destinations.len() });
        let mut steps = Vec::new();
        for id in &self.tables {
            let Some(table) = observed.0.iter().find(|table| table.id == *id) else {
                plan.problems.push(Problem {
                    reason: Reason::TargetMissing,
                    detail: format!("there is no route table {id}"),
                });
                continue;
            };
            for destination in &self.destinations {
                let route = table.routes.iter().find(|route| route.destination == *destination);
                match route {
                    Some(route) if route.local => plan.problems.push(Problem {
                        reason: Reason::AddressInsideVpc,
                        detail: format!("{destination} is the network's own in {id}"),
                    }),
                    Some(route) if route.interface.as_ref() == Some(&self.interface) && !route.blackhole => {
                        plan.holding.mine += 1;
                    }
                    route => {
                        if route.is_some_and(|route| route.interface.as_ref() == Some(&self.interface)) {
                            plan.problems.push(Problem {
                                reason: Reason::RouteBlackholed,
                                detail: format!("{destination} in {id}"),
                            });
                        }
                        steps.push(Step {
                            table: id.clone(),
                            destination: *destination,
                            create: route.is_none(),
                        });
                    }
                }
            }
        }
        match desired {
            Desired::Hold { .. } => plan.stage("replace routes", Gap::None, steps),
            Desired::Release { .. } | Desired::Doubt => Plan::new(plan.holding),
        }
    }

    fn gives_up(&self) -> bool {
        false
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

    const HOLD: Desired = Desired::Hold { epoch: 3 };

    fn rules() -> RouteTableRules {
        RouteTableRules {
            interface: "eni-1".into(),
            tables: vec!["rtb-a".into(), "rtb-b".into()],
            destinations: vec!["192.0.2.1/32".parse().unwrap(), "2001:db8::1/128".parse().unwrap()],
        }
    }

    fn route(destination: &str, interface: &str) -> Route {
        Route {
            destination: destination.parse().unwrap(),
            interface: Some(interface.into()),
            blackhole: false,
            local: false,
        }
    }

    fn table(id: &str, routes: Vec<Route>) -> Table {
        Table { id: id.into(), routes }
    }

    #[test]
    fn each_table_and_destination_counts_and_all_change_side_by_side() {
        let mine = || vec![route("192.0.2.1/32", "eni-1"), route("2001:db8::1/128", "eni-1")];
        let plan = rules().plan(&Tables(vec![table("rtb-a", mine()), table("rtb-b", mine())]), HOLD);
        assert_eq!((plan.stages.len(), plan.holding), (0, Holding { mine: 4, of: 4 }));

        let half = vec![route("192.0.2.1/32", "eni-2")];
        let plan = rules().plan(&Tables(vec![table("rtb-a", mine()), table("rtb-b", half)]), HOLD);
        assert_eq!(plan.holding, Holding { mine: 2, of: 4 });
        let [stage] = &plan.stages[..] else { panic!("{plan:?}") };
        let step = |destination: &str, create| Step {
            table: "rtb-b".into(),
            destination: destination.parse().unwrap(),
            create,
        };
        assert_eq!(stage.steps, [step("192.0.2.1/32", false), step("2001:db8::1/128", true)]);
    }

    #[test]
    fn a_black_hole_is_not_held_even_if_it_is_mine() {
        let mut routes = vec![route("192.0.2.1/32", "eni-1"), route("2001:db8::1/128", "eni-1")];
        routes[0].blackhole = true;
        let plan = rules().plan(&Tables(vec![table("rtb-a", routes.clone()), table("rtb-b", routes)]), HOLD);
        assert_eq!(plan.holding, Holding { mine: 2, of: 4 });
        assert_eq!(plan.stages[0].steps.len(), 2);
        assert_eq!(plan.problems[0].reason, Reason::RouteBlackholed);
    }

    #[test]
    fn a_missing_table_is_said_and_the_others_are_moved() {
        let plan = rules().plan(&Tables(vec![table("rtb-a", vec![])]), HOLD);
        assert_eq!(plan.problems[0].reason, Reason::TargetMissing);
        assert!(plan.stages[0].steps.iter().all(|step| step.table == "rtb-a" && step.create));
        let mut local = route("192.0.2.1/32", "local");
        local.local = true;
        let plan = rules().plan(&Tables(vec![table("rtb-a", vec![local])]), HOLD);
        assert_eq!(plan.problems[0].reason, Reason::AddressInsideVpc);
    }

    #[test]
    fn nothing_is_ever_given_up() {
        let tables = Tables(vec![table("rtb-a", vec![route("192.0.2.1/32", "eni-1")])]);
        for desired in [Desired::Release { epoch: 9 }, Desired::Doubt] {
            let plan = rules().plan(&tables, desired);
            assert!(plan.stages.is_empty() && plan.problems.is_empty());
        }
    }
}
