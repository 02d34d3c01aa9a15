//! Keeps a name's A and AAAA records on the owner.

mod confirm;
mod dns;
pub mod plan;

use crate::authority::Permit;
use crate::aws::client_error::failed;
use crate::aws::{Aws, OnlyWhile};
use crate::error::Error;
use crate::method::{Applied, Confirmation, Method};
use aws_sdk_route53::types::{Change, ChangeAction, ChangeBatch, ResourceRecord, ResourceRecordSet, RrType};
pub use plan::{Fence, Mark, Record, Route53Rules, Step, Zone};
use serde::Deserialize;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;

/// Resolvers may answer with the old address for so long after the change.
pub const TTL_MAX_S: u32 = 5;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route53Settings {
    pub hosted_zone_id: String,
    pub name: String,
    #[serde(default = "default_ttl_s")]
    pub ttl_s: u32,
    #[serde(default)]
    pub address: AddressKind,
    /// Write an AAAA record with the network interface's IPv6 address too.
    #[serde(default)]
    pub ipv6: bool,
    /// Asked whether the new address is answered yet. Default: the network's own resolver.
    #[serde(default = "default_resolver")]
    pub resolver: SocketAddr,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AddressKind {
    #[default]
    Private,
    Public,
}

fn default_ttl_s() -> u32 {
    TTL_MAX_S
}

/// Every VPC has its resolver at this link-local address.
fn default_resolver() -> SocketAddr {
    SocketAddr::from(([169, 254, 169, 253], 53))
}

pub struct Route53 {
    aws: Aws,
    rules: Route53Rules,
    zone_id: String,
    /// Without the dot at its end, in lower case.
    name: String,
    resolver: SocketAddr,
    /// Of the last batch that was accepted, for `confirm`.
    last_change: Mutex<Option<String>>,
}

impl Route53 {
    pub fn new(aws: Aws, settings: &Route53Settings, rules: Route53Rules) -> Route53 {
        Route53 {
            aws,
            rules,
            zone_id: settings.hosted_zone_id.trim_start_matches("/hostedzone/").to_owned(),
            name: normal(&settings.name),
            resolver: settings.resolver,
            last_change: Mutex::new(None),
        }
    }
}

/// The name of the TXT record that carries the epoch.
pub fn fence_name(name: &str) -> String {
    format!("_komainu.{}", normal(name))
}

fn normal(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

impl Method for Route53 {
    type Rules = Route53Rules;

    fn rules(&self) -> &Route53Rules {
        &self.rules
    }

    /// ListResourceRecordSets, twice side by side: the name's sets, and the fence.
    async fn inspect(&self) -> Result<Zone, Error> {
        let fence_name = fence_name(&self.name);
        let (sets, fences) = tokio::try_join!(
            // A comes first of all types, AAAA second.
            self.list(&self.name, RrType::A, 10),
            self.list(&fence_name, RrType::Txt, 1)
        )?;
        let find = |kind: RrType| sets.iter().find(|set| set.r#type == kind).map(record);
        Ok(Zone {
            fence: fences
                .iter()
                .find(|set| set.r#type == RrType::Txt)
                .map(|set| Fence { values: values(set), ttl_s: set.ttl.unwrap_or(0) }),
            a: find(RrType::A),
            aaaa: find(RrType::Aaaa),
        })
    }

    /// ChangeResourceRecordSets: one batch, all or nothing.
    async fn apply(&self, step: &Step, permit: &Permit) -> Result<Applied, Error> {
        const OPERATION: &str = "ChangeResourceRecordSets";
        let subject = format!("{} in zone {}", self.name, self.zone_id);
        let broken = |error: aws_sdk_route53::error::BuildError| {
            Error::Aws(crate::aws::AwsError::unexpected(OPERATION, &subject, error.to_string()))
        };
        let ttl_s = i64::from(self.rules.ttl_s);
        let fence_name = fence_name(&self.name);
        let mut wanted = Vec::new();
        if let Some(seen) = &step.seen {
            wanted.push((
                ChangeAction::Delete,
                record_set(&fence_name, RrType::Txt, seen.ttl_s, seen.values.clone()).map_err(broken)?,
            ));
        }
        let fence = record_set(&fence_name, RrType::Txt, ttl_s, vec![step.mark.text()]);
        wanted.push((ChangeAction::Create, fence.map_err(broken)?));
        for address in &step.addresses {
            let kind = if address.is_ipv4() { RrType::A } else { RrType::Aaaa };
            let set = record_set(&self.name, kind, ttl_s, vec![address.to_string()]).map_err(broken)?;
            wanted.push((ChangeAction::Upsert, set));
        }
        let mut batch = ChangeBatch::builder();
        for (action, set) in wanted {
            batch = batch
                .changes(Change::builder().action(action).resource_record_set(set).build().map_err(broken)?);
        }
        let answer = self
            .aws
            .route53
            .change_resource_record_sets()
            .hosted_zone_id(&self.zone_id)
            .change_batch(batch.build().map_err(broken)?)
            .customize()
            .interceptor(OnlyWhile(permit.clone()))
            .send()
            .await
            .map_err(failed(OPERATION, &subject))
            .map_err(|error| match error {
                Error::Aws(error) => Error::Aws(error.conflict_if(&["InvalidChangeBatch"])),
                error => error,
            })?;
        let change = answer.change_info().map(|change| change.id().to_owned());
        *self.last_change.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = change;
        Ok(Applied::default())
    }

    async fn confirm(&self) -> Confirmation {
        let change = self.last_change.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        confirm::confirm(&self.aws, change, self.resolver, &self.name, &self.rules.addresses).await
    }
}

impl Route53 {
    /// The record sets of exactly this name, from the given type on.
    async fn list(&self, name: &str, from: RrType, at_most: i32) -> Result<Vec<ResourceRecordSet>, Error> {
        let answer = self
            .aws
            .route53
            .list_resource_record_sets()
            .hosted_zone_id(&self.zone_id)
            .start_record_name(name)
            .start_record_type(from)
            .max_items(at_most)
            .send()
            .await
            .map_err(failed("ListResourceRecordSets", name))?;
        let sets = answer.resource_record_sets;
        Ok(sets.into_iter().filter(|set| normal(&set.name) == name).collect())
    }
}

fn record_set(
    name: &str,
    kind: RrType,
    ttl_s: i64,
    values: Vec<String>,
) -> Result<ResourceRecordSet, aws_sdk_route53::error::BuildError> {
    let mut set = ResourceRecordSet::builder().name(name).r#type(kind).ttl(ttl_s);
    for value in values {
        set = set.resource_records(ResourceRecord::builder().value(value).build()?);
    }
    set.build()
}

fn values(set: &ResourceRecordSet) -> Vec<String> {
    set.resource_records().iter().map(|record| record.value().to_owned()).collect()
}

fn record(set: &ResourceRecordSet) -> Record {
    Record {
        values: values(set),
        ttl_s: set.ttl.unwrap_or(0),
        foreign: set.alias_target.is_some() || set.set_identifier.is_some(),
    }
}

/// The addresses the record should have for this node.
pub fn addresses(
    settings: &Route53Settings,
    interface: &crate::aws::identity::NetworkInterface,
) -> Vec<IpAddr> {
    let v4 = match settings.address {
        AddressKind::Private => interface.private_ipv4,
        AddressKind::Public => interface.public_ipv4,
    };
    let v6 = interface.ipv6.filter(|_| settings.ipv6);
    v4.map(IpAddr::from).into_iter().chain(v6.map(IpAddr::from)).collect()
}
