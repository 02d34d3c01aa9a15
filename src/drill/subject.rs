//! What is drilled: a sandbox made for it, one that runs already, or a cluster whose nodes a person breaks.
//!
//! Owns how a node is broken and mended there. Invariant: only a sandbox's nodes are ever broken by komainu.

use std::path::PathBuf;

use tokio::task::{JoinHandle, spawn_blocking};

use super::error::DrillError;
use crate::sandbox::{
    self, AskError, FailoverOrder, FailoverTold, Method, Ready, ReadyManaged, Request, ReservedPort, Running,
    SandboxArgs, SandboxError, Sync,
};

/// Where to drill.
pub struct Place<'a> {
    /// Of a cluster that runs: its nodes' admin sockets. Empty: a sandbox is made.
    pub admin: &'a [PathBuf],
    pub url: Option<&'a str>,
    /// None: the first.
    pub endpoint: Option<&'a str>,
    /// What it is to be like; its port is chosen.
    pub own: SandboxArgs,
}

/// A sandbox for a drill.
pub fn sandbox(nodes: u8, netns: bool, method: Method) -> SandboxArgs {
    SandboxArgs {
        standbys: 2,
        spares: 0,
        nodes,
        dir: None,
        port: 0,
        json: true,
        netns,
        aws: false,
        method: Some(method),
        mode: None,
        name_ttl: 5,
        sync: Some(Sync::Off),
        no_agents: false,
        patient: false,
    }
}

pub fn random() -> u32 {
    let mut bytes = [0; 4];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random source does not fail once it works");
    u32::from_ne_bytes(bytes)
}

pub struct Subject {
    pub url: String,
    /// The admin sockets of its nodes.
    pub nodes: Vec<PathBuf>,
    /// The service that is imitated.
    pub managed: Option<ReadyManaged>,
    /// There is one beside each server, or should be.
    agents: bool,
    hands: Hands,
}

enum Hands {
    /// A sandbox of ours, by its control socket.
    Own { running: Running, control: PathBuf, _port: ReservedPort },
    /// A sandbox that runs already.
    Sandbox { control: PathBuf },
    /// A person, who is asked.
    Person,
}

impl Subject {
    pub async fn find(place: Place<'_>, say: &dyn Fn(&str)) -> Result<Self, DrillError> {
        if place.admin.is_empty() {
            return Self::own(place.own, say).await;
        }
        let admin = place.admin.to_vec();
        let found =
            spawn_blocking(move || sandbox::of_nodes(&admin)).await.map_err(|_| DrillError::Panicked)??;
        match (found, place.url) {
            (Some(ready), _) => {
                say(&format!("drilling the sandbox at {}", ready.control));
                let hands = Hands::Sandbox { control: ready.control.clone().into() };
                Ok(Self {
                    url: url_of(&ready, place.endpoint),
                    nodes: sockets(&ready),
                    agents: !ready.agents.is_empty(),
                    managed: ready.managed,
                    hands,
                })
            }
            (None, Some(url)) => Ok(Self {
                url: url.to_owned(),
                nodes: place.admin.to_vec(),
                agents: true,
                managed: None,
                hands: Hands::Person,
            }),
            (None, None) => Err(DrillError::NoUrl),
        }
    }

    async fn own(args: SandboxArgs, say: &dyn Fn(&str)) -> Result<Self, DrillError> {
        say("starting a sandbox for the drill");
        let port = ReservedPort::any().map_err(DrillError::Port)?;
        let args = SandboxArgs { port: port.number(), ..args };
        let running = Running::start(&args).await?;
        let ready = match running.wait_until_ready().await {
            Ok(()) => running.ready(),
            Err(error) => {
                // What is wrong is told; that it did not end well besides is no news.
                let _ = running.stop().await;
                return Err(error.into());
            }
        };
        let hands = Hands::Own { running, control: ready.control.clone().into(), _port: port };
        Ok(Self {
            url: ready.url.clone(),
            nodes: sockets(&ready),
            agents: !ready.agents.is_empty(),
            managed: ready.managed,
            hands,
        })
    }

    pub fn has_agents(&self) -> bool {
        self.agents
    }

    pub fn is_a_person_s(&self) -> bool {
        matches!(self.hands, Hands::Person)
    }

    /// Where its sandbox is told things; none: a person's.
    pub fn control(&self) -> Option<PathBuf> {
        match &self.hands {
            Hands::Own { control, .. } | Hands::Sandbox { control } => Some(control.clone()),
            Hands::Person => None,
        }
    }

    /// Ends what was started for the drill.
    pub async fn end(self) -> Result<(), SandboxError> {
        match self.hands {
            Hands::Own { running, .. } => running.stop().await,
            Hands::Sandbox { .. } | Hands::Person => Ok(()),
        }
    }

    /// Has the imitated service make another writer. None: a person is to ask the real one.
    pub fn fail_over(&self, order: FailoverOrder) -> Option<JoinHandle<Result<FailoverTold, AskError>>> {
        let control = match &self.hands {
            Hands::Own { control, .. } | Hands::Sandbox { control } => control.clone(),
            Hands::Person => return None,
        };
        Some(spawn_blocking(move || sandbox::fail_over(&control, &order)))
    }

    /// Whether a sandbox's server does, as far as that is known.
    pub async fn runs(&self, server: &str) -> bool {
        let control = match &self.hands {
            Hands::Own { control, .. } | Hands::Sandbox { control } => control.clone(),
            Hands::Person => return true,
        };
        let described = spawn_blocking(move || sandbox::describe(&control)).await;
        let Ok(Ok(ready)) = described else { return true };
        ready.servers.iter().any(|known| known.id == server && known.pid != 0)
    }

    /// Has these things done one after the other, or asks a person.
    pub async fn tell(
        &self,
        requests: &[Request],
        to_a_person: &str,
        say: &dyn Fn(&str),
    ) -> Result<(), DrillError> {
        let Some(control) = self.control() else {
            say(to_a_person);
            return Ok(());
        };
        let requests = requests.to_vec();
        let asking = spawn_blocking(move || {
            requests.iter().try_for_each(|request| sandbox::ask(&control, request).map(drop))
        });
        Ok(asking.await.map_err(|_| DrillError::Panicked)??)
    }
}

/// Where clients of this endpoint connect.
fn url_of(ready: &Ready, endpoint: Option<&str>) -> String {
    let named = ready.endpoints.iter().find(|known| Some(known.name.as_str()) == endpoint);
    named.map_or(&ready.url, |endpoint| &endpoint.url).clone()
}

fn sockets(ready: &Ready) -> Vec<PathBuf> {
    ready.nodes.iter().map(|node| PathBuf::from(&node.admin)).collect()
}
