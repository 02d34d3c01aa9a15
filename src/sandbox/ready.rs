//! What the sandbox says when it is ready: one line of JSON for tools, a page for people.
//!
//! The JSON's shape is a contract. It holds a password on purpose: it is how one gets in.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::managed::ManagedMode;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Of a role that may create databases, with its password.
    pub url: String,
    pub nodes: Vec<ReadyNode>,
    pub servers: Vec<ReadyServer>,
    /// `url` is the first one's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<ReadyEndpoint>,
    /// The double of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws: Option<ReadyAws>,
    /// The service that is imitated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub managed: Option<ReadyManaged>,
    /// Beside the servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<ReadyAgent>,
    /// Where the sandbox itself is told things, by `komainu sandbox start` for one: a Unix socket.
    pub control: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyNode {
    pub id: String,
    pub pid: u32,
    pub url: String,
    /// What other commands take as `--admin`: the path of a Unix socket.
    pub admin: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyEndpoint {
    pub name: String,
    pub method: String,
    pub url: String,
}

/// What the double of AWS has, by the names that AWS's commands take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyAws {
    /// As `AWS_ENDPOINT_URL`; it takes any credentials.
    pub endpoint_url: String,
    pub region: String,
    pub instances: Vec<ReadyInstance>,
    pub allocation_id: String,
    pub hosted_zone_id: String,
    /// Of the record.
    pub name: String,
    /// `address:port` that answers for the zone.
    pub name_server: String,
    pub route_tables: Vec<String>,
    /// Of the routes.
    pub destination: String,
    pub secondary_address: Ipv4Addr,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyInstance {
    pub node: String,
    pub instance_id: String,
    pub network_interface_id: String,
    pub private_ip: Ipv4Addr,
    pub metadata_url: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyServer {
    pub id: String,
    /// The postmaster's.
    pub pid: u32,
    pub host: String,
    pub port: u16,
    /// By which the nodes know it, if not by its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    pub role: Role,
    pub data_directory: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyManaged {
    pub mode: ManagedMode,
    /// It leads to the writer, late.
    pub writer_name: String,
    /// Of all instances.
    pub port: u16,
    /// `address:port` that answers for the names.
    pub name_server: String,
    pub ttl_s: u32,
    /// Under which AWS's API lists the instances, if there is a double of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_id: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyAgent {
    pub id: String,
    pub pid: u32,
    /// The id of its server.
    pub server: String,
    pub address: String,
}

/// As which it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Primary,
    Standby,
    /// A standby of which komainu was not told.
    Spare,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Primary => "primary",
            Self::Standby => "standby",
            Self::Spare => "spare",
        })
    }
}

/// [`Ready`] for a person.
pub struct Summary<'a> {
    pub ready: &'a Ready,
    pub after: Duration,
    pub postgresql_version: u32,
    pub directory: PathBuf,
    pub kept: bool,
    /// The superuser's way to the primary: socket directory and port.
    pub superuser: (PathBuf, u16),
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ready = self.ready;
        writeln!(f, "Ready after {:.1} s. Connect with", self.after.as_secs_f64())?;
        writeln!(f, "\n    psql {}\n", ready.url)?;
        writeln!(f, "or fill and run a benchmark through it:\n")?;
        writeln!(f, "    pgbench -i -s 10 {0} && pgbench -c 10 -T 10 {0}\n", ready.url)?;
        if let Some(aws) = &ready.aws {
            for endpoint in &ready.endpoints {
                writeln!(f, "{:<13} psql {}", endpoint.name, endpoint.url)?;
            }
            writeln!(f, "\nThe double of AWS takes any credentials:\n")?;
            let before =
                format!("    AWS_ENDPOINT_URL={} AWS_DEFAULT_REGION={}", aws.endpoint_url, aws.region);
            writeln!(f, "{before} aws ec2 describe-addresses --allocation-ids {}\n", aws.allocation_id)?;
            for instance in &aws.instances {
                let ReadyInstance { node, instance_id, network_interface_id, private_ip, .. } = instance;
                writeln!(f, "{node:<6} {instance_id} {network_interface_id} {private_ip}")?;
            }
            writeln!(f)?;
        }
        if let Some(managed) = &ready.managed {
            let ReadyManaged { mode, writer_name, name_server, ttl_s, .. } = managed;
            writeln!(
                f,
                "An imitation of {mode}: {writer_name} leads to the writer, says {name_server} (TTL {ttl_s} s)."
            )?;
            writeln!(f, "`komainu sandbox failover` makes another one.")?;
            if let (Some(id), Some(aws)) = (&managed.cluster_id, &ready.aws) {
                let before =
                    format!("AWS_ENDPOINT_URL={} AWS_DEFAULT_REGION={}", aws.endpoint_url, aws.region);
                writeln!(f, "The nodes know the instances from the double of AWS:\n")?;
                writeln!(f, "    {before} aws rds describe-db-clusters --db-cluster-identifier {id}")?;
            }
            writeln!(f)?;
        }
        for node in &ready.nodes {
            writeln!(f, "{:<6} komainu  pid {:<8} admin {}", node.id, node.pid, node.admin)?;
        }
        for server in &ready.servers {
            let address = format!("{}:{}", server.host, server.port);
            writeln!(f, "{:<6} {:<8} pid {:<8} {}", server.id, server.role, server.pid, address)?;
        }
        for agent in &ready.agents {
            writeln!(f, "{:<10} pid {:<8} {}", agent.id, agent.pid, agent.address)?;
        }
        let (socket, port) = &self.superuser;
        writeln!(f, "\nPostgreSQL {}; as superuser, past komainu:", self.postgresql_version)?;
        writeln!(f, "    psql -h {} -p {port} -U postgres", socket.display())?;
        let fate = if self.kept { "kept" } else { "removed at the end" };
        writeln!(f, "Configuration, data and logs are in {} ({fate}).", self.directory.display())?;
        if ready.nodes.len() > 1 {
            writeln!(f, "Kill what you like, and `komainu sandbox start ID` brings it back.")?;
        }
        writeln!(f, "Ctrl-C ends all of it. komainu's log and traffic follow.\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_has_the_agreed_shape() {
        let ready = Ready {
            url: "postgres://u:p@127.0.0.1:9999/d".into(),
            nodes: vec![ReadyNode { id: "n".into(), pid: 1, url: "x".into(), admin: "/a".into() }],
            servers: vec![ReadyServer {
                id: "pg1".into(),
                pid: 2,
                host: "127.0.0.1".into(),
                port: 5432,
                name: None,
                role: Role::Primary,
                data_directory: "/d".into(),
            }],
            endpoints: Vec::new(),
            aws: None,
            managed: None,
            agents: Vec::new(),
            control: "/c".into(),
        };
        assert_eq!(
            serde_json::to_string(&ready).unwrap(),
            r#"{"url":"postgres://u:p@127.0.0.1:9999/d","nodes":[{"id":"n","pid":1,"url":"x","admin":"/a"}],"servers":[{"id":"pg1","pid":2,"host":"127.0.0.1","port":5432,"role":"primary","data_directory":"/d"}],"control":"/c"}"#
        );
    }
}
