//! What the running transaction has done so far, as far as it matters when it ends.
//!
//! Pure. Invariant: everything noted is a superset of what the server did: a statement counts when it is
//! sent, whether or not it succeeds. (Only a change of the schema is taken back when the server refuses it.)

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::pins::Pins;
use crate::backend::settings::changes_meaning;
use crate::backend::statement::kept;
use crate::route::statement::{Isolation, TransactionModes};
use crate::route::{Analyzed, Effects, Reading, StatementKind};

/// Portals that are known by name in one transaction. PostgreSQL has no limit but its memory; where a transaction has
/// failed or is lost, it takes none.
const MAX_PORTALS: usize = 4096;
/// And what is known of the statements behind them.
const MAX_PORTAL_BYTES: usize = 4 * 1024 * 1024;

const SETS: Effects = Effects::CHANGES_SETTINGS.union(Effects::SETTINGS_LOCAL);

#[derive(Debug, Default)]
pub struct Transaction {
    /// How many its session has had before.
    pub number: u64,
    pub effects: Effects,
    /// A function may have left what nobody can see.
    pub hidden_state: bool,
    pub may_write: bool,
    /// How many messages were sent that may change the schema, without those that the server has refused.
    pub alters: u32,
    /// Something was sent that may change how the server reads texts.
    pub may_set_reading: bool,
    /// Something was sent that may change what statements mean that are parsed now. What a function has set unseen does not
    /// count: nobody else gets the connection as it is.
    pub may_set_meaning: bool,
    /// Something was sent that may commit it.
    pub may_commit: bool,
    /// Whether what was sent leaves a block open, once all of it is answered. None: it stays as it was.
    pub leaves_open: Option<bool>,
    /// All that was sent belongs to a block that a BEGIN in front of it has surely opened.
    pub contained: bool,
    /// Pins that it has brought.
    pub pinned: Pins,
    /// A statement of the client's was sent, not only what komainu itself answers.
    pub ran: bool,
    /// The floor was asked for right behind the statement that ends the transaction.
    pub floor_asked: bool,
    /// Something was sent that makes the server forget statements, or all it knows.
    pub forgets: bool,
    /// The client was sent an error.
    pub failed: bool,
    /// What portals would do whose names were bound anew. If that Bind fails, the server still has them behind a ROLLBACK TO.
    displaced: Displaced,
    rolled_back_to: bool,
    /// The statement behind the unnamed portal.
    unnamed_portal: Option<Arc<Analyzed>>,
    /// Those behind the named ones, which few transactions have.
    portals: Option<HashMap<Box<[u8]>, Arc<Analyzed>, RandomState>>,
    portal_bytes: usize,
}

#[derive(Debug, Default)]
struct Displaced {
    effects: Effects,
    hidden_state: bool,
    may_write: bool,
}

impl Displaced {
    fn add(&mut self, analyzed: &Analyzed) {
        self.effects |= analyzed.analysis.effects | analyzed.routed.effects;
        self.hidden_state |= analyzed.routed.hidden_state;
        self.may_write |= analyzed.routed.may_write;
    }
}

impl Transaction {
    pub fn note(&mut self, analyzed: &Analyzed) {
        self.ran = true;
        // A position that was asked for before this says nothing of what this reads.
        self.floor_asked = false;
        self.rolled_back_to |=
            matches!(analyzed.analysis.kind, StatementKind::RollbackTo | StatementKind::Many);
        self.effects |= analyzed.analysis.effects | analyzed.routed.effects;
        self.alters += u32::from(analyzed.analysis.effects.intersects(Effects::DDL));
        self.hidden_state |= analyzed.routed.hidden_state;
        if analyzed.routed.may_write {
            self.wrote();
        }
        if analyzed.routed.hidden_state || analyzed.analysis.effects.intersects(SETS) {
            self.may_set_reading |= match &analyzed.analysis.kind {
                StatementKind::Set { name, .. } | StatementKind::Reset { name } => Reading::depends_on(name),
                StatementKind::SetTransaction { .. } | StatementKind::SetCharacteristics(_) => false,
                StatementKind::SetRole { .. } | StatementKind::SetSessionAuthorization { .. } => false,
                _ => true,
            };
        }
        let effects = analyzed.analysis.effects;
        if effects.intersects(SETS.union(Effects::UNKNOWN_EFFECTS)) {
            self.may_set_meaning |= match &analyzed.analysis.kind {
                StatementKind::Set { name, .. } | StatementKind::Reset { name } => changes_meaning(name),
                StatementKind::SetTransaction { .. } | StatementKind::SetCharacteristics(_) => false,
                _ => true,
            };
        }
        if effects
            .intersects(Effects::BEGINS.union(Effects::ENDS_TRANSACTION).union(Effects::UNKNOWN_EFFECTS))
        {
            self.contained = false;
            if !effects.intersects(Effects::UNKNOWN_EFFECTS) {
                self.leaves_open = Some(effects.intersects(Effects::LEAVES_OPEN));
            }
        }
        let rolls_back = matches!(analyzed.analysis.kind, StatementKind::Rollback { .. });
        self.may_commit |= analyzed.analysis.effects.intersects(Effects::ENDS_TRANSACTION) && !rolls_back;
    }

    /// Something ran that was not looked into. `may_alter`: it may be any statement, and not just a call.
    pub fn note_opaque(&mut self, may_alter: bool) {
        let spared = if may_alter { Effects::NONE } else { Effects::DDL };
        self.effects |= Effects::OPAQUE.without(spared);
        self.alters += u32::from(may_alter);
        self.hidden_state = true;
        self.may_set_reading = true;
        self.may_set_meaning = true;
        self.may_commit = true;
        self.contained = false;
        self.wrote();
    }

    /// Something ran that may write: a position asked for before it says nothing of it.
    pub fn wrote(&mut self) {
        self.may_write = true;
        self.floor_asked = false;
    }

    /// A portal is executed that was bound in our sight.
    pub fn note_execution(&mut self, analyzed: &Analyzed) {
        self.note(analyzed);
        if self.rolled_back_to {
            self.effects |= self.displaced.effects;
            // Never taken back: which of them has run is not known.
            self.alters += u32::from(self.displaced.effects.intersects(Effects::DDL));
            self.hidden_state |= self.displaced.hidden_state;
            self.may_write |= self.displaced.may_write;
            let sets = self.displaced.effects.intersects(SETS);
            self.may_set_reading |= self.displaced.hidden_state || sets;
            self.may_set_meaning |= sets;
            self.may_commit |= self.displaced.effects.intersects(Effects::ENDS_TRANSACTION);
        }
    }

    /// What is not kept counts as executed.
    pub fn bind_portal(&mut self, name: &[u8], analyzed: &Arc<Analyzed>) {
        let displaced = if name.is_empty() {
            match &mut self.unnamed_portal {
                Some(present) if Arc::ptr_eq(present, analyzed) => None,
                present => present.replace(analyzed.clone()),
            }
        } else if self.has_room_for(name, analyzed) {
            self.portal_bytes += analyzed.analysis.bytes();
            let portals = self.portals.get_or_insert_default();
            let before = portals.insert(kept(name).into(), analyzed.clone());
            self.portal_bytes -= before.as_ref().map_or(0, |before| before.analysis.bytes());
            before
        } else {
            self.note(analyzed);
            self.take_portal(name)
        };
        if let Some(displaced) = displaced {
            self.displaced.add(&displaced);
        }
    }

    fn has_room_for(&self, name: &[u8], analyzed: &Analyzed) -> bool {
        self.portal_bytes + analyzed.analysis.bytes() <= MAX_PORTAL_BYTES
            && self
                .portals
                .as_ref()
                .is_none_or(|portals| portals.len() < MAX_PORTALS || portals.contains_key(kept(name)))
    }

    /// The client has done with it, and so may bind and close as many as it likes.
    pub fn close_portal(&mut self, name: &[u8]) {
        self.take_portal(name);
    }

    fn take_portal(&mut self, name: &[u8]) -> Option<Arc<Analyzed>> {
        let taken = self.portals.as_mut()?.remove(kept(name))?;
        self.portal_bytes -= taken.analysis.bytes();
        Some(taken)
    }

    pub fn portal(&self, name: &[u8]) -> Option<&Arc<Analyzed>> {
        match name {
            b"" => self.unnamed_portal.as_ref(),
            name => self.portals.as_ref()?.get(kept(name)),
        }
    }

    /// The server has refused so many of what might have changed the schema.
    pub fn not_altered(&mut self, refused: u32) {
        self.alters = self.alters.saturating_sub(refused);
    }

    /// All is answered, and a transaction is open: whatever was sent to end one has ended another, or failed.
    pub fn begin_anew(&mut self) {
        if self.effects.intersects(Effects::ENDS_TRANSACTION) {
            self.pinned = Pins::default();
        }
        self.may_commit = false;
        self.leaves_open = None;
        self.effects = self.effects.without(Effects::ENDS_TRANSACTION);
    }

    /// Ready for the next one; keeps nothing of portals, which ended with it.
    pub fn end(&mut self) {
        *self = Transaction { number: self.number + 1, ..Transaction::default() };
    }
}

/// Whether a text opens a transaction, and of which kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Opening {
    pub opens: bool,
    pub read_only: bool,
    pub serializable: bool,
}

impl Opening {
    pub fn of(analyzed: &Analyzed) -> Opening {
        match analyzed.analysis.kind {
            StatementKind::Begin(TransactionModes { read_only, isolation, .. }) => Opening {
                opens: true,
                read_only: read_only == Some(true),
                serializable: isolation == Some(Isolation::Serializable),
            },
            _ => {
                Opening { opens: analyzed.analysis.effects.intersects(Effects::BEGINS), ..Opening::default() }
            }
        }
    }

    /// Of a batch: one that opens anything but a declared READ ONLY transaction is none.
    pub fn and(self, other: Opening) -> Opening {
        if !other.opens {
            return self;
        }
        if !self.opens {
            return other;
        }
        Opening {
            opens: true,
            read_only: self.read_only && other.read_only,
            serializable: self.serializable || other.serializable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{FunctionLists, analyze, resolve};

    fn named(transaction: &Transaction) -> usize {
        transaction.portals.as_ref().map_or(0, HashMap::len)
    }

    #[test]
    fn a_portal_is_known_by_what_postgresql_keeps_of_its_name_and_until_it_is_closed() {
        let analysis = analyze("select 1");
        let routed = resolve(&analysis, None, &FunctionLists::default());
        let analyzed = Arc::new(Analyzed { analysis, routed, generation: 0 });
        let mut transaction = Transaction::default();
        let long = [b'c'; 100];
        for name in [&b""[..], b"C_1", &long] {
            transaction.bind_portal(name, &analyzed);
        }
        assert!(transaction.portal(&long[..63]).is_some() && transaction.portal(&long[..62]).is_none());
        transaction.close_portal(b"C_1");
        assert!(transaction.portal(b"C_1").is_none() && transaction.portal(b"").is_some());
        transaction.close_portal(&long[..70]);
        assert_eq!(named(&transaction), 0);
        transaction.end();
        assert!(transaction.portal(b"").is_none());
    }

    #[test]
    fn a_position_asked_for_before_a_read_says_nothing_of_it() {
        let analysis = analyze("select 1");
        let routed = resolve(&analysis, None, &FunctionLists::default());
        let mut transaction = Transaction { floor_asked: true, may_write: true, ..Transaction::default() };
        transaction.note(&Analyzed { analysis, routed, generation: 0 });
        assert!(!transaction.floor_asked && transaction.may_write);
    }

    #[test]
    fn settings_by_which_no_text_is_read_leave_no_doubt_what_one_means() {
        for (sql, may) in [
            ("set local timezone = 'utc'", true),
            ("set search_path = a", true),
            ("set local role bob", true),
            ("reset all", true),
            ("select set_config('a.b', $1, true)", true),
            ("frobnicate", true),
            ("set local statement_timeout = 5", false),
            ("set app.tenant = '7'", false),
            ("set transaction isolation level serializable", false),
            ("begin", false),
            ("select 1", false),
        ] {
            let analysis = analyze(sql);
            let routed = resolve(&analysis, None, &FunctionLists::default());
            let mut transaction = Transaction::default();
            transaction.note(&Analyzed { analysis, routed, generation: 0 });
            assert_eq!(transaction.may_set_meaning, may, "{sql}");
        }
    }

    #[test]
    fn what_is_known_of_portals_is_bounded_in_size() {
        let calls: String = (0..10_000).map(|n| format!(", f{n}()")).collect();
        let analysis = analyze(&format!("select 1{calls}"));
        let routed = resolve(&analysis, None, &FunctionLists::default());
        let analyzed = Arc::new(Analyzed { analysis, routed, generation: 0 });
        let mut transaction = Transaction::default();
        for n in 0..1000 {
            transaction.bind_portal(format!("c{n}").as_bytes(), &analyzed);
        }
        let kept = named(&transaction);
        assert!((1..50).contains(&kept) && transaction.portal_bytes <= MAX_PORTAL_BYTES, "{kept}");
        assert!(transaction.hidden_state, "of the others it counts what they would do");
        for n in 0..1000 {
            transaction.close_portal(format!("c{n}").as_bytes());
        }
        assert_eq!(transaction.portal_bytes, 0);
    }

    #[test]
    fn of_more_portals_than_are_kept_it_counts_what_they_would_do() {
        let analysis = analyze("insert into t select set_config('a.b', 'c', false)");
        let routed = resolve(&analysis, None, &FunctionLists::default());
        let analyzed = Arc::new(Analyzed { analysis, routed, generation: 0 });
        let mut transaction = Transaction::default();
        for n in 0..MAX_PORTALS {
            transaction.bind_portal(format!("c{n}").as_bytes(), &analyzed);
        }
        transaction.bind_portal(b"c0", &analyzed);
        assert!(!transaction.may_write && named(&transaction) == MAX_PORTALS);
        transaction.bind_portal(b"another", &analyzed);
        assert!(named(&transaction) == MAX_PORTALS && transaction.portal(b"another").is_none());
        assert!(transaction.may_write && transaction.effects.intersects(Effects::CHANGES_SETTINGS));
    }
}
