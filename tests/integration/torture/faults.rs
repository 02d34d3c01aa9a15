//! What is broken, how it is mended, and what proves that it was broken.
//!
//! Drawn from a seed among the faults that proxies of this kind must survive. Invariant: a fault without proof is a test
//! that failed, and what was broken is mended whatever comes of it.

use std::fmt;
use std::fs;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::Duration;

use komainu::sandbox::{Ready, Request};
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use super::ground::Ground;
use crate::support::*;

/// For a process to be seen in another state, and for a port to be silent.
const PROVEN_WITHIN: Duration = Duration::from_secs(10);
const SILENT_FOR: Duration = Duration::from_millis(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    KillPrimary,
    KillStandby,
    StopPrimary,
    FreezePrimary,
    FreezeStandby,
    CutPrimary,
    CutStandby,
    KillAgent,
    KillLeader,
    KillNode,
    FreezeLeader,
    FreezeNode,
    CutLeader,
    CutNode,
    Switchover,
    DetachStandby,
    RestartAll,
}

pub const KINDS: [Kind; 17] = [
    Kind::KillPrimary,
    Kind::KillStandby,
    Kind::StopPrimary,
    Kind::FreezePrimary,
    Kind::FreezeStandby,
    Kind::CutPrimary,
    Kind::CutStandby,
    Kind::KillAgent,
    Kind::KillLeader,
    Kind::KillNode,
    Kind::FreezeLeader,
    Kind::FreezeNode,
    Kind::CutLeader,
    Kind::CutNode,
    Kind::Switchover,
    Kind::DetachStandby,
    Kind::RestartAll,
];

/// A fault of somebody.
#[derive(Debug, Clone)]
pub struct Fault {
    pub kind: Kind,
    pub of: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, self.of)
    }
}

impl Fault {
    /// Of whom it can be now. None: of nobody, while the nodes do not agree who is what.
    pub fn draw(kind: Kind, ground: &Ground, random: &mut StdRng) -> Option<Fault> {
        let (primary, leader) = (ground.primary()?, ground.leader()?);
        let ready = &ground.sandbox.ready;
        let ids = |list: &str| -> Vec<String> {
            let all = ready[list].as_array().into_iter().flatten();
            all.map(|part| part["id"].as_str().unwrap().to_owned()).collect()
        };
        let standby = |random: &mut StdRng| {
            let standbys: Vec<String> = ids("servers").into_iter().filter(|id| *id != primary).collect();
            standbys.choose(random).cloned()
        };
        let of = match kind {
            Kind::KillPrimary | Kind::StopPrimary | Kind::FreezePrimary | Kind::CutPrimary => primary,
            Kind::Switchover => primary,
            Kind::KillStandby | Kind::FreezeStandby | Kind::CutStandby | Kind::DetachStandby => {
                standby(random)?
            }
            Kind::KillAgent => ids("agents").choose(random)?.clone(),
            Kind::KillLeader | Kind::FreezeLeader | Kind::CutLeader => leader,
            Kind::KillNode | Kind::FreezeNode | Kind::CutNode => ids("nodes").choose(random)?.clone(),
            Kind::RestartAll => "everything".to_owned(),
        };
        Some(Fault { kind, of })
    }

    /// How long it lasts, before it is mended.
    pub fn lasts(&self, random: &mut StdRng) -> Duration {
        Duration::from_millis(match self.kind {
            Kind::Switchover | Kind::RestartAll => 0,
            _ => random.random_range(200..8_000),
        })
    }

    /// Breaks it, and says what proves that.
    pub fn strike(&self, ground: &Ground) -> Result<String, String> {
        let before = ground.describe();
        let id = || self.of.clone();
        match self.kind {
            Kind::KillPrimary | Kind::KillStandby | Kind::KillAgent | Kind::KillLeader | Kind::KillNode => {
                ground.tell(&Request::Kill { id: id() })?;
                is_gone(pid_of(&before, &self.of)?)
            }
            Kind::StopPrimary => {
                ground.tell(&Request::Stop { id: id() })?;
                is_gone(pid_of(&before, &self.of)?)
            }
            Kind::FreezePrimary | Kind::FreezeStandby => {
                // The host hangs, and with it whoever could be asked about it.
                ground.tell(&Request::Freeze { id: id() })?;
                ground.tell(&Request::Freeze { id: agent_of(&self.of) })?;
                is_frozen(pid_of(&before, &self.of)?)
            }
            Kind::FreezeLeader | Kind::FreezeNode => {
                ground.tell(&Request::Freeze { id: id() })?;
                is_frozen(pid_of(&before, &self.of)?)
            }
            Kind::CutPrimary | Kind::CutStandby | Kind::CutLeader | Kind::CutNode => {
                let address = address_of(&before, &self.of)?;
                let opened = reaches(address);
                ground.tell(&Request::Cut { id: id() })?;
                is_silent(address, opened)
            }
            Kind::Switchover => {
                let before = ground.last_event();
                ground.order("/switchover", &serde_json::json!({ "cause": "operator:torture" }))?;
                let is_noted = format!("switchover from {}", self.of);
                match ground.has_happened(&is_noted, before, PROVEN_WITHIN) {
                    true => Ok(format!("the log has: {is_noted}")),
                    false => Err("no node has begun it".to_owned()),
                }
            }
            Kind::DetachStandby => {
                ground.order("/server/administrative", &administrative(&self.of, "detached"))?;
                match ground.waits_for(PROVEN_WITHIN, || {
                    ground.administrative(&self.of).as_deref() == Some("detached")
                }) {
                    true => Ok("the nodes say that it is detached".to_owned()),
                    false => Err("no node says that it is detached".to_owned()),
                }
            }
            Kind::RestartAll => {
                let all = ground.ids();
                for id in &all {
                    ground.tell(&Request::Kill { id: id.clone() })?;
                }
                let gone = all.iter().map(|id| pid_of(&before, id).and_then(is_gone));
                let gone: Vec<String> = gone.collect::<Result<_, _>>()?;
                Ok(format!("{} processes ended", gone.len()))
            }
        }
    }

    /// What komainu is to do by itself is not done here: to start what it has failed over, for one.
    pub fn mend(&self, ground: &Ground) {
        let id = || self.of.clone();
        match self.kind {
            Kind::KillPrimary | Kind::StopPrimary | Kind::Switchover => {}
            Kind::KillStandby | Kind::KillAgent | Kind::KillLeader | Kind::KillNode => {
                ground.bring_back(&[id()])
            }
            Kind::FreezePrimary | Kind::FreezeStandby => {
                ground.certainly(&Request::Thaw { id: id() });
                ground.certainly(&Request::Thaw { id: agent_of(&self.of) });
            }
            Kind::FreezeLeader | Kind::FreezeNode => ground.certainly(&Request::Thaw { id: id() }),
            Kind::CutPrimary | Kind::CutStandby | Kind::CutLeader | Kind::CutNode => {
                ground.certainly(&Request::Join { id: id() });
            }
            Kind::DetachStandby => {
                // Not while nobody leads, or if it was quarantined meanwhile.
                ground.waits_for(PATIENCE, || {
                    ground.order("/server/administrative", &administrative(&self.of, "attached")).is_ok()
                        || ground.administrative(&self.of).as_deref() != Some("detached")
                });
            }
            Kind::RestartAll => ground.bring_back(&ground.ids()),
        }
    }
}

fn administrative(id: &str, state: &str) -> serde_json::Value {
    serde_json::json!({ "id": id, "state": state, "cause": "operator:torture" })
}

fn agent_of(server: &str) -> String {
    format!("agent-{server}")
}

fn pid_of(ready: &Ready, id: &str) -> Result<u32, String> {
    let nodes = ready.nodes.iter().map(|node| (&node.id, node.pid));
    let servers = ready.servers.iter().map(|server| (&server.id, server.pid));
    let agents = ready.agents.iter().map(|agent| (&agent.id, agent.pid));
    let found = nodes.chain(servers).chain(agents).find(|(known, _)| *known == id);
    found.map(|(_, pid)| pid).filter(|pid| *pid != 0).ok_or_else(|| format!("{id} has no process to break"))
}

fn address_of(ready: &Ready, id: &str) -> Result<SocketAddr, String> {
    let server = ready.servers.iter().find(|server| server.id == id);
    let server = server.map(|server| format!("{}:{}", server.host, server.port));
    let node = ready.nodes.iter().find(|node| node.id == id).and_then(|node| {
        let (_, rest) = node.url.rsplit_once('@')?;
        Some(rest.split('/').next()?.to_owned())
    });
    let text = server.or(node).ok_or_else(|| format!("{id} has no address"))?;
    let mut addresses = text.to_socket_addrs().map_err(|error| format!("{text}: {error}"))?;
    addresses.next().ok_or_else(|| format!("{text} is no address"))
}

/// Of `/proc/PID/stat`; None: there is no such process any more.
fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

fn within(condition: impl Fn() -> bool) -> bool {
    let deadline = std::time::Instant::now() + PROVEN_WITHIN;
    while !condition() {
        if std::time::Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

fn is_gone(pid: u32) -> Result<String, String> {
    match within(|| matches!(state(pid), None | Some('Z'))) {
        true => Ok(format!("process {pid} is gone")),
        false => Err(format!("process {pid} goes on")),
    }
}

fn is_frozen(pid: u32) -> Result<String, String> {
    match within(|| state(pid) == Some('T')) {
        true => Ok(format!("process {pid} is stopped")),
        false => Err(format!("process {pid} is not stopped: {:?}", state(pid))),
    }
}

fn reaches(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, SILENT_FOR).is_ok()
}

fn is_silent(address: SocketAddr, opened_before: bool) -> Result<String, String> {
    match (opened_before, within(|| !reaches(address))) {
        (true, true) => Ok(format!("{address} took connections, and takes none")),
        (false, _) => Err(format!("{address} took no connections before")),
        (true, false) => Err(format!("{address} still takes connections")),
    }
}
