//! The first frame of a connection, each way: which protocol, which cluster, which node, which life of it.
//!
//! Invariant: what a peer says of itself is compared with its certificate and then used; nothing is taken on its word but
//! what only it can know, its incarnation.

use serde::{Deserialize, Serialize};

use crate::pki::NodeName;

/// What this version speaks, and the oldest that it still does: so nodes can be upgraded one by one.
pub const PROTOCOL: u32 = 1;
pub const OLDEST_PROTOCOL: u32 = 1;
/// A stranger's is not read further.
pub(super) const MAX_HELLO: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub protocol: u32,
    pub oldest_protocol: u32,
    /// Of the software; for people.
    pub version: String,
    pub cluster: String,
    /// Drawn when the cluster was first set up. None: this node has not joined yet.
    pub cluster_id: Option<String>,
    pub node: String,
    /// Which life of the node this is: raised when it is replaced.
    pub incarnation: u64,
    /// The highest format of the log that it knows.
    #[serde(default)]
    pub log_format: u32,
}

/// All that is understood of any version's.
#[derive(Deserialize)]
struct Spoken {
    protocol: u32,
    #[serde(default)]
    oldest_protocol: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Welcome {
    Hello(Hello),
    Refused(String),
}

/// Why a peer is not talked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error(
        "it speaks protocol {oldest} to {newest}, we speak {OLDEST_PROTOCOL} to {PROTOCOL}: upgrade the older one"
    )]
    Protocol { oldest: u32, newest: u32 },
    #[error("its first message is not understood")]
    NotUnderstood,
    #[error("it says that it is {said}, its certificate is that of {certified}")]
    Impostor { said: NodeName, certified: NodeName },
    #[error("it belongs to a cluster with the identifier {theirs}, we to one with {ours}")]
    AnotherCluster { theirs: String, ours: String },
    #[error("{0}")]
    NotAdmitted(String),
}

impl Hello {
    /// Reads and judges what the owner of a certificate says of itself.
    pub(super) fn judge(body: &[u8], certified: &NodeName, ours: &Hello) -> Result<Hello, Refusal> {
        let spoken: Spoken = serde_json::from_slice(body).map_err(|_| Refusal::NotUnderstood)?;
        let oldest = spoken.oldest_protocol.unwrap_or(spoken.protocol);
        if spoken.protocol < OLDEST_PROTOCOL || oldest > PROTOCOL {
            return Err(Refusal::Protocol { oldest, newest: spoken.protocol });
        }
        let hello: Hello = serde_json::from_slice(body).map_err(|_| Refusal::NotUnderstood)?;
        if (&hello.node, &hello.cluster) != (&certified.node, &certified.cluster) {
            let said = NodeName { node: hello.node, cluster: hello.cluster };
            return Err(Refusal::Impostor { said, certified: certified.clone() });
        }
        match (&hello.cluster_id, &ours.cluster_id) {
            (Some(theirs), Some(ours)) if theirs != ours => {
                Err(Refusal::AnotherCluster { theirs: theirs.clone(), ours: ours.clone() })
            }
            _ => Ok(hello),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> Hello {
        Hello {
            protocol: PROTOCOL,
            oldest_protocol: OLDEST_PROTOCOL,
            version: "1".to_owned(),
            cluster: "shop".to_owned(),
            cluster_id: Some("x".to_owned()),
            node: "a".to_owned(),
            incarnation: 3,
            log_format: 1,
        }
    }

    fn judge(theirs: &Hello) -> Result<Hello, Refusal> {
        let certified = NodeName::new("a", "shop").unwrap();
        Hello::judge(&serde_json::to_vec(theirs).unwrap(), &certified, &hello())
    }

    #[test]
    fn a_peer_is_who_its_certificate_says() {
        assert_eq!(judge(&hello()), Ok(hello()));
        let joining = Hello { cluster_id: None, ..hello() };
        assert_eq!(judge(&joining), Ok(joining));
        let reason = |theirs| judge(&theirs).unwrap_err().to_string();
        assert_eq!(
            reason(Hello { node: "b".to_owned(), ..hello() }),
            "it says that it is node b of cluster shop, its certificate is that of node a of cluster shop"
        );
        assert_eq!(
            reason(Hello { cluster_id: Some("y".to_owned()), ..hello() }),
            "it belongs to a cluster with the identifier y, we to one with x"
        );
    }

    #[test]
    fn the_version_is_judged_before_anything_else_is_understood() {
        let certified = NodeName::new("a", "shop").unwrap();
        let judge = |text: &str| Hello::judge(text.as_bytes(), &certified, &hello());
        let refusal = Refusal::Protocol { oldest: 8, newest: 9 };
        assert_eq!(judge("{\"protocol\": 9, \"oldest_protocol\": 8, \"node\": {}}"), Err(refusal));
        assert_eq!(judge("{\"protocol\": 0}"), Err(Refusal::Protocol { oldest: 0, newest: 0 }));
        assert_eq!(judge("{\"protocol\": 9, \"oldest_protocol\": 1}"), Err(Refusal::NotUnderstood));
        assert_eq!(judge("GET / HTTP/1.1"), Err(Refusal::NotUnderstood));
        // A field that a newer version added is no obstacle.
        let mut newer = serde_json::to_value(hello()).unwrap();
        newer["later"] = 1.into();
        assert_eq!(judge(&newer.to_string()), Ok(hello()));
    }
}
