//! Following what was ordered by a node's status, until it is done.
//!
//! Owns the patience. Invariant: a node that is silent for less than `SILENT_FOR` ends no command, since it may itself be
//! restarted meanwhile; and what was ordered goes on whether anybody follows it or not.

use std::ops::ControlFlow;
use std::thread;
use std::time::{Duration, Instant};

use super::ask::{Answer, Ask, AskError};
use super::status::Status;

const LOOK_EVERY: Duration = Duration::from_millis(50);
const SILENT_FOR: Duration = Duration::from_secs(30);

/// For what ends by itself.
pub const AS_LONG_AS_IT_TAKES: Duration = Duration::MAX;

impl Ask {
    /// Looks until `look` breaks off or the time is up, and returns what it said last, of which answer.
    pub fn follow<B, C>(
        &self,
        within: Duration,
        look: impl FnMut(&Status) -> Result<ControlFlow<B, C>, AskError>,
    ) -> Result<(Answer<Status>, ControlFlow<B, C>), AskError> {
        follow(|| self.get("/status"), within, SILENT_FOR, look)
    }
}

fn follow<B, C>(
    mut ask: impl FnMut() -> Result<Answer<Status>, AskError>,
    within: Duration,
    silent_for: Duration,
    mut look: impl FnMut(&Status) -> Result<ControlFlow<B, C>, AskError>,
) -> Result<(Answer<Status>, ControlFlow<B, C>), AskError> {
    let begun_at = Instant::now();
    let mut heard_at = begun_at;
    loop {
        match ask() {
            Ok(answer) => {
                heard_at = Instant::now();
                let said = look(&answer.content)?;
                if said.is_break() || begun_at.elapsed() >= within {
                    return Ok((answer, said));
                }
            }
            Err(error) if heard_at.elapsed() >= silent_for || begun_at.elapsed() >= within => {
                return Err(error);
            }
            Err(_) => {}
        }
        thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::status::tests::sample;

    type Answered = Result<Answer<Status>, AskError>;

    fn answered() -> Answered {
        Ok(Answer::of(sample()))
    }

    fn silent() -> Answered {
        Err(AskError::Failed("no node answers".to_owned()))
    }

    /// With a node that gives these answers, the last one for ever; breaks off at the second that is heard.
    fn followed(
        answers: &[fn() -> Answered],
        within: Duration,
        silent_for: Duration,
    ) -> Result<ControlFlow<u32, u32>, AskError> {
        let (mut asked, mut heard) = (0, 0);
        let ask = || {
            asked += 1;
            answers[(asked - 1).min(answers.len() - 1)]()
        };
        let look = |_: &Status| {
            heard += 1;
            Ok(if heard == 2 { ControlFlow::Break(heard) } else { ControlFlow::Continue(heard) })
        };
        follow(ask, within, silent_for, look).map(|(_, said)| said)
    }

    #[test]
    fn a_node_may_be_silent_for_a_while_and_no_longer() {
        let up = [answered, silent, silent, answered];
        assert_eq!(followed(&up, AS_LONG_AS_IT_TAKES, SILENT_FOR).unwrap(), ControlFlow::Break(2));
        assert!(followed(&[answered, silent], AS_LONG_AS_IT_TAKES, Duration::ZERO).is_err());
        assert!(followed(&[silent], AS_LONG_AS_IT_TAKES, Duration::ZERO).is_err());
    }

    #[test]
    fn when_the_time_is_up_it_is_said_how_far_it_came() {
        assert_eq!(followed(&[answered], Duration::ZERO, SILENT_FOR).unwrap(), ControlFlow::Continue(1));
        assert!(followed(&[silent], Duration::ZERO, SILENT_FOR).is_err());
    }
}
