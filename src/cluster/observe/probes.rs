//! The probes of the servers there are: one for each, as long as it is one of them.
//!
//! Never interprets what they find. Invariant: a server that is no longer configured is not looked at any more.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;

use super::name::LeadsTo;
use super::probe::{Look, Probe};
use super::{LookNow, Settings};
use crate::cluster::model::{Observation, View};
use crate::topology::{ServerIndex, ServerState};

/// The probes of the servers there are, and what they found.
pub(super) struct Probes {
    wakes: LookNow,
    looks: mpsc::Sender<Look>,
    settings: watch::Receiver<Arc<Settings>>,
    unsettled: watch::Sender<bool>,
    running: BTreeMap<ServerIndex, (AbortHandle, Observation)>,
}

impl Probes {
    pub fn new(
        wakes: LookNow,
        looks: mpsc::Sender<Look>,
        settings: watch::Receiver<Arc<Settings>>,
        unsettled: watch::Sender<bool>,
    ) -> Self {
        Probes { wakes, looks, settings, unsettled, running: BTreeMap::new() }
    }

    /// Begins to look at those of a view that are new, and ends it for those that are not in it.
    pub fn follow(&mut self, view: &View) {
        let (wakes, snapshot) = (self.wakes.clone(), &view.snapshot);
        let mut wakes = wakes.wakes();
        self.running.retain(|&index, (probe, _)| {
            let stays = snapshot.server(index).is_some();
            if !stays {
                probe.abort();
                wakes.remove(&index);
            }
            stays
        });
        for server in &snapshot.servers {
            self.running.entry(server.index).or_insert_with(|| {
                let wake = Arc::<Notify>::default();
                wakes.insert(server.index, wake.clone());
                let probe = Probe {
                    index: server.index,
                    id: server.id.clone(),
                    host: server.host.clone(),
                    port: server.port,
                    settings: self.settings.clone(),
                    looks: self.looks.clone(),
                    wake,
                    unsettled: self.unsettled.subscribe(),
                    leads_to: LeadsTo::default(),
                };
                (tokio::spawn(probe.run()).abort_handle(), Observation::default())
            });
        }
    }

    /// What is known of a server; none, if it is not looked at.
    pub fn found(&mut self, index: ServerIndex) -> Option<&mut Observation> {
        self.running.get_mut(&index).map(|(_, found)| found)
    }

    /// Whether looks are to follow each other faster.
    pub fn look_more_often(&self, more: bool) {
        self.unsettled.send_if_modified(|value| std::mem::replace(value, more) != *value);
    }

    /// In the order of a view that they follow.
    pub fn observations(&self, view: &View, settings: &Settings) -> Vec<Observation> {
        let of = |server: &ServerState| {
            let found = self.running.get(&server.index).map(|(_, found)| found.clone()).unwrap_or_default();
            Observation { retries: settings.health_of(&server.id).retries, ..found }
        };
        view.snapshot.servers.iter().map(of).collect()
    }
}
