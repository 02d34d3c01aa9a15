//! How what a leader decided for a server is carried out: over SQL, by the agent on its host, or by AWS to the host.
//!
//! Owns the deadlines. Never decides. Invariant: a promotion, and what an agent is ordered, is void `VOID_AFTER_MS` after
//! it was decided, by the clock of whoever is to do it: one that is sent late, by a leader that was frozen, does nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::agent::wire::{Refusal, Rejoin, Source, StopMode, Stopped};
use crate::agent::{Agents, Beside, Within};
use crate::clock;
use crate::cluster::act::{Done, Order, Perform, Wanted, Write};
use crate::cluster::decide::OPERATIONS_END_MS;
use crate::cluster::decide::action::{Action, What};
use crate::cluster::operate::{Followed, Operation, Operator, Written};
use crate::config;
use crate::topology::Epoch;

use super::hosts::Hosts;

/// Less than any leader goes on without its quorum.
const VOID_AFTER_MS: u64 = 800;
const OPERATE_WITHIN_MS: u64 = OPERATIONS_END_MS;
const CHECKPOINT_WITHIN_MS: u64 = 120_000;
/// A clean shutdown writes everything out; a checkpoint was made just before.
const STOP_WITHIN: Duration = Duration::from_secs(15);
/// It is told when the server takes connections, or that it is on its way.
const RESTART_WITHIN: Duration = Duration::from_secs(115);
const START_WITHIN: Duration = Duration::from_secs(55);
const ASK_WITHIN: Duration = Duration::from_secs(3);

/// What it takes.
#[derive(Clone)]
pub struct Means {
    pub operator: watch::Receiver<Arc<Operator>>,
    /// None: this node is a proxy and never leads.
    pub agents: Option<Arc<Agents>>,
    pub hosts: Option<Hosts>,
}

pub fn performing(means: Means) -> Perform {
    Arc::new(move |order| {
        let means = means.clone();
        Box::pin(async move { means.perform(order).await })
    })
}

/// How a node tries a write on the primary.
pub fn writing(operator: watch::Receiver<Arc<Operator>>, wanted: watch::Receiver<Arc<Wanted>>) -> Write {
    Arc::new(move |server, within_ms| {
        let operator = operator.borrow().clone();
        let found = wanted.borrow().policy.server(server).cloned();
        Box::pin(async move {
            let server = found?;
            match operator.write(&server, within_ms).await {
                Written::Yes => None,
                Written::No(disk) => Some(disk),
                Written::Unknown(error) => {
                    tracing::debug!(server = server.id, %error, "a write could not be tried");
                    None
                }
            }
        })
    })
}

impl Means {
    async fn perform(&self, order: Order) -> Result<Done, String> {
        let Deed { server, what, void_at_ms } = deed(&order, clock::now_ms())?;
        let by_agent = |answered| {
            let left_ms = void_at_ms.saturating_sub(clock::now_ms());
            Within { begun: Duration::from_millis(left_ms), answered }
        };
        match what {
            Do::Operate { operation, by_ms, done } => {
                let operator = self.operator.borrow().clone();
                let performed = operator.perform(&server, &operation, by_ms).await;
                performed.map(|_| done).map_err(|error| error.to_string())
            }
            Do::Stop { epoch } => {
                let (agents, agent) = self.agent(&server)?;
                let stopped = agents.stop(agent, epoch, StopMode::Fast, by_agent(STOP_WITHIN)).await;
                after_stop(stopped.map_err(|error| error.to_string())?)
            }
            Do::StopHost { instance, epoch } => {
                let hosts = self.hosts.as_ref().ok_or("only voters ask AWS")?;
                hosts.stop(&server.id, &instance, epoch).await
            }
            Do::Start { epoch } => {
                let (agents, agent) = self.agent(&server)?;
                let started = agents.start_server(agent, epoch, by_agent(START_WITHIN)).await;
                started.map(|_| Done::Done).map_err(|error| error.to_string())
            }
            Do::Restart { epoch, started_by_ms } => {
                let (agents, agent) = self.agent(&server)?;
                let within = by_agent(RESTART_WITHIN);
                let restarted = agents.restart_server(agent, epoch, Some(started_by_ms), within).await;
                restarted.map(|_| Done::Done).map_err(|error| error.to_string())
            }
            Do::Rejoin(request) => {
                let (agents, agent) = self.agent(&server)?;
                match agents.rejoin(agent, request, by_agent(ASK_WITHIN)).await {
                    Ok(_) => Ok(Done::UnderWay),
                    Err(error) => match error.refusal() {
                        Some(Refusal::Busy(_)) => Ok(Done::UnderWay),
                        Some(Refusal::Rests { missing_wal: true, .. }) => Ok(Done::MissingWal),
                        // In the same words each time, so that it is told once.
                        Some(Refusal::Rests { error, .. }) => Err(error.clone()),
                        _ => Err(error.to_string()),
                    },
                }
            }
        }
    }

    fn agent<'a>(&'a self, server: &'a config::Server) -> Result<(&'a Agents, Beside<'a>), String> {
        let id = &server.id;
        let agents = self.agents.as_deref().ok_or("only voters ask agents")?;
        let address =
            server.agent.as_deref().ok_or_else(|| format!("the configuration has no agent for {id}"))?;
        Ok((agents, Beside { server: id, address }))
    }
}

/// What an order comes to.
#[derive(Debug)]
pub struct Deed {
    pub server: config::Server,
    pub what: Do,
    /// An agent begins it by then, or not at all.
    pub void_at_ms: u64,
}

#[derive(Debug)]
pub enum Do {
    /// `done`: what is then to be said of it.
    Operate {
        operation: Operation,
        by_ms: u64,
        done: Done,
    },
    Stop {
        epoch: u64,
    },
    StopHost {
        instance: String,
        epoch: Epoch,
    },
    Start {
        epoch: u64,
    },
    Restart {
        epoch: u64,
        started_by_ms: u64,
    },
    Rejoin(Rejoin),
}

/// Pure: by whom, and until when. An error says in words why nothing is done.
pub fn deed(order: &Order, now_ms: u64) -> Result<Deed, String> {
    let Order { action: Action { server, what }, policy, system_identifier, decided_at_ms } = order;
    if now_ms > decided_at_ms + OPERATIONS_END_MS {
        return Err("it was decided too long ago".to_owned());
    }
    let find =
        |id: &str| policy.server(id).cloned().ok_or_else(|| format!("the configuration has no server {id}"));
    let operate = |operation, within_ms| {
        // The next restart point tells more only when more was replayed.
        let done = if *what == What::RestartPoint { Done::UnderWay } else { Done::Done };
        Do::Operate { operation, by_ms: decided_at_ms + within_ms, done }
    };
    let what = match what.clone() {
        What::StopReceiving => operate(Operation::StopReceiving, OPERATE_WITHIN_MS),
        What::Promote { .. } => operate(Operation::Promote { within_ms: VOID_AFTER_MS }, VOID_AFTER_MS),
        What::Follow { primary } => {
            let config::Server { id, host, port, .. } = find(&primary)?;
            operate(Operation::Follow { upstream: Followed { id, host, port } }, OPERATE_WITHIN_MS)
        }
        What::Slots { wanted, unwanted } => operate(Operation::Slots { wanted, unwanted }, OPERATE_WITHIN_MS),
        What::AdvanceSlots { positions } => operate(Operation::AdvanceSlots { positions }, OPERATE_WITHIN_MS),
        What::SetSynchronous { names, .. } => {
            operate(Operation::SetSynchronousStandbys { names }, OPERATE_WITHIN_MS)
        }
        What::Checkpoint { .. } | What::TellBackends { .. } | What::RestartPoint => {
            operate(Operation::Checkpoint, CHECKPOINT_WITHIN_MS)
        }
        What::Stop { epoch } => Do::Stop { epoch: epoch.0 },
        What::StopHost { epoch } => {
            let config::Server { id, instance_id, .. } = find(server)?;
            let instance =
                instance_id.ok_or_else(|| format!("the configuration has no instance_id for {id}"))?;
            Do::StopHost { instance, epoch }
        }
        What::Start { epoch } => Do::Start { epoch: epoch.0 },
        What::Restart { epoch, started_by_ms } => Do::Restart { epoch: epoch.0, started_by_ms },
        What::Rejoin { epoch, primary, timeline, allow_rewind, rebuild_from, order, may_rebuild } => {
            let source = |id: &str| {
                let config::Server { id, host, port, .. } = find(id)?;
                Ok::<_, String>(Source { id, host, port })
            };
            Do::Rejoin(Rejoin {
                epoch: epoch.0,
                system_identifier: system_identifier.ok_or("the cluster's identity is not known yet")?,
                primary: source(&primary)?,
                timeline,
                allow_rewind,
                rebuild_from: rebuild_from.as_deref().map(source).transpose()?,
                order,
                may_rebuild,
            })
        }
    };
    Ok(Deed { server: find(server)?, what, void_at_ms: decided_at_ms + VOID_AFTER_MS })
}

/// What the leader is to know of a stop that the agent has answered.
pub fn after_stop(stopped: Stopped) -> Result<Done, String> {
    match stopped.clean {
        true => Ok(Done::Stopped { last: stopped.checkpoint }),
        false => Err("it has ended, and not cleanly: what it had last is not known".to_owned()),
    }
}
