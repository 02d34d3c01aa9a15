//! What a plan must not do, whatever made it: each step and action is held against the design's invariants before any is
//! taken.
//!
//! Pure. It shares nothing with what decides but the state, the facts and the plan's own words, so that a mistake has to
//! be made twice to do harm: a rule that both need stands here once more. Invariant: what it lets pass breaks none of the
//! rules below by what this leader knows. In doubt it rejects, and the rest of the plan is carried out.

mod actions;
mod steps;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use super::{Plan, Situation};
use crate::cluster::model::Facts;
use crate::cluster::state::{Change, Fence, Fenced, Member, MemberRole, Stage};
use crate::telemetry::labels::Rule;
use crate::topology::Health;

use super::action::What;

/// What is not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    pub rule: Rule,
    /// The step or action, as the log has it.
    pub what: String,
}

type Verdict = Result<(), Rule>;

fn demand(holds: bool, rule: Rule) -> Verdict {
    if holds { Ok(()) } else { Err(rule) }
}

/// What of a plan may be done, and what may not. `heard_ms`: when this leader last heard from most voters.
pub fn check(situation: &Situation<'_>, heard_ms: Option<u64>, plan: Plan) -> (Plan, Vec<Rejected>) {
    let mut checked = Plan::default();
    let mut rejected = Vec::new();
    let has_quorum =
        heard_ms.is_some_and(|at_ms| situation.now_ms.saturating_sub(at_ms) < situation.lease.lease_ms);
    let (mut named, mut promoted) = (BTreeSet::new(), BTreeSet::new());
    for step in plan.steps {
        let is_first = match &step.change {
            Change::NamePrimary { epoch, .. } => named.insert(*epoch),
            _ => true,
        };
        let verdict = demand(has_quorum, Rule::Quorum)
            .and_then(|()| demand(is_first, Rule::Once))
            .and_then(|()| steps::step(situation, &step.change));
        match verdict {
            Ok(()) => checked.steps.push(step),
            Err(rule) => rejected.push(Rejected { rule, what: step.change.summary() }),
        }
    }
    for action in plan.actions {
        let is_first = match action.what {
            What::Promote { epoch } => promoted.insert(epoch),
            _ => true,
        };
        let verdict = demand(has_quorum, Rule::Quorum)
            .and_then(|()| demand(is_first, Rule::Once))
            .and_then(|()| actions::action(situation, &action));
        match verdict {
            Ok(()) => checked.actions.push(action),
            Err(rule) => {
                let what = format!("{:?} of {}", action.what, action.server);
                rejected.push(Rejected { rule, what });
            }
        }
    }
    (checked, rejected)
}

/// The situation, as the rules need it.
struct Known<'a>(&'a Situation<'a>);

impl<'a> Known<'a> {
    fn is_named(&self, server: &str) -> bool {
        self.0.state.primary().server.as_deref() == Some(server)
    }

    fn primary_fence(&self) -> Option<&'a Fence> {
        self.0.state.fences().iter().find(|fence| fence.fenced == Fenced::Primary)
    }

    /// Somebody is the primary, and nothing about that is changing.
    fn is_settled(&self) -> bool {
        let state = self.0.state;
        let primary = state.primary();
        primary.server.is_some()
            && primary.stage == Stage::Confirmed
            && self.primary_fence().is_none()
            && state.failover().is_none()
    }

    /// What a server said when it was last asked, if it answered, and if it is one of the cluster.
    fn answer(&self, server: &str) -> Option<&'a Facts> {
        let (state, detail) = self.0.view.find(server)?;
        let facts = detail.facts.as_deref()?;
        let answers = state.health == Health::Up && detail.failures == 0;
        let is_ours = self.0.view.identity.get() == Some(facts.system_identifier);
        (answers && is_ours).then_some(facts)
    }

    /// What a server last said, however long ago.
    fn last_heard(&self, server: &str) -> Option<&'a Facts> {
        self.0.view.find(server)?.1.facts.as_deref()
    }

    fn voters(&self) -> impl Iterator<Item = &'a Member> {
        self.0.state.members().values().filter(|member| member.role == MemberRole::Voter)
    }
}
