//! One test's part of the double: a network, nodes in it, and one endpoint of each kind.

use super::imds::{Imds, Instance};
use super::proxy::{BY_HAND, Proxy};
use super::{HERE, moto, until, within};
use aws_sdk_ec2::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_ec2::types::DomainType;
use aws_sdk_route53::types::{Change, ChangeAction, ChangeBatch, ResourceRecord, ResourceRecordSet, RrType};
use komainu_escalation::aws::identity::IdentitySettings;
use komainu_escalation::elastic_ip::ElasticIpSettings;
use komainu_escalation::endpoint::{Cloud, Host};
use komainu_escalation::reconcile::pace::Pace;
use komainu_escalation::route_table::RouteTableSettings;
use komainu_escalation::route53::{AddressKind, Route53Settings};
use komainu_escalation::secondary_ip::SecondaryIpSettings;
use komainu_escalation::{
    Authority, Aws, AwsSettings, Claim, Endpoint, EndpointSettings, Event, Identity, MethodSettings, Outlet,
    Owner, Reason, State, Status,
};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use tokio::sync::{mpsc, watch};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    ElasticIp,
    Route53,
    /// With an AAAA record beside the A record.
    Route53Ipv6,
    RouteTable,
    SecondaryIp,
}

pub const SECONDARY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 200);
pub const FLOATING: &str = "192.0.2.10/32";
pub const FLOATING_V6: &str = "2001:db8::10/128";

pub struct World {
    pub proxy: Proxy,
    pub nodes: Vec<Node>,
    pub ec2: aws_sdk_ec2::Client,
    pub route53: aws_sdk_route53::Client,
    pub allocation: String,
    pub tables: Vec<String>,
    pub zone: String,
    pub name: String,
}

pub struct Node {
    pub id: &'static str,
    /// What its requests are signed with, by which the proxy's log tells nodes apart.
    pub access_key: String,
    pub interface: String,
    pub private_ip: Ipv4Addr,
    pub ipv6: Ipv6Addr,
    pub imds: Imds,
    pub cloud: Cloud,
}

/// No waits worth mentioning: the loop's times are another test's.
pub fn quick() -> Pace {
    Pace {
        unsettled_ms: 200,
        settled_min_ms: 100,
        settled_max_ms: 150,
        exposed_ms: 100,
        watch_every_ms: 50,
        watch_for_ms: 1_000,
    }
}

impl World {
    pub async fn new() -> World {
        Self::of(&["n1", "n2"]).await
    }

    /// With these nodes.
    pub async fn of(ids: &[&'static str]) -> World {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::SeqCst);
        let (ec2, route53) = clients();
        let proxy = Proxy::start(HERE, moto().address()).await.unwrap();
        let vpc = ec2.create_vpc().cidr_block("10.1.0.0/16").send().await.unwrap();
        let vpc = vpc.vpc().unwrap().vpc_id().unwrap().to_owned();
        let subnet = ec2.create_subnet().vpc_id(&vpc).cidr_block("10.1.0.0/24").send().await.unwrap();
        let subnet = subnet.subnet().unwrap().subnet_id().unwrap().to_owned();
        let address = ec2.allocate_address().domain(DomainType::Vpc).send().await.unwrap();
        let mut tables = Vec::new();
        for _ in 0..2 {
            let table = ec2.create_route_table().vpc_id(&vpc).send().await.unwrap();
            tables.push(table.route_table().unwrap().route_table_id().unwrap().to_owned());
        }
        let zone = route53
            .create_hosted_zone()
            .name("example.org")
            .caller_reference(format!("{}-{number}", std::process::id()))
            .send()
            .await
            .unwrap();
        let zone = zone.hosted_zone().unwrap().id().trim_start_matches("/hostedzone/").to_owned();
        let mut nodes = Vec::new();
        for (index, id) in ids.iter().copied().enumerate() {
            nodes.push(Node::new(&ec2, &proxy, &subnet, number, index, id).await);
        }
        World {
            allocation: address.allocation_id().unwrap().to_owned(),
            tables,
            zone,
            name: format!("db{number}.example.org"),
            proxy,
            nodes,
            ec2,
            route53,
        }
    }

    pub fn method(&self, kind: Kind) -> MethodSettings {
        match kind {
            Kind::ElasticIp => {
                MethodSettings::ElasticIp(ElasticIpSettings { allocation_id: self.allocation.clone() })
            }
            Kind::Route53 => MethodSettings::Route53(self.record()),
            Kind::Route53Ipv6 => MethodSettings::Route53(Route53Settings { ipv6: true, ..self.record() }),
            Kind::RouteTable => MethodSettings::RouteTable(RouteTableSettings {
                tables: self.tables.clone(),
                destinations: vec![FLOATING.parse().unwrap(), FLOATING_V6.parse().unwrap()],
            }),
            Kind::SecondaryIp => MethodSettings::SecondaryIp(SecondaryIpSettings { address: SECONDARY }),
        }
    }

    pub fn record(&self) -> Route53Settings {
        Route53Settings {
            hosted_zone_id: self.zone.clone(),
            name: self.name.clone(),
            ttl_s: 5,
            address: AddressKind::Private,
            ipv6: false,
            resolver: "127.0.0.1:9".parse().unwrap(),
        }
    }

    /// Starts the endpoint on a node, in doubt.
    pub fn contend(&self, node: usize, kind: Kind) -> Contender {
        self.contend_with(node, &self.endpoint(kind))
    }

    pub fn endpoint(&self, kind: Kind) -> EndpointSettings {
        EndpointSettings { name: "app".into(), method: self.method(kind), pre: None, post: None }
    }

    pub fn contend_with(&self, node: usize, settings: &EndpointSettings) -> Contender {
        self.contend_at(node, settings, quick())
    }

    pub fn contend_at(&self, node: usize, settings: &EndpointSettings, pace: Pace) -> Contender {
        let node = &self.nodes[node];
        let host = Host { node: node.id.into(), cloud: Some(node.cloud.clone()), pace };
        Contender::start(settings, &host)
    }

    /// Which node has it. For routes: all of them.
    pub async fn holder(&self, kind: Kind) -> Option<usize> {
        match kind {
            Kind::ElasticIp => {
                let answer =
                    self.ec2.describe_addresses().allocation_ids(&self.allocation).send().await.unwrap();
                self.by_interface(answer.addresses()[0].network_interface_id()?)
            }
            Kind::Route53 => {
                let value = self.record_value(RrType::A, &self.name).await?;
                self.nodes.iter().position(|node| node.private_ip.to_string() == value)
            }
            Kind::Route53Ipv6 => {
                let v4 = self.record_value(RrType::A, &self.name).await?;
                let v6 = self.record_value(RrType::Aaaa, &self.name).await?;
                let both = |node: &Node| node.private_ip.to_string() == v4 && v6.parse() == Ok(node.ipv6);
                self.nodes.iter().position(both)
            }
            Kind::RouteTable => {
                let mut holders = Vec::new();
                for table in &self.tables {
                    let answer =
                        self.ec2.describe_route_tables().route_table_ids(table).send().await.unwrap();
                    let routes = answer.route_tables()[0].routes();
                    let ours = routes.iter().filter(|route| route.gateway_id() != Some("local"));
                    holders.extend(ours.map(|route| route.network_interface_id().map(str::to_owned)));
                }
                let all_alike = holders.len() == 4 && holders.iter().all(|holder| *holder == holders[0]);
                self.by_interface(holders.first().filter(|_| all_alike)?.as_deref()?)
            }
            Kind::SecondaryIp => {
                for (index, node) in self.nodes.iter().enumerate() {
                    let answer = self
                        .ec2
                        .describe_network_interfaces()
                        .network_interface_ids(&node.interface)
                        .send()
                        .await
                        .unwrap();
                    let addresses = answer.network_interfaces()[0].private_ip_addresses();
                    if addresses.iter().any(|entry| entry.private_ip_address() == Some("10.1.0.200")) {
                        return Some(index);
                    }
                }
                None
            }
        }
    }

    /// By hand, past komainu.
    pub async fn give_to(&self, kind: Kind, node: usize) {
        let node = &self.nodes[node];
        match kind {
            Kind::ElasticIp => {
                self.ec2
                    .associate_address()
                    .allocation_id(&self.allocation)
                    .network_interface_id(&node.interface)
                    .allow_reassociation(true)
                    .send()
                    .await
                    .unwrap();
            }
            Kind::Route53 => {
                self.change_record(RrType::A, &self.name, &node.private_ip.to_string()).await;
            }
            Kind::Route53Ipv6 => {
                self.change_record(RrType::A, &self.name, &node.private_ip.to_string()).await;
                self.change_record(RrType::Aaaa, &self.name, &node.ipv6.to_string()).await;
            }
            Kind::RouteTable => {
                for table in &self.tables {
                    for (v4, v6) in [(Some(FLOATING), None), (None, Some(FLOATING_V6))] {
                        let create = self
                            .ec2
                            .create_route()
                            .route_table_id(table)
                            .set_destination_cidr_block(v4.map(str::to_owned))
                            .set_destination_ipv6_cidr_block(v6.map(str::to_owned))
                            .network_interface_id(&node.interface);
                        if create.send().await.is_ok() {
                            continue;
                        }
                        self.ec2
                            .replace_route()
                            .route_table_id(table)
                            .set_destination_cidr_block(v4.map(str::to_owned))
                            .set_destination_ipv6_cidr_block(v6.map(str::to_owned))
                            .network_interface_id(&node.interface)
                            .send()
                            .await
                            .unwrap();
                    }
                }
            }
            Kind::SecondaryIp => {
                // Through the proxy, which knows how AWS takes an address from its holder.
                let direct =
                    aws_sdk_ec2::config::Builder::from(&config()).endpoint_url(self.proxy.url()).build();
                aws_sdk_ec2::Client::from_conf(direct)
                    .assign_private_ip_addresses()
                    .network_interface_id(&node.interface)
                    .private_ip_addresses(SECONDARY.to_string())
                    .allow_reassignment(true)
                    .send()
                    .await
                    .unwrap();
            }
        }
    }

    fn by_interface(&self, interface: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.interface == interface)
    }

    pub async fn record_value(&self, kind: RrType, name: &str) -> Option<String> {
        let answer = self
            .route53
            .list_resource_record_sets()
            .hosted_zone_id(&self.zone)
            .start_record_name(name)
            .start_record_type(kind.clone())
            .send()
            .await
            .unwrap();
        let set = answer
            .resource_record_sets
            .into_iter()
            .find(|set| set.name.trim_end_matches('.') == name.trim_end_matches('.') && set.r#type == kind)?;
        Some(set.resource_records().first()?.value().to_owned())
    }

    pub async fn change_record(&self, kind: RrType, name: &str, value: &str) {
        let set = ResourceRecordSet::builder()
            .name(name)
            .r#type(kind)
            .ttl(5)
            .resource_records(ResourceRecord::builder().value(value).build().unwrap())
            .build()
            .unwrap();
        let change = Change::builder().action(ChangeAction::Upsert).resource_record_set(set).build().unwrap();
        self.route53
            .change_resource_record_sets()
            .hosted_zone_id(&self.zone)
            .change_batch(ChangeBatch::builder().changes(change).build().unwrap())
            .send()
            .await
            .unwrap();
    }
}

impl Node {
    async fn new(
        ec2: &aws_sdk_ec2::Client,
        proxy: &Proxy,
        subnet: &str,
        world: u32,
        index: usize,
        id: &'static str,
    ) -> Node {
        let private_ip = Ipv4Addr::new(10, 1, 0, 10 + u8::try_from(index).unwrap());
        let ipv6 = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, u16::from(private_ip.octets()[3]));
        let created = ec2
            .create_network_interface()
            .subnet_id(subnet)
            .private_ip_address(private_ip.to_string())
            .send()
            .await
            .unwrap();
        let interface = created.network_interface().unwrap().network_interface_id().unwrap().to_owned();
        let access_key = format!("ASIA{world:04}{index}");
        let imds = Imds::start(
            HERE,
            &Instance {
                instance: &format!("i-{index}"),
                interface: &interface,
                mac: &format!("02:00:00:00:00:0{index}"),
                subnet,
                private_ip: &private_ip.to_string(),
                ipv6: Some(&ipv6.to_string()),
                access_key: &access_key,
            },
        )
        .await
        .unwrap();
        let settings = AwsSettings {
            endpoint_url: Some(proxy.url()),
            metadata_endpoint: Some(imds.url()),
            ..AwsSettings::default()
        };
        let identity = Identity::find(&IdentitySettings::default(), &settings).await.unwrap();
        let aws = Aws::connect(&settings, &identity.region).await;
        Node { id, access_key, interface, private_ip, ipv6, imds, cloud: Cloud { aws, identity } }
    }
}

/// One node's endpoint, with the log and the lease in the test's hands.
pub struct Contender {
    pub endpoint: Endpoint,
    pub events: mpsc::Receiver<Event>,
    claim: watch::Sender<Claim>,
    lease: Arc<AtomicBool>,
}

impl Contender {
    pub fn start(settings: &EndpointSettings, host: &Host) -> Contender {
        let (claim, claimed) = watch::channel(Claim::UNKNOWN);
        let (event, events) = mpsc::channel(1_000);
        let lease = Arc::new(AtomicBool::new(true));
        let authority: Arc<dyn Authority> = {
            let lease = lease.clone();
            Arc::new(move |_: &str, _: u64| lease.load(Ordering::SeqCst))
        };
        let outlet = Outlet { claim: claimed, authority, events: event };
        let endpoint = Endpoint::start(settings, host, outlet).unwrap();
        Contender { endpoint, events, claim, lease }
    }

    pub fn claim(&self, owner: Owner, epoch: u64) {
        self.claim.send_replace(Claim { owner, epoch });
    }

    pub fn lease(&self, held: bool) {
        self.lease.store(held, Ordering::SeqCst);
    }

    pub fn status(&self) -> Status {
        self.endpoint.status.borrow().clone()
    }

    pub async fn until(&self, what: &str, is_so: impl Fn(&Status) -> bool) -> Status {
        let mut status = self.endpoint.status.clone();
        within(what, async { status.wait_for(|status| is_so(status)).await.unwrap().clone() }).await
    }

    pub async fn until_state(&self, state: State) -> Status {
        let mut status = self.endpoint.status.clone();
        let reached =
            tokio::time::timeout(super::DEADLINE, status.wait_for(|status| status.state == state)).await;
        match reached {
            Ok(status) => status.unwrap().clone(),
            Err(_) => panic!("waited in vain for {state:?}: {:?}", self.status()),
        }
    }

    pub async fn take(&self, epoch: u64) -> Status {
        self.claim(Owner::This, epoch);
        self.until("held in this epoch", |status| status.state == State::Held && status.epoch == epoch).await
    }

    pub async fn release(&self, epoch: u64) -> Status {
        self.claim(Owner::Other, epoch);
        self.until("released", |status| status.state == State::Released && status.epoch == epoch).await
    }

    /// The next event with this reason.
    pub async fn event(&mut self, reason: Reason) -> Event {
        within(reason.code(), async {
            loop {
                let event = self.events.recv().await.unwrap();
                if event.reason == reason {
                    return event;
                }
            }
        })
        .await
    }
}

/// Straight to moto, as somebody who may do anything.
fn clients() -> (aws_sdk_ec2::Client, aws_sdk_route53::Client) {
    let config = config();
    (aws_sdk_ec2::Client::new(&config), aws_sdk_route53::Client::new(&config))
}

fn config() -> aws_config::SdkConfig {
    use aws_sdk_ec2::config::SharedCredentialsProvider;
    let credentials = Credentials::new(BY_HAND, "secret", None, None, "test");
    aws_config::SdkConfig::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .region(Region::new("us-east-1"))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .endpoint_url(format!("http://{}", moto().address()))
        .build()
}

/// Until the double shows it: another node's status says nothing of the double.
pub async fn until_holder(world: &World, kind: Kind, expected: Option<usize>) {
    until(&format!("{kind:?} held by {expected:?}"), async || world.holder(kind).await == expected).await;
}
