//! Which node has the sandbox's endpoint, by what the nodes' programs tell.
//!
//! Pure. It stands for the network of a real place, which knows no raft: it believes what it is told,
//! but for what is outdated. Invariant: epochs only rise, and no epoch has two holders.

use serde::{Deserialize, Serialize};

/// What a node's program is told by komainu, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    pub action: Action,
    pub endpoint: String,
    pub node: String,
    pub epoch: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Take,
    /// Another node owns it now, or nobody.
    Release,
    /// Nobody can say who owns it.
    Drop,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("there is no endpoint {asked}; the sandbox has {ours}")]
    NoEndpoint { asked: String, ours: String },
    #[error("epoch {asked} of {endpoint} is over: the sandbox has been told of epoch {latest}")]
    Outdated { endpoint: String, asked: u64, latest: u64 },
    #[error("{endpoint} is {holder}'s in epoch {epoch}, and an epoch has one owner")]
    Taken { endpoint: String, holder: String, epoch: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    name: String,
    /// The highest epoch anybody told of.
    latest: u64,
    /// Who took it last and has not given it up, and in which epoch.
    holder: Option<(String, u64)>,
}

impl Endpoint {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), latest: 0, holder: None }
    }

    pub fn holder(&self) -> Option<&str> {
        self.holder.as_ref().map(|(node, _)| node.as_str())
    }

    /// Giving up is always fine: what is not the caller's any more just stays where it is.
    pub fn told(&mut self, call: &Call) -> Result<(), Refused> {
        if call.endpoint != self.name {
            return Err(Refused::NoEndpoint { asked: call.endpoint.clone(), ours: self.name.clone() });
        }
        match call.action {
            Action::Take => self.take(&call.node, call.epoch)?,
            Action::Release | Action::Drop => self.give_up(&call.node, call.epoch),
        }
        self.latest = self.latest.max(call.epoch);
        Ok(())
    }

    fn take(&mut self, node: &str, epoch: u64) -> Result<(), Refused> {
        let endpoint = || self.name.clone();
        if epoch < self.latest {
            return Err(Refused::Outdated { endpoint: endpoint(), asked: epoch, latest: self.latest });
        }
        if let Some((holder, of)) = &self.holder
            && *of == epoch
            && holder != node
        {
            return Err(Refused::Taken { endpoint: endpoint(), holder: holder.clone(), epoch });
        }
        self.holder = Some((node.to_owned(), epoch));
        Ok(())
    }

    fn give_up(&mut self, node: &str, epoch: u64) {
        // A program may be slow: what the node has taken again since is not meant.
        self.holder.take_if(|(holder, of)| holder == node && *of <= epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::Action::{Drop, Release, Take};
    use super::*;

    fn call(action: Action, node: &str, epoch: u64) -> Call {
        Call { action, endpoint: "app".into(), node: node.into(), epoch }
    }

    /// After these calls, of which none is refused.
    fn after(calls: &[(Action, &str, u64)]) -> Endpoint {
        let mut endpoint = Endpoint::new("app");
        for (action, node, epoch) in calls {
            endpoint.told(&call(*action, node, *epoch)).unwrap();
        }
        endpoint
    }

    #[test]
    fn it_follows_the_highest_epoch() {
        assert_eq!(after(&[]).holder(), None);
        assert_eq!(after(&[(Take, "a", 1)]).holder(), Some("a"));
        assert_eq!(after(&[(Take, "a", 1), (Take, "b", 2)]).holder(), Some("b"));
        assert_eq!(after(&[(Take, "a", 1), (Take, "a", 1)]).holder(), Some("a"), "told twice");
        let mut endpoint = after(&[(Take, "b", 2)]);
        let refused = endpoint.told(&call(Take, "a", 1)).unwrap_err();
        assert_eq!(refused, Refused::Outdated { endpoint: "app".into(), asked: 1, latest: 2 });
        let refused = endpoint.told(&call(Take, "a", 2)).unwrap_err();
        assert!(refused.to_string().contains("b's in epoch 2"), "{refused}");
        assert_eq!(endpoint.holder(), Some("b"));
    }

    #[test]
    fn only_the_holder_gives_it_up_and_only_what_it_has_now() {
        assert_eq!(after(&[(Take, "a", 1), (Release, "a", 2)]).holder(), None);
        assert_eq!(after(&[(Take, "a", 1), (Drop, "a", 1)]).holder(), None);
        assert_eq!(after(&[(Take, "a", 1), (Take, "b", 2), (Release, "a", 2)]).holder(), Some("b"));
        assert_eq!(after(&[(Take, "a", 3), (Drop, "a", 1)]).holder(), Some("a"), "the call was slow");
    }

    #[test]
    fn whoever_gave_up_an_epoch_has_ended_those_before() {
        let mut endpoint = after(&[(Take, "a", 1), (Release, "a", 2)]);
        assert!(endpoint.told(&call(Take, "a", 1)).is_err());
        assert_eq!(endpoint.told(&call(Take, "b", 2)), Ok(()));
    }

    #[test]
    fn it_reads_what_komainu_tells_programs() {
        let told = r#"{"action":"take","endpoint":"app","method":"command","node":"a","epoch":7}"#;
        assert_eq!(serde_json::from_str::<Call>(told).unwrap(), call(Take, "a", 7));
        let mut endpoint = Endpoint::new("app");
        let other = Call { endpoint: "web".into(), ..call(Take, "a", 1) };
        assert!(endpoint.told(&other).is_err());
    }
}
