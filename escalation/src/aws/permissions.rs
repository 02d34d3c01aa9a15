//! Would AWS let this node do it? Asked beforehand, again and again, so that a missing permission is an alarm on a
//! quiet day and no surprise on a bad night.
//!
//! By DryRun where the API has it. A probe names what is already so, or what does not exist: should a server carry it
//! out all the same, nothing changes. Looks are simply made. Route 53 has no DryRun; there the probe is a change that
//! must be refused, because it deletes a value that is never written.

use super::client_error::describe;
use super::{Aws, AwsError, Identity};
use crate::elastic_ip::ElasticIpSettings;
use crate::error::Fault;
use crate::finding::Finding;
use crate::reason::Reason;
use crate::route_table::{RouteTableSettings, by_family};
use crate::route53::{Route53Settings, fence_name};
use crate::secondary_ip::SecondaryIpSettings;
use crate::settings::MethodSettings;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::types::Filter;
use aws_sdk_route53::types::{Change, ChangeAction, ChangeBatch, ResourceRecord, ResourceRecordSet, RrType};
use std::error::Error as StdError;

/// What a probe deletes when nothing has been associated yet: well formed, and nobody's.
const NO_ASSOCIATION: &str = "eipassoc-00000000000000000";
/// The value komainu never writes.
const NO_FENCE: &str = "\"probe\"";

/// One finding for each IAM action the method needs.
pub async fn probe(aws: &Aws, identity: &Identity, method: &MethodSettings) -> Vec<Finding> {
    match method {
        MethodSettings::ElasticIp(settings) => elastic_ip(aws, identity, settings).await,
        MethodSettings::Route53(settings) => route53(aws, settings).await,
        MethodSettings::RouteTable(settings) => route_table(aws, identity, settings).await,
        MethodSettings::SecondaryIp(settings) => secondary_ip(aws, identity, settings).await,
        MethodSettings::Interface(_) | MethodSettings::Command(_) => Vec::new(),
    }
}

async fn elastic_ip(aws: &Aws, identity: &Identity, settings: &ElasticIpSettings) -> Vec<Finding> {
    let id = &settings.allocation_id;
    let seen = aws.ec2.describe_addresses().allocation_ids(id).send().await;
    let association = seen
        .as_ref()
        .ok()
        .and_then(|answer| answer.addresses().first()?.association_id().map(str::to_owned))
        .unwrap_or_else(|| NO_ASSOCIATION.to_owned());
    let associate = aws
        .ec2
        .associate_address()
        .dry_run(true)
        .allocation_id(id)
        .network_interface_id(&identity.interface.id)
        .allow_reassociation(false);
    let disassociate = aws.ec2.disassociate_address().dry_run(true).association_id(&association);
    let (associate, disassociate) = tokio::join!(associate.send(), disassociate.send());
    vec![
        looked("ec2:DescribeAddresses", id, &seen),
        dry("ec2:AssociateAddress", id, &associate),
        dry("ec2:DisassociateAddress", id, &disassociate),
    ]
}

async fn route_table(aws: &Aws, identity: &Identity, settings: &RouteTableSettings) -> Vec<Finding> {
    let filter = Filter::builder().name("route-table-id").set_values(Some(settings.tables.clone())).build();
    let seen = aws.ec2.describe_route_tables().filters(filter).send().await;
    let mut findings = vec![looked("ec2:DescribeRouteTables", &settings.tables.join(", "), &seen)];
    for table in &settings.tables {
        for destination in settings.destinations.iter().map(ipnet::IpNet::trunc) {
            let subject = format!("{destination} in {table}");
            let (v4, v6) = by_family(destination);
            let present = seen.as_ref().ok().and_then(|answer| {
                let table = answer
                    .route_tables()
                    .iter()
                    .find(|known| known.route_table_id() == Some(table.as_str()))?;
                let route = table.routes().iter().find(|route| {
                    route.destination_cidr_block() == v4.as_deref()
                        && route.destination_ipv6_cidr_block() == v6.as_deref()
                })?;
                route.network_interface_id().map(str::to_owned)
            });
            let Some(present) = present else {
                findings.push(Finding::unknown(
                    format!("ec2:ReplaceRoute, ec2:CreateRoute on {subject}"),
                    "there is no such route yet to probe with",
                ));
                continue;
            };
            let replace = aws
                .ec2
                .replace_route()
                .dry_run(true)
                .route_table_id(table)
                .set_destination_cidr_block(v4.clone())
                .set_destination_ipv6_cidr_block(v6.clone())
                .network_interface_id(present);
            let create = aws
                .ec2
                .create_route()
                .dry_run(true)
                .route_table_id(table)
                .set_destination_cidr_block(v4)
                .set_destination_ipv6_cidr_block(v6)
                .network_interface_id(&identity.interface.id);
            let (replace, create) = tokio::join!(replace.send(), create.send());
            findings.push(dry("ec2:ReplaceRoute", &subject, &replace));
            findings.push(dry("ec2:CreateRoute", &subject, &create));
        }
    }
    findings
}

async fn secondary_ip(aws: &Aws, identity: &Identity, settings: &SecondaryIpSettings) -> Vec<Finding> {
    let address = settings.address.to_string();
    let filter = |name: &str, value: &str| Filter::builder().name(name).values(value).build();
    let seen = aws
        .ec2
        .describe_network_interfaces()
        .filters(filter("subnet-id", &identity.interface.subnet_id))
        .filters(filter("addresses.private-ip-address", &address))
        .send()
        .await;
    vec![
        looked("ec2:DescribeNetworkInterfaces", &address, &seen),
        Finding::unknown(
            "ec2:AssignPrivateIpAddresses, ec2:UnassignPrivateIpAddresses",
            "AWS offers no DryRun for these",
        ),
    ]
}

async fn route53(aws: &Aws, settings: &Route53Settings) -> Vec<Finding> {
    let zone = &settings.hosted_zone_id;
    let seen = aws
        .route53
        .list_resource_record_sets()
        .hosted_zone_id(zone)
        .start_record_name(&settings.name)
        .start_record_type(RrType::A)
        .max_items(1)
        .send()
        .await;
    const ACTION: &str = "route53:ChangeResourceRecordSets";
    let subject = format!("the TXT record {} in {zone}", fence_name(&settings.name));
    let change = match impossible_change(&settings.name) {
        Ok(batch) => {
            aws.route53.change_resource_record_sets().hosted_zone_id(zone).change_batch(batch).send().await
        }
        Err(error) => {
            return vec![Finding::unknown(format!("{ACTION} on {subject}"), error.to_string())];
        }
    };
    let change = match change {
        Ok(_) => {
            Finding::unknown(format!("{ACTION} on {subject}"), "a change that must be refused was accepted")
        }
        Err(error) => {
            let error = describe("ChangeResourceRecordSets", &subject, &error);
            if error.is(&["InvalidChangeBatch"]) {
                Finding::fine(format!("{ACTION} on {subject}"))
            } else {
                refused(ACTION, &subject, error)
            }
        }
    };
    vec![looked("route53:ListResourceRecordSets", zone, &seen), change]
}

fn impossible_change(name: &str) -> Result<ChangeBatch, aws_sdk_route53::error::BuildError> {
    let value = ResourceRecord::builder().value(NO_FENCE).build()?;
    let set = ResourceRecordSet::builder()
        .name(fence_name(name))
        .r#type(RrType::Txt)
        .ttl(i64::from(crate::route53::TTL_MAX_S))
        .resource_records(value)
        .build()?;
    let change = Change::builder().action(ChangeAction::Delete).resource_record_set(set).build()?;
    ChangeBatch::builder().changes(change).build()
}

pub(super) fn looked<T, E, R>(
    action: &'static str,
    subject: &str,
    result: &Result<T, SdkError<E, R>>,
) -> Finding
where
    E: ProvideErrorMetadata + StdError + 'static,
    R: std::fmt::Debug + 'static,
{
    match result {
        Ok(_) => Finding::fine(format!("{action} on {subject}")),
        Err(error) => refused(action, subject, describe(action, subject, error)),
    }
}

pub(super) fn dry<T, E, R>(action: &'static str, subject: &str, result: &Result<T, SdkError<E, R>>) -> Finding
where
    E: ProvideErrorMetadata + StdError + 'static,
    R: std::fmt::Debug + 'static,
{
    match result {
        Ok(_) => Finding::unknown(format!("{action} on {subject}"), "the server does not know DryRun"),
        Err(error) => {
            let error = describe(action, subject, error);
            if error.is(&["DryRunOperation"]) {
                Finding::fine(format!("{action} on {subject}"))
            } else {
                refused(action, subject, error)
            }
        }
    }
}

fn refused(action: &'static str, subject: &str, error: AwsError) -> Finding {
    let subject = format!("{action} on {subject}");
    match error.fault {
        Fault::NotPermitted => Finding::wrong(subject, Reason::PermissionMissing, error.message),
        Fault::Credentials => Finding::wrong(subject, Reason::CredentialsRefused, error.message),
        _ => Finding::unknown(subject, error.message),
    }
}
