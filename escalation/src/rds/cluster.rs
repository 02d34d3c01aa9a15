//! A cluster as the API describes it, in plain values. Pure.

use aws_sdk_rds::types::{DbCluster, DbInstance};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// `aurora-postgresql` or `postgres`.
    pub engine: String,
    /// `available`, `failing-over`, …
    pub status: String,
    /// The name that follows the writer. None: there is only one instance's own.
    pub writer_endpoint: Option<String>,
    /// By identifier.
    pub instances: Vec<Instance>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    pub id: String,
    /// Its own name, which leads to nobody else. None: it is being made, or is going.
    pub host: Option<String>,
    pub port: u16,
    pub zone: Option<String>,
    /// As the API says, which is late in a failover.
    pub is_writer: bool,
    /// `available`, `rebooting`, `creating`, `deleting`, …
    pub status: String,
}

pub const AURORA: &str = "aurora-postgresql";
pub const RDS: &str = "postgres";

impl Cluster {
    pub fn is_aurora(&self) -> bool {
        self.engine == AURORA
    }

    /// Those that can be connected to.
    pub fn reachable(&self) -> impl Iterator<Item = &Instance> {
        self.instances.iter().filter(|instance| instance.host.is_some() && instance.status != "deleting")
    }
}

/// PostgreSQL's, for an instance that has no endpoint yet.
const PORT: u16 = 5432;

pub(super) fn of_cluster(cluster: &DbCluster, instances: &[DbInstance]) -> Cluster {
    let writes = |id: &str| {
        let mut members = cluster.db_cluster_members().iter();
        members.any(|member| {
            member.db_instance_identifier() == Some(id) && member.is_cluster_writer() == Some(true)
        })
    };
    Cluster {
        engine: cluster.engine().unwrap_or_default().to_owned(),
        status: cluster.status().unwrap_or_default().to_owned(),
        writer_endpoint: cluster.endpoint().map(str::to_owned),
        instances: sorted(instances.iter().map(|one| instance(one, writes(id_of(one)))).collect()),
    }
}

/// A primary with its read replicas: none of these takes its place by itself.
pub(super) fn of_source(source: &DbInstance, replicas: &[DbInstance]) -> Cluster {
    let mut instances = vec![instance(source, true)];
    instances.extend(replicas.iter().map(|one| instance(one, false)));
    Cluster {
        engine: source.engine().unwrap_or_default().to_owned(),
        status: source.db_instance_status().unwrap_or_default().to_owned(),
        writer_endpoint: None,
        instances: sorted(instances),
    }
}

fn id_of(instance: &DbInstance) -> &str {
    instance.db_instance_identifier().unwrap_or_default()
}

fn instance(of: &DbInstance, is_writer: bool) -> Instance {
    let endpoint = of.endpoint();
    let port = endpoint.and_then(|endpoint| u16::try_from(endpoint.port()?).ok());
    Instance {
        id: id_of(of).to_owned(),
        host: endpoint.and_then(|endpoint| endpoint.address()).map(str::to_owned),
        port: port.unwrap_or(PORT),
        zone: of.availability_zone().map(str::to_owned),
        is_writer,
        status: of.db_instance_status().unwrap_or_default().to_owned(),
    }
}

fn sorted(mut instances: Vec<Instance>) -> Vec<Instance> {
    instances.sort_by(|one, other| one.id.cmp(&other.id));
    instances
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_sdk_rds::types::{DbClusterMember, Endpoint};

    fn described(id: &str, status: &str) -> DbInstance {
        let endpoint =
            Endpoint::builder().address(format!("{id}.abc.eu-central-1.rds.amazonaws.com")).port(5433);
        let of =
            DbInstance::builder().db_instance_identifier(id).db_instance_status(status).engine("postgres");
        of.endpoint(endpoint.build()).availability_zone("eu-central-1a").build()
    }

    #[test]
    fn a_cluster_is_its_instances_with_the_writer_that_the_members_name() {
        let member = |id: &str, writes| {
            DbClusterMember::builder().db_instance_identifier(id).is_cluster_writer(writes).build()
        };
        let cluster = DbCluster::builder().engine("aurora-postgresql").status("available").endpoint("w");
        let cluster =
            cluster.db_cluster_members(member("b", true)).db_cluster_members(member("a", false)).build();
        let coming = DbInstance::builder().db_instance_identifier("c").db_instance_status("creating").build();
        let found = of_cluster(&cluster, &[described("b", "available"), described("a", "deleting"), coming]);
        assert!(found.is_aurora());
        let seen = |instance: &Instance| (instance.id.clone(), instance.is_writer, instance.port);
        let all: Vec<_> = found.instances.iter().map(seen).collect();
        assert_eq!(
            all,
            [("a".to_owned(), false, 5433), ("b".to_owned(), true, 5433), ("c".to_owned(), false, 5432)]
        );
        assert_eq!(found.reachable().map(|instance| &*instance.id).collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn an_instance_with_replicas_is_its_own_writer() {
        let found = of_source(&described("z", "available"), &[described("y", "available")]);
        assert!(!found.is_aurora() && found.writer_endpoint.is_none());
        assert_eq!(found.instances.iter().map(|one| one.is_writer).collect::<Vec<_>>(), [false, true]);
    }
}
