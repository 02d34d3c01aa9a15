//! Is there room in the account for what a move may have to make, and for what comes after a loss? For `doctor`.
//!
//! A move makes a route or a record where there is none; it needs no further address. So a quota that is used up is wrong
//! only where something is missing. Neither asking for a quota nor its answer is needed for a move: what AWS does not
//! tell is `unknown`, whatever the reason, and never `wrong`.

use super::Aws;
use super::client_error::describe;
use crate::elastic_ip::ElasticIpSettings;
use crate::error::Fault;
use crate::finding::Finding;
use crate::reason::Reason;
use crate::route_table::{RouteTableSettings, by_family};
use crate::route53::{Route53Settings, fence_name};
use crate::settings::MethodSettings;
use aws_sdk_ec2::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_ec2::types::{AccountAttribute, Filter, RouteOrigin, RouteTable};
use aws_sdk_route53::types::{HostedZoneLimitType, RrType};
use std::error::Error as StdError;

/// "Routes per route table", of IPv4 and of IPv6 each; routes that a gateway propagates are not counted.
const ROUTES_PER_TABLE: (&str, &str) = ("vpc", "L-93826ACB");
/// The one that EC2's own API tells.
const ADDRESSES: &str = "vpc-max-elastic-ips";

/// How many there may be; or why that is not known.
type Quota = Result<usize, String>;

pub async fn check(aws: &Aws, method: &MethodSettings) -> Vec<Finding> {
    match method {
        MethodSettings::ElasticIp(settings) => vec![addresses(aws, settings).await],
        MethodSettings::Route53(settings) => vec![records(aws, settings).await],
        MethodSettings::RouteTable(settings) => routes(aws, settings).await,
        // How many addresses an interface may have is a matter of the instance's type.
        MethodSettings::SecondaryIp(_) | MethodSettings::Interface(_) | MethodSettings::Command(_) => {
            Vec::new()
        }
    }
}

/// The endpoint has its address: one that is missing is told of elsewhere, and cannot be made by a node.
async fn addresses(aws: &Aws, settings: &ElasticIpSettings) -> Finding {
    let subject = format!("Elastic IPs of the region, {} among them", settings.allocation_id);
    let used = aws.ec2.describe_addresses().send().await;
    let used = match used.map_err(untold("ec2:DescribeAddresses")) {
        Ok(answer) => answer.addresses().len(),
        Err(why) => return Finding::unknown(subject, why),
    };
    let quota = aws.ec2.describe_account_attributes().send().await;
    let quota: Quota = quota
        .map_err(untold("ec2:DescribeAccountAttributes"))
        .and_then(|answer| number(answer.account_attributes(), ADDRESSES));
    room(&subject, used, 0, &quota)
}

fn number(attributes: &[AccountAttribute], name: &str) -> Quota {
    let attribute = attributes.iter().find(|attribute| attribute.attribute_name() == Some(name));
    let value =
        attribute.and_then(|attribute| attribute.attribute_values().first()?.attribute_value()?.parse().ok());
    value.ok_or_else(|| format!("not looked at: AWS does not tell {name}"))
}

async fn routes(aws: &Aws, settings: &RouteTableSettings) -> Vec<Finding> {
    let filter = Filter::builder().name("route-table-id").set_values(Some(settings.tables.clone())).build();
    let (seen, quota) = tokio::join!(
        aws.ec2.describe_route_tables().filters(filter).send(),
        aws.quotas.get_service_quota().service_code(ROUTES_PER_TABLE.0).quota_code(ROUTES_PER_TABLE.1).send(),
    );
    let seen = match seen.map_err(untold("ec2:DescribeRouteTables")) {
        Ok(answer) => answer.route_tables.unwrap_or_default(),
        Err(why) => return vec![Finding::unknown("routes in each route table", why)],
    };
    let quota: Quota = quota.map_err(untold("servicequotas:GetServiceQuota")).and_then(|answer| {
        let value = answer.quota().and_then(aws_sdk_servicequotas::types::ServiceQuota::value);
        value.map(|value| value as usize).ok_or_else(|| "not looked at: AWS does not tell it".to_owned())
    });
    seen.iter().flat_map(|table| routes_of(table, settings, &quota)).collect()
}

/// A finding for each family of which the endpoint has an address.
fn routes_of(table: &RouteTable, settings: &RouteTableSettings, quota: &Quota) -> Vec<Finding> {
    let id = table.route_table_id().unwrap_or_default();
    let counted = || {
        let routes = table.routes().iter();
        routes.filter(|route| route.origin() != Some(&RouteOrigin::EnableVgwRoutePropagation))
    };
    let wanted: Vec<_> = settings.destinations.iter().map(|net| by_family(net.trunc())).collect();
    let v4: Vec<_> = wanted.iter().filter_map(|(v4, _)| v4.as_deref()).collect();
    let v6: Vec<_> = wanted.iter().filter_map(|(_, v6)| v6.as_deref()).collect();
    let there_v4: Vec<_> = counted().filter_map(|route| route.destination_cidr_block()).collect();
    let there_v6: Vec<_> = counted().filter_map(|route| route.destination_ipv6_cidr_block()).collect();
    [("IPv4", v4, there_v4), ("IPv6", v6, there_v6)]
        .into_iter()
        .filter(|(_, wanted, _)| !wanted.is_empty())
        .map(|(family, wanted, there)| {
            let missing = wanted.iter().filter(|net| !there.contains(net)).count();
            room(&format!("{family} routes in {id}"), there.len(), missing, quota)
        })
        .collect()
}

async fn records(aws: &Aws, settings: &Route53Settings) -> Finding {
    let zone = &settings.hosted_zone_id;
    let subject = format!("records in {zone}");
    let name = settings.name.trim_end_matches('.');
    let mut wanted = vec![(fence_name(&settings.name), RrType::Txt), (name.to_owned(), RrType::A)];
    if settings.ipv6 {
        wanted.push((name.to_owned(), RrType::Aaaa));
    }
    let mut missing = 0;
    for (name, kind) in wanted {
        match has_record(aws, zone, &name, kind).await {
            Ok(there) => missing += usize::from(!there),
            Err(why) => return Finding::unknown(subject, why),
        }
    }
    let limit =
        aws.route53.get_hosted_zone_limit().hosted_zone_id(zone).r#type(HostedZoneLimitType::MaxRrsetsByZone);
    match limit.send().await.map_err(untold("route53:GetHostedZoneLimit")) {
        Ok(answer) => {
            let number = |value: i64| usize::try_from(value).unwrap_or_default();
            let quota = answer.limit().map(|limit| number(limit.value()));
            let quota = quota.ok_or_else(|| "not looked at: AWS does not tell it".to_owned());
            room(&subject, number(answer.count()), missing, &quota)
        }
        Err(why) => Finding::unknown(subject, why),
    }
}

async fn has_record(aws: &Aws, zone: &str, name: &str, kind: RrType) -> Result<bool, String> {
    let list = aws.route53.list_resource_record_sets().hosted_zone_id(zone);
    let list = list.start_record_name(name).start_record_type(kind.clone()).max_items(1).send().await;
    let answer = list.map_err(untold("route53:ListResourceRecordSets"))?;
    Ok(answer
        .resource_record_sets()
        .iter()
        .any(|set| set.r#type == kind && set.name.trim_end_matches('.').eq_ignore_ascii_case(name)))
}

/// Whether what a move still has to make would be one too many.
fn room(subject: &str, used: usize, missing: usize, quota: &Quota) -> Finding {
    match quota {
        Ok(most) if missing > 0 && used + missing > *most => Finding::wrong(
            subject,
            Reason::QuotaReached,
            format!("{used} of {most} are used, and a move has to make {missing} more"),
        ),
        Ok(most) => Finding::fine(format!("{subject}: {used} of {most} are used")),
        Err(why) => Finding::unknown(format!("the quota of {subject}: {used} are used"), why),
    }
}

fn untold<E, R>(action: &'static str) -> impl Fn(SdkError<E, R>) -> String
where
    E: ProvideErrorMetadata + StdError + 'static,
    R: std::fmt::Debug + 'static,
{
    move |error| {
        let error = describe(action, "", &error);
        match error.fault {
            Fault::NotPermitted => format!("not looked at: the role lacks {action}"),
            _ => format!("not looked at: {action}: {}", error.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Verdict;

    #[test]
    fn a_quota_is_reached_only_by_what_is_still_to_be_made() {
        let verdict = |used, missing, quota: Quota| room("routes in rtb-1", used, missing, &quota).verdict;
        assert_eq!(verdict(49, 1, Ok(50)), Verdict::Fine);
        assert_eq!(verdict(50, 0, Ok(50)), Verdict::Fine, "a route that is there is replaced");
        assert_eq!(verdict(60, 0, Ok(50)), Verdict::Fine);
        let reached = verdict(50, 1, Ok(50));
        assert!(matches!(reached, Verdict::Wrong { reason: Reason::QuotaReached, .. }), "{reached:?}");
        assert!(matches!(verdict(49, 2, Ok(50)), Verdict::Wrong { .. }));
        let detail = "not looked at: …".to_owned();
        assert_eq!(verdict(50, 1, Err(detail.clone())), Verdict::Unknown { detail });
    }
}
