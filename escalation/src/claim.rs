//! What the raft log says about one endpoint, and what follows from it for this node.
//!
//! Pure.

/// The log's word on one endpoint, as this node has applied it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    pub owner: Owner,
    /// Raised by the log with each change of owner. Two owners never have the same one.
    pub epoch: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    This,
    Other,
    /// Not known: nothing was heard from the log yet, or nobody owns it.
    Unknown,
}

impl Claim {
    pub const UNKNOWN: Claim = Claim { owner: Owner::Unknown, epoch: 0 };
}

/// What this node should bring about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Desired {
    /// It is this node's: take it, keep it, repair it.
    Hold { epoch: u64 },
    /// It is another's: give up what is still this node's.
    Release { epoch: u64 },
    /// Not known, or this node has no lease: nothing remote is touched; what is local and would still draw
    /// traffic is taken down.
    Doubt,
}

impl Desired {
    /// `permitted`: the authority allows this node to hold it now.
    pub fn of(claim: Claim, permitted: bool) -> Desired {
        match claim.owner {
            Owner::This if permitted => Desired::Hold { epoch: claim.epoch },
            Owner::Other => Desired::Release { epoch: claim.epoch },
            Owner::This | Owner::Unknown => Desired::Doubt,
        }
    }
}
