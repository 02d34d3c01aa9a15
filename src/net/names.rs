//! Which addresses a name has: as the system's resolver says, or name servers of our choice.
//!
//! Owns what was answered for as long as its TTL says, and no longer. Invariant: an address is given to nobody after its
//! TTL is over, so that a name that moved is followed no later than it promises.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;

/// A resolver may answer with any number of addresses.
const MAX_ADDRESSES: usize = 8;
/// Of one question to one server; a connect, or a look, has only so much time.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);
const ATTEMPTS: usize = 2;
/// While a service moves a name it may have no address for a moment, with a long TTL of that.
const NOTHING_IS_KEPT_FOR: Duration = Duration::from_secs(1);

/// Whom names are asked of.
#[derive(Clone, Default)]
pub struct Names(Option<Asked>);

/// None: the system's resolver.
#[derive(Clone)]
struct Asked {
    servers: Vec<SocketAddr>,
    resolver: TokioResolver,
}

impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Names").field(&self.servers()).finish()
    }
}

impl PartialEq for Names {
    fn eq(&self, other: &Self) -> bool {
        self.servers() == other.servers()
    }
}

impl Names {
    /// Of these name servers; without any, of the system's resolver.
    pub fn of(servers: &[SocketAddr]) -> io::Result<Names> {
        if servers.is_empty() {
            return Ok(Names::default());
        }
        let mut options = ResolverOpts::default();
        options.timeout = ANSWERS_WITHIN;
        options.attempts = ATTEMPTS;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.use_hosts_file = ResolveHosts::Never;
        options.negative_max_ttl = Some(NOTHING_IS_KEPT_FOR);
        let config = ResolverConfig::from_name_servers(servers.iter().map(name_server).collect());
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let resolver = builder.with_options(options).build().map_err(io::Error::other)?;
        Ok(Names(Some(Asked { servers: servers.to_vec(), resolver })))
    }

    fn servers(&self) -> &[SocketAddr] {
        self.0.as_ref().map_or(&[], |asked| &asked.servers)
    }

    /// The addresses of a name, or the one that it is.
    pub async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        match (&self.0, host.parse()) {
            (_, Ok(address)) => Ok(vec![SocketAddr::new(address, port)]),
            (None, Err(_)) => Ok(tokio::net::lookup_host((host, port)).await?.take(MAX_ADDRESSES).collect()),
            (Some(asked), Err(_)) => {
                let found = asked.resolver.lookup_ip(host).await.map_err(io::Error::other)?;
                Ok(found.iter().take(MAX_ADDRESSES).map(|ip| SocketAddr::new(ip, port)).collect())
            }
        }
    }
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let at = |mut connection: ConnectionConfig| {
        connection.port = address.port();
        connection
    };
    let connections = vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())];
    NameServerConfig::new(address.ip(), true, connections)
}
