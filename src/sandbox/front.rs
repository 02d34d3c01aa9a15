//! An endpoint as clients find it: a relay that stands for the network between them and the nodes, and what leads it.
//!
//! Invariant: it leads to the node that has the endpoint by what the network knows, and to nobody if none has.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::aws::Follower;
use super::endpoint::Endpoint;
use super::relay::Relay;

#[derive(Debug)]
pub struct Front {
    pub name: String,
    /// As it is written in a configuration.
    pub method: &'static str,
    pub relay: Arc<Relay>,
    pub lead: Lead,
}

#[derive(Debug)]
pub enum Lead {
    /// The nodes' programs tell who has it.
    Told(Mutex<Endpoint>),
    /// An address that the nodes take themselves: the relay always leads there, and is told nothing.
    Moving(SocketAddr),
    /// A double of AWS has it.
    Followed(Follower),
}

impl Front {
    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.relay.address()
    }

    /// Whether a node has it, as far as that is known here.
    pub fn is_taken(&self) -> bool {
        match &self.lead {
            Lead::Told(endpoint) => locked(endpoint).holder().is_some(),
            Lead::Moving(_) => true,
            Lead::Followed(follower) => follower.holder().borrow().is_some(),
        }
    }

    /// The address that moves between the nodes by itself, if it is one.
    pub fn moving_address(&self) -> Option<SocketAddr> {
        if let Lead::Moving(address) = self.lead { Some(address) } else { None }
    }

    /// Who has it in the double of AWS, if it is there.
    pub fn followed(&self) -> Option<watch::Receiver<Option<String>>> {
        if let Lead::Followed(follower) = &self.lead { Some(follower.holder()) } else { None }
    }

    /// What the nodes' programs told, if they are asked.
    pub fn told(&self) -> Option<MutexGuard<'_, Endpoint>> {
        if let Lead::Told(endpoint) = &self.lead { Some(locked(endpoint)) } else { None }
    }
}

fn locked(endpoint: &Mutex<Endpoint>) -> MutexGuard<'_, Endpoint> {
    endpoint.lock().unwrap_or_else(PoisonError::into_inner)
}
