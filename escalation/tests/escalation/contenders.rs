//! Two nodes' loops against a model of AWS, in any order of sending, arriving and hearing of it. Pure: no clock, no
//! socket; proptest finds the order that breaks it, and shrinks it.
//!
//! A request is sent only while the sender's lease is there, but may arrive at any later time, and its answer may be
//! lost. `PROPTEST_CASES` makes it try more orders than usual. In the end the rightful owner has it, and knows; the other knows that it has not.

use komainu_escalation::aws::AwsError;
use komainu_escalation::elastic_ip::{self, Address, Association, ElasticIpRules};
use komainu_escalation::reconcile::pace::Pace;
use komainu_escalation::route_table::{self, Route, RouteTableRules, Table, Tables};
use komainu_escalation::route53::{self, Fence, Record, Route53Rules, Zone};
use komainu_escalation::secondary_ip::{self, Holder, SecondaryIpRules};
use komainu_escalation::{
    Action, Applied, Claim, Desired, Error, Fault, Owner, Plan, Reconciler, Rules, Stage, State,
};
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr};

/// What AWS would do.
trait Double<R: Rules> {
    fn look(&self) -> R::Observed;
    fn arrive(&mut self, step: &R::Step, by: usize) -> Result<Applied, Error>;
    fn holder(&self) -> Option<usize>;
}

fn error(fault: Fault) -> Error {
    Error::Aws(AwsError {
        operation: "model",
        subject: "it".into(),
        fault,
        code: None,
        message: "as modelled".into(),
    })
}

fn conflict<T>() -> Result<T, Error> {
    Err(error(Fault::Conflict))
}

fn ip(node: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, u8::try_from(node).unwrap() + 1)
}

fn interface(node: usize) -> String {
    format!("eni-{node}")
}

#[derive(Default)]
struct AddressDouble {
    holder: Option<(u64, usize)>,
    made: u64,
}

impl Double<ElasticIpRules> for AddressDouble {
    fn look(&self) -> Address {
        Address {
            association: self.holder.map(|(id, node)| Association {
                id: id.to_string(),
                interface: Some(interface(node)),
                private_ip: Some(ip(node)),
            }),
        }
    }

    fn arrive(&mut self, step: &elastic_ip::Step, by: usize) -> Result<Applied, Error> {
        match step {
            elastic_ip::Step::Disassociate { association } => {
                if self.holder.is_some_and(|(id, _)| id.to_string() == *association) {
                    self.holder = None;
                }
            }
            elastic_ip::Step::Associate => {
                if self.holder.is_some() {
                    return conflict();
                }
                self.made += 1;
                self.holder = Some((self.made, by));
            }
        }
        Ok(Applied::default())
    }

    fn holder(&self) -> Option<usize> {
        self.holder.map(|(_, node)| node)
    }
}

#[derive(Default)]
struct RecordDouble(Zone);

impl Double<Route53Rules> for RecordDouble {
    fn look(&self) -> Zone {
        self.0.clone()
    }

    fn arrive(&mut self, step: &route53::Step, _by: usize) -> Result<Applied, Error> {
        if step.seen != self.0.fence {
            return conflict();
        }
        self.0.fence = Some(Fence::new(step.mark, 5));
        let values = step.addresses.iter().map(IpAddr::to_string).collect();
        self.0.a = Some(Record { values, ttl_s: 5, foreign: false });
        Ok(Applied::default())
    }

    fn holder(&self) -> Option<usize> {
        let value = self.0.a.as_ref()?.values[0].clone();
        (0..2).find(|node| ip(*node).to_string() == value)
    }
}

#[derive(Default)]
struct RouteDouble(Option<usize>);

const DESTINATION: &str = "192.0.2.1/32";

impl Double<RouteTableRules> for RouteDouble {
    fn look(&self) -> Tables {
        let route = self.0.map(|node| Route {
            destination: DESTINATION.parse().unwrap(),
            interface: Some(interface(node)),
            blackhole: false,
            local: false,
        });
        Tables(vec![Table { id: "rtb".into(), routes: route.into_iter().collect() }])
    }

    fn arrive(&mut self, _step: &route_table::Step, by: usize) -> Result<Applied, Error> {
        self.0 = Some(by);
        Ok(Applied::default())
    }

    fn holder(&self) -> Option<usize> {
        self.0
    }
}

#[derive(Default)]
struct SecondaryDouble(Option<usize>);

impl Double<SecondaryIpRules> for SecondaryDouble {
    fn look(&self) -> Holder {
        Holder { interface: self.0.map(interface), primary: false }
    }

    fn arrive(&mut self, step: &secondary_ip::Step, by: usize) -> Result<Applied, Error> {
        match step {
            secondary_ip::Step::Assign => self.0 = Some(by),
            secondary_ip::Step::Unassign if self.0 == Some(by) => self.0 = None,
            secondary_ip::Step::Unassign => return Err(error(Fault::Refused)),
        }
        Ok(Applied::default())
    }

    fn holder(&self) -> Option<usize> {
        self.0
    }
}

/// One node: its loop, and what it has under way.
struct Node<R: Rules> {
    core: Reconciler<R>,
    claim: Claim,
    lease: bool,
    under_way: Option<UnderWay<R>>,
}

enum UnderWay<R: Rules> {
    Looked(R::Observed),
    Sent(Stage<R::Step>),
    Arrived(Vec<Result<Applied, Error>>),
}

struct Run<R: Rules, D> {
    double: D,
    nodes: Vec<Node<R>>,
    now_ms: u64,
}

impl<R: Rules, D: Double<R>> Run<R, D> {
    fn new(double: D, rules: impl Fn(usize) -> R) -> Run<R, D> {
        let node = |index| Node {
            core: Reconciler::new(rules(index), Pace::new(1_000, 3_000), index as u64),
            claim: Claim::UNKNOWN,
            lease: true,
            under_way: None,
        };
        Run { double, nodes: vec![node(0), node(1)], now_ms: 0 }
    }

    /// Lets one node do its next bit. `lost`: its answer, if one is due now, does not come.
    fn turn(&mut self, index: usize, lost: bool) {
        self.now_ms += 50;
        let node = &mut self.nodes[index];
        match node.under_way.take() {
            None => self.begin(index),
            Some(UnderWay::Looked(_)) if lost => {
                node.core.looked(self.now_ms, 1.0, Err(error(Fault::OutcomeUnknown)));
            }
            Some(UnderWay::Looked(seen)) => node.core.looked(self.now_ms, 1.0, Ok(seen)),
            Some(UnderWay::Sent(stage)) => {
                let results = stage.steps.iter().map(|step| self.double.arrive(step, index)).collect();
                node.under_way = Some(UnderWay::Arrived(results));
            }
            Some(UnderWay::Arrived(results)) => {
                let results = if lost {
                    results.iter().map(|_| Err(error(Fault::OutcomeUnknown))).collect()
                } else {
                    results
                };
                node.core.changed(self.now_ms, 1.0, results);
            }
        }
    }

    fn begin(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        node.core.claimed(self.now_ms, node.claim, node.lease);
        match node.core.next(self.now_ms) {
            Action::Rest { until_ms } => self.now_ms = self.now_ms.max(until_ms.min(self.now_ms + 500)),
            Action::Look => node.under_way = Some(UnderWay::Looked(self.double.look())),
            Action::Program { when, .. } => node.core.programmed(self.now_ms, 0.0, when, None),
            Action::Change { stage, .. } => node.under_way = Some(UnderWay::Sent(stage)),
        }
    }

    /// A run: node 0 owns it, then node 1. Node 0's lease ends before node 1 is told; it hears of the change later.
    fn play(mut self, turns: &[(bool, bool)], handover: usize, hears: usize) -> Result<(), TestCaseError> {
        self.nodes[0].claim = Claim { owner: Owner::This, epoch: 1 };
        self.nodes[1].claim = Claim { owner: Owner::Other, epoch: 1 };
        for (number, &(second, lost)) in turns.iter().enumerate() {
            if number == handover {
                self.nodes[0].lease = false;
                self.nodes[1].claim = Claim { owner: Owner::This, epoch: 2 };
            }
            if number == handover + hears {
                self.nodes[0].claim = Claim { owner: Owner::Other, epoch: 2 };
            }
            self.turn(second.into(), lost);
        }
        self.nodes[0].lease = false;
        self.nodes[0].claim = Claim { owner: Owner::Other, epoch: 2 };
        self.nodes[1].claim = Claim { owner: Owner::This, epoch: 2 };
        for _ in 0..400 {
            self.turn(0, false);
            self.turn(1, false);
        }
        prop_assert_eq!(self.double.holder(), Some(1));
        prop_assert_eq!(self.nodes[1].core.status().state, State::Held);
        prop_assert_eq!(self.nodes[0].core.status().state, State::Released);
        Ok(())
    }
}

fn elastic_ip_rules(node: usize) -> ElasticIpRules {
    ElasticIpRules { interface: interface(node), private_ip: ip(node) }
}

fn route_table_rules(node: usize) -> RouteTableRules {
    RouteTableRules {
        interface: interface(node),
        tables: vec!["rtb".into()],
        destinations: vec![DESTINATION.parse().unwrap()],
    }
}

fn secondary_ip_rules(node: usize) -> SecondaryIpRules {
    SecondaryIpRules { interface: interface(node), address: Ipv4Addr::new(10, 0, 0, 99) }
}

fn steps<S>(plan: Plan<S>) -> usize {
    plan.stages.into_iter().map(|stage| stage.steps.len()).sum()
}

proptest! {
    #[test]
    fn the_rightful_owner_has_it_in_the_end(
        turns in proptest::collection::vec((any::<bool>(), proptest::bool::weighted(0.2)), 5..120),
        handover in 0usize..60,
        hears in 0usize..40,
    ) {
        Run::new(AddressDouble::default(), elastic_ip_rules).play(&turns, handover, hears)?;
        let record = |node: usize| Route53Rules { addresses: vec![ip(node).into()], ttl_s: 5 };
        Run::new(RecordDouble::default(), record).play(&turns, handover, hears)?;
        Run::new(RouteDouble::default(), route_table_rules).play(&turns, handover, hears)?;
        Run::new(SecondaryDouble::default(), secondary_ip_rules).play(&turns, handover, hears)?;
    }

    #[test]
    fn nothing_of_anothers_is_touched_but_to_take_it(
        holder in proptest::option::of(1usize..4),
        epoch in any::<u64>(),
        doubt in any::<bool>(),
        blackhole in any::<bool>(),
    ) {
        let desired = if doubt { Desired::Doubt } else { Desired::Release { epoch } };
        let address = AddressDouble { holder: holder.map(|node| (7, node)), made: 7 };
        prop_assert_eq!(steps(elastic_ip_rules(0).plan(&address.look(), desired)), 0);
        let mut tables = RouteDouble(holder).look();
        for route in &mut tables.0[0].routes {
            route.blackhole = blackhole;
        }
        prop_assert_eq!(steps(route_table_rules(0).plan(&tables, desired)), 0);
        prop_assert_eq!(steps(secondary_ip_rules(0).plan(&SecondaryDouble(holder).look(), desired)), 0);
    }

    #[test]
    fn what_is_in_doubt_stays_as_it_is(holder in proptest::option::of(0usize..4)) {
        let address = AddressDouble { holder: holder.map(|node| (7, node)), made: 7 };
        prop_assert_eq!(steps(elastic_ip_rules(0).plan(&address.look(), Desired::Doubt)), 0);
        prop_assert_eq!(steps(route_table_rules(0).plan(&RouteDouble(holder).look(), Desired::Doubt)), 0);
        prop_assert_eq!(steps(secondary_ip_rules(0).plan(&SecondaryDouble(holder).look(), Desired::Doubt)), 0);
    }
}
