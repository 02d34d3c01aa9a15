//! Puts an address on a network interface of this host, and tells the neighbours: a virtual address without AWS.

mod announce;
mod netlink;
pub mod plan;

use crate::authority::Permit;
use crate::error::{Error, Fault};
use crate::method::{Applied, Confirmation, Method};
use ipnet::IpNet;
use netlink::Netlink;
pub use plan::{InterfaceRules, Link, Present, Step};
use serde::Deserialize;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterfaceSettings {
    /// `eth0` …
    pub device: String,
    /// With the prefix of its network: `10.0.0.9/24`.
    pub address: IpNet,
    /// The kernel takes the address away so long after komainu stopped renewing it. 0: never.
    #[serde(default = "default_lifetime_s")]
    pub lifetime_s: u32,
}

fn default_lifetime_s() -> u32 {
    plan::LIFETIME_MIN_S
}

#[derive(Debug, thiserror::Error)]
#[error("{operation} {subject}: {source}")]
pub struct InterfaceError {
    pub operation: &'static str,
    pub subject: String,
    pub source: io::Error,
}

impl InterfaceError {
    pub fn fault(&self) -> Fault {
        match self.source.kind() {
            io::ErrorKind::PermissionDenied => Fault::NotPermitted,
            io::ErrorKind::AlreadyExists | io::ErrorKind::AddrNotAvailable => Fault::Conflict,
            io::ErrorKind::TimedOut => Fault::OutcomeUnknown,
            _ => Fault::Local,
        }
    }
}

/// Neighbours may miss one announcement: it is repeated this often after the first.
const REPEAT_ANNOUNCEMENT: u32 = 4;
const REPEAT_ANNOUNCEMENT_EVERY: Duration = Duration::from_millis(500);

pub struct Interface {
    rules: InterfaceRules,
    netlink: Netlink,
}

impl Interface {
    /// Opens a netlink socket; must be called in a tokio runtime.
    pub fn new(settings: &InterfaceSettings) -> Result<Interface, InterfaceError> {
        let rules = InterfaceRules {
            device: settings.device.clone(),
            address: settings.address,
            lifetime_s: (settings.lifetime_s > 0).then_some(settings.lifetime_s),
        };
        let failed =
            |source| InterfaceError { operation: "open netlink for", subject: rules.device.clone(), source };
        let netlink = Netlink::open().map_err(failed)?;
        Ok(Interface { netlink, rules })
    }

    fn failed(&self, operation: &'static str) -> impl Fn(io::Error) -> InterfaceError {
        let subject = format!("{} on {}", self.rules.address, self.rules.device);
        move |source| InterfaceError { operation, subject: subject.clone(), source }
    }

    async fn announce(&self, index: u32) -> io::Result<()> {
        match self.rules.address.addr() {
            IpAddr::V4(address) => {
                // An interface without a hardware address (a tunnel, lo) has no neighbours to tell.
                let Some(mac) = self.netlink.hardware_address(&self.rules.device).await? else {
                    return Ok(());
                };
                announce::gratuitous_arp(index, mac, address)
            }
            IpAddr::V6(address) => {
                let mac = self.netlink.hardware_address(&self.rules.device).await?;
                announce::unsolicited_advertisement(index, mac, address)
            }
        }
    }
}

/// All of them, on whichever interface.
pub async fn addresses_of_this_host() -> io::Result<Vec<IpAddr>> {
    Netlink::open()?.all().await
}

impl Method for Interface {
    type Rules = InterfaceRules;

    fn rules(&self) -> &InterfaceRules {
        &self.rules
    }

    async fn inspect(&self) -> Result<Link, Error> {
        let failed = self.failed("look for");
        let Some(index) = self.netlink.index(&self.rules.device).await.map_err(&failed)? else {
            return Ok(Link { index: None, address: None });
        };
        let address = self.netlink.find(index, self.rules.address).await.map_err(&failed)?;
        Ok(Link { index: Some(index), address })
    }

    async fn apply(&self, step: &Step, permit: &Permit) -> Result<Applied, Error> {
        permit.check()?;
        let (address, lifetime_s) = (self.rules.address, self.rules.lifetime_s);
        match *step {
            Step::Add { index } => {
                self.netlink.add(index, address, lifetime_s, false).await.map_err(self.failed("add"))?;
            }
            Step::Renew { index } => {
                self.netlink.add(index, address, lifetime_s, true).await.map_err(self.failed("renew"))?;
            }
            Step::Announce { index } => {
                // Neighbours learn of it with their next question anyway: no reason to say that it was not taken.
                if let Err(error) = self.announce(index).await {
                    tracing::warn!(%error, device = self.rules.device, "could not tell the neighbours of the address");
                }
            }
            Step::Remove { index } => {
                self.netlink.remove(index, address).await.map_err(self.failed("remove"))?;
            }
        }
        Ok(Applied::default())
    }

    async fn confirm(&self) -> Confirmation {
        for _ in 0..REPEAT_ANNOUNCEMENT {
            tokio::time::sleep(REPEAT_ANNOUNCEMENT_EVERY).await;
            // Only while it is really here: else it would draw traffic from the next owner.
            let Ok(Link { index: Some(index), address: Some(_) }) = self.inspect().await else { break };
            let _ = self.announce(index).await;
        }
        Confirmation::default()
    }
}
