//! What every connection of this node needs: who it is, its certificates, its limits, whom it admits.

use std::sync::{Mutex, PoisonError};

use super::hello::{Hello, OLDEST_PROTOCOL, PROTOCOL};
use super::limits::PeerLimits;
use super::tls::PeerTls;
use crate::cluster::state::LOG_FORMAT;
use crate::pki::NodeName;

/// A last word on whether a peer may connect, once all else about it is in order: the log may know better which
/// incarnation of it is the real one.
pub type Admit = Box<dyn Fn(&Hello) -> Result<(), String> + Send + Sync>;

pub struct PeerContext {
    pub local: LocalNode,
    pub tls: PeerTls,
    pub limits: PeerLimits,
    pub admit: Admit,
}

impl std::fmt::Debug for PeerContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerContext").field("local", &self.local).finish_non_exhaustive()
    }
}

/// Who this node is. Cluster identifier and incarnation are learned after the start, when it joins.
#[derive(Debug)]
pub struct LocalNode {
    name: NodeName,
    joined: Mutex<(Option<String>, u64)>,
}

impl LocalNode {
    pub fn new(name: NodeName, cluster_id: Option<String>, incarnation: u64) -> Self {
        LocalNode { name, joined: Mutex::new((cluster_id, incarnation)) }
    }

    pub fn name(&self) -> &NodeName {
        &self.name
    }

    /// Said on connections that are made from now on.
    pub fn joined(&self, cluster_id: String, incarnation: u64) {
        *self.joined.lock().unwrap_or_else(PoisonError::into_inner) = (Some(cluster_id), incarnation);
    }

    pub(super) fn hello(&self) -> Hello {
        let (cluster_id, incarnation) = self.joined.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Hello {
            protocol: PROTOCOL,
            oldest_protocol: OLDEST_PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            cluster: self.name.cluster.clone(),
            cluster_id,
            node: self.name.node.clone(),
            incarnation,
            log_format: LOG_FORMAT,
        }
    }
}
