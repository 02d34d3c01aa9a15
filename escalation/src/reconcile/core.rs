//! Decides what to do next for one endpoint: look, change, read back, rest. Pure.
//!
//! The driver asks `next`, does it, and reports with `looked`, `changed` or `programmed`. The timer, the log and a
//! restart all lead to the same look, and nothing is retried but by looking again.
//! Invariant: `Held` is said only after a look that found it so, in this epoch.

use super::journal::{Entry, Journal};
use super::pace::{Jitter, Pace};
use crate::authority::Intent;
use crate::claim::{Claim, Desired, Owner};
use crate::error::{Error, Fault};
use crate::method::{Applied, Confirmation, Gap, Plan, Problem, Rules, Stage};
use crate::program::{Output, ProgramError};
use crate::reason::Reason;
use crate::status::{State, Status};
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
    moving: Option<Move>,
    /// The programs were told of a taking, and not yet of its end.
    programs_took: bool,
    confirmation_due: bool,
    journal: Journal,
}

/// A taking or releasing under way.
struct Move {
    began_ms: u64,
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
            moving: None,
            programs_took: false,
            confirmation_due: false,
            journal: Journal::new(),
        }
    }

    pub fn status(&self) -> &Status {
        &self.journal.status
    }

    pub fn desired(&self) -> Desired {
        self.desired
    }

    /// What happened since the last call.
    pub fn take_entries(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.journal.entries)
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
            if desired == Desired::Doubt
                && self.journal.status.state == State::Waiting
                && self.journal.status.reason != doubt
            {
                self.journal.became(State::Waiting, doubt, String::new());
            }
            return;
        }
        self.desired = desired;
        self.setbacks = 0;
        self.last_fault = None;
        self.confirmation_due = false;
        self.journal.begin();
        self.moving = Some(Move { began_ms: now_ms, before_ran: false, changed: false, with_programs: true });
        self.turn = Turn::Look { after_change: false };
        match desired {
            Desired::Hold { epoch } => {
                self.journal.status.epoch = epoch;
                self.watch_until_ms = now_ms + self.pace.watch_for_ms;
                self.journal.became(State::Taking, Reason::Taking, String::new());
                self.act_on_last_sight();
            }
            Desired::Release { epoch } => {
                self.journal.status.epoch = epoch;
                if self.rules.gives_up() {
                    self.journal.became(State::Releasing, Reason::Releasing, String::new());
                } else {
                    self.journal.became(State::Released, Reason::Released, String::new());
                    if self.programs_took {
                        self.turn = Turn::Before { stages: VecDeque::new() };
                    }
                }
            }
            Desired::Doubt => self.journal.became(State::Waiting, doubt, String::new()),
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
            self.journal.add_phase(if after_change { "read back" } else { "inspect" }, took_ms);
        }
        match result {
            Ok(observed) => {
                let plan = self.rules.plan(&observed, self.desired);
                self.last_sight = Some(observed);
                self.judge(now_ms, plan, after_change);
            }
            Err(error) => {
                self.count_throttled(error.fault());
                self.setback(now_ms, error.fault(), error.to_string());
            }
        }
    }

    /// `Action::Change` was done: a result for each step.
    pub fn changed(&mut self, now_ms: u64, took_ms: f64, results: Vec<Result<Applied, Error>>) {
        let Turn::Change { stages } = &mut self.turn else { return };
        let Some(stage) = stages.pop_front() else { return };
        if self.moving.is_some() {
            self.journal.add_phase(stage.phase, took_ms);
        }
        let mut worst: Option<(Fault, String)> = None;
        let mut any_done = false;
        for result in results {
            match result {
                Ok(applied) => {
                    any_done = true;
                    if let Some(note) = applied.note {
                        self.journal.enter(Reason::ProgramRan, note);
                    }
                }
                Err(error) => {
                    let fault = error.fault();
                    self.count_throttled(fault);
                    if worst.as_ref().is_none_or(|(known, _)| fault.needs_hands() && !known.needs_hands()) {
                        worst = Some((fault, error.to_string()));
                    }
                }
            }
        }
        let perhaps_done = any_done || matches!(worst, Some((Fault::OutcomeUnknown, _)));
        if perhaps_done && let Some(moving) = &mut self.moving {
            moving.changed = true;
        }
        let Some((fault, detail)) = worst else {
            self.journal.measure_gap(now_ms, stage.gap);
            self.last_fault = None;
            if matches!(&self.turn, Turn::Change { stages } if stages.is_empty()) {
                self.turn = Turn::Look { after_change: true };
            }
            return;
        };
        if fault == Fault::Conflict && self.setbacks < CONFLICTS_AT_ONCE {
            self.setbacks += 1;
            self.journal.enter(Reason::Conflict, detail);
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
        let is_there = result.is_some();
        if is_there {
            self.journal
                .add_phase(if when == When::Before { "program before" } else { "program after" }, took_ms);
            if when == When::After && self.intent().0 == Intent::Take {
                self.journal.count_phase("program after", took_ms);
            }
        }
        match result {
            None => {}
            Some(Ok(output)) => self.journal.enter(Reason::ProgramRan, output.to_string()),
            Some(Err(error)) => self.journal.enter(error.fault().reason(), error.to_string()),
        }
        let (intent, _) = self.intent();
        match (when, std::mem::replace(&mut self.turn, Turn::After)) {
            (When::Before, Turn::Before { stages }) => {
                if let Some(moving) = &mut self.moving {
                    moving.before_ran = true;
                }
                self.programs_took |= is_there && intent == Intent::Take;
                self.turn = if !stages.is_empty() {
                    Turn::Change { stages }
                } else if self.rules.gives_up() {
                    // Nothing to change, but the program after it is still owed: the look that follows brings it.
                    Turn::Look { after_change: false }
                } else {
                    Turn::After
                };
            }
            (When::After, Turn::After) => {
                self.programs_took = intent == Intent::Take && (is_there || self.programs_took);
                self.rest_settled(now_ms);
            }
            (_, turn) => self.turn = turn,
        }
    }

    /// What `Method::confirm` found out.
    pub fn confirmed(&mut self, confirmation: Confirmation) {
        for phase in confirmation.phases {
            self.journal.add_phase(phase.name, phase.ms);
            self.journal.count_phase(phase.name, phase.ms);
        }
        match confirmation.late {
            Some(detail) => self.journal.enter(Reason::ConfirmationLate, detail),
            None => self.journal.enter(self.journal.status.reason, String::new()),
        }
    }

    fn intent(&self) -> (Intent, u64) {
        match self.desired {
            Desired::Hold { epoch } => (Intent::Take, epoch),
            Desired::Release { epoch } => (Intent::Release, epoch),
            Desired::Doubt => (Intent::Drop, self.journal.status.epoch),
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
        self.journal.status.holding = plan.holding;
        if plan.stages.is_empty() {
            match plan.problems.into_iter().next() {
                None => self.settled(now_ms),
                Some(problem) => self.blocked(now_ms, problem),
            }
            return;
        }
        let held_all = matches!(self.desired, Desired::Hold { .. }) && plan.holding.all();
        if self.moving.is_none() && !held_all {
            self.notice_drift(now_ms);
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
                    self.journal.became(self.unsettled_state(), Reason::NotYetSeen, detail);
                    self.rest_unsettled(now_ms, false);
                }
            }
            return;
        }
        self.start(plan.stages);
    }

    fn count_throttled(&mut self, fault: Fault) {
        self.journal.status.counts.throttled += u64::from(fault == Fault::Throttled);
    }

    fn blocked(&mut self, now_ms: u64, problem: Problem) {
        self.setbacks += 1;
        self.journal.became(State::Blocked, problem.reason, problem.detail);
        self.rest_unsettled(now_ms, false);
    }

    fn notice_drift(&mut self, now_ms: u64) {
        self.journal.begin();
        self.moving =
            Some(Move { began_ms: now_ms, before_ran: false, changed: false, with_programs: false });
        match self.desired {
            Desired::Hold { .. } => self.journal.became(State::Taking, Reason::Drift, String::new()),
            Desired::Release { .. } => self.journal.became(State::Releasing, Reason::Drift, String::new()),
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
                self.journal.measure_gap(now_ms, Gap::Closes);
                self.count_taking(now_ms, moving.as_ref());
                self.journal.became(State::Held, Reason::Held, String::new());
            }
            Desired::Release { .. } => {
                if let Some(moving) = &moving
                    && self.programs_took
                    && !moving.before_ran
                    && moving.with_programs
                {
                    // Nothing is left to give up, but the programs were told of the taking and must hear of its end.
                    self.moving = Some(Move { before_ran: true, changed: true, ..*moving });
                    self.turn = Turn::Before { stages: VecDeque::new() };
                    return;
                }
                self.journal.became(State::Released, Reason::Released, String::new());
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

    /// Of this node's endpoint, which it has now: what was moved, or only repaired.
    fn count_taking(&mut self, now_ms: u64, moving: Option<&Move>) {
        match moving.filter(|moving| moving.changed) {
            Some(moving) if moving.with_programs => {
                self.journal.count_taking(now_ms.saturating_sub(moving.began_ms));
            }
            Some(_) => self.journal.status.counts.drift_corrected += 1,
            None => {}
        }
    }

    fn setback(&mut self, now_ms: u64, fault: Fault, detail: String) {
        self.setbacks += 1;
        match (self.desired, self.journal.status.state) {
            // Not this node's business, or still as it was when last seen: only noted.
            (Desired::Doubt, _) => self.journal.status.detail = detail,
            (_, state @ (State::Held | State::Released)) => {
                self.journal.became(state, fault.reason(), detail)
            }
            _ if fault.needs_hands() => self.journal.became(State::Blocked, fault.reason(), detail),
            _ => {
                let state =
                    if self.setbacks >= FAILED_AFTER { State::Failed } else { self.unsettled_state() };
                self.journal.became(state, fault.reason(), detail);
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
}
