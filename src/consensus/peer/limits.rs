//! What a peer may take: time, memory, connections.

use std::time::Duration;

#[derive(Debug, Clone, Copy)]
pub struct PeerLimits {
    /// A request or an answer. A snapshot of the cluster's state is far smaller; memory for a frame is taken as it
    /// arrives, not as it is announced.
    pub max_frame: usize,
    /// TLS and the exchange of names; whoever is slower is a stranger or of no use.
    pub handshake_timeout: Duration,
    /// A frame that has begun is over by then, in either direction.
    pub frame_timeout: Duration,
    /// What a caller may ask for at most.
    pub max_call: Duration,
    /// The server closes a connection on which nothing was asked for so long.
    pub idle_timeout: Duration,
    /// A caller no longer uses a connection that is as old: so renewed certificates come into use, and ended ones out
    /// of it.
    pub max_age: Duration,
    /// Connections that are open on a server, those of peers only.
    pub max_connections: usize,
    /// Of them, one peer's. All lanes of a caller together, and as many again while it starts anew.
    pub max_connections_of_peer: usize,
    /// Connections that have not shown who they are, together and from one address.
    pub max_handshakes: usize,
    pub max_handshakes_of_address: usize,
    /// Wait before dialling again after a failure: the first, and what doubling it ends at.
    pub min_backoff: Duration,
    pub max_backoff: Duration,
}

impl Default for PeerLimits {
    fn default() -> Self {
        PeerLimits {
            max_frame: 16 << 20,
            handshake_timeout: Duration::from_secs(3),
            frame_timeout: Duration::from_secs(10),
            max_call: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(60),
            max_age: Duration::from_secs(3600),
            max_connections: 256,
            max_connections_of_peer: 32,
            max_handshakes: 64,
            max_handshakes_of_address: 16,
            min_backoff: Duration::from_millis(50),
            // Less than an election takes: a link that works again is used again before anybody despairs of it.
            max_backoff: Duration::from_millis(500),
        }
    }
}
