//! Stops an instance that must not go on: the host of a primary that was replaced, which may hang and come back.
//!
//! To be called again until it has stopped, since a call that was accepted is not yet an instance that is off. Invariant: each request to stop carries its permit, so one that was decided long ago is not sent.

use super::client_error::failed;
use super::identity::IdentitySettings;
use super::permissions::{dry, looked};
use super::{Aws, AwsError, AwsSettings, Identity, OnlyWhile};
use crate::authority::Permit;
use crate::error::Error;
use crate::finding::Finding;
use aws_sdk_ec2::types::InstanceStateName;

const STOP: &str = "StopInstances";
const LOOK: &str = "DescribeInstances";

/// Cheap to clone.
#[derive(Clone)]
pub struct Instances {
    aws: Aws,
}

impl Instances {
    pub fn new(aws: Aws) -> Instances {
        Instances { aws }
    }

    /// In this node's own region.
    pub async fn connect(settings: &AwsSettings) -> Result<Instances, super::identity::IdentityError> {
        let region = match &settings.region {
            Some(region) => region.clone(),
            None => Identity::find(&IdentitySettings::default(), settings).await?.region,
        };
        Ok(Instances { aws: Aws::connect(settings, &region).await })
    }

    /// Asks for it and looks. True: it has stopped, or is gone for good; false: AWS is at it.
    pub async fn stop(&self, instance: &str, permit: &Permit) -> Result<bool, Error> {
        let asked = self.ask_to_stop(instance, permit).await;
        if matches!(asked, Err(Error::Withdrawn(_))) {
            return asked.map(|()| false);
        }
        match self.state(instance).await {
            // However that came about: a lost answer is no reason to doubt what is seen.
            Ok(InstanceStateName::Stopped | InstanceStateName::Terminated) => Ok(true),
            Ok(_) => asked.map(|()| false),
            Err(error) => Err(asked.err().unwrap_or(error)),
        }
    }

    /// Without waiting for the operating system: one that hangs would never be done.
    async fn ask_to_stop(&self, instance: &str, permit: &Permit) -> Result<(), Error> {
        let request = self.aws.ec2.stop_instances().instance_ids(instance).force(true);
        let request = request.customize().interceptor(OnlyWhile(permit.clone()));
        request.send().await.map(drop).map_err(failed(STOP, instance))
    }

    async fn state(&self, instance: &str) -> Result<InstanceStateName, Error> {
        let answer = self.aws.ec2.describe_instances().instance_ids(instance).send().await;
        let answer = answer.map_err(failed(LOOK, instance))?;
        let mut found = answer.reservations().iter().flat_map(|reservation| reservation.instances());
        let found = found.next().ok_or_else(|| AwsError::missing(LOOK, instance))?;
        let state = found.state().and_then(|state| state.name().cloned());
        Ok(state.ok_or_else(|| AwsError::unexpected(LOOK, instance, "it has no state"))?)
    }

    /// Whether this node could, tried without doing it.
    pub async fn probe(&self, instance: &str) -> Vec<Finding> {
        let stop = self.aws.ec2.stop_instances().dry_run(true).force(true).instance_ids(instance);
        let look = self.aws.ec2.describe_instances().instance_ids(instance);
        let (stop, look) = tokio::join!(stop.send(), look.send());
        vec![looked("ec2:DescribeInstances", instance, &look), dry("ec2:StopInstances", instance, &stop)]
    }
}
