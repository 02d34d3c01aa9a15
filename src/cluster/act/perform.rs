//! Sees to it that actions on servers are carried out: each server's one at a time, failed ones again after a while.
//!
//! Owns when, not how: that is whoever `Perform` is. Invariant: a server has at most one action under way, so what is
//! done to it is done in the order in which it was decided; but for a checkpoint, which takes minutes, changes nothing, and
//! keeps nothing else waiting.

use std::collections::{BTreeSet, HashMap};
use std::mem::{Discriminant, discriminant};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::cluster::decide::Policy;
use crate::cluster::decide::action::{Action, What};
use crate::topology::Lsn;

/// Before the same action is done again that was done: the facts have not caught up.
const AGAIN: Duration = Duration::from_millis(300);
/// Before one that failed is tried again, the first time. It doubles with each.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(5);

/// One action, and what it is to be carried out by.
#[derive(Debug, Clone)]
pub struct Order {
    pub action: Action,
    pub policy: Arc<Policy>,
    /// Of the cluster's data.
    pub system_identifier: Option<u64>,
    /// The right to do it is as old as that, by this process's clock.
    pub decided_at_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    Done,
    /// It takes its time and goes on by itself.
    UnderWay,
    /// It cannot be done: the primary no longer has the log that the server goes on from.
    MissingWal,
    /// And the last record of its log begins there.
    Stopped {
        last: Lsn,
    },
}

pub type Performing = Pin<Box<dyn Future<Output = Result<Done, String>> + Send>>;
/// Carries an action out; ends by itself, and says in words what was wrong.
pub type Perform = Arc<dyn Fn(Order) -> Performing + Send + Sync>;

pub(super) struct Finished {
    pub action: Action,
    pub result: Result<Done, String>,
    pub decided_at_ms: u64,
    /// It failed, and not in the same way as the last time.
    pub is_news: bool,
}

struct Tried {
    action: Action,
    /// It goes on by itself, and is asked after now and then.
    goes_on: bool,
    at: Instant,
    failures: u32,
    error: Option<String>,
}

pub(super) struct Performer {
    perform: Perform,
    running: JoinSet<(Action, u64, Result<Done, String>)>,
    /// With what, apart from checkpoints, and with those.
    busy: BTreeSet<(String, bool)>,
    /// By server and kind: one that rests keeps no other from its turn, nor forgets by it how often it has failed.
    tried: HashMap<(String, Discriminant<What>), Tried>,
}

impl Performer {
    pub fn new(perform: Perform) -> Self {
        Performer { perform, running: JoinSet::new(), busy: BTreeSet::new(), tried: HashMap::new() }
    }

    /// Unless the server is occupied, or it was tried a moment ago: then it is false.
    pub fn begin(&mut self, order: Order) -> bool {
        let server = &order.action.server;
        let place = place(&order.action);
        if self.busy.contains(&place)
            || self.tried.get(&key(&order.action)).is_some_and(|tried| tried.rests(&order.action))
        {
            return false;
        }
        tracing::debug!(server, what = ?order.action.what, "begun");
        self.busy.insert(place);
        let (action, decided_at_ms) = (order.action.clone(), order.decided_at_ms);
        let performing = (self.perform)(order);
        self.running.spawn(async move { (action, decided_at_ms, performing.await) });
        true
    }

    /// None: nothing is under way.
    pub async fn finished(&mut self) -> Option<Finished> {
        let (action, decided_at_ms, result) = match self.running.join_next().await? {
            Ok(finished) => finished,
            Err(error) => {
                tracing::error!(%error, "an action has panicked");
                // Which one is not known: whatever is decided next is begun anew.
                self.busy.clear();
                return None;
            }
        };
        self.busy.remove(&place(&action));
        let before = self.tried.get(&key(&action)).filter(|tried| tried.action == action);
        let error = result.as_ref().err().cloned();
        let failures = error.as_ref().map_or(0, |_| before.map_or(0, |tried| tried.failures) + 1);
        let is_news = error.is_some() && before.is_none_or(|tried| tried.error != error);
        let goes_on = result == Ok(Done::UnderWay);
        let tried = Tried { action: action.clone(), goes_on, at: Instant::now(), failures, error };
        self.tried.insert(key(&action), tried);
        Some(Finished { action, result, decided_at_ms, is_news })
    }
}

fn place(action: &Action) -> (String, bool) {
    (action.server.clone(), action.what.is_checkpoint())
}

fn key(action: &Action) -> (String, Discriminant<What>) {
    (action.server.clone(), discriminant(&action.what))
}

impl Tried {
    fn rests(&self, action: &Action) -> bool {
        let pause = match self.failures {
            0 if self.goes_on => RETRY_LAST,
            0 => AGAIN,
            failures => (RETRY_FIRST * 2_u32.saturating_pow(failures - 1)).min(RETRY_LAST),
        };
        self.action == *action && self.at.elapsed() < pause
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::sync::Notify;

    use super::*;
    use crate::topology::Epoch;

    fn order(server: &str, what: What) -> Order {
        let action = Action { server: server.to_owned(), what };
        Order { action, policy: Arc::new(Policy::off()), system_identifier: None, decided_at_ms: 0 }
    }

    /// What is begun is noted, and ends when it is let.
    fn performer() -> (Performer, Arc<Mutex<Vec<Action>>>, Arc<Notify>) {
        let (begun, let_end) = (Arc::<Mutex<Vec<Action>>>::default(), Arc::<Notify>::default());
        let perform: Perform = {
            let (begun, let_end) = (begun.clone(), let_end.clone());
            Arc::new(move |order: Order| {
                begun.lock().unwrap().push(order.action);
                let let_end = let_end.clone();
                Box::pin(async move {
                    let_end.notified().await;
                    Ok(Done::Done)
                })
            })
        };
        (Performer::new(perform), begun, let_end)
    }

    #[tokio::test]
    async fn a_server_has_one_action_under_way_and_the_next_when_that_has_ended() {
        let (mut performer, begun, let_end) = performer();
        let promote = || order("pg2", What::Promote { epoch: Epoch(2) });
        let follow = |server| order(server, What::Follow { primary: "pg1".to_owned() });
        performer.begin(follow("pg2"));
        performer.begin(promote());
        performer.begin(follow("pg2"));
        performer.begin(follow("pg3"));
        let servers = || begun.lock().unwrap().iter().map(|action| action.server.clone()).collect::<Vec<_>>();
        assert_eq!(servers(), ["pg2", "pg3"], "another server does not wait for it");
        // Whichever of the two comes to its end first.
        let_end.notify_one();
        let first = performer.finished().await.unwrap();
        let_end.notify_one();
        let second = performer.finished().await.unwrap();
        assert_ne!(first.action.server, second.action.server);
        performer.begin(promote());
        assert_eq!(begun.lock().unwrap().last(), Some(&promote().action));
        performer.begin(follow("pg3"));
        assert_eq!(servers(), ["pg2", "pg3", "pg2"], "what was done a moment ago is not done again at once");
    }

    #[tokio::test]
    async fn a_checkpoint_keeps_nothing_else_waiting() {
        let (mut performer, begun, let_end) = performer();
        let epoch = Epoch(1);
        assert!(performer.begin(order("pg1", What::TellBackends { epoch })));
        assert!(!performer.begin(order("pg1", What::Checkpoint { epoch })), "one of them is enough");
        let set = || order("pg1", What::SetSynchronous { epoch, names: String::new() });
        assert!(performer.begin(set()));
        assert!(!performer.begin(order("pg1", What::StopHost { epoch })));
        let_end.notify_one();
        let first = performer.finished().await.unwrap();
        let_end.notify_one();
        let second = performer.finished().await.unwrap();
        assert_ne!(first.action, second.action);
        assert_eq!(begun.lock().unwrap().len(), 2);
        assert!(performer.begin(order("pg1", What::StopHost { epoch })));
        assert!(performer.begin(order("pg1", What::Checkpoint { epoch })));
    }
}
