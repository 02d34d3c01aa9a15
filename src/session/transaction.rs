//! What the running transaction has done so far, as far as it matters when it ends.
//!
//! Pure. Invariant: everything noted is a superset of what the server did: a statement counts when it is
//! sent, whether or not it succeeds.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::pins::Pins;
use super::prepared::kept;
use crate::route::statement::{Isolation, TransactionModes};
use crate::route::{Analyzed, Effects, Reading, StatementKind};

/// Portals that are known by name in one transaction. PostgreSQL has no limit but its memory; where a transaction has
/// failed or is lost, it takes none.
const MAX_PORTALS: usize = 4096;

#[derive(Debug, Default)]
pub struct Transaction {
    pub effects: Effects,
    /// A function may have left what nobody can see.
    pub hidden_state: bool,
    pub may_write: bool,
    /// Something was sent that may change how the server reads texts.
    pub may_set_reading: bool,
    /// Something was sent that may commit it.
    pub may_commit: bool,
    /// Pins that it has brought.
    pub pinned: Pins,
    /// A statement of the client's was sent, not only what komainu itself answers.
    pub ran: bool,
    /// The floor was asked for right behind the statement that ends the transaction.
    pub floor_asked: bool,
    /// Something was sent that makes the server forget statements, or all it knows.
    pub forgets: bool,
    /// Names of the session's that a DEALLOCATE was executed of by the extended protocol.
    pub deallocated: BTreeSet<Box<str>>,
    /// The client was sent an error.
    pub failed: bool,
    /// The statement behind the unnamed portal.
    unnamed_portal: Option<Arc<Analyzed>>,
    /// Those behind the named ones.
    portals: HashMap<Box<[u8]>, Arc<Analyzed>, RandomState>,
}

impl Transaction {
    pub fn note(&mut self, analyzed: &Analyzed) {
        self.ran = true;
        self.effects |= analyzed.analysis.effects;
        self.hidden_state |= analyzed.routed.hidden_state;
        if analyzed.routed.may_write {
            self.wrote();
        }
        const SETS: Effects = Effects::CHANGES_SETTINGS.union(Effects::SETTINGS_LOCAL);
        if analyzed.routed.hidden_state || analyzed.analysis.effects.intersects(SETS) {
            self.may_set_reading |= match &analyzed.analysis.kind {
                StatementKind::Set { name, .. } | StatementKind::Reset { name } => Reading::depends_on(name),
                StatementKind::SetTransaction { .. } | StatementKind::SetCharacteristics(_) => false,
                StatementKind::SetRole { .. } | StatementKind::SetSessionAuthorization { .. } => false,
                _ => true,
            };
        }
        let rolls_back = matches!(analyzed.analysis.kind, StatementKind::Rollback { .. });
        self.may_commit |= analyzed.analysis.effects.intersects(Effects::ENDS_TRANSACTION) && !rolls_back;
    }

    /// Something ran that was not looked into.
    pub fn note_opaque(&mut self) {
        self.effects |= Effects::OPAQUE;
        self.hidden_state = true;
        self.may_set_reading = true;
        self.may_commit = true;
        self.wrote();
    }

    /// Something ran that may write: a position asked for before it says nothing of it.
    pub fn wrote(&mut self) {
        self.may_write = true;
        self.floor_asked = false;
    }

    /// What is not kept counts as executed.
    pub fn bind_portal(&mut self, name: &[u8], analyzed: &Arc<Analyzed>) {
        if name.is_empty() {
            match &mut self.unnamed_portal {
                Some(present) if Arc::ptr_eq(present, analyzed) => {}
                present => *present = Some(analyzed.clone()),
            }
        } else if self.portals.len() < MAX_PORTALS || self.portals.contains_key(kept(name)) {
            self.portals.insert(kept(name).into(), analyzed.clone());
        } else {
            self.note(analyzed);
        }
    }

    /// The client has done with it, and so may bind and close as many as it likes.
    pub fn close_portal(&mut self, name: &[u8]) {
        self.portals.remove(kept(name));
    }

    pub fn portal(&self, name: &[u8]) -> Option<&Arc<Analyzed>> {
        match name {
            b"" => self.unnamed_portal.as_ref(),
            name => self.portals.get(kept(name)),
        }
    }

    /// All is answered, and a transaction is open: whatever was sent to end one has ended another, or failed.
    pub fn has_begun_anew(&mut self) {
        self.may_commit = false;
        self.effects = self.effects.without(Effects::ENDS_TRANSACTION);
    }

    /// Ready for the next one; keeps nothing of portals, which ended with it.
    pub fn end(&mut self) {
        *self = Transaction::default();
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
        assert!(transaction.portals.is_empty());
        transaction.end();
        assert!(transaction.portal(b"").is_none());
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
        assert!(!transaction.may_write && transaction.portals.len() == MAX_PORTALS);
        transaction.bind_portal(b"another", &analyzed);
        assert!(transaction.portals.len() == MAX_PORTALS && transaction.portal(b"another").is_none());
        assert!(transaction.may_write && transaction.effects.intersects(Effects::CHANGES_SETTINGS));
    }
}
