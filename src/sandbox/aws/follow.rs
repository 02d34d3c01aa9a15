//! Leads clients where the double does: to the node that the address is associated with, that the name answers with,
//! or that the route leads to.
//!
//! Looks when something was changed through the proxy, and now and then; a name is asked again when its answer has
//! expired, as a client's resolver does. Invariant: the nodes are not asked, so what they only believe does not count.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use komainu_aws_double::api::{Api, element};
use komainu_aws_double::dns::{Answer, RecordType, Zone};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::super::relay::Relay;

/// For what is changed past the proxy.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A name without a record, or one whose answers are not to be kept.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// A node, as the double and as this machine knows it.
#[derive(Debug, Clone)]
pub struct Seat {
    pub node: String,
    pub interface: String,
    pub private_ip: Ipv4Addr,
    /// Where its clients connect.
    pub address: SocketAddr,
}

/// What leads clients to a node.
#[derive(Debug)]
pub enum View {
    Address { allocation: String },
    Record { zone: Zone, name: String },
    Route { table: String, destination: String },
    Secondary { address: Ipv4Addr },
}

/// What a look found.
struct Found<'a> {
    seat: Option<&'a Seat>,
    /// Whoever asked a name server keeps the answer for so long, and his connections for good.
    kept: Option<Duration>,
}

/// Follows until dropped.
#[derive(Debug)]
pub struct Follower {
    holder: watch::Receiver<Option<String>>,
    task: JoinHandle<()>,
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Follower {
    pub fn start(
        view: View,
        api: Api,
        seats: Vec<Seat>,
        changed: watch::Receiver<u64>,
        relay: Arc<Relay>,
    ) -> Self {
        let (told, holder) = watch::channel(None);
        Self { holder, task: tokio::spawn(follow(view, api, seats, changed, relay, told)) }
    }

    /// The node that clients are led to.
    pub fn holder(&self) -> watch::Receiver<Option<String>> {
        self.holder.clone()
    }
}

async fn follow(
    view: View,
    api: Api,
    seats: Vec<Seat>,
    mut changed: watch::Receiver<u64>,
    relay: Arc<Relay>,
    told: watch::Sender<Option<String>>,
) {
    loop {
        changed.mark_unchanged();
        let mut kept = None;
        // While the double does not answer, all stays as it is.
        if let Ok(found) = view.look(api, &seats).await {
            let address = found.seat.map(|seat| seat.address);
            match found.kept {
                Some(_) => relay.lead_newcomers_to(address),
                None => relay.point_at(address),
            }
            kept = found.kept;
            let node = found.seat.map(|seat| seat.node.clone());
            told.send_if_modified(|known| {
                *known != node && {
                    *known = node;
                    true
                }
            });
        }
        match kept {
            Some(kept) => sleep(kept).await,
            // An error is the double's end.
            None => drop(timeout(LOOK_EVERY, changed.changed()).await),
        }
    }
}

impl View {
    async fn look<'a>(&self, api: Api, seats: &'a [Seat]) -> io::Result<Found<'a>> {
        let by_interface = |interface: Option<&str>| Found {
            seat: seats.iter().find(|seat| Some(seat.interface.as_str()) == interface),
            kept: None,
        };
        match self {
            View::Address { allocation } => {
                let xml = api.ec2("DescribeAddresses", &[("AllocationId.1", allocation)]).await?;
                Ok(by_interface(element(&xml, "networkInterfaceId")))
            }
            View::Route { table, destination } => {
                let xml = api.ec2("DescribeRouteTables", &[("RouteTableId.1", table)]).await?;
                Ok(by_interface(target(&xml, destination)))
            }
            View::Record { zone, name } => {
                let answer = zone.ask(name, RecordType::A).await?;
                let address = answer.map(|answer| answer.address);
                Ok(Found {
                    seat: seats.iter().find(|seat| Some(IpAddr::from(seat.private_ip)) == address),
                    kept: Some(kept(answer)),
                })
            }
            View::Secondary { address } => {
                for seat in seats {
                    let asked = [("NetworkInterfaceId.1", seat.interface.as_str())];
                    let xml = api.ec2("DescribeNetworkInterfaces", &asked).await?;
                    if xml.contains(&format!("<privateIpAddress>{address}</privateIpAddress>")) {
                        return Ok(by_interface(Some(&seat.interface)));
                    }
                }
                Ok(by_interface(None))
            }
        }
    }
}

fn kept(answer: Option<Answer>) -> Duration {
    let ttl = answer.map_or(Duration::ZERO, |answer| Duration::from_secs(answer.ttl_s.into()));
    ttl.max(ASK_AGAIN_AFTER)
}

/// The interface that a route leads to.
fn target<'a>(tables: &'a str, destination: &str) -> Option<&'a str> {
    let (_, rest) =
        tables.split_once(&format!("<destinationCidrBlock>{destination}</destinationCidrBlock>"))?;
    let route = rest.split("</item>").next()?;
    element(route, "networkInterfaceId")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_s_target_is_its_own() {
        let tables = "<routeSet><item><destinationCidrBlock>192.0.2.10/32</destinationCidrBlock></item>\
            <item><destinationCidrBlock>10.0.0.0/24</destinationCidrBlock>\
            <networkInterfaceId>eni-1</networkInterfaceId></item></routeSet>";
        assert_eq!(target(tables, "192.0.2.10/32"), None);
        assert_eq!(target(tables, "10.0.0.0/24"), Some("eni-1"));
        assert_eq!(target(tables, "10.0.0.0/8"), None);
    }

    #[test]
    fn an_answer_is_kept_as_long_as_it_says() {
        let answer = |ttl_s| Some(Answer { address: Ipv4Addr::LOCALHOST.into(), ttl_s });
        assert_eq!(kept(answer(5)), Duration::from_secs(5));
        assert_eq!(kept(answer(0)), ASK_AGAIN_AFTER);
        assert_eq!(kept(None), ASK_AGAIN_AFTER);
    }
}
