//! One endpoint, running: made from its settings, watched through its channels.

use crate::authority::Authority;
use crate::aws::identity::NetworkInterface;
use crate::aws::{Aws, Identity};
use crate::claim::Claim;
use crate::command::Command;
use crate::elastic_ip::{ElasticIp, ElasticIpRules};
use crate::interface::{Interface, InterfaceError};
use crate::method::Method;
use crate::reconcile::core::Reconciler;
use crate::reconcile::pace::Pace;
use crate::reconcile::{self, Surroundings};
use crate::route_table::{RouteTable, RouteTableRules};
use crate::route53::{self, AddressKind, Route53, Route53Rules};
use crate::secondary_ip::{SecondaryIp, SecondaryIpRules};
use crate::settings::{EndpointSettings, MethodSettings, SettingsError};
use crate::status::{Event, Status};
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::Ipv4Addr;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// This node, as its endpoints need to know it.
#[derive(Clone)]
pub struct Host {
    /// The node's id in the cluster.
    pub node: Arc<str>,
    /// None outside AWS.
    pub cloud: Option<Cloud>,
    pub pace: Pace,
}

#[derive(Clone)]
pub struct Cloud {
    pub aws: Aws,
    pub identity: Identity,
}

/// A running loop. It ends when this is dropped; what the node holds then stays as it is.
pub struct Endpoint {
    pub name: Arc<str>,
    /// As configured: `elastic-ip` …
    pub method: &'static str,
    pub status: watch::Receiver<Status>,
    task: JoinHandle<()>,
}

impl Endpoint {
    /// Its loop panicked, or nobody tells it any more whose the endpoint is.
    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What an endpoint is connected to.
pub struct Outlet {
    /// The log's word. The loop also ends when its sender is dropped.
    pub claim: watch::Receiver<Claim>,
    pub authority: Arc<dyn Authority>,
    /// The timeline. What finds no room is dropped: the status is always right.
    pub events: mpsc::Sender<Event>,
}

#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("endpoint {endpoint}: method {method} needs AWS")]
    NoCloud { endpoint: String, method: &'static str },
    #[error("endpoint {endpoint}: network interface {interface} has no {what}")]
    NoAddress { endpoint: String, interface: String, what: &'static str },
    #[error("endpoint {endpoint}: {source}")]
    Interface { endpoint: String, source: InterfaceError },
}

impl Endpoint {
    /// Must be called in a tokio runtime. Sends nothing before it returns.
    pub fn start(
        settings: &EndpointSettings,
        host: &Host,
        outlet: Outlet,
    ) -> Result<Endpoint, EndpointError> {
        settings.check()?;
        let name: Arc<str> = settings.name.as_str().into();
        let no_address = |interface: &NetworkInterface, what| EndpointError::NoAddress {
            endpoint: settings.name.clone(),
            interface: interface.id.clone(),
            what,
        };
        let cloud = || {
            host.cloud.clone().ok_or_else(|| EndpointError::NoCloud {
                endpoint: settings.name.clone(),
                method: settings.method.name(),
            })
        };
        let private = |interface: &NetworkInterface| -> Result<Ipv4Addr, EndpointError> {
            interface.private_ipv4.ok_or_else(|| no_address(interface, "private IPv4 address"))
        };
        let start = Start { settings, host, outlet };
        match &settings.method {
            MethodSettings::ElasticIp(method) => {
                let Cloud { aws, identity: Identity { interface, .. } } = cloud()?;
                let private_ip = private(&interface)?;
                let rules = ElasticIpRules { interface: interface.id, private_ip };
                Ok(start.with(name, ElasticIp::new(aws, method, rules)))
            }
            MethodSettings::Route53(method) => {
                let Cloud { aws, identity } = cloud()?;
                let addresses = route53::addresses(method, &identity.interface);
                let lacks = |ipv6| !addresses.iter().any(|address| address.is_ipv6() == ipv6);
                if lacks(false) {
                    let what = match method.address {
                        AddressKind::Private => "private IPv4 address",
                        AddressKind::Public => "public IPv4 address",
                    };
                    return Err(no_address(&identity.interface, what));
                }
                if method.ipv6 && lacks(true) {
                    return Err(no_address(&identity.interface, "IPv6 address"));
                }
                let rules = Route53Rules { addresses, ttl_s: method.ttl_s };
                Ok(start.with(name, Route53::new(aws, method, rules)))
            }
            MethodSettings::RouteTable(method) => {
                let Cloud { aws, identity } = cloud()?;
                let rules = RouteTableRules {
                    interface: identity.interface.id,
                    tables: method.tables.clone(),
                    // AWS keeps networks with the host's bits at zero.
                    destinations: method.destinations.iter().map(ipnet::IpNet::trunc).collect(),
                };
                Ok(start.with(name, RouteTable::new(aws, rules)))
            }
            MethodSettings::SecondaryIp(method) => {
                let Cloud { aws, identity: Identity { interface, .. } } = cloud()?;
                let rules = SecondaryIpRules { interface: interface.id, address: method.address };
                Ok(start.with(name, SecondaryIp::new(aws, rules, interface.subnet_id)))
            }
            MethodSettings::Interface(method) => {
                let interface = Interface::new(method)
                    .map_err(|source| EndpointError::Interface { endpoint: settings.name.clone(), source })?;
                Ok(start.with(name, interface))
            }
            MethodSettings::Command(method) => {
                let command = Command::new(method.clone(), host.node.to_string());
                Ok(start.with(name, command))
            }
        }
    }
}

struct Start<'a> {
    settings: &'a EndpointSettings,
    host: &'a Host,
    outlet: Outlet,
}

impl Start<'_> {
    fn with<M: Method>(self, name: Arc<str>, method: M) -> Endpoint {
        // Only to keep the nodes from asking in step: any seed that differs between them will do.
        let seed = RandomState::new().hash_one(&name);
        let reconciler = Reconciler::new(method.rules().clone(), self.host.pace, seed);
        let (status, watched) = watch::channel(reconciler.status().clone());
        let method_name = self.settings.method.name();
        let around = Surroundings {
            endpoint: name.clone(),
            method_name,
            node: self.host.node.clone(),
            before: self.settings.pre.clone(),
            after: self.settings.post.clone(),
            claim: self.outlet.claim,
            authority: self.outlet.authority,
            status,
            events: self.outlet.events,
            now_ms: reconcile::boottime(),
        };
        let task = tokio::spawn(reconcile::run(Arc::new(method), reconciler, around));
        Endpoint { name, method: method_name, status: watched, task }
    }
}
