//! What AWS's API says of the imitation: one cluster with its instances, in the double.
//!
//! Owns the calls. The instances are where the names say that the double gives them. Invariant: the API names another writer
//! only when it is told to, which is later than the instances do.

use std::io;

use komainu_aws_double::Api;
use komainu_aws_double::api::required;

use super::ManagedMode;

pub const CLUSTER_ID: &str = "sandbox";
/// Nobody logs in with it: the servers have passwords of their own.
const PASSWORD: &str = "not-looked-at";

#[derive(Debug)]
pub struct Listed {
    api: Api,
    /// The cluster's endpoint, which leads to the writer.
    pub endpoint: String,
}

impl Listed {
    /// The first one writes.
    pub async fn create(api: Api, mode: ManagedMode, instances: &[String], port: u16) -> io::Result<Self> {
        let port = port.to_string();
        let (engine, class) = match mode {
            ManagedMode::Rds => ("postgres", "db.m6gd.large"),
            ManagedMode::Aurora => ("aurora-postgresql", "db.r6g.large"),
        };
        let mut cluster = vec![
            ("DBClusterIdentifier", CLUSTER_ID),
            ("Engine", engine),
            ("Port", &port),
            ("MasterUsername", "postgres"),
            ("MasterUserPassword", PASSWORD),
        ];
        if mode == ManagedMode::Rds {
            cluster.extend([
                ("DBClusterInstanceClass", class),
                ("AllocatedStorage", "100"),
                ("Iops", "1000"),
            ]);
        }
        let created = api.rds("CreateDBCluster", &cluster).await?;
        for id in instances {
            let instance = [
                ("DBInstanceIdentifier", id.as_str()),
                ("DBClusterIdentifier", CLUSTER_ID),
                ("Engine", engine),
                ("DBInstanceClass", class),
                // AWS takes the cluster's.
                ("Port", &port),
            ];
            api.rds("CreateDBInstance", &instance).await?;
        }
        Ok(Self { api, endpoint: required(&created, "Endpoint")? })
    }

    pub async fn name_writer(&self, instance: &str) -> io::Result<()> {
        let wanted = [("DBClusterIdentifier", CLUSTER_ID), ("TargetDBInstanceIdentifier", instance)];
        self.api.rds("FailoverDBCluster", &wanted).await.map(drop)
    }
}
