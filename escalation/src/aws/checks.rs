//! Is everything there that a move will need? For `doctor`, and at the start.

use super::client_error::describe;
use super::{Aws, Identity};
use crate::error::Fault;
use crate::finding::Finding;
use crate::interface::addresses_of_this_host;
use crate::reason::Reason;
use crate::route_table::RouteTableSettings;
use crate::route53::Route53Settings;
use crate::secondary_ip::SecondaryIpSettings;
use crate::settings::MethodSettings;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::types::{Filter, NetworkInterface};
use aws_sdk_route53::types::RrType;
use ipnet::IpNet;
use std::error::Error as StdError;
use std::net::IpAddr;

pub async fn check(aws: &Aws, identity: &Identity, method: &MethodSettings) -> Vec<Finding> {
    match method {
        MethodSettings::ElasticIp(settings) => {
            let id = &settings.allocation_id;
            match aws.ec2.describe_addresses().allocation_ids(id).send().await {
                Ok(_) => vec![Finding::fine(format!("address {id} exists"))],
                Err(error) => vec![not_seen("DescribeAddresses", id, &error)],
            }
        }
        MethodSettings::Route53(settings) => vec![zone(aws, settings).await],
        MethodSettings::RouteTable(settings) => route_table(aws, identity, settings).await,
        MethodSettings::SecondaryIp(settings) => secondary_ip(aws, identity, settings).await,
        MethodSettings::Interface(_) | MethodSettings::Command(_) => Vec::new(),
    }
}

async fn zone(aws: &Aws, settings: &Route53Settings) -> Finding {
    let (zone, name) = (&settings.hosted_zone_id, settings.name.trim_end_matches('.'));
    let list = aws.route53.list_resource_record_sets().hosted_zone_id(zone);
    match list.start_record_name(name).start_record_type(RrType::A).max_items(1).send().await {
        Err(error) => not_seen("ListResourceRecordSets", zone, &error),
        Ok(answer) => {
            let foreign = answer.resource_record_sets().iter().any(|set| {
                set.name.trim_end_matches('.').eq_ignore_ascii_case(name)
                    && (set.alias_target.is_some() || set.set_identifier.is_some())
            });
            if foreign {
                Finding::wrong(name, Reason::NotOurs, "the record is an alias or has a routing policy")
            } else {
                Finding::fine(format!("{name} in zone {zone}"))
            }
        }
    }
}

async fn route_table(aws: &Aws, identity: &Identity, settings: &RouteTableSettings) -> Vec<Finding> {
    let mut findings = Vec::new();
    match own_interface(aws, identity).await {
        Err(finding) => findings.push(finding),
        Ok(interface) if interface.source_dest_check() == Some(false) => {
            findings
                .push(Finding::fine(format!("source/destination check of {} is off", identity.interface.id)));
        }
        Ok(_) => findings.push(Finding::wrong(&identity.interface.id, Reason::SourceDestCheckOn, "")),
    }
    let filter = Filter::builder().name("route-table-id").set_values(Some(settings.tables.clone())).build();
    match aws.ec2.describe_route_tables().filters(filter).send().await {
        Err(error) => findings.push(not_seen("DescribeRouteTables", &settings.tables.join(", "), &error)),
        Ok(answer) => {
            for id in &settings.tables {
                let table =
                    answer.route_tables().iter().find(|table| table.route_table_id() == Some(id.as_str()));
                let Some(table) = table else {
                    findings.push(Finding::wrong(id, Reason::TargetMissing, "there is no such route table"));
                    continue;
                };
                let own = table.routes().iter().filter(|route| route.gateway_id() == Some("local"));
                let own: Vec<IpNet> = own
                    .filter_map(|route| {
                        route.destination_cidr_block().or(route.destination_ipv6_cidr_block())?.parse().ok()
                    })
                    .collect();
                let inside =
                    settings.destinations.iter().find(|net| own.iter().any(|own| own.contains(*net)));
                findings.push(match inside {
                    Some(net) => Finding::wrong(id, Reason::AddressInsideVpc, net.to_string()),
                    None => Finding::fine(format!("route table {id}")),
                });
            }
        }
    }
    findings.push(on_host(settings.destinations.iter().map(IpNet::addr)).await);
    findings
}

async fn secondary_ip(aws: &Aws, identity: &Identity, settings: &SecondaryIpSettings) -> Vec<Finding> {
    let id = &identity.interface.subnet_id;
    let subnet = match aws.ec2.describe_subnets().subnet_ids(id).send().await {
        Err(error) => not_seen("DescribeSubnets", id, &error),
        Ok(answer) => {
            let range =
                answer.subnets().first().and_then(|subnet| subnet.cidr_block()?.parse::<IpNet>().ok());
            match range {
                Some(range) if range.contains(&IpAddr::from(settings.address)) => {
                    Finding::fine(format!("{} is in subnet {id}", settings.address))
                }
                Some(range) => Finding::wrong(
                    settings.address.to_string(),
                    Reason::OtherSubnet,
                    format!("{} has {range}", identity.interface.subnet_id),
                ),
                None => Finding::unknown(id, "the subnet's range is not told"),
            }
        }
    };
    vec![subnet, on_host(std::iter::once(IpAddr::from(settings.address))).await]
}

/// The network delivers the packets; the operating system must want them.
async fn on_host(wanted: impl Iterator<Item = IpAddr>) -> Finding {
    let wanted: Vec<IpAddr> = wanted.collect();
    let names = wanted.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(", ");
    match addresses_of_this_host().await {
        Err(error) => Finding::unknown(names, error.to_string()),
        Ok(present) => match wanted.iter().find(|address| !present.contains(address)) {
            None => Finding::fine(format!("this host has {names}")),
            Some(absent) => Finding::wrong(absent.to_string(), Reason::AddressNotOnHost, "put it on lo"),
        },
    }
}

async fn own_interface(aws: &Aws, identity: &Identity) -> Result<NetworkInterface, Finding> {
    let id = &identity.interface.id;
    let answer = aws
        .ec2
        .describe_network_interfaces()
        .network_interface_ids(id)
        .send()
        .await
        .map_err(|error| not_seen("DescribeNetworkInterfaces", id, &error))?;
    answer
        .network_interfaces
        .and_then(|interfaces| interfaces.into_iter().next())
        .ok_or_else(|| Finding::wrong(id, Reason::TargetMissing, "there is no such network interface"))
}

fn not_seen<E, R>(operation: &'static str, subject: &str, error: &SdkError<E, R>) -> Finding
where
    E: ProvideErrorMetadata + StdError + 'static,
    R: std::fmt::Debug + 'static,
{
    let error = describe(operation, subject, error);
    match error.fault {
        Fault::Missing => Finding::wrong(subject, Reason::TargetMissing, error.message),
        Fault::NotPermitted => Finding::wrong(subject, Reason::PermissionMissing, error.message),
        _ => Finding::unknown(subject, error.message),
    }
}
