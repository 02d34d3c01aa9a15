//! Moves an Elastic IP (a public address) between the nodes' network interfaces.

pub mod plan;

use crate::authority::Permit;
use crate::aws::client_error::failed;
use crate::aws::{Aws, AwsError, OnlyWhile};
use crate::error::Error;
use crate::method::{Applied, Method};
pub use plan::{Address, Association, ElasticIpRules, Step};
use serde::Deserialize;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ElasticIpSettings {
    pub allocation_id: String,
}

pub struct ElasticIp {
    aws: Aws,
    allocation_id: String,
    rules: ElasticIpRules,
}

impl ElasticIp {
    pub fn new(aws: Aws, settings: &ElasticIpSettings, rules: ElasticIpRules) -> ElasticIp {
        ElasticIp { aws, allocation_id: settings.allocation_id.clone(), rules }
    }
}

impl Method for ElasticIp {
    type Rules = ElasticIpRules;

    fn rules(&self) -> &ElasticIpRules {
        &self.rules
    }

    /// DescribeAddresses, by allocation.
    async fn inspect(&self) -> Result<Address, Error> {
        const OPERATION: &str = "DescribeAddresses";
        let answer = self
            .aws
            .ec2
            .describe_addresses()
            .allocation_ids(&self.allocation_id)
            .send()
            .await
            .map_err(failed(OPERATION, &self.allocation_id))?;
        let address =
            answer.addresses().first().ok_or_else(|| AwsError::missing(OPERATION, &self.allocation_id))?;
        Ok(Address {
            association: address.association_id().map(|id| Association {
                id: id.to_owned(),
                interface: address.network_interface_id().map(str::to_owned),
                private_ip: address.private_ip_address().and_then(|address| address.parse().ok()),
            }),
        })
    }

    async fn apply(&self, step: &Step, permit: &Permit) -> Result<Applied, Error> {
        match step {
            Step::Disassociate { association } => self.disassociate(association, permit).await,
            Step::Associate => self.associate(permit).await,
        }
        .map(|()| Applied::default())
    }
}

impl ElasticIp {
    async fn disassociate(&self, association: &str, permit: &Permit) -> Result<(), Error> {
        let result = self
            .aws
            .ec2
            .disassociate_address()
            .association_id(association)
            .customize()
            .interceptor(OnlyWhile(permit.clone()))
            .send()
            .await
            .map_err(failed("DisassociateAddress", association));
        match result {
            // Gone already: its owner was faster in giving it up, or our lost request did arrive.
            Err(Error::Aws(error)) if error.is(&["InvalidAssociationID.NotFound"]) => Ok(()),
            result => result.map(drop),
        }
    }

    /// By network interface: an instance's id is refused when it has more than one. Without reassociation: see `plan`.
    async fn associate(&self, permit: &Permit) -> Result<(), Error> {
        self.aws
            .ec2
            .associate_address()
            .allocation_id(&self.allocation_id)
            .network_interface_id(&self.rules.interface)
            .private_ip_address(self.rules.private_ip.to_string())
            .allow_reassociation(false)
            .customize()
            .interceptor(OnlyWhile(permit.clone()))
            .send()
            .await
            .map(drop)
            .map_err(failed("AssociateAddress", &self.allocation_id))
            .map_err(|error| match error {
                Error::Aws(error) => Error::Aws(error.conflict_if(&["Resource.AlreadyAssociated"])),
                error => error,
            })
    }
}
