//! What the running transaction has done so far, as far as it matters when it ends.
//!
//! Pure. Invariant: everything noted is a superset of what the server did: a statement counts when it is
//! sent, whether or not it succeeds.

use std::sync::Arc;

use super::pins::Pins;
use crate::route::statement::{Isolation, TransactionModes};
use crate::route::{Analyzed, Effects, StatementKind};

#[derive(Debug, Default)]
pub struct Transaction {
    pub effects: Effects,
    /// A function may have left what nobody can see.
    pub hidden_state: bool,
    pub may_write: bool,
    /// Something was sent that may commit it.
    pub may_commit: bool,
    /// Pins that it has brought.
    pub pinned: Pins,
    /// A statement of the client's was sent, not only what komainu itself answers.
    pub ran: bool,
    /// The floor was asked for right behind the statement that ends the transaction.
    pub floor_asked: bool,
    /// DISCARD ALL or DEALLOCATE ALL was sent.
    pub discards_all: bool,
    /// DEALLOCATE of a name was sent by the extended protocol.
    pub deallocates: bool,
    /// The names that statements parsed in this transaction deallocate, if they are executed.
    pub deallocated: Vec<String>,
    /// The client was sent an error.
    pub failed: bool,
    /// Statements behind named portals; the unnamed one is first when there is one.
    portals: Vec<(Box<[u8]>, Arc<Analyzed>)>,
}

impl Transaction {
    pub fn note(&mut self, analyzed: &Analyzed) {
        self.ran = true;
        self.effects |= analyzed.analysis.effects;
        self.hidden_state |= analyzed.routed.hidden_state;
        if analyzed.routed.may_write {
            self.wrote();
        }
        self.discards_all |= analyzed.analysis.kind == StatementKind::DiscardAll;
        let rolls_back = matches!(analyzed.analysis.kind, StatementKind::Rollback { .. });
        self.may_commit |= analyzed.analysis.effects.intersects(Effects::ENDS_TRANSACTION) && !rolls_back;
    }

    /// Something ran that was not looked into.
    pub fn note_opaque(&mut self) {
        self.effects |= Effects::OPAQUE;
        self.hidden_state = true;
        self.may_commit = true;
        self.wrote();
    }

    /// Something ran that may write: a position asked for before it says nothing of it.
    pub fn wrote(&mut self) {
        self.may_write = true;
        self.floor_asked = false;
    }

    pub fn bind_portal(&mut self, name: &[u8], analyzed: &Arc<Analyzed>) {
        match self.portals.iter_mut().find(|(portal, _)| **portal == *name) {
            Some((_, statement)) => {
                if !Arc::ptr_eq(statement, analyzed) {
                    *statement = analyzed.clone();
                }
            }
            None => self.portals.push((name.into(), analyzed.clone())),
        }
    }

    pub fn portal(&self, name: &[u8]) -> Option<&Arc<Analyzed>> {
        self.portals.iter().find(|(portal, _)| **portal == *name).map(|(_, statement)| statement)
    }

    /// Ready for the next one; keeps no memory of portals, which ended with it.
    pub fn end(&mut self) {
        let mut portals = std::mem::take(&mut self.portals);
        portals.clear();
        *self = Transaction { portals, ..Transaction::default() };
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
