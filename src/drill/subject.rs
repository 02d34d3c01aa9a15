//! What is drilled: a sandbox made for it, one that runs already, or a cluster whose nodes a person breaks.
//!
//! Owns how a node is broken and mended there. Invariant: only a sandbox's nodes are ever broken by komainu.

use std::path::PathBuf;

use tokio::task::spawn_blocking;

use super::endpoint::{DrillError, Settings};
use crate::sandbox::{
    self, AskError, Ready, Request, ReservedPort, Running, SandboxArgs, SandboxError, Sync,
};

/// What happens to the endpoint's owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Event {
    /// Its process ends at once, as with SIGKILL
    Kill,
    /// It hangs, as with SIGSTOP, and goes on later
    Freeze,
    /// Nothing it sends arrives, and nothing reaches it (needs --netns)
    Partition,
}

impl Event {
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Freeze => "freeze",
            Self::Partition => "partition",
        }
    }

    fn breaks(self, id: String) -> Request {
        match self {
            Self::Kill => Request::Kill { id },
            Self::Freeze => Request::Freeze { id },
            Self::Partition => Request::Cut { id },
        }
    }

    fn mends(self, id: String) -> Request {
        match self {
            Self::Kill => Request::Start { id },
            Self::Freeze => Request::Thaw { id },
            Self::Partition => Request::Join { id },
        }
    }
}

pub struct Subject {
    pub url: String,
    /// The admin sockets of its nodes.
    pub nodes: Vec<PathBuf>,
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
    pub async fn find(settings: &Settings, say: &dyn Fn(&str)) -> Result<Self, DrillError> {
        if settings.admin.is_empty() {
            return Self::own(settings, say).await;
        }
        let admin = settings.admin.clone();
        let found = spawn_blocking(move || sandbox_of(&admin)).await.map_err(|_| DrillError::Panicked)??;
        match (found, &settings.url) {
            (Some(ready), _) => {
                say(&format!("drilling the sandbox at {}", ready.control));
                let hands = Hands::Sandbox { control: ready.control.clone().into() };
                Ok(Self { url: ready.url.clone(), nodes: sockets(&ready), hands })
            }
            (None, Some(url)) => {
                Ok(Self { url: url.clone(), nodes: settings.admin.clone(), hands: Hands::Person })
            }
            (None, None) => Err(DrillError::NoUrl),
        }
    }

    async fn own(settings: &Settings, say: &dyn Fn(&str)) -> Result<Self, DrillError> {
        say("starting a sandbox for the drill");
        let port = ReservedPort::any().map_err(DrillError::Port)?;
        let args = SandboxArgs {
            // The endpoint is what is drilled; one server has all the rows.
            standbys: 0,
            nodes: settings.nodes,
            dir: None,
            port: port.number(),
            json: true,
            netns: settings.netns,
            method: settings.method,
            sync: Sync::Off,
        };
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
        Ok(Self { url: ready.url.clone(), nodes: sockets(&ready), hands })
    }

    pub fn is_a_person_s(&self) -> bool {
        matches!(self.hands, Hands::Person)
    }

    pub async fn break_node(&self, id: &str, event: Event, say: &dyn Fn(&str)) -> Result<(), DrillError> {
        let request = event.breaks(id.to_owned());
        self.tell(request, say, || format!("please do this to {id} now: {}", event.name())).await
    }

    pub async fn mend_node(&self, id: &str, event: Event, say: &dyn Fn(&str)) -> Result<(), DrillError> {
        let request = event.mends(id.to_owned());
        self.tell(request, say, || format!("please bring {id} back now")).await
    }

    /// Ends what was started for the drill.
    pub async fn end(self) -> Result<(), SandboxError> {
        match self.hands {
            Hands::Own { running, .. } => running.stop().await,
            Hands::Sandbox { .. } | Hands::Person => Ok(()),
        }
    }

    async fn tell(
        &self,
        request: Request,
        say: &dyn Fn(&str),
        to_a_person: impl FnOnce() -> String,
    ) -> Result<(), DrillError> {
        let control = match &self.hands {
            Hands::Own { control, .. } | Hands::Sandbox { control } => control.clone(),
            Hands::Person => {
                say(&to_a_person());
                return Ok(());
            }
        };
        let asking = spawn_blocking(move || sandbox::ask(&control, &request));
        asking.await.map_err(|_| DrillError::Panicked)??;
        Ok(())
    }
}

/// The running sandbox of this user that one of these admin sockets belongs to.
fn sandbox_of(admin: &[PathBuf]) -> Result<Option<Ready>, AskError> {
    let is_of = |ready: &Ready| sockets(ready).iter().any(|socket| admin.contains(socket));
    // One that ends just now is not the one that is meant.
    Ok(sandbox::running()?.iter().filter_map(|control| sandbox::describe(control).ok()).find(is_of))
}

fn sockets(ready: &Ready) -> Vec<PathBuf> {
    ready.nodes.iter().map(|node| PathBuf::from(&node.admin)).collect()
}
