//! An agent's life: what it is told by the configuration, who it is, and whom it lets in.
//!
//! Invariant: only nodes that the configuration lists get an answer, whoever else has a certificate of the cluster's.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use super::conninfo::Access;
use super::directory::DataDirectory;
use super::error::AgentError;
use super::job::Work;
use super::memory::Memory;
use super::postmaster::Server;
use super::programs::Programs;
use super::service::{MAX_CALL, Service};
use super::wire::Request;
use crate::config::{self, Config};
use crate::consensus::peer::{self, LocalNode, PeerContext, PeerFiles, PeerLimits, PeerTls};
use crate::net::address::split_address;
use crate::pki::{AUTHORITY_CERTIFICATE, name_of_agent};
use crate::telemetry::log;

const LOG_FILE: &str = "server.log";
const LOOK_AT_CERTIFICATES_EVERY: Duration = Duration::from_secs(60);

/// Serves until SIGTERM or SIGINT. The server that it has started lives on.
pub fn run(path: &Path, server: &str) -> Result<(), AgentError> {
    let text =
        config::file::read_text(path).map_err(|source| AgentError::Read { path: path.to_owned(), source })?;
    // The files that a node's part of the configuration names need not be on this host.
    let (config, _) = config::file::parse(&text, path, 1).map_err(AgentError::Config)?;
    let _log = log::init(&config.log)?;
    // One thread: the kernel ends what it has started when the thread ends.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(config, server))
}

async fn serve(config: Config, id: &str) -> Result<(), AgentError> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let settings = config.agent.clone().ok_or(AgentError::Lacks("[agent] section"))?;
    let cluster = config.cluster.as_ref().ok_or(AgentError::Lacks("[cluster] section"))?;
    let known = config.servers.iter().find(|server| server.id == id);
    let configured = known.ok_or_else(|| AgentError::NoServer {
        id: id.to_owned(),
        known: config.servers.iter().map(|server| server.id.as_str()).collect::<Vec<_>>().join(", "),
    })?;
    let data = DataDirectory::new(&settings.data_directory);
    as_whom(&data)?;
    let memory = Memory::open(&settings.state_directory)?;
    let name = name_of_agent(id, &cluster.name)?;
    let pki = settings.pki_directory.as_ref().unwrap_or(&cluster.pki_directory);
    let files = PeerFiles {
        authorities: pki.join(AUTHORITY_CERTIFICATE),
        certificate: pki.join(format!("{}.crt", name.node)),
        key: pki.join(format!("{}.key", name.node)),
    };
    let nodes: BTreeSet<String> = cluster.nodes.iter().map(|node| node.id.clone()).collect();
    let context = Arc::new(PeerContext {
        tls: PeerTls::load(files, name.clone())?,
        local: LocalNode::new(name, None, 0),
        limits: PeerLimits { max_call: MAX_CALL, ..PeerLimits::default() },
        admit: Box::new(move |hello| match nodes.contains(&hello.node) {
            true => Ok(()),
            false => Err(format!("{} is no [[node]] of the agent's configuration", hello.node)),
        }),
    });
    let address = listens(&settings, configured).ok_or_else(|| AgentError::NoAddress(id.to_owned()))?;
    let access = access(&config, &settings, id);
    let server = Server {
        programs: Programs::find(settings.bin_directory.as_deref(), data.path(), &settings.state_directory)?,
        log_file: settings.log_file.clone().unwrap_or_else(|| settings.state_directory.join(LOG_FILE)),
        data,
    };
    // The lock on the memory is held, so there is no other agent that they could be of.
    server.programs.end_leftovers();
    let directory = server.data.path().to_owned();
    let work = Work { id: id.to_owned(), server, settings, access, memory: Mutex::new(memory) };
    let service = Arc::new(Service::new(Arc::new(work)).map_err(AgentError::Memory)?);
    let listener =
        TcpListener::bind(address).await.map_err(|source| AgentError::Listen { address, source })?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        server = id,
        %address,
        data_directory = %directory.display(),
        "the agent is listening"
    );
    let answers = peer::serve(listener, context.clone(), move |peer, request: Request| {
        let service = service.clone();
        async move { service.answer(&peer.node, request).await }
    });
    tokio::select! {
        () = answers => {}
        () = context.tls.watch(LOOK_AT_CERTIFICATES_EVERY) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!(server = id, "the agent ends; its server is left as it is");
    Ok(())
}

/// What the agent's own section does not say is as for standbys in general.
fn access(config: &Config, settings: &config::Agent, id: &str) -> Access {
    let general = &config.failover;
    let replication_user = settings.replication_user.as_ref().unwrap_or(&general.replication_user).clone();
    Access {
        server: id.to_owned(),
        tls: config.server_tls.clone(),
        passfile: settings
            .passfile
            .clone()
            .or_else(|| general.replication_passfile.as_ref().map(PathBuf::from)),
        rewind_user: settings.rewind_user.clone().unwrap_or_else(|| replication_user.clone()),
        replication_user,
    }
}

/// As the owner of the data, so that everything it writes is the server's.
fn as_whom(data: &DataDirectory) -> Result<(), AgentError> {
    let own = rustix::process::geteuid();
    if own.is_root() {
        return Err(AgentError::Root);
    }
    match data.owner() {
        Some(owner) if owner != own.as_raw() => {
            Err(AgentError::Owner { directory: data.path().to_owned(), owner, own: own.as_raw() })
        }
        _ => Ok(()),
    }
}

fn listens(settings: &config::Agent, server: &config::Server) -> Option<SocketAddr> {
    let by_server = || {
        let (_, port) = split_address(server.agent.as_deref()?)?;
        Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
    };
    settings.listen.or_else(by_server)
}
