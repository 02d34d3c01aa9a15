//! The nodes' side: asks the agents.
//!
//! Owns the links to them. Invariant: every call has a deadline, and an answer of another kind than was asked for is an
//! error.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::service::MAX_CALL;
use super::wire::{Moment, Order, Refusal, Rejoin, Request, Response, Started, Status, StopMode, Stopped};
use crate::consensus::peer::{
    CallError, Lane, Link, LocalNode, PeerContext, PeerFiles, PeerLimits, PeerTls, PeerTlsError,
};
use crate::net::address::split_address;
use crate::pki::{Certificate, NameError, NodeName, name_of_agent};

const LOOK_AT_CERTIFICATES_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum AgentCallError {
    #[error("the agent of {server} cannot be asked: {reason}")]
    Address { server: String, reason: String },
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("the agent of {server} did not do it: {refusal}")]
    Refused { server: String, refusal: Refusal },
    #[error("the agent of {0} answered something else than it was asked")]
    Unexpected(String),
}

impl AgentCallError {
    /// The agent surely did nothing.
    pub fn is_before_sending(&self) -> bool {
        match self {
            AgentCallError::Address { .. } | AgentCallError::Name(_) => true,
            AgentCallError::Call(error) => error.is_before_sending(),
            AgentCallError::Refused { .. } | AgentCallError::Unexpected(_) => false,
        }
    }

    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            AgentCallError::Refused { refusal, .. } => Some(refusal),
            _ => None,
        }
    }
}

/// A server, and the address of the agent beside it, as the configuration has them.
#[derive(Debug, Clone, Copy)]
pub struct Beside<'a> {
    pub server: &'a str,
    /// `host:port`
    pub address: &'a str,
}

/// How long an order may take, from now on.
#[derive(Debug, Clone, Copy)]
pub struct Within {
    /// Until the agent begins: later it does nothing.
    pub begun: Duration,
    pub answered: Duration,
}

impl From<Duration> for Within {
    fn from(all: Duration) -> Self {
        Within { begun: all, answered: all }
    }
}

/// By server, with the address it was made for.
type Links = BTreeMap<String, (String, Arc<Link>)>;

#[derive(Debug)]
pub struct Agents {
    context: Arc<PeerContext>,
    links: Mutex<Links>,
    certificates: JoinHandle<()>,
}

impl Agents {
    /// As the node that the certificate is of. Within a runtime, which looks after the certificate from now on.
    pub fn start(files: PeerFiles, name: NodeName) -> Result<Self, PeerTlsError> {
        let context = Arc::new(PeerContext {
            tls: PeerTls::load(files, name.clone())?,
            local: LocalNode::new(name, None, 0),
            limits: PeerLimits { max_call: MAX_CALL, ..PeerLimits::default() },
            // Whom we dial has shown the certificate of the agent.
            admit: Box::new(|_| Ok(())),
        });
        let watched = context.clone();
        let certificates = tokio::spawn(async move { watched.tls.watch(LOOK_AT_CERTIFICATES_EVERY).await });
        Ok(Agents { context, links: Mutex::default(), certificates })
    }

    pub async fn status(&self, agent: Beside<'_>, within: Duration) -> Result<Status, AgentCallError> {
        match self.ask(agent, &Request::Status, within).await? {
            Response::Status(status) => Ok(*status),
            other => Err(unexpected(agent, other)),
        }
    }

    /// The one that the agent showed last; None: it was never reached.
    pub fn certificate(&self, agent: Beside<'_>) -> Option<Certificate> {
        self.link(agent).ok()?.peer_certificate()
    }

    pub async fn stop(
        &self,
        agent: Beside<'_>,
        epoch: u64,
        mode: StopMode,
        within: impl Into<Within>,
    ) -> Result<Stopped, AgentCallError> {
        match self.order(agent, Order::Stop { epoch, mode }, within.into()).await? {
            Response::Stopped(stopped) => Ok(stopped),
            other => Err(unexpected(agent, other)),
        }
    }

    pub async fn start_server(
        &self,
        agent: Beside<'_>,
        epoch: u64,
        within: impl Into<Within>,
    ) -> Result<Started, AgentCallError> {
        match self.order(agent, Order::Start { epoch }, within.into()).await? {
            Response::Started(started) => Ok(started),
            other => Err(unexpected(agent, other)),
        }
    }

    /// Unless it was started later than that.
    pub async fn restart_server(
        &self,
        agent: Beside<'_>,
        epoch: u64,
        started_by_ms: Option<u64>,
        within: impl Into<Within>,
    ) -> Result<Started, AgentCallError> {
        match self.order(agent, Order::Restart { epoch, started_by_ms }, within.into()).await? {
            Response::Started(started) => Ok(started),
            other => Err(unexpected(agent, other)),
        }
    }

    /// Whether this call began it. What becomes of it, `status` tells.
    pub async fn rejoin(
        &self,
        agent: Beside<'_>,
        request: Rejoin,
        within: impl Into<Within>,
    ) -> Result<bool, AgentCallError> {
        match self.order(agent, Order::Rejoin(request), within.into()).await? {
            Response::Rejoining { begun } => Ok(begun),
            other => Err(unexpected(agent, other)),
        }
    }

    pub async fn clock(&self, agent: Beside<'_>, within: Duration) -> Result<Moment, AgentCallError> {
        match self.ask(agent, &Request::Clock, within).await? {
            Response::Clock(moment) => Ok(moment),
            other => Err(unexpected(agent, other)),
        }
    }

    /// By the agent's clock, so that an order that is sent late, or lies about on its way, does nothing.
    async fn order(
        &self,
        agent: Beside<'_>,
        order: Order,
        within: Within,
    ) -> Result<Response, AgentCallError> {
        let called_at = Instant::now();
        let now = self.clock(agent, within.begun.min(within.answered)).await?;
        // Looked at behind the answer: what the answer took is not given to the agent on top.
        let left = within.begun.saturating_sub(called_at.elapsed());
        let by =
            Moment { ms: now.ms.saturating_add(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)), ..now };
        let left = within.answered.saturating_sub(called_at.elapsed());
        self.ask(agent, &Request::Order { by, order }, left).await
    }

    async fn ask(
        &self,
        agent: Beside<'_>,
        request: &Request,
        within: Duration,
    ) -> Result<Response, AgentCallError> {
        Ok(self.link(agent)?.call(Lane::Ordinary, request, within).await?)
    }

    fn link(&self, agent: Beside<'_>) -> Result<Arc<Link>, AgentCallError> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((address, link)) = links.get(agent.server)
            && address == agent.address
        {
            return Ok(link.clone());
        }
        let (host, port) = split_address(agent.address).ok_or_else(|| AgentCallError::Address {
            server: agent.server.to_owned(),
            reason: format!("{:?} is not of the form host:port", agent.address),
        })?;
        let name = name_of_agent(agent.server, &self.context.local.name().cluster)?;
        let link = Arc::new(Link::new(self.context.clone(), name, host.to_owned(), port));
        links.insert(agent.server.to_owned(), (agent.address.to_owned(), link.clone()));
        Ok(link)
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        self.certificates.abort();
    }
}

fn unexpected(agent: Beside<'_>, response: Response) -> AgentCallError {
    let server = agent.server.to_owned();
    match response {
        Response::Refused(refusal) => AgentCallError::Refused { server, refusal },
        _ => AgentCallError::Unexpected(server),
    }
}
