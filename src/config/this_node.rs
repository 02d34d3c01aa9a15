//! Which of the nodes this process is.
//!
//! Owns the comparison of what a process is told with the nodes of the configuration. Pure. Invariant: nobody is
//! a node of a cluster without having been told which one.

use super::{Config, Node};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    #[error(
        "this is a node of the cluster {cluster}, but not said to be which: give --node or KOMAINU_NODE, {known}"
    )]
    NotGiven { cluster: String, known: String },
    #[error(
        "the cluster {cluster} has no node {given:?}: give --node or KOMAINU_NODE, {known}, or add a [[node]]"
    )]
    Unknown { cluster: String, given: String, known: String },
    #[error(
        "the node {given:?} was given, but the configuration has no [cluster]: add it with its [[node]] \
         sections, or start without --node and KOMAINU_NODE"
    )]
    NoCluster { given: String },
}

/// The node that `given` names; None for one on its own.
pub fn this_node<'a>(config: &'a Config, given: Option<&str>) -> Result<Option<&'a Node>, NodeError> {
    let (cluster, given) = match (&config.cluster, given) {
        (None, None) => return Ok(None),
        (None, Some(given)) => return Err(NodeError::NoCluster { given: given.to_owned() }),
        (Some(cluster), given) => (cluster, given),
    };
    let name = cluster.name.clone();
    let known = || {
        let ids: Vec<_> = cluster.nodes.iter().map(|node| node.id.as_str()).collect();
        format!("one of {}", ids.join(", "))
    };
    let Some(given) = given else { return Err(NodeError::NotGiven { cluster: name, known: known() }) };
    match cluster.nodes.iter().find(|node| node.id == given) {
        Some(node) => Ok(Some(node)),
        None => Err(NodeError::Unknown { cluster: name, given: given.to_owned(), known: known() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::every_key::{SMALLEST, before, config};

    #[test]
    fn a_node_of_a_cluster_is_told_which() {
        let config = before();
        let port = |given| this_node(&config, given).map(|node| node.map(|node| node.port));
        assert_eq!(port(Some("n2")), Ok(Some(7402)));
        let error = port(None).unwrap_err().to_string();
        assert!(error.contains("give --node or KOMAINU_NODE, one of n1, n2, n3"), "{error}");
        let error = port(Some("n4")).unwrap_err().to_string();
        assert!(
            error.contains("has no node \"n4\": give --node or KOMAINU_NODE, one of n1, n2, n3"),
            "{error}"
        );
    }

    #[test]
    fn a_node_on_its_own_is_none_of_a_cluster() {
        let config = config(SMALLEST);
        assert_eq!(this_node(&config, None), Ok(None));
        let error = this_node(&config, Some("n1")).unwrap_err().to_string();
        assert!(error.contains("has no [cluster]: add it"), "{error}");
    }
}
