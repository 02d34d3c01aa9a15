//! What the operating role does to a server over SQL.

use super::World;
use super::server::Process;
use crate::cluster::conninfo::Conninfo;
use crate::cluster::operate::{Operation, repoint, slots};
use crate::config;

impl World {
    /// Over a connection that is there. The words of an error are nobody's concern.
    pub fn carry_out(
        &mut self,
        index: usize,
        operation: &Operation,
        epoch: u64,
        failover: &config::Failover,
    ) -> Result<(), String> {
        let server = &mut self.servers[index];
        if server.process != Process::Running {
            return Err(format!("{} takes no connections", server.id));
        }
        match operation {
            Operation::StopReceiving if server.disk.standby => {
                let now = Conninfo::parse(&server.disk.conninfo).unwrap_or_default();
                if let Some(nowhere) = repoint::nowhere(&now) {
                    let by_slot = server.disk.by_slot;
                    self.repoint(index, nowhere, by_slot);
                }
            }
            Operation::StopReceiving => {}
            Operation::Follow { upstream } if server.disk.standby => {
                let now = Conninfo::parse(&server.disk.conninfo).unwrap_or_default();
                let next = repoint::following(&now, server.id, upstream, failover).to_string();
                self.repoint(index, next, true);
            }
            Operation::Follow { .. } => return Err("it is no standby".to_owned()),
            Operation::SetSynchronousStandbys { names } => self.set_synchronous(index, names),
            Operation::Slots { wanted, unwanted } => {
                server.disk.slots.retain(|slot| !unwanted.contains(slot) || !slots::is_ours(slot));
                server.disk.slots.extend(wanted.iter().cloned());
            }
            Operation::Checkpoint => server.checkpoint(),
            Operation::Promote { .. } if server.disk.standby => {
                server.promoting = Some(epoch);
                let what = format!("  {} is to be promoted for epoch {epoch}", server.id);
                self.note(what);
                let known = *self.promoted.entry(epoch).or_insert(index);
                if known != index {
                    self.violations.push(format!("two servers were promoted in epoch {epoch}"));
                }
            }
            Operation::Promote { .. } | Operation::AdvanceSlots { .. } => {}
        }
        Ok(())
    }

    fn repoint(&mut self, index: usize, conninfo: String, by_slot: bool) {
        let disk = &self.servers[index].disk;
        if disk.conninfo == conninfo && disk.by_slot == by_slot {
            return;
        }
        let ends_ms = self.ms(0, super::RECEIVER_ENDS_MS);
        let server = &mut self.servers[index];
        (server.disk.conninfo, server.disk.by_slot) = (conninfo, by_slot);
        server.receiver_ends_at_ms = Some(self.now_ms + ends_ms);
        server.receive_again_at_ms = self.now_ms;
    }
}
