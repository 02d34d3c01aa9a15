//! The double of AWS that a sandbox's nodes stand before, and how it leads clients to one of them.
//!
//! Owns moto's server, the proxy before it, a metadata service for each node, and the name server. What is in it is
//! made in `resources`; where an endpoint leads is read from it in `follow`, never from the nodes. Everything ends
//! with this value.

mod follow;
mod python;
mod resources;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::Ipv4Net;
use komainu_aws_double::{Api, Imds, Moto, NameServer, Proxy, Zone};
use tokio::runtime::Handle;

use super::args::Method;
use super::error::SandboxError;
use super::network::Network;
use super::node::Node;
use super::ready::{ReadyAws, ReadyInstance};
use super::relay::Relay;
use follow::View;
pub use follow::{Follower, Seat};
pub use python::{PYTHON, find as find_python};
use resources::Resources;

/// Where the nodes are in the double, when they have no addresses of their own on this machine.
const NETWORK: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 24);
const FIRST_NODE: u8 = 11;

#[derive(Debug)]
pub struct Double {
    api: Api,
    proxy: Proxy,
    metadata: Vec<Imds>,
    names: NameServer,
    resources: Resources,
    /// Last: the others ask it.
    _moto: Moto,
}

impl Double {
    /// With an instance for each node. Blocks; must be called within a tokio runtime, but not on its own threads.
    pub fn start(moto: Moto, nodes: &[String], network: Option<&Network>) -> Result<Self, SandboxError> {
        let address = |(n, id): (u8, &String)| match network.and_then(|network| network.address(id)) {
            Some(address) => address,
            None => Ipv4Addr::from(u32::from(NETWORK.network()) + u32::from(n)),
        };
        let addresses: Vec<Ipv4Addr> = (FIRST_NODE..).zip(nodes).map(address).collect();
        let net = network.map_or(NETWORK, Network::net);
        // Where nodes with a network of their own reach this machine.
        let here = IpAddr::from(network.map_or(Ipv4Addr::LOCALHOST, Network::here));
        let starting = Self::furnished(moto, here, net, &addresses);
        let double = Handle::current().block_on(starting).map_err(SandboxError::Double)?;
        for node in nodes {
            for address in double.resources.answered() {
                network.map_or(Ok(()), |network| network.give(node, address))?;
            }
        }
        Ok(double)
    }

    async fn furnished(moto: Moto, here: IpAddr, net: Ipv4Net, addresses: &[Ipv4Addr]) -> io::Result<Self> {
        let api = Api { moto: moto.address() };
        let resources = Resources::create(&api, net, addresses).await?;
        let proxy = Proxy::start(here, api.moto).await?;
        let mut metadata = Vec::new();
        for instance in &resources.instances {
            metadata.push(Imds::start(here, &instance.metadata(&resources.subnet)).await?);
        }
        let zone = Zone { api, id: resources.zone.clone() };
        let names = NameServer::start(here, zone).await?;
        Ok(Self { api, proxy, metadata, names, resources, _moto: moto })
    }

    /// Past what stands before it.
    pub fn api(&self) -> Api {
        self.api
    }

    /// For nodes: AWS, as it would be.
    pub fn url(&self) -> String {
        self.proxy.url()
    }

    /// Where the node of this number asks who it is.
    pub fn metadata_url(&self, node: usize) -> Option<String> {
        self.metadata.get(node).map(Imds::url)
    }

    /// The method with what it moves, as a configuration says it; None if it is none of AWS's.
    pub fn method(&self, method: Method) -> Option<String> {
        let resources = &self.resources;
        let tables =
            resources.tables.iter().map(|table| format!("\"{table}\"")).collect::<Vec<_>>().join(", ");
        Some(match method {
            Method::ElasticIp => format!("elastic-ip = {{ allocation_id = \"{}\" }}", resources.allocation),
            Method::Route53 => format!(
                "route53 = {{ hosted_zone_id = \"{}\", name = \"{}\", ttl_s = {}, resolver = \"{}\" }}",
                resources.zone,
                resources::NAME,
                resources::TTL_S,
                self.names.address
            ),
            Method::RouteTable => format!(
                "route-table = {{ tables = [{tables}], destinations = [\"{}\"] }}",
                resources::DESTINATION
            ),
            Method::SecondaryIp => format!("secondary-ip = {{ address = \"{}\" }}", resources.secondary),
            Method::Command | Method::Interface => return None,
        })
    }

    /// Leads a relay's clients wherever the double does, from now on; None if the method is none of AWS's.
    pub fn follow(&self, method: Method, nodes: &[Node], relay: Arc<Relay>) -> Option<Follower> {
        let resources = &self.resources;
        let view = match method {
            Method::ElasticIp => View::Address { allocation: resources.allocation.clone() },
            Method::Route53 => View::Record {
                zone: Zone { api: self.api, id: resources.zone.clone() },
                name: resources::NAME.to_owned(),
            },
            Method::RouteTable => View::Route {
                // Clients are in one subnet, and that has one table.
                table: resources.tables.first()?.clone(),
                destination: resources::DESTINATION.to_owned(),
            },
            Method::SecondaryIp => View::Secondary { address: resources.secondary },
            Method::Command | Method::Interface => return None,
        };
        let seat = |(instance, node): (&resources::Instance, &Node)| Seat {
            node: node.id().to_owned(),
            interface: instance.interface.clone(),
            private_ip: instance.private_ip,
            address: node.address(),
        };
        let seats = resources.instances.iter().zip(nodes).map(seat).collect();
        Some(Follower::start(view, self.api, seats, self.proxy.changed(), relay))
    }

    pub fn ready(&self, nodes: &[Node]) -> ReadyAws {
        let resources = &self.resources;
        let instance = |((instance, imds), node): ((&resources::Instance, &Imds), &Node)| ReadyInstance {
            node: node.id().to_owned(),
            instance_id: instance.id.clone(),
            network_interface_id: instance.interface.clone(),
            private_ip: instance.private_ip,
            metadata_url: imds.url(),
        };
        ReadyAws {
            endpoint_url: self.url(),
            region: komainu_aws_double::api::REGION.to_owned(),
            instances: resources.instances.iter().zip(&self.metadata).zip(nodes).map(instance).collect(),
            allocation_id: resources.allocation.clone(),
            hosted_zone_id: resources.zone.clone(),
            name: resources::NAME.to_owned(),
            name_server: self.names.address.to_string(),
            route_tables: resources.tables.clone(),
            destination: resources::DESTINATION.to_owned(),
            secondary_address: resources.secondary,
        }
    }
}
