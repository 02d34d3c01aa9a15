//! What can be moved, and by which rules: `Rules` are pure, `Method` does what they say.

use crate::authority::Permit;
use crate::claim::Desired;
use crate::error::Error;
use crate::reason::Reason;
use crate::status::Phase;
use serde::Serialize;
use std::fmt::Debug;
use std::future::Future;

/// The pure half of a method: no socket, no clock, no randomness.
pub trait Rules: Clone + Send + Sync + 'static {
    /// What a look found.
    type Observed: Clone + Debug + Send + Sync + 'static;
    /// One change, complete: whoever applies it has nothing left to decide.
    type Step: Clone + Debug + PartialEq + Send + Sync + 'static;

    /// What must change so that `observed` becomes `desired`. Empty stages and no problem: it is so already.
    ///
    /// To hold to: for `Release` and `Doubt` no step touches what is not this node's.
    fn plan(&self, observed: &Self::Observed, desired: Desired) -> Plan<Self::Step>;

    /// False: it is never given up, only taken by the next owner.
    fn gives_up(&self) -> bool {
        true
    }

    /// A change that a frozen predecessor left on its way could still undo ours, for no condition refuses it; so a new
    /// owner looks again and again until none can be on its way any more.
    fn can_be_overwritten_late(&self) -> bool {
        false
    }

    /// How often a settled endpoint needs upkeep. None: a look now and then will do.
    fn upkeep_ms(&self) -> Option<u64> {
        None
    }

    /// May a new owner act on what it saw before it became one? Only if a stale sight leads to a refusal or to a
    /// change that is right anyway: it saves a round trip when every one counts.
    fn may_act_on_last_sight(&self) -> bool {
        false
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Plan<S> {
    /// One after the other; the steps of one stage side by side.
    pub stages: Vec<Stage<S>>,
    /// What no step can cure.
    pub problems: Vec<Problem>,
    pub holding: Holding,
}

impl<S> Plan<S> {
    pub fn new(holding: Holding) -> Plan<S> {
        Plan { stages: Vec::new(), problems: Vec::new(), holding }
    }

    pub fn stage(mut self, phase: &'static str, gap: Gap, steps: Vec<S>) -> Plan<S> {
        if !steps.is_empty() {
            self.stages.push(Stage { phase, gap, steps });
        }
        self
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Stage<S> {
    /// What the drill calls the time it takes.
    pub phase: &'static str,
    pub gap: Gap,
    pub steps: Vec<S>,
}

/// While an endpoint belongs to nobody, nobody can use it: that time is measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gap {
    None,
    /// After this stage nobody has it.
    Opens,
    /// After this stage somebody has.
    Closes,
}

/// How much of the endpoint is this node's: a table or a record each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Holding {
    pub mine: usize,
    pub of: usize,
}

impl Holding {
    pub fn one(mine: bool) -> Holding {
        Holding { mine: mine.into(), of: 1 }
    }

    pub fn all(self) -> bool {
        self.mine == self.of
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub reason: Reason,
    /// The thing that has it, and what is wrong there.
    pub detail: String,
}

/// What a change said beyond that it succeeded: a program's output, an id to follow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    pub note: Option<String>,
}

/// The half that reaches the world.
pub trait Method: Send + Sync + 'static {
    type Rules: Rules;

    fn rules(&self) -> &Self::Rules;

    /// Looks. May be dropped half way.
    fn inspect(&self) -> impl Future<Output = Result<<Self::Rules as Rules>::Observed, Error>> + Send;

    /// Makes one change, if the permit still holds when it is sent. Ends in bounded time. Not to be dropped half way.
    fn apply(
        &self,
        step: &<Self::Rules as Rules>::Step,
        permit: &Permit,
    ) -> impl Future<Output = Result<Applied, Error>> + Send;

    /// After it was taken: what is worth waiting for without holding anything up (until names resolve, say). Ends in
    /// bounded time; dropped when the endpoint goes elsewhere.
    fn confirm(&self) -> impl Future<Output = Confirmation> + Send {
        async { Confirmation::default() }
    }
}

/// What `confirm` found out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Confirmation {
    pub phases: Vec<Phase>,
    /// It did not show in time.
    pub late: Option<String>,
}
