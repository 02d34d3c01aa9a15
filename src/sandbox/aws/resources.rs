//! What is in the double: a network with an instance for each node, and one thing of each kind that komainu moves.

use std::io;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use komainu_aws_double::api::{Api, required};
use komainu_aws_double::imds;

pub const NAME: &str = "db.komainu.test";
const ZONE: &str = "komainu.test";
/// A client's resolver keeps an answer for so long.
pub const TTL_S: u32 = 1;
/// Outside of the network, from an example's range (RFC 5737).
pub const DESTINATION: &str = "192.0.2.10/32";
/// In the network, and nobody's.
const SECONDARY: u32 = 200;
/// Any will do: the double starts none.
const IMAGE: &str = "ami-12345678";

#[derive(Debug)]
pub struct Resources {
    pub instances: Vec<Instance>,
    pub subnet: String,
    pub allocation: String,
    pub tables: Vec<String>,
    pub zone: String,
    pub secondary: Ipv4Addr,
}

#[derive(Debug)]
pub struct Instance {
    pub id: String,
    pub interface: String,
    pub private_ip: Ipv4Addr,
    mac: String,
    private_text: String,
    access_key: String,
}

impl Resources {
    pub async fn create(api: &Api, net: Ipv4Net, addresses: &[Ipv4Addr]) -> io::Result<Self> {
        let range = net.to_string();
        let vpc = api.ec2("CreateVpc", &[("CidrBlock", &range)]).await?;
        let vpc = required(&vpc, "vpcId")?;
        let subnet = api.ec2("CreateSubnet", &[("VpcId", &vpc), ("CidrBlock", &range)]).await?;
        let subnet = required(&subnet, "subnetId")?;
        let mut instances = Vec::new();
        for (private_ip, n) in addresses.iter().zip(1..) {
            instances.push(Instance::run(api, &subnet, *private_ip, n).await?);
        }
        let allocation = api.ec2("AllocateAddress", &[("Domain", "vpc")]).await?;
        let mut tables = Vec::new();
        for _ in 0..2 {
            let table = api.ec2("CreateRouteTable", &[("VpcId", &vpc)]).await?;
            tables.push(required(&table, "routeTableId")?);
        }
        let zone = format!(
            "<CreateHostedZoneRequest xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\">\
             <Name>{ZONE}</Name><CallerReference>sandbox</CallerReference></CreateHostedZoneRequest>"
        );
        let zone = api.route53("POST", "/hostedzone", &zone).await?;
        Ok(Self {
            instances,
            subnet,
            allocation: required(&allocation, "allocationId")?,
            tables,
            zone: required(&zone, "Id")?.trim_start_matches("/hostedzone/").to_owned(),
            secondary: Ipv4Addr::from(u32::from(net.network()) + SECONDARY),
        })
    }
}

impl Resources {
    /// What each node's own operating system answers for, whoever owns it.
    pub fn answered(&self) -> Vec<Ipv4Net> {
        let destination = DESTINATION.parse().expect("it is a network");
        vec![destination, Ipv4Net::from(self.secondary)]
    }
}

impl Instance {
    async fn run(api: &Api, subnet: &str, private_ip: Ipv4Addr, n: u32) -> io::Result<Self> {
        let private_text = private_ip.to_string();
        let wanted = [
            ("ImageId", IMAGE),
            ("MinCount", "1"),
            ("MaxCount", "1"),
            ("SubnetId", subnet),
            ("PrivateIpAddress", &private_text),
        ];
        let run = api.ec2("RunInstances", &wanted).await?;
        let interface = required(&run, "networkInterfaceId")?;
        // A node takes what is not addressed to it, too.
        let check = [("NetworkInterfaceId", interface.as_str()), ("SourceDestCheck.Value", "false")];
        api.ec2("ModifyNetworkInterfaceAttribute", &check).await?;
        Ok(Self {
            id: required(&run, "instanceId")?,
            interface,
            private_ip,
            mac: required(&run, "macAddress")?,
            private_text,
            access_key: format!("ASIASANDBOX{n}"),
        })
    }

    pub fn metadata<'a>(&'a self, subnet: &'a str) -> imds::Instance<'a> {
        imds::Instance {
            instance: &self.id,
            interface: &self.interface,
            mac: &self.mac,
            subnet,
            private_ip: &self.private_text,
            ipv6: None,
            access_key: &self.access_key,
        }
    }
}
