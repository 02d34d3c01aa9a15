//! Moves a secondary private address between network interfaces of one subnet.

pub mod plan;

use crate::authority::Permit;
use crate::aws::client_error::failed;
use crate::aws::{Aws, OnlyWhile};
use crate::error::Error;
use crate::method::{Applied, Method};
use aws_sdk_ec2::types::Filter;
pub use plan::{Holder, SecondaryIpRules, Step};
use serde::Deserialize;
use std::net::Ipv4Addr;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecondaryIpSettings {
    pub address: Ipv4Addr,
}

pub struct SecondaryIp {
    aws: Aws,
    rules: SecondaryIpRules,
    /// Of this node's network interface: an address is unique only within its network.
    subnet_id: String,
    address: String,
}

impl SecondaryIp {
    pub fn new(aws: Aws, rules: SecondaryIpRules, subnet_id: String) -> SecondaryIp {
        let address = rules.address.to_string();
        SecondaryIp { aws, rules, subnet_id, address }
    }
}

impl Method for SecondaryIp {
    type Rules = SecondaryIpRules;

    fn rules(&self) -> &SecondaryIpRules {
        &self.rules
    }

    /// DescribeNetworkInterfaces: who in the subnet has the address.
    async fn inspect(&self) -> Result<Holder, Error> {
        let filter = |name: &str, value: &str| Filter::builder().name(name).values(value).build();
        let answer = self
            .aws
            .ec2
            .describe_network_interfaces()
            .filters(filter("subnet-id", &self.subnet_id))
            .filters(filter("addresses.private-ip-address", &self.address))
            .send()
            .await
            .map_err(failed("DescribeNetworkInterfaces", &self.address))?;
        let mut holder = Holder { interface: None, primary: false };
        for interface in answer.network_interfaces() {
            let entry = interface
                .private_ip_addresses()
                .iter()
                .find(|entry| entry.private_ip_address() == Some(self.address.as_str()));
            if let Some(entry) = entry {
                holder.interface = interface.network_interface_id().map(str::to_owned);
                holder.primary = entry.primary().unwrap_or(false);
            }
        }
        Ok(holder)
    }

    async fn apply(&self, step: &Step, permit: &Permit) -> Result<Applied, Error> {
        let subject = format!("{} on {}", self.address, self.rules.interface);
        match step {
            Step::Assign => self
                .aws
                .ec2
                .assign_private_ip_addresses()
                .network_interface_id(&self.rules.interface)
                .private_ip_addresses(&self.address)
                .allow_reassignment(true)
                .customize()
                .interceptor(OnlyWhile(permit.clone()))
                .send()
                .await
                .map(drop)
                .map_err(failed("AssignPrivateIpAddresses", &subject))?,
            Step::Unassign => self
                .aws
                .ec2
                .unassign_private_ip_addresses()
                .network_interface_id(&self.rules.interface)
                .private_ip_addresses(&self.address)
                .customize()
                .interceptor(OnlyWhile(permit.clone()))
                .send()
                .await
                .map(drop)
                .map_err(failed("UnassignPrivateIpAddresses", &subject))?,
        }
        Ok(Applied::default())
    }
}
