//! Lets an operator's program do the moving, where komainu knows no method of its own.

pub mod plan;

use crate::authority::{Intent, Permit};
use crate::error::Error;
use crate::method::{Applied, Method};
use crate::program::{self, ProgramSettings};
pub use plan::{CommandRules, Step, Told};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub struct Command {
    rules: CommandRules,
    settings: ProgramSettings,
    node: String,
    told: Mutex<Told>,
}

impl Command {
    pub fn new(settings: ProgramSettings, node: String) -> Command {
        Command { rules: CommandRules, settings, node, told: Mutex::new(Told(None)) }
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Method for Command {
    type Rules = CommandRules;

    fn rules(&self) -> &CommandRules {
        &self.rules
    }

    async fn inspect(&self) -> Result<Told, Error> {
        Ok(*self.told())
    }

    async fn apply(&self, step: &Step, permit: &Permit) -> Result<Applied, Error> {
        let Step(intent) = *step;
        permit.check()?;
        // From here on nobody knows what it has done, until it says so. Not when giving up: it may still have something.
        if intent == Intent::Take {
            *self.told() = Told(Some(plan::Call { intent, epoch: 0 }));
        }
        let call = program::Call {
            action: intent.word(),
            when: None,
            endpoint: &permit.endpoint,
            method: "command",
            node: &self.node,
            epoch: permit.epoch,
        };
        let output = program::run(&self.settings, &call).await?;
        *self.told() = Told(Some(plan::Call { intent, epoch: permit.epoch }));
        Ok(Applied { note: Some(format!("{}{output}", intent.word())) })
    }
}
