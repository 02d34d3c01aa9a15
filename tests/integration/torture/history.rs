//! What clients did and were told, by one clock, and what was there in the end.

use std::collections::BTreeMap;

/// What a client was told of something that was to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Surely not done.
    Refused,
    /// 08007, or the connection was lost.
    Unknown,
}

/// Who wrote it, as the server itself said with the row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub timeline: u32,
    pub server: String,
}

/// One row appended, in a transaction of its own.
#[derive(Debug, Clone)]
pub struct Append {
    pub client: u32,
    pub session: u32,
    pub number: u64,
    pub sent_us: u64,
    pub answered_us: u64,
    pub outcome: Outcome,
    /// Of one that is done.
    pub place: Option<Place>,
}

/// A session reads what it has appended itself.
#[derive(Debug, Clone)]
pub struct Look {
    pub client: u32,
    pub session: u32,
    pub sent_us: u64,
    /// The highest of this session's numbers; 0: none.
    pub highest: u64,
    pub count: u64,
}

/// Money moved from one account to another.
#[derive(Debug, Clone)]
pub struct Transfer {
    pub id: u64,
    pub from: u32,
    pub to: u32,
    pub amount: i64,
    pub outcome: Outcome,
}

/// Money of all accounts, in one snapshot.
#[derive(Debug, Clone, Copy)]
pub struct Sum {
    pub sent_us: u64,
    pub sum: i64,
}

/// An answer that was another's: what should have come, and what did.
#[derive(Debug, Clone)]
pub struct Foreign {
    pub sent_us: u64,
    pub expected: String,
    pub got: String,
}

#[derive(Debug, Default)]
pub struct History {
    pub appends: Vec<Append>,
    pub looks: Vec<Look>,
    pub transfers: Vec<Transfer>,
    pub sums: Vec<Sum>,
    pub foreign: Vec<Foreign>,
}

impl History {
    pub fn extend(&mut self, other: History) {
        self.appends.extend(other.appends);
        self.looks.extend(other.looks);
        self.transfers.extend(other.transfers);
        self.sums.extend(other.sums);
        self.foreign.extend(other.foreign);
    }
}

/// What the primary has when all is over.
#[derive(Debug, Default)]
pub struct End {
    /// Client and number, as often as they are there.
    pub rows: Vec<(u32, u64)>,
    pub transfers: Vec<u64>,
    pub balances: BTreeMap<u32, i64>,
    /// Of every account in the beginning.
    pub initial: i64,
}
