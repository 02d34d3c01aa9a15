//! The types that openraft is used with.
//!
//! The store is written for any [`NodeTypes`], so that a simulation brings an `AsyncRuntime` of its own and keeps the rest.

use std::io::Cursor;

use openraft::RaftTypeConfig;
use serde::{Deserialize, Serialize};

use crate::cluster::state::{Command, Outcome};

/// A node as raft's membership knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Peer {
    pub id: String,
    pub address: String,
    /// Which life of the node this is. Each has a raft id of its own.
    pub incarnation: u64,
}

openraft::declare_raft_types!(
    pub TypeConfig:
        D = Command,
        R = Outcome,
        NodeId = u64,
        Node = Peer,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = openraft::TokioRuntime,
);

/// What the store needs of a configuration of types: everything but the runtime.
pub trait NodeTypes:
    RaftTypeConfig<
        D = Command,
        R = Outcome,
        NodeId = u64,
        Node = Peer,
        Entry = openraft::Entry<Self>,
        SnapshotData = Cursor<Vec<u8>>,
    >
{
}

impl<C> NodeTypes for C where
    C: RaftTypeConfig<
            D = Command,
            R = Outcome,
            NodeId = u64,
            Node = Peer,
            Entry = openraft::Entry<C>,
            SnapshotData = Cursor<Vec<u8>>,
        >
{
}

pub type LogId = openraft::LogId<u64>;
pub type Vote = openraft::Vote<u64>;
pub type Membership = openraft::StoredMembership<u64, Peer>;
pub type SnapshotMeta = openraft::SnapshotMeta<u64, Peer>;
pub type StorageError = openraft::StorageError<u64>;
