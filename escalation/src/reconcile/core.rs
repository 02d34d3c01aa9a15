//! Decides what to do next for one endpoint: look, change, read back, rest. Pure.
//!
//! The driver asks `next`, does it, and reports with `looked`, `changed` or `programmed`. The timer, the log and a
//! restart all lead to the same look, and nothing is retried but by looking again.
//! Invariant: `Held` is said only after a look that found it so, in this epoch.

use super::pace::{Jitter, Pace};
use crate::authority::Intent;
use crate::claim::{Claim, Desired, Owner};
use crate::error::{Error, Fault};
use crate::method::{Applied, Confirmation, Gap, Holding, Plan, Problem, Rules, Stage};
use crate::program::{Output, ProgramError};
use crate::reason::Reason;
use crate::status::{Phase, State, Status};
use std::collections::VecDeque;

/// What the driver has to do now.
#[derive(Debug, Clone, PartialEq)]
pub enum Action<S> {
    Rest {
        until_ms: u64,
    },
    Look,
    /// The operator's program before or after a move; reported as run also when there is none.
    Program {
        when: When,
        intent: Intent,
        epoch: u64,
    },
    /// All steps of the stage, side by side.
    Change {
        intent: Intent,
        epoch: u64,
        stage: Stage<S>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    Before,
    After,
}

/// An entry for the timeline, still without the endpoint's name.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub epoch: u64,
    pub state: State,
    pub reason: Reason,
    pub detail: String,
    pub phases: Vec<Phase>,
}

pub struct Reconciler<R: Rules> {
    rules: R,
    pace: Pace,
    jitter: Jitter,
    desired: Desired,
    turn: Turn<R::Step>,
    last_sight: Option<R::Observed>,
    /// Rounds in a row that did not bring it about.
    setbacks: u32,
    last_fault: Option<(Fault, String)>,
    watch_until_ms: u64,
    gap_since_ms: Option<u64>,
    moving: Option<Move>,
    /// The programs were told of a taking, and not yet of its end.
    programs_took: bool,
    confirmation_due: bool,
    status: Status,
    entries: Vec<Entry>,
}

/// A taking or releasing under way.
struct Move {
    before_ran: bool,
    changed: bool,
    /// Drift is repaired without the operator's programs: nothing moves from one node to another.
    with_programs: bool,
}

enum Turn<S> {
    Rest { until_ms: u64 },
    Look { after_change: bool },
    Before { stages: VecDeque<Stage<S>> },
    Change { stages: VecDeque<Stage<S>> },
    After,
}

/// After so many rounds "is being taken" becomes "fails".
const FAILED_AFTER: u32 = 4;
/// Looking at once after a conflict, so often in a row.
const CONFLICTS_AT_ONCE: u32 = 3;
/// The lease may be back a moment later.
const WAIT_FOR_RIGHT_MS: u64 = 200;

impl<R: Rules> Reconciler<R> {
    pub fn new(rules: R, pace: Pace, seed: u64) -> Reconciler<R> {
        Reconciler {
            rules,
            pace,
            jitter: Jitter::new(seed),
            desired: Desired::Doubt,
            turn: Turn::Look { after_change: false },
            last_sight: None,
            setbacks: 0,
            last_fault: None,
            watch_until_ms: 0,
            gap_since_ms: None,
            moving: None,
            programs_took: false,
            confirmation_due: false,
            status: Status {
                state: State::Waiting,
                reason: Reason::ClaimUnknown,
                detail: String::new(),
                epoch: 0,
                holding: Holding::default(),
                phases: Vec::new(),
            },
            entries: Vec::new(),
        }
    }

    pub fn status(&self) -> &Status {
        &self.status
    }

    pub fn desired(&self) -> Desired {
        self.desired
    }

    /// What happened since the last call.
    pub fn take_entries(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.entries)
    }

    /// True once after each taking: the driver starts `Method::confirm`.
    pub fn take_confirmation_due(&mut self) -> bool {
        std::mem::take(&mut self.confirmation_due)
    }

    /// To be told before each `next`: the log's word, and whether the authority allows what it says.
    pub fn claimed(&mut self, now_ms: u64, claim: Claim, permitted: bool) {
        let desired = Desired::of(claim, permitted);
        let doubt = if claim.owner == Owner::This { Reason::LeaseMissing } else { Reason::ClaimUnknown };
        if desired == self.desired {
            if desired == Desired::Doubt && self.status.state == State::Waiting && self.status.reason != doubt
            {
                self.became(State::Waiting, doubt, String::new());
            }
            return;
        }
        self.desired = desired;
        self.setbacks = 0;
        self.last_fault = None;
        self.gap_since_ms = None;
        self.confirmation_due = false;
        self.status.phases.clear();
        self.moving = Some(Move { before_ran: false, changed: false, with_programs: true });
        self.turn = Turn::Look { after_change: false };
        match desired {
            Desired::Hold { epoch } => {
                self.status.epoch = epoch;
                self.watch_until_ms = now_ms + self.pace.watch_for_ms;
                self.became(State::Taking, Reason::Taking, String::new());
                self.act_on_last_sight();
            }
            Desired::Release { epoch } => {
                self.status.epoch = epoch;
                if self.rules.gives_up() || self.programs_took {
                    self.became(State::Releasing, Reason::Releasing, String::new());
                } else {
                    self.became(State::Released, Reason::Released, String::new());
                }
            }
            Desired::Doubt => self.became(State::Waiting, doubt, String::new()),
        }
    }

    pub fn next(&mut self, now_ms: u64) -> Action<R::Step> {
        let (intent, epoch) = self.intent();
        match &self.turn {
            Turn::Rest { until_ms } if now_ms < *until_ms => return Action::Rest { until_ms: *until_ms },
            Turn::Rest { .. } | Turn::Look { .. } => {}
            Turn::Before { .. } => return Action::Program { when: When::Before, intent, epoch },
            Turn::After => return Action::Program { when: When::After, intent, epoch },
            Turn::Change { stages } => {
                if let Some(stage) = stages.front() {
                    return Action::Change { intent, epoch, stage: stage.clone() };
                }
            }
        }
        if !matches!(self.turn, Turn::Look { .. }) {
            self.turn = Turn::Look { after_change: false };
        }
        Action::Look
    }

    /// `Action::Look` was done.
    pub fn looked(&mut self, now_ms: u64, took_ms: f64, result: Result<R::Observed, Error>) {
        let after_change = matches!(self.turn, Turn::Look { after_change: true });
        if self.moving.is_some() {
            self.add_phase(if after_change { "read back" } else { "inspect" }, took_ms);
        }
        match result {
            Ok(observed) => {
                let plan = self.rules.plan(&observed, self.desired);
                self.last_sight = Some(observed);
                self.judge(now_ms, plan, after_change);
            }
            Err(error) => self.setback(now_ms, error.fault(), error.to_string()),
        }
    }

    /// `Action::Change` was done: a result for each step.
    pub fn changed(&mut self, now_ms: u64, took_ms: f64, results: Vec<Result<Applied, Error>>) {
        let Turn::Change { stages } = &mut self.turn else { return };
        let Some(stage) = stages.pop_front() else { return };
        if self.moving.is_some() {
            self.add_phase(stage.phase, took_ms);
        }
        let mut worst: Option<(Fault, String)> = None;
        let mut any_done = false;
        for result in results {
            match result {
                Ok(applied) => {
                    any_done = true;
                    if let Some(note) = applied.note {
                        self.enter(Reason::ProgramRan, note);
                    }
                }
                Err(error) => {
                    let fault = error.fault();
                    if worst.as_ref().is_none_or(|(known, _)| fault.needs_hands() && !known.needs_hands()) {
                        worst = Some((fault, error.to_string()));
                    }
                }
            }
        }
        if any_done && let Some(moving) = &mut self.moving {
            moving.changed = true;
        }
        let Some((fault, detail)) = worst else {
            self.measure_gap(now_ms, stage.gap);
            self.last_fault = None;
            if matches!(&self.turn, Turn::Change { stages } if stages.is_empty()) {
                self.turn = Turn::Look { after_change: true };
            }
            return;
        };
        if fault == Fault::Conflict && self.setbacks < CONFLICTS_AT_ONCE {
            self.setbacks += 1;
            self.enter(Reason::Conflict, detail);
            self.turn = Turn::Look { after_change: false };
        } else if any_done || fault.look_at_once() {
            self.last_fault = Some((fault, detail));
            self.turn = Turn::Look { after_change: true };
        } else {
            self.setback(now_ms, fault, detail);
        }
    }

    /// `Action::Program` was done. None: there is no such program.
    pub fn programmed(
        &mut self,
        now_ms: u64,
        took_ms: f64,
        when: When,
        result: Option<Result<Output, ProgramError>>,
    ) {
        if result.is_some() {
            self.add_phase(if when == When::Before { "program before" } else { "program after" }, took_ms);
        }
        match result {
            None => {}
            Some(Ok(output)) => self.enter(Reason::ProgramRan, output.to_string()),
            Some(Err(error)) => self.enter(error.fault().reason(), error.to_string()),
        }
        let (intent, _) = self.intent();
        match (when, std::mem::replace(&mut self.turn, Turn::After)) {
            (When::Before, Turn::Before { stages }) => {
                if let Some(moving) = &mut self.moving {
                    moving.before_ran = true;
                }
                if intent == Intent::Take {
                    self.programs_took = true;
                }
                // Nothing to change, but the program after it is still owed: the look that follows brings it.
                self.turn = if stages.is_empty() {
                    Turn::Look { after_change: false }
                } else {
                    Turn::Change { stages }
                };
            }
            (When::After, Turn::After) => {
                self.programs_took = intent == Intent::Take;
                self.rest_settled(now_ms);
            }
            (_, turn) => self.turn = turn,
        }
    }

    /// What `Method::confirm` found out.
    pub fn confirmed(&mut self, confirmation: Confirmation) {
        for phase in confirmation.phases {
            self.add_phase(phase.name, phase.ms);
        }
        match confirmation.late {
            Some(detail) => self.enter(Reason::ConfirmationLate, detail),
            None => self.enter(self.status.reason, String::new()),
        }
    }

    fn intent(&self) -> (Intent, u64) {
        match self.desired {
            Desired::Hold { epoch } => (Intent::Take, epoch),
            Desired::Release { epoch } => (Intent::Release, epoch),
            Desired::Doubt => (Intent::Drop, self.status.epoch),
        }
    }

    fn act_on_last_sight(&mut self) {
        if !self.rules.may_act_on_last_sight() {
            return;
        }
        let Some(sight) = &self.last_sight else { return };
        let plan = self.rules.plan(sight, self.desired);
        if plan.problems.is_empty() && !plan.stages.is_empty() {
            self.start(plan.stages);
        }
    }

    fn judge(&mut self, now_ms: u64, plan: Plan<R::Step>, after_change: bool) {
        self.status.holding = plan.holding;
        if plan.stages.is_empty() {
            match plan.problems.into_iter().next() {
                None => self.settled(now_ms),
                Some(problem) => self.blocked(now_ms, problem),
            }
            return;
        }
        let held_all = matches!(self.desired, Desired::Hold { .. }) && plan.holding.all();
        if self.moving.is_none() && !held_all {
            self.notice_drift();
        }
        // A change that does not show yet is waited for, not made again at once: reads may be older than writes.
        if after_change && !(held_all && self.moving.is_none()) {
            let (fault, detail) = match self.last_fault.take() {
                Some((fault, detail)) => (Some(fault), detail),
                None => (None, String::new()),
            };
            match (fault, plan.problems.into_iter().next()) {
                (Some(fault), _) => self.setback(now_ms, fault, detail),
                (None, Some(problem)) => self.blocked(now_ms, problem),
                (None, None) => {
                    self.setbacks += 1;
                    self.became(self.unsettled_state(), Reason::NotYetSeen, detail);
                    self.rest_unsettled(now_ms, false);
                }
            }
            return;
        }
        self.start(plan.stages);
    }

    fn blocked(&mut self, now_ms: u64, problem: Problem) {
        self.setbacks += 1;
        self.became(State::Blocked, problem.reason, problem.detail);
        self.rest_unsettled(now_ms, false);
    }

    fn notice_drift(&mut self) {
        self.status.phases.clear();
        self.moving = Some(Move { before_ran: false, changed: false, with_programs: false });
        match self.desired {
            Desired::Hold { .. } => self.became(State::Taking, Reason::Drift, String::new()),
            Desired::Release { .. } => self.became(State::Releasing, Reason::Drift, String::new()),
            Desired::Doubt => {}
        }
    }

    fn start(&mut self, stages: Vec<Stage<R::Step>>) {
        let stages = VecDeque::from(stages);
        let programs = self.moving.as_ref().is_some_and(|moving| moving.with_programs && !moving.before_ran);
        self.turn = if programs && self.desired != Desired::Doubt {
            Turn::Before { stages }
        } else {
            Turn::Change { stages }
        };
    }

    fn settled(&mut self, now_ms: u64) {
        self.setbacks = 0;
        self.last_fault = None;
        let moving = self.moving.take();
        match self.desired {
            Desired::Hold { .. } => {
                self.measure_gap(now_ms, Gap::Closes);
                self.became(State::Held, Reason::Held, String::new());
            }
            Desired::Release { .. } => {
                if let Some(moving) = &moving
                    && self.programs_took
                    && !moving.before_ran
                    && moving.with_programs
                {
                    // Nothing is left to give up, but the programs were told of the taking and must hear of its end.
                    self.moving = Some(Move { before_ran: true, changed: true, with_programs: true });
                    self.turn = Turn::Before { stages: VecDeque::new() };
                    return;
                }
                self.became(State::Released, Reason::Released, String::new());
            }
            Desired::Doubt => {}
        }
        match moving {
            Some(moving) if moving.changed && self.desired != Desired::Doubt => {
                self.confirmation_due = matches!(self.desired, Desired::Hold { .. });
                if moving.with_programs {
                    self.turn = Turn::After;
                } else {
                    self.rest_settled(now_ms);
                }
            }
            _ => self.rest_settled(now_ms),
        }
    }

    fn setback(&mut self, now_ms: u64, fault: Fault, detail: String) {
        self.setbacks += 1;
        match (self.desired, self.status.state) {
            // Not this node's business, or still as it was when last seen: only noted.
            (Desired::Doubt, _) => self.status.detail = detail,
            (_, state @ (State::Held | State::Released)) => self.became(state, fault.reason(), detail),
            _ if fault.needs_hands() => self.became(State::Blocked, fault.reason(), detail),
            _ => {
                let state =
                    if self.setbacks >= FAILED_AFTER { State::Failed } else { self.unsettled_state() };
                self.became(state, fault.reason(), detail);
            }
        }
        if fault == Fault::Withdrawn {
            self.turn = Turn::Rest { until_ms: now_ms + WAIT_FOR_RIGHT_MS };
        } else {
            self.rest_unsettled(now_ms, fault == Fault::Throttled);
        }
    }

    fn unsettled_state(&self) -> State {
        match self.desired {
            Desired::Hold { .. } => State::Taking,
            Desired::Release { .. } => State::Releasing,
            Desired::Doubt => State::Waiting,
        }
    }

    fn rest_unsettled(&mut self, now_ms: u64, throttled: bool) {
        let wait = self.jitter.setback(&self.pace, self.setbacks, throttled);
        self.turn = Turn::Rest { until_ms: now_ms + wait };
    }

    fn rest_settled(&mut self, now_ms: u64) {
        let holds = matches!(self.desired, Desired::Hold { .. });
        let exposed = holds && self.rules.can_be_overwritten_late();
        let wait = if exposed && now_ms < self.watch_until_ms {
            self.pace.watch_every_ms
        } else if let (true, Some(upkeep_ms)) = (holds, self.rules.upkeep_ms()) {
            upkeep_ms
        } else if exposed {
            self.pace.exposed_ms
        } else {
            self.jitter.between(self.pace.settled_min_ms, self.pace.settled_max_ms)
        };
        self.turn = Turn::Rest { until_ms: now_ms + wait };
    }

    fn measure_gap(&mut self, now_ms: u64, gap: Gap) {
        match gap {
            Gap::None => {}
            Gap::Opens => self.gap_since_ms = self.gap_since_ms.or(Some(now_ms)),
            Gap::Closes => {
                if let Some(since_ms) = self.gap_since_ms.take() {
                    self.add_phase("unassociated", now_ms.saturating_sub(since_ms) as f64);
                }
            }
        }
    }

    fn add_phase(&mut self, name: &'static str, ms: f64) {
        match self.status.phases.iter_mut().find(|phase| phase.name == name) {
            Some(phase) => phase.ms += ms,
            None => self.status.phases.push(Phase { name, ms }),
        }
    }

    fn became(&mut self, state: State, reason: Reason, detail: String) {
        let news = (state, reason) != (self.status.state, self.status.reason);
        self.status.state = state;
        self.status.reason = reason;
        self.status.detail = detail;
        if news {
            self.enter(reason, self.status.detail.clone());
        }
    }

    fn enter(&mut self, reason: Reason, detail: String) {
        self.entries.push(Entry {
            epoch: self.status.epoch,
            state: self.status.state,
            reason,
            detail,
            phases: self.status.phases.clone(),
        });
    }
}
