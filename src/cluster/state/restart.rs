//! Servers that are to be restarted by order, one after the other.
//!
//! Pure. The plan is in the log, step by step, so that a leader that dies in the middle is followed by one that goes on
//! where it was. Each step says when its server was started when the order was given: one that was started later has
//! been restarted, whoever did it. Invariant: at most one plan is under way, and a server that it has taken out of use is
//! used again when its step or the plan ends, however that ends, unless an operator has ordered otherwise since.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::cluster::reason::Reason;
use crate::topology::Epoch;

use super::incidents::Entry;
use super::{Accepted, Administrative, Refusal, Servers};

/// What is to be restarted, and when it was started last by its own clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToRestart {
    pub server: String,
    pub started_at_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    pub id: u64,
    /// A primary is replaced before it is restarted.
    pub rolling: bool,
    pub since_ms: u64,
    pub steps: Vec<RestartStep>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartStep {
    pub server: String,
    /// When the order was given.
    pub started_at_ms: u64,
    pub stage: RestartStage,
    /// The epoch that is to end so that a primary can be restarted.
    #[serde(default)]
    pub epoch: Epoch,
    /// The version of the order by which it was taken out of use.
    #[serde(default)]
    pub drained: Option<u64>,
    /// Nodes that have nothing under way there and begin nothing new.
    #[serde(default)]
    pub clear_by: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartStage {
    Waiting,
    /// Nothing new begins there, and what is under way ends.
    Draining,
    /// Its primary's epoch ends: another one takes over, or the same one goes on after its restart.
    Switching,
    Restarting,
    Done,
}

/// How the last plan ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartEnd {
    pub id: u64,
    pub at_ms: u64,
    /// A reason code.
    pub reason: String,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Restarts {
    under_way: Option<Restart>,
    last: Option<RestartEnd>,
    last_id: u64,
}

type Changed = Result<(Accepted, Option<Entry>), Refusal>;

impl Restart {
    /// The first that is not done.
    pub fn step(&self) -> Option<&RestartStep> {
        self.steps.iter().find(|step| step.stage != RestartStage::Done)
    }
}

impl Restarts {
    pub fn under_way(&self) -> Option<&Restart> {
        self.under_way.as_ref()
    }

    pub fn last(&self) -> Option<&RestartEnd> {
        self.last.as_ref()
    }

    pub(super) fn begin(
        &mut self,
        servers: &Servers,
        all: &[ToRestart],
        rolling: bool,
        at_ms: u64,
    ) -> Changed {
        if self.under_way.is_some() {
            return Err(Refusal::RestartUnderWay);
        }
        for ToRestart { server, .. } in all {
            servers.get(server)?;
        }
        let step = |ToRestart { server, started_at_ms }: &ToRestart| RestartStep {
            server: server.clone(),
            started_at_ms: *started_at_ms,
            stage: RestartStage::Waiting,
            epoch: Epoch(0),
            drained: None,
            clear_by: BTreeSet::new(),
        };
        self.last_id += 1;
        let steps: Vec<_> = all.iter().map(step).collect();
        let names: Vec<_> = steps.iter().map(|step| step.server.as_str()).collect();
        let text = match rolling {
            true => format!("rolling restart of {} begins", names.join(", then ")),
            false => format!("restart of {} begins", names.join(", then ")),
        };
        self.under_way = Some(Restart { id: self.last_id, rolling, since_ms: at_ms, steps });
        Ok((Accepted::Version(self.last_id), Some(Entry { subject: "restart".to_owned(), text })))
    }

    /// The present step comes from one stage to another.
    pub(super) fn advance(
        &mut self,
        servers: &mut Servers,
        (id, server): (u64, &str),
        (from, to): (RestartStage, RestartStage),
        (epoch, at_ms): (Epoch, u64),
    ) -> Changed {
        let step = self.expect(id, server)?;
        if step.stage != from {
            return Err(Refusal::NoRestart);
        }
        step.stage = to;
        let text = match to {
            RestartStage::Waiting => "waits for its restart",
            RestartStage::Draining => {
                step.drained = servers.withdraw(server, Reason::RestartOrdered.code(), at_ms);
                "begins nothing new: it is about to be restarted"
            }
            RestartStage::Switching => {
                step.epoch = epoch;
                "its epoch is about to end, so that it can be restarted"
            }
            RestartStage::Restarting => "is being restarted",
            RestartStage::Done => {
                servers.restore(server, step.drained.take(), Reason::Restarted.code(), at_ms);
                "was restarted"
            }
        };
        let entry = Entry { subject: server.to_owned(), text: text.to_owned() };
        if self.under_way.as_ref().is_some_and(|restart| restart.step().is_none()) {
            self.end_as(Reason::Restarted.code(), "all was restarted".to_owned(), at_ms);
        }
        Ok((Accepted::Changed, Some(entry)))
    }

    pub(super) fn confirm_clear(&mut self, id: u64, server: &str, node: &str) -> Changed {
        let step = self.expect(id, server)?;
        match step.stage == RestartStage::Draining && step.clear_by.insert(node.to_owned()) {
            true => Ok((Accepted::Changed, None)),
            false => Ok((Accepted::Unchanged, None)),
        }
    }

    /// Before it is done. What an agent has begun goes on.
    pub(super) fn end(
        &mut self,
        servers: &mut Servers,
        id: u64,
        (reason, text): (&str, &str),
        at_ms: u64,
    ) -> Changed {
        let restart = self.under_way.as_mut().filter(|restart| restart.id == id).ok_or(Refusal::NoRestart)?;
        for step in &mut restart.steps {
            servers.restore(&step.server, step.drained.take(), reason, at_ms);
        }
        self.end_as(reason, text.to_owned(), at_ms);
        Ok((Accepted::Changed, Some(Entry { subject: "restart".to_owned(), text: text.to_owned() })))
    }

    /// The epoch of the primary that was to be restarted goes on.
    pub(super) fn not_switched(&mut self, servers: &mut Servers, at_ms: u64) {
        let Some(restart) = &self.under_way else { return };
        let switching = restart.step().filter(|step| step.stage == RestartStage::Switching);
        let Some((id, server)) = switching.map(|step| (restart.id, step.server.clone())) else { return };
        let text = format!("{server} was not restarted: its epoch could not be ended");
        // It is under way, so it is not refused.
        let _ = self.end(servers, id, (Reason::RestartFailed.code(), &text), at_ms);
    }

    fn end_as(&mut self, reason: &str, text: String, at_ms: u64) {
        if let Some(restart) = self.under_way.take() {
            self.last = Some(RestartEnd { id: restart.id, at_ms, reason: reason.to_owned(), text });
        }
    }

    /// Of the plan with that id the present step, which must be that server's.
    fn expect(&mut self, id: u64, server: &str) -> Result<&mut RestartStep, Refusal> {
        let restart = self.under_way.as_mut().filter(|restart| restart.id == id).ok_or(Refusal::NoRestart)?;
        let step = restart.steps.iter_mut().find(|step| step.stage != RestartStage::Done);
        step.filter(|step| step.server == server).ok_or(Refusal::NoRestart)
    }
}

impl Servers {
    /// Out of use, unless it is so already; the version of that order.
    fn withdraw(&mut self, id: &str, reason: &str, at_ms: u64) -> Option<u64> {
        let server = self.get(id).ok().filter(|server| server.administrative == Administrative::Attached)?;
        let version = server.version;
        self.set_administrative(id, version, Administrative::Draining, reason, at_ms).ok()?;
        Some(version + 1)
    }

    /// In use again, if nobody has ordered anything since.
    fn restore(&mut self, id: &str, drained: Option<u64>, reason: &str, at_ms: u64) {
        if let Some(version) = drained {
            // Refused: somebody has.
            let _ = self.set_administrative(id, version, Administrative::Attached, reason, at_ms);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers() -> Servers {
        let mut servers = Servers::default();
        servers.set(&["pg1".to_owned(), "pg2".to_owned()], 0).unwrap();
        servers
    }

    fn begun(servers: &Servers) -> Restarts {
        let all = ["pg2", "pg1"].map(|server| ToRestart { server: server.to_owned(), started_at_ms: 7 });
        let mut restarts = Restarts::default();
        assert_eq!(restarts.begin(servers, &all, true, 1).unwrap().0, Accepted::Version(1));
        assert_eq!(restarts.begin(servers, &all, true, 1), Err(Refusal::RestartUnderWay));
        restarts
    }

    #[test]
    fn steps_are_done_in_their_order_and_their_servers_used_again() {
        use RestartStage::{Done, Draining, Restarting, Waiting};
        let mut servers = servers();
        let mut restarts = begun(&servers);
        let mut go = |servers: &mut Servers, server, from, to| {
            restarts.advance(servers, (1, server), (from, to), (Epoch(3), 9)).map(|(accepted, _)| accepted)
        };
        let is = |servers: &Servers| servers.get("pg2").unwrap().administrative;
        assert_eq!(go(&mut servers, "pg1", Waiting, Draining), Err(Refusal::NoRestart), "pg2 is first");
        assert_eq!(go(&mut servers, "pg2", Draining, Restarting), Err(Refusal::NoRestart), "a step behind");
        assert_eq!(go(&mut servers, "pg2", Waiting, Draining), Ok(Accepted::Changed));
        assert_eq!(is(&servers), Administrative::Draining);
        assert_eq!(go(&mut servers, "pg2", Draining, Restarting), Ok(Accepted::Changed));
        assert_eq!(go(&mut servers, "pg2", Restarting, Done), Ok(Accepted::Changed));
        assert_eq!(is(&servers), Administrative::Attached);
        assert_eq!(go(&mut servers, "pg1", Waiting, Done), Ok(Accepted::Changed));
        assert_eq!(restarts.under_way(), None);
        assert_eq!(restarts.last().unwrap().reason, "restarted");
    }

    #[test]
    fn an_operator_s_later_order_stands_when_the_plan_ends() {
        for detached in [false, true] {
            let mut servers = servers();
            let mut restarts = begun(&servers);
            let stages = (RestartStage::Waiting, RestartStage::Draining);
            restarts.advance(&mut servers, (1, "pg2"), stages, (Epoch(3), 9)).unwrap();
            let expected = match detached {
                true => {
                    servers.set_administrative("pg2", 1, Administrative::Detached, "detached", 9).unwrap();
                    Administrative::Detached
                }
                false => Administrative::Attached,
            };
            assert_eq!(restarts.end(&mut servers, 2, ("x", "y"), 9), Err(Refusal::NoRestart));
            restarts.end(&mut servers, 1, ("restart_failed", "why"), 9).unwrap();
            assert_eq!(servers.get("pg2").unwrap().administrative, expected);
            assert_eq!(restarts.last().unwrap().text, "why");
            assert_eq!(restarts.confirm_clear(1, "pg2", "a"), Err(Refusal::NoRestart));
        }
    }

    #[test]
    fn one_that_was_out_of_use_before_stays_out() {
        let mut servers = servers();
        servers.set_administrative("pg2", 0, Administrative::Detached, "detached", 1).unwrap();
        let mut restarts = begun(&servers);
        let stages = (RestartStage::Waiting, RestartStage::Draining);
        restarts.advance(&mut servers, (1, "pg2"), stages, (Epoch(3), 9)).unwrap();
        let stages = (RestartStage::Draining, RestartStage::Done);
        restarts.advance(&mut servers, (1, "pg2"), stages, (Epoch(3), 9)).unwrap();
        assert_eq!(servers.get("pg2").unwrap().administrative, Administrative::Detached);
    }
}
