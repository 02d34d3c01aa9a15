//! What the operator's programs are to be told: an event for each change of who serves, handed out once.
//!
//! Pure. An event is due from the moment at which the change is applied. A leader takes it into its hands by a command of
//! the log before it starts the program, and reports how that ended by another. Invariant: an event is taken at most
//! once, whoever dies, and those of one hook are taken in the order in which they happened.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::incidents::Entry;
use super::{Accepted, Administrative, Command, Failover, FailoverKind, Refusal};
use crate::cluster::reason::Reason;
use crate::topology::Epoch;

/// Nobody took older ones for so long that their time is over.
pub const MAX_HOOK_EVENTS: usize = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hook {
    /// Another server became the primary, and nobody had planned it.
    OnFailover,
    /// The same, by order and with the old one stopped cleanly.
    OnSwitchover,
    /// A server was taken out of use.
    OnDetach,
    /// By order it is used again.
    OnAttach,
    /// It follows the primary again after it was one, or said so.
    OnRecovered,
}

impl Hook {
    /// As its key of the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Hook::OnFailover => "on_failover",
            Hook::OnSwitchover => "on_switchover",
            Hook::OnDetach => "on_detach",
            Hook::OnAttach => "on_attach",
            Hook::OnRecovered => "on_recovered",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookEvent {
    pub id: u64,
    pub hook: Hook,
    pub epoch: Epoch,
    /// The one that it is about: of a change of the primary, the new one.
    pub server: String,
    pub old_primary: Option<String>,
    pub new_primary: Option<String>,
    pub reason: String,
    pub cause: String,
    pub at_ms: u64,
    pub taken: Option<Taken>,
}

/// Who runs the program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    pub node: String,
    pub deadline_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Hooks {
    /// Oldest first.
    events: VecDeque<HookEvent>,
    last_id: u64,
    /// The last one that was confirmed.
    primary: Option<String>,
    #[serde(default)]
    changes: PrimaryChanges,
}

/// How often the primary has become another server, ever since the cluster was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PrimaryChanges {
    /// Unplanned, or forced.
    pub failovers: u64,
    pub switchovers: u64,
}

impl Hooks {
    pub fn changes(&self) -> PrimaryChanges {
        self.changes
    }

    /// Neither ended nor passed over.
    pub fn events(&self) -> impl Iterator<Item = &HookEvent> {
        self.events.iter()
    }

    /// The next of that hook, unless one is under way: a program is never run beside itself.
    pub fn next(&self, hook: Hook) -> Option<&HookEvent> {
        let first = self.events().find(|event| event.hook == hook)?;
        first.taken.is_none().then_some(first)
    }

    /// A primary was confirmed; `failover` is what made it one, if komainu did. `tells_the_last`: the old one is who was
    /// confirmed last, and not who was named in vain meanwhile.
    pub(super) fn confirmed(
        &mut self,
        command: &Command,
        epoch: Epoch,
        server: &str,
        failover: Option<Failover>,
        tells_the_last: bool,
    ) {
        let before = self.primary.replace(server.to_owned());
        let (hook, old, reason, cause) = match failover {
            Some(failover) => {
                let hook = match failover.kind {
                    // The same server goes on.
                    FailoverKind::Restart => return,
                    FailoverKind::Switchover => Hook::OnSwitchover,
                    FailoverKind::Automatic | FailoverKind::Forced => Hook::OnFailover,
                };
                let old = before.filter(|_| tells_the_last).unwrap_or(failover.from);
                (hook, old, failover.reason, failover.cause)
            }
            None => {
                let Some(before) = before else { return };
                (Hook::OnFailover, before, Reason::PromotedElsewhere.code().to_owned(), command.cause.clone())
            }
        };
        if old == server {
            return;
        }
        match hook {
            Hook::OnSwitchover => self.changes.switchovers += 1,
            _ => self.changes.failovers += 1,
        }
        let (old_primary, new_primary) = (Some(old), Some(server.to_owned()));
        self.push(command.at_ms, hook, epoch, server, |event| HookEvent {
            old_primary,
            new_primary,
            reason,
            cause,
            ..event
        });
    }

    /// Something else was ordered of a server than before.
    pub(super) fn ordered(
        &mut self,
        command: &Command,
        epoch: Epoch,
        (server, before, now): (&str, Administrative, Administrative),
        reason: &str,
    ) {
        use Administrative::{Attached, Detached, Draining, Quarantined};
        let was_used = matches!(before, Attached | Draining);
        let hook = match now {
            Attached if reason == Reason::Rejoined.code() => Hook::OnRecovered,
            Attached if !was_used => Hook::OnAttach,
            Detached | Quarantined if was_used => Hook::OnDetach,
            _ => return,
        };
        let (reason, cause) = (reason.to_owned(), command.cause.clone());
        self.push(command.at_ms, hook, epoch, server, |event| HookEvent { reason, cause, ..event });
    }

    fn push(
        &mut self,
        at_ms: u64,
        hook: Hook,
        epoch: Epoch,
        server: &str,
        fill: impl FnOnce(HookEvent) -> HookEvent,
    ) {
        self.last_id += 1;
        self.events.push_back(fill(HookEvent {
            id: self.last_id,
            hook,
            epoch,
            server: server.to_owned(),
            old_primary: None,
            new_primary: None,
            reason: String::new(),
            cause: String::new(),
            at_ms,
            taken: None,
        }));
        if self.events.len() > MAX_HOOK_EVENTS {
            self.events.pop_front();
        }
    }

    pub(super) fn take(
        &mut self,
        id: u64,
        node: &str,
        deadline_ms: u64,
    ) -> Result<(Accepted, Option<Entry>), Refusal> {
        let event = self.events.iter_mut().find(|event| event.id == id).ok_or(Refusal::NoHookEvent { id })?;
        if let Some(taken) = &event.taken {
            return Err(Refusal::HookTaken { node: taken.node.clone() });
        }
        event.taken = Some(Taken { node: node.to_owned(), deadline_ms });
        Ok((Accepted::Changed, None))
    }

    /// `text` is for the timeline. None: there is no program for it.
    pub(super) fn end(&mut self, id: u64, text: Option<&str>) -> Result<(Accepted, Option<Entry>), Refusal> {
        let missing = Refusal::NoHookEvent { id };
        let at = self.events.iter().position(|event| event.id == id).ok_or(missing)?;
        let taken = self.events[at].taken.as_ref();
        match (text, taken) {
            (None, Some(taken)) => return Err(Refusal::HookTaken { node: taken.node.clone() }),
            (Some(_), None) => return Err(Refusal::HookNotTaken { id }),
            _ => {}
        }
        let event = self.events.remove(at);
        let entry = event.zip(text).map(|(event, text)| Entry {
            subject: event.server,
            text: format!("{}: {text}", event.hook.name()),
        });
        Ok((Accepted::Changed, entry))
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let ids: Vec<u64> = self.events().map(|event| event.id).collect();
        match ids.is_sorted_by(|a, b| a < b) && ids.last().is_none_or(|last| *last <= self.last_id) {
            true => Ok(()),
            false => Err("the hooks' events are not in their order".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests;
