//! Rules for an operator's program that does the moving. Pure.
//!
//! komainu cannot look at what the program does; all it knows is what it told the program last, and whether that
//! succeeded. After a start it knows nothing, so the program is told once where things stand.

use crate::authority::Intent;
use crate::claim::Desired;
use crate::method::{Gap, Holding, Plan, Rules};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandRules;

/// The last call that succeeded. None: none did since the start, or one has failed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told(pub Option<Call>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    pub intent: Intent,
    pub epoch: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step(pub Intent);

impl Rules for CommandRules {
    type Observed = Told;
    type Step = Step;

    fn plan(&self, observed: &Told, desired: Desired) -> Plan<Step> {
        let last = observed.0;
        let told = |intent| last.is_some_and(|call| call.intent == intent);
        let (due, phase) = match desired {
            Desired::Hold { epoch } => {
                let held = last == Some(Call { intent: Intent::Take, epoch });
                ((!held).then_some(Intent::Take), "program takes")
            }
            Desired::Release { .. } => {
                ((!told(Intent::Release)).then_some(Intent::Release), "program releases")
            }
            // Only if it has something: a node that starts up is in doubt, and that is no news to anybody.
            Desired::Doubt => (told(Intent::Take).then_some(Intent::Drop), "program drops"),
        };
        let holding = Holding::one(matches!(desired, Desired::Hold { .. }) && due.is_none());
        Plan::new(holding).stage(phase, Gap::None, due.map(Step).into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(last: Option<(Intent, u64)>, desired: Desired) -> Option<Intent> {
        let told = Told(last.map(|(intent, epoch)| Call { intent, epoch }));
        CommandRules.plan(&told, desired).stages.first().map(|stage| stage.steps[0].0)
    }

    #[test]
    fn it_is_told_once_of_each_change() {
        use Intent::{Drop, Release, Take};
        let (hold, release) = (Desired::Hold { epoch: 3 }, Desired::Release { epoch: 3 });
        assert_eq!(due(None, hold), Some(Take));
        assert_eq!(due(Some((Take, 3)), hold), None);
        assert_eq!(due(Some((Take, 2)), hold), Some(Take));
        assert_eq!(due(None, release), Some(Release));
        assert_eq!(due(Some((Take, 2)), release), Some(Release));
        assert_eq!(due(Some((Drop, 2)), release), Some(Release));
        assert_eq!(due(Some((Release, 2)), release), None);
        assert_eq!(due(None, Desired::Doubt), None);
        assert_eq!(due(Some((Take, 2)), Desired::Doubt), Some(Drop));
        assert_eq!(due(Some((Drop, 2)), Desired::Doubt), None);
    }
}
