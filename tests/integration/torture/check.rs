//! Whether what clients saw can be: the invariants of the design, from the clients' own records.
//!
//! Pure. It knows no server, no epoch and no komainu, so nothing that komainu believes can make it agree.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::history::{Append, End, History, Look, Outcome, Place};

/// What cannot be, with what shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// 1: two servers acknowledged on the same timeline.
    TwoPrimaries { timeline: u32, servers: BTreeSet<String> },
    /// 1: one acknowledged after its successor had.
    Late { client: u32, number: u64, by: Place, after: Place },
    /// 2: acknowledged, and not there.
    Lost { what: String },
    /// A client was told that it was not done, and it is there.
    Undead { what: String },
    /// 7: sent once, and there twice.
    Twice { what: String },
    /// There, and nobody wrote it.
    Nobodys { what: String },
    /// 5: a session does not see its own write.
    OwnWrite { client: u32, session: u32, wrote: u64, saw: u64, sent_us: u64 },
    /// 5: a session sees less than it has seen.
    Backwards { client: u32, session: u32, before: u64, saw: u64, sent_us: u64 },
    /// Atomicity: a snapshot in which money is missing, or too much.
    Sum { expected: i64, saw: i64, sent_us: Option<u64> },
    /// Atomicity: an account that does not follow from the transfers that are there.
    Balance { account: u32, expected: i64, saw: i64 },
    /// 6: the answer to another question, or of another session.
    Foreign { expected: String, got: String, sent_us: u64 },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Everything that is wrong; empty: nothing is.
pub fn check(history: &History, end: &End) -> Vec<Violation> {
    let mut violations = Vec::new();
    primaries(&history.appends, &mut violations);
    rows(history, end, &mut violations);
    transfers(history, end, &mut violations);
    sessions(history, &mut violations);
    violations.extend(history.foreign.iter().map(|foreign| {
        let (expected, got) = (foreign.expected.clone(), foreign.got.clone());
        Violation::Foreign { expected, got, sent_us: foreign.sent_us }
    }));
    violations
}

fn primaries(appends: &[Append], violations: &mut Vec<Violation>) {
    let done: Vec<(&Append, &Place)> =
        appends.iter().filter_map(|append| Some((append, append.place.as_ref()?))).collect();
    let mut servers: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
    for (_, place) in &done {
        servers.entry(place.timeline).or_default().insert(place.server.clone());
    }
    let several = servers.into_iter().filter(|(_, servers)| servers.len() > 1);
    violations.extend(several.map(|(timeline, servers)| Violation::TwoPrimaries { timeline, servers }));

    // What was sent after somebody was told of a later timeline cannot be done on an earlier one.
    let mut by_answer = done.clone();
    by_answer.sort_by_key(|(append, _)| append.answered_us);
    let mut by_sending = done;
    by_sending.sort_by_key(|(append, _)| append.sent_us);
    let mut answered = by_answer.into_iter().peekable();
    let mut latest: Option<&Place> = None;
    for (append, place) in by_sending {
        while let Some((_, seen)) = answered.next_if(|(other, _)| other.answered_us < append.sent_us) {
            latest = latest.max(Some(seen));
        }
        if let Some(after) = latest.filter(|latest| latest.timeline > place.timeline) {
            let (client, number) = (append.client, append.number);
            violations.push(Violation::Late { client, number, by: place.clone(), after: after.clone() });
        }
    }
}

fn rows(history: &History, end: &End, violations: &mut Vec<Violation>) {
    let told = history.appends.iter().map(|append| ((append.client, append.number), append.outcome));
    compare(
        told,
        end.rows.iter().copied(),
        |(client, number)| format!("row {number} of client {client}"),
        violations,
    );
}

fn transfers(history: &History, end: &End, violations: &mut Vec<Violation>) {
    let told = history.transfers.iter().map(|transfer| (transfer.id, transfer.outcome));
    compare(told, end.transfers.iter().copied(), |id| format!("transfer {id}"), violations);
    let expected = end.initial * end.balances.len() as i64;
    for sum in history.sums.iter().filter(|sum| sum.sum != expected) {
        violations.push(Violation::Sum { expected, saw: sum.sum, sent_us: Some(sum.sent_us) });
    }
    let saw = end.balances.values().sum();
    if saw != expected {
        violations.push(Violation::Sum { expected, saw, sent_us: None });
    }
    let there: BTreeSet<u64> = end.transfers.iter().copied().collect();
    let mut balances: BTreeMap<u32, i64> =
        end.balances.keys().map(|account| (*account, end.initial)).collect();
    for transfer in history.transfers.iter().filter(|transfer| there.contains(&transfer.id)) {
        *balances.entry(transfer.from).or_default() -= transfer.amount;
        *balances.entry(transfer.to).or_default() += transfer.amount;
    }
    for (account, expected) in balances {
        let saw = end.balances.get(&account).copied().unwrap_or_default();
        if saw != expected {
            violations.push(Violation::Balance { account, expected, saw });
        }
    }
}

/// What clients were told against what is there.
fn compare<T: Ord + Copy>(
    told: impl Iterator<Item = (T, Outcome)>,
    there: impl Iterator<Item = T>,
    name: impl Fn(T) -> String,
    violations: &mut Vec<Violation>,
) {
    let told: BTreeMap<T, Outcome> = told.collect();
    let mut count: BTreeMap<T, u32> = BTreeMap::new();
    for it in there {
        *count.entry(it).or_default() += 1;
    }
    for (it, outcome) in &told {
        let what = name(*it);
        match (outcome, count.get(it).copied().unwrap_or(0)) {
            (Outcome::Done, 0) => violations.push(Violation::Lost { what }),
            (Outcome::Refused, 1..) => violations.push(Violation::Undead { what }),
            (_, 2..) => violations.push(Violation::Twice { what }),
            (Outcome::Done | Outcome::Unknown, _) | (Outcome::Refused, 0) => {}
        }
    }
    let nobodys = count.keys().filter(|it| !told.contains_key(it));
    violations.extend(nobodys.map(|it| Violation::Nobodys { what: name(*it) }));
}

/// A session's appends and looks, one after the other.
fn sessions(history: &History, violations: &mut Vec<Violation>) {
    #[derive(Default)]
    struct Session<'a> {
        done: Vec<&'a Append>,
        looks: Vec<&'a Look>,
    }
    let mut sessions: BTreeMap<(u32, u32), Session<'_>> = BTreeMap::new();
    for append in history.appends.iter().filter(|append| append.outcome == Outcome::Done) {
        sessions.entry((append.client, append.session)).or_default().done.push(append);
    }
    for look in &history.looks {
        sessions.entry((look.client, look.session)).or_default().looks.push(look);
    }
    for ((client, session), Session { mut done, mut looks }) in sessions {
        done.sort_by_key(|append| append.answered_us);
        looks.sort_by_key(|look| look.sent_us);
        let mut done = done.into_iter().peekable();
        let (mut wrote, mut written) = (0, 0);
        let (mut before, mut counted) = (0, 0);
        for look in looks {
            let sent_us = look.sent_us;
            while let Some(append) = done.next_if(|append| append.answered_us <= sent_us) {
                wrote = wrote.max(append.number);
                written += 1;
            }
            let saw = look.highest;
            if saw < wrote || look.count < written {
                violations.push(Violation::OwnWrite { client, session, wrote, saw, sent_us });
            }
            if saw < before || look.count < counted {
                violations.push(Violation::Backwards { client, session, before, saw, sent_us });
            }
            (before, counted) = (before.max(saw), counted.max(look.count));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::history::{Foreign, Sum, Transfer};
    use super::*;

    fn append(number: u64, sent_us: u64, outcome: Outcome, place: Option<(u32, &str)>) -> Append {
        let place = place.map(|(timeline, server)| Place { timeline, server: server.to_owned() });
        Append { client: 1, session: 1, number, sent_us, answered_us: sent_us + 5, outcome, place }
    }

    fn look(sent_us: u64, highest: u64, count: u64) -> Look {
        Look { client: 1, session: 1, sent_us, highest, count }
    }

    fn transfer(id: u64, outcome: Outcome) -> Transfer {
        Transfer { id, from: 1, to: 2, amount: 10, outcome }
    }

    /// A failover, a row of which nobody was told, one that was refused, and two transfers.
    fn good() -> (History, End) {
        let history = History {
            appends: vec![
                append(1, 10, Outcome::Done, Some((1, "a"))),
                append(2, 20, Outcome::Unknown, None),
                append(3, 30, Outcome::Refused, None),
                append(4, 40, Outcome::Done, Some((2, "b"))),
            ],
            looks: vec![look(16, 1, 1), look(50, 4, 3)],
            transfers: vec![transfer(1, Outcome::Done), transfer(2, Outcome::Unknown)],
            sums: vec![Sum { sent_us: 12, sum: 200 }],
            foreign: Vec::new(),
        };
        let end = End {
            rows: vec![(1, 1), (1, 2), (1, 4)],
            transfers: vec![1],
            balances: BTreeMap::from([(1, 90), (2, 110)]),
            initial: 100,
        };
        (history, end)
    }

    /// The names of what is found when something is changed for the worse.
    fn found(change: impl FnOnce(&mut History, &mut End)) -> Vec<String> {
        let (mut history, mut end) = good();
        change(&mut history, &mut end);
        let name =
            |violation: &Violation| format!("{violation:?}").split([' ', '{']).next().unwrap().to_owned();
        check(&history, &end).iter().map(name).collect()
    }

    #[test]
    fn what_can_be_is_not_complained_of() {
        assert_eq!(found(|_, _| ()), [""; 0]);
        assert_eq!(found(|_, end| end.rows.retain(|row| *row != (1, 2))), [""; 0], "nobody was told of it");
        // Another client's write was on its way while the successor acknowledged.
        let overlapping = append(5, 42, Outcome::Done, Some((1, "a")));
        assert_eq!(
            found(|history, end| {
                history.appends.push(Append { client: 2, ..overlapping });
                end.rows.push((2, 5));
            }),
            [""; 0]
        );
    }

    #[test]
    fn a_row_that_was_acknowledged_must_be_there_and_one_that_was_refused_must_not() {
        assert_eq!(found(|_, end| end.rows.retain(|row| *row != (1, 1))), ["Lost"]);
        assert_eq!(found(|_, end| end.rows.push((1, 3))), ["Undead"]);
        for twice in [1, 2] {
            assert_eq!(found(|_, end| end.rows.push((1, twice))), ["Twice"]);
        }
        assert_eq!(found(|_, end| end.rows.push((7, 7))), ["Nobodys"]);
        assert_eq!(found(|_, end| end.transfers.clear()), ["Lost", "Balance", "Balance"]);
        assert_eq!(found(|_, end| end.transfers.push(1)), ["Twice"]);
    }

    #[test]
    fn one_server_acknowledges_at_a_time() {
        let more = |timeline, server, sent_us| {
            found(move |history, end| {
                let more = append(9, sent_us, Outcome::Done, Some((timeline, server)));
                history.appends.push(Append { client: 2, ..more });
                end.rows.push((2, 9));
            })
        };
        assert_eq!(more(1, "a", 46), ["Late"], "the old primary, after the new one has acknowledged");
        assert_eq!(more(2, "a", 46), ["TwoPrimaries"], "both are on timeline 2");
        assert_eq!(more(2, "b", 46), [""; 0]);
    }

    #[test]
    fn a_session_sees_its_own_writes_and_never_less_than_before() {
        assert_eq!(found(|history, _| history.looks[0] = look(16, 0, 0)), ["OwnWrite"]);
        assert_eq!(found(|history, _| history.looks[1] = look(50, 4, 1)), ["OwnWrite"], "there is a gap");
        let backwards = found(|history, _| history.looks = vec![look(26, 2, 2), look(28, 1, 1)]);
        assert_eq!(
            backwards,
            ["Backwards"],
            "of the row of which it was not told, it has seen that it is there"
        );
        let other = found(|history, _| history.looks[0] = Look { session: 2, ..look(16, 0, 0) });
        assert_eq!(other, [""; 0], "another session may lag");
    }

    #[test]
    fn no_money_is_made_and_none_is_lost() {
        assert_eq!(found(|history, _| history.sums.push(Sum { sent_us: 1, sum: 190 })), ["Sum"]);
        let made = found(|_, end| *end.balances.get_mut(&2).unwrap() = 120);
        assert_eq!(made, ["Sum", "Balance"]);
        // A transfer is there, and only half of it.
        let half = found(|_, end| *end.balances.get_mut(&1).unwrap() = 100);
        assert_eq!(half, ["Sum", "Balance"]);
        // A transfer that nobody was told of is there with all of it.
        let whole = found(|_, end| {
            end.transfers.push(2);
            end.balances = BTreeMap::from([(1, 80), (2, 120)]);
        });
        assert_eq!(whole, [""; 0]);
    }

    #[test]
    fn the_answer_is_one_s_own() {
        let foreign = Foreign { sent_us: 1, expected: "1-1-1".to_owned(), got: "2-1-1".to_owned() };
        assert_eq!(found(|history, _| history.foreign.push(foreign)), ["Foreign"]);
    }
}
