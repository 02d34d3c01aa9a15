//! How nodes reach servers: looks, operations and writes, over a network on which everything arrives, if ever, late.
//!
//! What was sent arrives whatever becomes of who sent it. Invariant: a right to act is looked at where the real code
//! looks at it, and nothing here is kinder to a node than a network and a frozen process are.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::server::Answer;
use super::{Agents, Shared};
use crate::cluster::act::{Done, Order};
use crate::cluster::decide::action::What;
use crate::cluster::model::{Facts, Failure};
use crate::cluster::operate::Operation;
use crate::cluster::reason::Reason;
use crate::config;
use crate::consensus::node::core::{Now, lock};
use crate::serve::perform::{Deed, Do, after_stop, deed};

/// How often something that does not get through is sent again.
const AGAIN: Duration = Duration::from_millis(40);
const STOP_WITHIN: Duration = Duration::from_secs(15);
const START_WITHIN: Duration = Duration::from_secs(55);
const ASK_WITHIN: Duration = Duration::from_secs(3);

/// What became of a write, as far as the node knows that sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    Answered(Answer),
    Unknown,
}

/// The hosts, as one node reaches them.
#[derive(Clone)]
pub struct Ground {
    pub world: Shared,
    pub agents: Agents,
    pub node: String,
    pub now: Now,
    /// What is to be looked at when a promotion is obeyed: epoch and server.
    pub promoting: Arc<dyn Fn(u64, usize) + Send + Sync>,
}

impl Ground {
    fn ms(&self, low: u64, high: u64) -> Duration {
        Duration::from_millis(lock(&self.world).random.random_range(low..=high))
    }

    async fn travel(&self, from: &str, to: &str) {
        let late_ms = lock(&self.world).road_late_ms;
        sleep(self.ms(late_ms / 2, late_ms + 3)).await;
        while !lock(&self.world).can_reach(from, to) {
            sleep(AGAIN).await;
        }
    }

    /// A connection's two ways; None: the kernel there refuses, or the server does.
    async fn visit(&self, index: usize) -> Result<u64, Reason> {
        let id = lock(&self.world).servers[index].id;
        self.travel(&self.node, id).await;
        let door = loop {
            let door = {
                let world = lock(&self.world);
                world.door(index).map(|door| door.map(|()| world.servers[index].life))
            };
            match door {
                Some(door) => break door,
                None => sleep(AGAIN).await,
            }
        };
        self.travel(id, &self.node).await;
        door
    }

    /// `kept`: the life of the server that the connection is to, if there is one.
    pub async fn look(
        &self,
        index: usize,
        kept: &mut Option<u64>,
        health: &config::Health,
    ) -> Result<Facts, Failure> {
        let failure = |reason| Failure { reason, detail: String::new(), at_ms: (self.now)() };
        let within_ms = if kept.is_some() { health.timeout_ms } else { health.connect_timeout_ms };
        let asked_at_ms = (self.now)();
        let asking = async {
            let life = self.visit(index).await?;
            let facts = lock(&self.world).facts(index);
            Ok((life, facts))
        };
        match timeout(Duration::from_millis(within_ms), asking).await {
            Err(_) => {
                *kept = None;
                Err(failure(Reason::Timeout))
            }
            Ok(Err(reason)) => {
                *kept = None;
                Err(failure(reason))
            }
            Ok(Ok((life, facts))) => {
                *kept = Some(life);
                Ok(Facts { asked_at_ms, answered_at_ms: (self.now)(), ..facts })
            }
        }
    }

    /// Returns when the connection to that life of the server is seen to end.
    pub async fn interrupted(&self, index: usize, kept: Option<u64>) {
        let Some(life) = kept else { return std::future::pending().await };
        loop {
            sleep(Duration::from_millis(10)).await;
            let world = lock(&self.world);
            let server = &world.servers[index];
            if server.life != life && world.can_reach(server.id, &self.node) {
                return;
            }
        }
    }

    /// Carries an order of the leader's out, as `serve::perform` does.
    pub async fn perform(self, order: Order) -> Result<Done, String> {
        self.hesitate().await;
        let Deed { server, what, void_at_ms } = deed(&order, (self.now)())?;
        let index = lock(&self.world).find(&server.id).ok_or("no such server")?;
        match what {
            Do::Operate { operation, by_ms, done } => {
                let epoch = match order.action.what {
                    What::Promote { epoch } => epoch.0,
                    _ => 0,
                };
                self.operate(index, operation, by_ms, epoch, &order.policy.failover).await?;
                Ok(done)
            }
            Do::Stop { epoch } => {
                let agents = self.agents.clone();
                let asked = self.ask_agent(index, void_at_ms, async move { agents.stop(index, epoch).await });
                after_stop(timeout(STOP_WITHIN, asked).await.map_err(|_| "no answer".to_owned())??)
            }
            Do::Start { epoch } => {
                let agents = self.agents.clone();
                let asked =
                    self.ask_agent(index, void_at_ms, async move { agents.start(index, epoch).await });
                timeout(START_WITHIN, asked).await.map_err(|_| "no answer".to_owned())??;
                Ok(Done::Done)
            }
            Do::StopHost { .. } => Err("there is no EC2 in a night".to_owned()),
            Do::Restart { .. } => Err("nobody orders restarts in a night".to_owned()),
            Do::Rejoin(request) => {
                let agents = self.agents.clone();
                let asked = self.ask_agent(index, void_at_ms, async move { agents.rejoin(index, request) });
                timeout(ASK_WITHIN, asked).await.map_err(|_| "no answer".to_owned())??;
                Ok(Done::UnderWay)
            }
        }
    }

    /// A process may be frozen between any two of its steps.
    async fn hesitate(&self) {
        let frozen = self.ms(0, 999).as_millis() < 25;
        if frozen {
            sleep(self.ms(100, 15_000)).await;
        }
    }

    async fn operate(
        &self,
        index: usize,
        operation: Operation,
        by_ms: u64,
        epoch: u64,
        failover: &config::Failover,
    ) -> Result<(), String> {
        let began_ms = (self.now)();
        let by_ms = match operation {
            Operation::Promote { within_ms } => by_ms.min(began_ms.saturating_add(within_ms)),
            _ => by_ms,
        };
        let within = Duration::from_millis(by_ms.saturating_sub(began_ms));
        let work = async {
            // The connection, and with a promotion the server's clock.
            self.visit(index).await.map_err(|reason| reason.sentence().to_owned())?;
            let server_ms = lock(&self.world).now_ms;
            let left_ms = by_ms.saturating_sub((self.now)());
            if left_ms == 0 {
                return Err("it was too late".to_owned());
            }
            self.hesitate().await;
            let ground = self.clone();
            let (operation, failover) = (operation.clone(), failover.clone());
            let (answer, answered) = oneshot::channel();
            // What was sent arrives, whatever becomes of the sender.
            tokio::spawn(async move {
                let done = match ground.visit(index).await {
                    Err(reason) => Err(reason.sentence().to_owned()),
                    Ok(_) => ground.obey(index, &operation, server_ms + left_ms, epoch, &failover),
                };
                let _ = answer.send(done);
            });
            answered.await.map_err(|_| "the connection was lost".to_owned())?
        };
        timeout(within, work).await.unwrap_or_else(|_| Err("it took too long".to_owned()))
    }

    /// The statement runs there. A promotion says itself until when it may.
    fn obey(
        &self,
        index: usize,
        operation: &Operation,
        by_server_ms: u64,
        epoch: u64,
        failover: &config::Failover,
    ) -> Result<(), String> {
        let promotes = {
            let world = lock(&self.world);
            let promotes =
                matches!(operation, Operation::Promote { .. }) && world.servers[index].disk.standby;
            if promotes && world.now_ms >= by_server_ms {
                return Err("it was too late".to_owned());
            }
            promotes
        };
        if promotes {
            (self.promoting)(epoch, index);
        }
        lock(&self.world).carry_out(index, operation, epoch, failover)
    }

    async fn ask_agent<T: Send + 'static>(
        &self,
        index: usize,
        void_at_ms: u64,
        request: impl Future<Output = Result<T, String>> + Send + 'static,
    ) -> Result<T, String> {
        let id = lock(&self.world).servers[index].id;
        // As with a promotion, the agent's clock is asked first.
        let left_ms = void_at_ms.saturating_sub((self.now)());
        let by_ms = lock(&self.world).now_ms + left_ms;
        self.travel(&self.node, id).await;
        while lock(&self.world).is_frozen(index) {
            sleep(AGAIN).await;
        }
        if !lock(&self.world).servers[index].agent_lives {
            return Err("no agent listens there".to_owned());
        }
        if lock(&self.world).now_ms >= by_ms {
            return Err("it was too late".to_owned());
        }
        let done = tokio::spawn(request).await.map_err(|_| "the agent ended".to_owned())?;
        self.travel(id, &self.node).await;
        done
    }

    /// One row, sent once. Ends when the answer comes or the connection is seen to end.
    pub async fn write(&self, index: usize, row: u64) -> Written {
        let (id, life) = {
            let world = lock(&self.world);
            (world.servers[index].id, world.servers[index].life)
        };
        let ground = self.clone();
        let (answer, answered) = oneshot::channel();
        tokio::spawn(async move {
            ground.travel(&ground.node, id).await;
            let taken = loop {
                {
                    let mut world = lock(&ground.world);
                    if world.servers[index].life != life {
                        break None;
                    }
                    if !world.is_frozen(index) {
                        break world.write(index, row);
                    }
                }
                sleep(AGAIN).await;
            };
            if let Some(taken) = taken
                && let Ok(done) = taken.await
            {
                ground.travel(id, &ground.node).await;
                let _ = answer.send(done);
            }
        });
        match answered.await {
            Ok(answer) => Written::Answered(answer),
            Err(_) => Written::Unknown,
        }
    }
}
