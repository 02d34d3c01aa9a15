//! How a server becomes a standby of a primary: it follows, it is rewound, or it is built anew.
//!
//! Pure: what the data looks like is an argument. Invariants: timeline numbers are not unique, so a server that left the
//! primary's history is rewound only where the histories agree and its timeline is lower; and data of another system
//! identifier is refused, never replaced.

use super::control::Control;
use super::history::History;
use super::wire::{Refusal, Rejoin, Way};
use crate::topology::Lsn;

/// What is in the data directory, while no server runs in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// None: the directory is absent or empty.
    pub control: Option<Control>,
    /// Of the WAL that is there.
    pub newest_timeline: u32,
    /// Of the timeline it is on.
    pub history: History,
    /// A rewind was begun and not finished.
    pub half_rewound: bool,
    /// There are records beyond where the primary's history left this timeline. None: nobody has looked yet.
    pub has_more: Option<bool>,
}

/// Whom it is to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Primary {
    pub timeline: u32,
    pub history: History,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    Refuse(Refusal),
    /// Whether there are records from here on, on this timeline, decides.
    LookBeyond {
        timeline: u32,
        fork: Lsn,
    },
    /// `more_from`: what it has from there on, and the primary lacks.
    Go {
        way: Way,
        because: &'static str,
        more_from: Option<(u32, Lsn)>,
    },
}

/// The timeline that a server's data is on.
///
/// A primary that has just been promoted has no checkpoint on its timeline yet, but WAL.
pub fn timeline(control: &Control, newest_timeline: u32) -> u32 {
    match control.is_recovering() {
        true => control.checkpoint_timeline.max(control.min_recovery_timeline),
        false => control.checkpoint_timeline.max(newest_timeline),
    }
}

pub fn plan(request: &Rejoin, facts: &Facts, primary: &Primary) -> Plan {
    let Some(control) = &facts.control else {
        return rebuild("there is no data yet", None);
    };
    if control.system_identifier != request.system_identifier {
        let (expected, found) = (request.system_identifier, control.system_identifier);
        return Plan::Refuse(Refusal::OtherSystem { expected, found });
    }
    let own = timeline(control, facts.newest_timeline);
    let fork = primary.history.left_at(own).filter(|_| facts.history.begins(&primary.history));
    // Where it left the others nobody can tell for sure: on a timeline of its own it was alone from its beginning on.
    let unknown = Some((own, fork.or(facts.history.began_at()).unwrap_or(control.redo)));
    if facts.half_rewound {
        return rebuild("a rewind of it was begun and not finished", None);
    }
    if !request.allow_rewind {
        return rebuild("it may not keep what it has", unknown);
    }
    if own > primary.timeline {
        return rebuild("its timeline is higher than the primary's", unknown);
    }
    if own == primary.timeline {
        // A standby fetches the history of its timeline before it streams.
        let known = facts.history != History::default();
        return match control.is_recovering() {
            true if known && facts.history != primary.history => {
                rebuild("it is on another timeline of the same number", unknown)
            }
            true => {
                Plan::Go { way: Way::Follow, because: "it is on the primary's timeline", more_from: None }
            }
            false => rebuild("it was a primary of its own on the primary's timeline", unknown),
        };
    }
    let Some(fork) = fork else {
        return rebuild("its history is no part of the primary's", unknown);
    };
    let beyond = |timeline: u32, at: bool| timeline == own && at;
    // Its WAL at the fork may be gone by now, if it ran on for long.
    let surely_more = beyond(control.checkpoint_timeline, control.checkpoint >= fork)
        || (control.is_recovering() && beyond(control.min_recovery_timeline, control.min_recovery > fork));
    match (facts.has_more, surely_more) {
        (None, _) => Plan::LookBeyond { timeline: own, fork },
        (Some(false), false) => {
            Plan::Go { way: Way::Follow, because: "it has nothing that the primary lacks", more_from: None }
        }
        _ if !control.can_be_rewound() => {
            rebuild("it has neither data checksums nor wal_log_hints", Some((own, fork)))
        }
        _ => Plan::Go {
            way: Way::Rewind,
            because: "it has what the primary lacks",
            more_from: Some((own, fork)),
        },
    }
}

fn rebuild(because: &'static str, more_from: Option<(u32, Lsn)>) -> Plan {
    Plan::Go { way: Way::Rebuild, because, more_from }
}

#[cfg(test)]
mod tests {
    use super::super::control::tests::PRINTED;
    use super::super::job;
    use super::*;

    const FORK: Lsn = Lsn(0x300_0000);

    fn request() -> Rejoin {
        Rejoin { system_identifier: 7_713_098_723_540_679_867, ..job::tests::request(4) }
    }

    fn history(text: &str) -> History {
        History::parse(text).unwrap()
    }

    /// On timeline 3, which left 1 at [`FORK`] and 2 later.
    fn primary() -> Primary {
        Primary { timeline: 3, history: history("1 0/3000000\n2 0/4000000\n") }
    }

    fn facts(state: &str, timeline: u32) -> Facts {
        let mut control = Control::parse(PRINTED).unwrap();
        state.clone_into(&mut control.state);
        control.checkpoint_timeline = timeline;
        Facts {
            control: Some(control),
            newest_timeline: timeline,
            history: History::default(),
            half_rewound: false,
            has_more: Some(true),
        }
    }

    fn way(request: &Rejoin, facts: &Facts) -> Way {
        match plan(request, facts, &primary()) {
            Plan::Go { way, .. } => way,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_former_primary_goes_back_by_what_it_has() {
        let former = |state: &str, has_more| Facts { has_more: Some(has_more), ..facts(state, 1) };
        for (state, has_more, expected) in [
            ("in production", true, Way::Rewind),
            ("in production", false, Way::Follow),
            ("shut down", true, Way::Rewind),
            ("shut down", false, Way::Follow),
            ("shut down in recovery", true, Way::Rewind),
            ("in archive recovery", false, Way::Follow),
        ] {
            assert_eq!(way(&request(), &former(state, has_more)), expected, "{state}, {has_more}");
        }
        let unseen = Facts { has_more: None, ..facts("shut down", 1) };
        assert_eq!(plan(&request(), &unseen, &primary()), Plan::LookBeyond { timeline: 1, fork: FORK });
    }

    #[test]
    fn what_it_has_is_counted_from_the_fork() {
        let Plan::Go { more_from, .. } = plan(&request(), &facts("in production", 1), &primary()) else {
            panic!("no way")
        };
        assert_eq!(more_from, Some((1, FORK)));
        let same = plan(&request(), &facts("in production", 3), &primary());
        assert!(matches!(same, Plan::Go { more_from: Some((3, Lsn(0x200_0028))), .. }), "{same:?}");
        let apart = Facts { history: history("2 0/2500000\n"), ..facts("in production", 3) };
        let apart = plan(&request(), &apart, &primary());
        assert!(matches!(apart, Plan::Go { more_from: Some((3, Lsn(0x250_0000))), .. }), "{apart:?}");
    }

    #[test]
    fn a_standby_that_replayed_past_the_fork_does_not_simply_follow() {
        let mut standby = Facts { has_more: Some(false), ..facts("shut down in recovery", 1) };
        let control = standby.control.as_mut().unwrap();
        (control.min_recovery, control.min_recovery_timeline) = (Lsn(FORK.0 + 8), 1);
        assert_eq!(way(&request(), &standby), Way::Rewind);
        let control = standby.control.as_mut().unwrap();
        (control.min_recovery, control.min_recovery_timeline) = (Lsn(FORK.0 + 8), 3);
        assert_eq!(way(&request(), &standby), Way::Follow, "it was on the primary's timeline already");
        let former = Facts { has_more: Some(false), ..facts("shut down", 1) };
        assert_eq!(way(&request(), &former), Way::Follow);
        let mut long_gone = former;
        long_gone.control.as_mut().unwrap().checkpoint = FORK;
        assert_eq!(way(&request(), &long_gone), Way::Rewind, "its WAL at the fork is gone");
    }

    #[test]
    fn numbers_that_only_look_alike_are_not_trusted() {
        assert_eq!(way(&request(), &facts("in production", 3)), Way::Rebuild, "promoted apart");
        let standby = |text: &str| Facts { history: history(text), ..facts("shut down in recovery", 3) };
        assert_eq!(way(&request(), &standby("1 0/3000000\n2 0/4000000\n")), Way::Follow);
        assert_eq!(way(&request(), &standby("")), Way::Follow, "nothing is known of it");
        for elsewhere in ["1 0/3000000\n2 0/4000008\n", "1 0/3000008\n2 0/4000000\n", "1 0/3000000\n"] {
            let found = way(&request(), &standby(elsewhere));
            assert_eq!(found, Way::Rebuild, "it has followed another timeline 3");
        }
        assert_eq!(way(&request(), &facts("shut down in recovery", 4)), Way::Rebuild);
        assert_eq!(way(&request(), &facts("in production", 4)), Way::Rebuild);
        let forked = |text: &str| Facts { history: history(text), ..facts("in production", 2) };
        assert_eq!(way(&request(), &forked("1 0/3000000\n")), Way::Rewind);
        assert_eq!(way(&request(), &forked("1 0/3000008\n")), Way::Rebuild, "another timeline 2");
        // Promoted, and killed before its first checkpoint.
        let fresh = Facts { newest_timeline: 3, ..facts("in production", 1) };
        assert_eq!(way(&request(), &fresh), Way::Rebuild);
        let standby = Facts { newest_timeline: 3, ..facts("in archive recovery", 1) };
        assert_eq!(way(&request(), &standby), Way::Rewind);
    }

    #[test]
    fn what_may_not_or_cannot_be_rewound_is_rebuilt() {
        let never = Rejoin { allow_rewind: false, ..request() };
        assert_eq!(way(&never, &facts("in production", 1)), Way::Rebuild);
        assert_eq!(way(&never, &facts("shut down in recovery", 3)), Way::Rebuild);
        assert_eq!(way(&request(), &Facts { half_rewound: true, ..facts("shut down", 1) }), Way::Rebuild);
        assert_eq!(way(&request(), &Facts { control: None, ..facts("", 0) }), Way::Rebuild);
        let mut plain = facts("in production", 1);
        plain.control.as_mut().unwrap().wal_log_hints = false;
        assert_eq!(way(&request(), &plain), Way::Rebuild);
        plain.has_more = Some(false);
        assert_eq!(way(&request(), &plain), Way::Follow, "nothing has to be undone");
    }

    #[test]
    fn another_cluster_s_data_is_left_alone() {
        for half_rewound in [false, true] {
            let other = Rejoin { system_identifier: 7, allow_rewind: false, ..request() };
            let facts = Facts { half_rewound, ..facts("in production", 1) };
            assert!(matches!(plan(&other, &facts, &primary()), Plan::Refuse(Refusal::OtherSystem { .. })));
        }
    }
}
