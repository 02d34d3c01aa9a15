//! What a node is called in its certificate: `NODE.CLUSTER.komainu`.
//!
//! A DNS name, so that every TLS library can compare it; never looked up.

use std::fmt;

const SUFFIX: &str = ".komainu";
const AUTHORITY: &str = "komainu authority of ";
/// Of a label in DNS.
const MAX_LABEL: usize = 63;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeName {
    pub node: String,
    pub cluster: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("{0:?} is no name for a {1}: 1 to {MAX_LABEL} lower-case letters, digits and inner hyphens")]
    Label(String, &'static str),
    #[error("a node cannot be called {0:?}: its files would be taken for the authority's")]
    Reserved(String),
}

impl NodeName {
    pub fn new(node: &str, cluster: &str) -> Result<Self, NameError> {
        check_label(node, "node")?;
        check_label(cluster, "cluster")?;
        match node {
            "ca" => Err(NameError::Reserved(node.to_owned())),
            _ => Ok(NodeName { node: node.to_owned(), cluster: cluster.to_owned() }),
        }
    }

    pub fn dns(&self) -> String {
        format!("{}.{}{SUFFIX}", self.node, self.cluster)
    }

    /// None: not a name of that form.
    pub fn from_dns(name: &str) -> Option<Self> {
        let (node, cluster) = name.strip_suffix(SUFFIX)?.split_once('.')?;
        NodeName::new(node, cluster).ok()
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} of cluster {}", self.node, self.cluster)
    }
}

/// Of an agent's name. No node's begins so.
pub const AGENT_PREFIX: &str = "agent-";

/// What the agent beside a server is called in its certificate.
pub fn name_of_agent(server: &str, cluster: &str) -> Result<NodeName, NameError> {
    NodeName::new(&format!("{AGENT_PREFIX}{server}"), cluster)
}

pub fn check_label(label: &str, what: &'static str) -> Result<(), NameError> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let good = (1..=MAX_LABEL).contains(&label.len())
        && label.chars().all(plain)
        && !label.starts_with('-')
        && !label.ends_with('-');
    if good { Ok(()) } else { Err(NameError::Label(label.to_owned(), what)) }
}

/// What a cluster's authority is called.
pub(super) fn authority_name(cluster: &str) -> String {
    format!("{AUTHORITY}{cluster}")
}

pub(super) fn cluster_of(authority: &str) -> Option<&str> {
    authority.strip_prefix(AUTHORITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_read_back_and_nothing_else_is() {
        let name = NodeName::new("node-1", "shop").unwrap();
        assert_eq!(name.dns(), "node-1.shop.komainu");
        assert_eq!(NodeName::from_dns("node-1.shop.komainu"), Some(name));
        for other in [
            "shop.komainu",
            "a.b.shop.komainu",
            "node-1.shop",
            "A.shop.komainu",
            ".shop.komainu",
            "ca.shop.komainu",
        ] {
            assert_eq!(NodeName::from_dns(other), None, "{other}");
        }
        assert!(NodeName::new("a_b", "shop").is_err() && NodeName::new("a", "-shop").is_err());
        assert!(NodeName::new(&"a".repeat(64), "shop").is_err());
    }
}
