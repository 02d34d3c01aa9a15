//! What the API of RDS says of a cluster: its instances, where they are, and which one writes.
//!
//! Owns the asking, again and again (`watch`), and the plain form of the answers (`cluster`). Never decides who the
//! primary is: the API is late by seconds, and the servers say it themselves. Changes something only when a person has
//! ordered it (`fail_over`). Invariant: an answer that cannot be had changes nothing of what is known.

pub mod cluster;
mod watch;

pub use cluster::{Cluster, Instance};
pub use watch::ClusterWatch;

use crate::aws::client_error::describe;
use crate::aws::{AwsError, AwsSettings, sdk_config};
use crate::error::Fault;
use aws_sdk_rds::Client;
use aws_sdk_rds::types::{DbInstance, Filter};

const CLUSTERS: &str = "DescribeDBClusters";
const INSTANCES: &str = "DescribeDBInstances";
const FAIL_OVER: &str = "FailoverDBCluster";
const REBOOT: &str = "RebootDBInstance";

/// Cheap to clone.
#[derive(Clone)]
pub struct Rds {
    client: Client,
}

impl Rds {
    /// Prepares the client; sends nothing but what finding credentials takes.
    pub async fn connect(settings: &AwsSettings) -> Rds {
        Rds { client: Client::new(&sdk_config(settings, settings.region.as_deref()).await) }
    }

    /// Of Aurora or of a Multi-AZ DB cluster; else of the instance of this name and its read replicas.
    pub async fn cluster(&self, id: &str) -> Result<Cluster, AwsError> {
        let found = self.client.describe_db_clusters().db_cluster_identifier(id).send().await;
        match found.map_err(|error| describe(CLUSTERS, id, &error)) {
            Ok(answer) => {
                let found = answer.db_clusters().first().ok_or_else(|| AwsError::missing(CLUSTERS, id))?;
                // As AWS writes it: a filter, unlike the question before, makes a difference of case.
                let exactly = found.db_cluster_identifier().unwrap_or(id);
                let of_it = Filter::builder().name("db-cluster-id").values(exactly).build();
                let instances = self.client.describe_db_instances().filters(of_it).send().await;
                let instances = instances.map_err(|error| describe(INSTANCES, id, &error))?;
                Ok(cluster::of_cluster(found, instances.db_instances()))
            }
            Err(error) if error.fault == Fault::Missing => self.with_replicas(id).await,
            Err(error) => Err(error),
        }
    }

    /// Has AWS make another writer: of a cluster one of its readers, of an instance its standby in another zone. Returns
    /// the name of the call. It is made once: whoever gets no answer must look what came of it.
    pub async fn fail_over(&self, id: &str) -> Result<&'static str, AwsError> {
        let found = self.client.describe_db_clusters().db_cluster_identifier(id).send().await;
        match found.map_err(|error| describe(CLUSTERS, id, &error)) {
            Ok(_) => {
                let asked = self.client.failover_db_cluster().db_cluster_identifier(id).send().await;
                asked.map(|_| FAIL_OVER).map_err(|error| describe(FAIL_OVER, id, &error))
            }
            Err(error) if error.fault == Fault::Missing => {
                if self.instance(id).await?.multi_az() != Some(true) {
                    let why = "it has no standby in another zone (Multi-AZ): a reboot would be an outage, and no failover";
                    return Err(AwsError::refused(REBOOT, id, why));
                }
                let reboot = self.client.reboot_db_instance().db_instance_identifier(id);
                let asked = reboot.force_failover(true).send().await;
                asked.map(|_| REBOOT).map_err(|error| describe(REBOOT, id, &error))
            }
            Err(error) => Err(error),
        }
    }

    async fn with_replicas(&self, id: &str) -> Result<Cluster, AwsError> {
        let source = self.instance(id).await?;
        let mut replicas = Vec::new();
        for replica in source.read_replica_db_instance_identifiers() {
            // One of another region has an ARN for a name: too far away to read from.
            if !replica.starts_with("arn:") {
                replicas.push(self.instance(replica).await?);
            }
        }
        Ok(cluster::of_source(&source, &replicas))
    }

    async fn instance(&self, id: &str) -> Result<DbInstance, AwsError> {
        let answer = self.client.describe_db_instances().db_instance_identifier(id).send().await;
        let answer = answer.map_err(|error| describe(INSTANCES, id, &error))?;
        answer.db_instances().first().cloned().ok_or_else(|| AwsError::missing(INSTANCES, id))
    }
}
