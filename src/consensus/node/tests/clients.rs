//! Clients that write numbered rows through a node, and what they were told.
//!
//! A node sends a row only to the primary that `publish` names, and looks at its right to before it sends and before it
//! says that the row is there: the rules of `session`. Each row is sent once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::sleep;

use super::servers::{Answer, Ground, Written};
use crate::cluster::publish::Published;
use crate::cluster::right::{Standing, WriteRight};
use crate::consensus::node::core::lock;
use crate::topology::{Epoch, Snapshot};

const LOOK_AGAIN: Duration = Duration::from_millis(25);
/// As with the default timeouts of elections.
const LEASE_AWAITED: Duration = Duration::from_millis(3600);

/// What all clients were told.
#[derive(Default)]
pub struct Told {
    next_row: u64,
    /// By row: in which epoch.
    pub acknowledged: BTreeMap<u64, u64>,
    pub unknown: u64,
    /// When somebody was last told of a row by that node, by the world's clock.
    pub last_by_node: BTreeMap<String, u64>,
}

pub type Records = Arc<Mutex<Told>>;
/// Rows that a node has under way, by server and epoch.
pub type UnderWay = Arc<Mutex<BTreeMap<(usize, u64), usize>>>;
/// To be asked right before a row is sent, and before somebody is told of it: epoch, server.
pub type MayUse = Arc<dyn Fn(u64, usize) + Send + Sync>;

#[derive(Clone)]
pub struct Gateway {
    pub ground: Ground,
    pub right: Arc<WriteRight>,
    pub published: Arc<Published>,
    pub records: Records,
    pub under_way: UnderWay,
    pub may_use: MayUse,
}

/// Counts while it lives.
struct Place(UnderWay, (usize, u64));

impl Drop for Place {
    fn drop(&mut self) {
        let mut rows = lock(&self.0);
        if let Some(rows) = rows.get_mut(&self.1) {
            *rows -= 1;
        }
    }
}

impl Gateway {
    pub async fn client(self, pause: (u64, u64)) {
        loop {
            let ms = {
                let mut world = lock(&self.ground.world);
                world.ms(pause.0, pause.1)
            };
            sleep(Duration::from_millis(ms)).await;
            self.write_one().await;
        }
    }

    async fn write_one(&self) {
        let (server, epoch) = loop {
            let snapshot = self.published.snapshot.borrow().clone();
            match self.usable(&snapshot) {
                Some(found) => break found,
                None => sleep(LOOK_AGAIN).await,
            }
        };
        let row = {
            let mut told = lock(&self.records);
            told.next_row += 1;
            told.next_row
        };
        let place = (server, epoch.0);
        *lock(&self.under_way).entry(place).or_default() += 1;
        let _place = Place(self.under_way.clone(), place);
        (self.may_use)(epoch.0, server);
        let written = tokio::select! {
            written = self.ground.write(server, row) => written,
            // Connections of an epoch end with it.
            () = self.epoch_ends(epoch) => Written::Unknown,
        };
        match written {
            Written::Answered(Answer::Committed) if self.comes_back(epoch).await => {
                (self.may_use)(epoch.0, server);
                let now_ms = lock(&self.ground.world).now_ms;
                let mut told = lock(&self.records);
                told.acknowledged.insert(row, epoch.0);
                told.last_by_node.insert(self.ground.node.clone(), now_ms);
            }
            Written::Answered(Answer::Refused) => {}
            Written::Answered(_) | Written::Unknown => lock(&self.records).unknown += 1,
        }
    }

    fn usable(&self, snapshot: &Snapshot) -> Option<(usize, Epoch)> {
        let primary = snapshot.primary?;
        let allowed = self.right.allows(snapshot.epoch, || (self.ground.now)());
        allowed.then_some((usize::from(primary.0), snapshot.epoch))
    }

    /// Whether what was said in that epoch may be passed on: waits for the next lease, if this one has ended.
    async fn comes_back(&self, epoch: Epoch) -> bool {
        for _ in 0..LEASE_AWAITED.as_millis() / LOOK_AGAIN.as_millis() {
            match self.right.standing(epoch, || (self.ground.now)()) {
                Standing::Good => return true,
                Standing::Suspended => sleep(LOOK_AGAIN).await,
                Standing::Over => return false,
            }
        }
        false
    }

    async fn epoch_ends(&self, epoch: Epoch) {
        let mut snapshot = self.published.snapshot.clone();
        loop {
            let now = snapshot.borrow_and_update().epoch;
            if now != epoch || snapshot.changed().await.is_err() {
                return;
            }
        }
    }
}
