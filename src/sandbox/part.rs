//! What can be killed, frozen and started by its name: a node, a server, or the agent beside one.

use std::time::Instant;

use super::agent::Agent;
use super::node::Node;
use super::postgres::{Postgres, PostgresError, StopMode};
use super::whole::{READY_TIMEOUT, Sandbox};

#[derive(Debug, Clone, Copy)]
pub enum Part<'a> {
    Node(&'a Node),
    Server(&'a Postgres),
    Agent(&'a Agent),
}

impl Part<'_> {
    /// While it runs; it may be frozen.
    pub fn pid(self) -> Option<u32> {
        match self {
            Self::Node(node) => node.pid(),
            Self::Server(server) => server.pid(),
            Self::Agent(agent) => agent.pid(),
        }
    }

    /// As superuser, on a server.
    pub fn psql(self, sql: &str) -> Result<String, String> {
        match self {
            Self::Server(server) => server.psql("postgres", sql).map_err(|error| error.to_string()),
            Self::Node(_) | Self::Agent(_) => Err("that is no server".to_owned()),
        }
    }

    /// Starts it and waits until it is ready; the error says why it is not.
    pub fn start(self) -> Result<(), String> {
        let deadline = Instant::now() + READY_TIMEOUT;
        let log = match self {
            Self::Server(server) => return server.start().map_err(|error| error.to_string()),
            Self::Node(node) => {
                node.start().map_err(|error| error.to_string())?;
                (!node.wait_until_ready(deadline)).then(|| node.log_tail())
            }
            Self::Agent(agent) => {
                agent.start().map_err(|error| error.to_string())?;
                (!agent.wait_until_ready(deadline)).then(|| agent.log_tail())
            }
        };
        log.map_or(Ok(()), |log| Err(format!("it is started and not ready; its log ends with:\n{log}")))
    }

    pub fn kill(self) {
        match self {
            Self::Node(node) => node.kill(),
            Self::Server(server) => server.kill(),
            Self::Agent(agent) => agent.kill(),
        }
    }

    pub fn freeze(self) {
        match self {
            Self::Node(node) => node.freeze(),
            Self::Server(server) => server.freeze(),
            Self::Agent(agent) => agent.freeze(),
        }
    }

    pub fn thaw(self) {
        match self {
            Self::Node(node) => node.thaw(),
            Self::Server(server) => server.thaw(),
            Self::Agent(agent) => agent.thaw(),
        }
    }

    /// In its own time: a server ends its sessions and writes everything out.
    pub fn stop(self) -> Result<(), PostgresError> {
        match self {
            Self::Node(node) => node.stop(),
            Self::Server(server) => return server.stop(StopMode::Fast),
            Self::Agent(agent) => agent.kill(),
        }
        Ok(())
    }
}

impl Sandbox {
    pub fn part(&self, id: &str) -> Option<Part<'_>> {
        let node = self.nodes().iter().find(|node| node.id() == id).map(Part::Node);
        let server = || self.servers().all().iter().find(|server| server.id() == id).map(Part::Server);
        let agent = || self.agents().iter().find(|agent| agent.id() == id).map(Part::Agent);
        node.or_else(server).or_else(agent)
    }

    /// What [`Self::part`] finds.
    pub fn part_ids(&self) -> Vec<&str> {
        let nodes = self.nodes().iter().map(Node::id);
        let servers = self.servers().all().iter().map(Postgres::id);
        nodes.chain(servers).chain(self.agents().iter().map(Agent::id)).collect()
    }
}
