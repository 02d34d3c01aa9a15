//! Points routes of one or several route tables at the owner's network interface.

pub mod plan;

use crate::authority::Permit;
use crate::aws::client_error::failed;
use crate::aws::{Aws, OnlyWhile};
use crate::error::Error;
use crate::method::{Applied, Method};
use aws_sdk_ec2::types::{Filter, RouteOrigin, RouteState};
use ipnet::IpNet;
pub use plan::{Route, RouteTableRules, Step, Table, Tables};
use serde::Deserialize;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteTableSettings {
    pub tables: Vec<String>,
    /// The endpoint's addresses, as networks: `192.0.2.1/32`, `2001:db8::1/128`.
    pub destinations: Vec<IpNet>,
}

pub struct RouteTable {
    aws: Aws,
    rules: RouteTableRules,
}

impl RouteTable {
    pub fn new(aws: Aws, rules: RouteTableRules) -> RouteTable {
        RouteTable { aws, rules }
    }
}

impl Method for RouteTable {
    type Rules = RouteTableRules;

    fn rules(&self) -> &RouteTableRules {
        &self.rules
    }

    /// DescribeRouteTables, once for all. By filter: with a list of ids, one that is missing fails the whole call.
    async fn inspect(&self) -> Result<Tables, Error> {
        let filter =
            Filter::builder().name("route-table-id").set_values(Some(self.rules.tables.clone())).build();
        let answer = self
            .aws
            .ec2
            .describe_route_tables()
            .filters(filter)
            .send()
            .await
            .map_err(failed("DescribeRouteTables", &self.rules.tables.join(", ")))?;
        Ok(Tables(answer.route_tables().iter().map(table).collect()))
    }

    async fn apply(&self, step: &Step, permit: &Permit) -> Result<Applied, Error> {
        let subject = format!("{} in {}", step.destination, step.table);
        let first = if step.create {
            self.create(step, &subject, permit).await
        } else {
            self.replace(step, &subject, permit).await
        };
        // Made or deleted since it was looked at: the other form, once. It asks for the permit again.
        let result = match first {
            Err(Error::Aws(error)) if step.create && error.is(&["RouteAlreadyExists"]) => {
                self.replace(step, &subject, permit).await
            }
            Err(Error::Aws(error))
                if !step.create && error.is(&["InvalidParameterValue", "InvalidRoute.NotFound"]) =>
            {
                self.create(step, &subject, permit).await
            }
            result => result,
        };
        result.map(|()| Applied::default())
    }
}

impl RouteTable {
    async fn replace(&self, step: &Step, subject: &str, permit: &Permit) -> Result<(), Error> {
        let (v4, v6) = by_family(step.destination);
        self.aws
            .ec2
            .replace_route()
            .route_table_id(&step.table)
            .set_destination_cidr_block(v4)
            .set_destination_ipv6_cidr_block(v6)
            .network_interface_id(&self.rules.interface)
            .customize()
            .interceptor(OnlyWhile(permit.clone()))
            .send()
            .await
            .map(drop)
            .map_err(failed("ReplaceRoute", subject))
    }

    async fn create(&self, step: &Step, subject: &str, permit: &Permit) -> Result<(), Error> {
        let (v4, v6) = by_family(step.destination);
        self.aws
            .ec2
            .create_route()
            .route_table_id(&step.table)
            .set_destination_cidr_block(v4)
            .set_destination_ipv6_cidr_block(v6)
            .network_interface_id(&self.rules.interface)
            .customize()
            .interceptor(OnlyWhile(permit.clone()))
            .send()
            .await
            .map(drop)
            .map_err(failed("CreateRoute", subject))
    }
}

pub(crate) fn by_family(destination: IpNet) -> (Option<String>, Option<String>) {
    match destination {
        IpNet::V4(net) => (Some(net.to_string()), None),
        IpNet::V6(net) => (None, Some(net.to_string())),
    }
}

fn table(table: &aws_sdk_ec2::types::RouteTable) -> Table {
    let routes = table.routes().iter().filter_map(|route| {
        let destination = route.destination_cidr_block().or(route.destination_ipv6_cidr_block())?;
        Some(Route {
            destination: destination.parse().ok()?,
            interface: route.network_interface_id().map(str::to_owned),
            blackhole: route.state() == Some(&RouteState::Blackhole),
            local: route.gateway_id() == Some("local")
                || route.origin() == Some(&RouteOrigin::CreateRouteTable),
        })
    });
    Table { id: table.route_table_id().unwrap_or_default().to_owned(), routes: routes.collect() }
}
