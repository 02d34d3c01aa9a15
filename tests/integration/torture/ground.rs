//! The sandbox that is tortured: what it is told, and what its nodes say.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use komainu::sandbox::{Ready, Request, admin, ask, describe};
use serde_json::Value;

use crate::support::*;

/// All is well again after any fault within this: a server may have to be copied, on a machine that is busy.
pub const WHOLE_WITHIN: Duration = Duration::from_secs(150);

pub struct Ground {
    pub sandbox: Sandbox,
}

impl Ground {
    pub fn start() -> Self {
        let ground = Ground { sandbox: Sandbox::start(&["--netns", "--standbys", "2", "--sync", "require"]) };
        let begun = Instant::now();
        let why = || ground.why_not_whole(begun).unwrap_or_default();
        assert!(ground.is_whole_within(WHOLE_WITHIN), "{}", why());
        ground
    }

    fn control(&self) -> PathBuf {
        self.sandbox.ready["control"].as_str().unwrap().into()
    }

    /// Process ids as they are now.
    pub fn describe(&self) -> Ready {
        describe(&self.control()).unwrap()
    }

    pub fn tell(&self, request: &Request) -> Result<(), String> {
        ask(&self.control(), request).map(drop).map_err(|error| error.to_string())
    }

    /// What undoes something. It may have come to an end by itself.
    pub fn certainly(&self, request: &Request) {
        if let Err(error) = self.tell(request) {
            println!("  {request:?}: {error}");
        }
    }

    /// All at once: nodes wait for each other.
    pub fn bring_back(&self, ids: &[String]) {
        std::thread::scope(|scope| {
            for id in ids {
                scope.spawn(|| self.certainly(&Request::Start { id: id.clone() }));
            }
        });
    }

    fn list(&self, list: &str) -> Vec<String> {
        let all = self.sandbox.ready[list].as_array().into_iter().flatten();
        all.map(|part| part["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Of nodes, servers and agents.
    pub fn ids(&self) -> Vec<String> {
        ["servers", "agents", "nodes"].iter().flat_map(|list| self.list(list)).collect()
    }

    pub fn node_urls(&self) -> Vec<String> {
        let nodes = self.sandbox.nodes().iter();
        nodes.map(|node| node["url"].as_str().unwrap().to_owned()).collect()
    }

    fn statuses(&self) -> Vec<(String, Option<Value>)> {
        self.list("nodes").into_iter().map(|id| (id.clone(), self.sandbox.admin(&id, "/status"))).collect()
    }

    /// As the node says that knows of the highest epoch.
    pub fn primary_and_epoch(&self) -> Option<(String, u64)> {
        let said = |status: &Value| Some((status["primary"].as_str()?.to_owned(), status["epoch"].as_u64()?));
        self.statuses()
            .iter()
            .filter_map(|(_, status)| said(status.as_ref()?))
            .max_by_key(|(_, epoch)| *epoch)
    }

    pub fn primary(&self) -> Option<String> {
        Some(self.primary_and_epoch()?.0)
    }

    pub fn leader(&self) -> Option<String> {
        self.statuses()
            .iter()
            .find_map(|(id, status)| (status.as_ref()?["leader"].as_str()? == id).then(|| id.clone()))
    }

    pub fn administrative(&self, server: &str) -> Option<String> {
        self.statuses().iter().find_map(|(_, status)| {
            let known = status.as_ref()?["servers"].as_array()?.iter().find(|known| known["id"] == server)?;
            Some(known["administrative"].as_str()?.to_owned())
        })
    }

    /// To whichever node takes it.
    pub fn order(&self, path: &str, body: &Value) -> Result<(), String> {
        let mut refused = "no node answers".to_owned();
        for id in self.list("nodes") {
            let socket = Path::new(self.sandbox.part(&id)["admin"].as_str().unwrap());
            match admin::post(socket, path, &body.to_string()) {
                Ok(answer) if answer.status == 200 => return Ok(()),
                Ok(answer) => refused = answer.body,
                Err(error) => refused = error.to_string(),
            }
        }
        Err(refused)
    }

    fn events(&self) -> impl Iterator<Item = Value> {
        let events = self.list("nodes").into_iter().filter_map(|id| self.sandbox.admin(&id, "/events"));
        events.flat_map(|page| page["events"].as_array().cloned().unwrap_or_default())
    }

    /// The last one in the timeline of any node.
    pub fn last_event(&self) -> u64 {
        self.events().filter_map(|event| event["id"].as_u64()).max().unwrap_or(0)
    }

    /// Whether the timeline of some node has it after that event.
    pub fn has_happened(&self, text: &str, after: u64, within: Duration) -> bool {
        self.waits_for(within, || {
            self.events().any(|event| {
                let says = event["text"].as_str().is_some_and(|said| said.contains(text));
                says && event["id"].as_u64() > Some(after)
            })
        })
    }

    pub fn waits_for(&self, within: Duration, condition: impl Fn() -> bool) -> bool {
        let deadline = Instant::now() + within;
        while !condition() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        true
    }

    /// None: every node agrees on the primary, and every server is used and streams. What a node says of a server
    /// counts if that has answered since: a status may be older than what was broken meanwhile.
    pub fn why_not_whole(&self, since: Instant) -> Option<String> {
        let since_ms = u64::try_from(since.elapsed().as_millis()).unwrap();
        let statuses = self.statuses();
        let mut agreed = None;
        for (id, status) in &statuses {
            let Some(status) = status else { return Some(format!("{id} does not answer")) };
            let said = (status["primary"].as_str().map(str::to_owned), status["epoch"].as_u64());
            let (Some(primary), _) = &said else {
                return Some(format!("{id} has no primary: {}", status["reason"]));
            };
            // The one that is to be replaced is well until it is stopped.
            let under_way = &status["failover"]["under_way"];
            if !under_way.is_null() {
                return Some(format!("{id} says that something is under way: {under_way}"));
            }
            for server in status["servers"].as_array().into_iter().flatten() {
                let streams = server["id"] == **primary || server["replication_state"] == "streaming";
                if server["health"] != "up" || server["administrative"] != "attached" || !streams {
                    return Some(format!("{id} says of a server: {server}"));
                }
                if server["observed_ms"].as_u64().is_none_or(|age_ms| age_ms > since_ms) {
                    return Some(format!("{id} has not heard of a server for {since_ms} ms: {server}"));
                }
            }
            // As long as the promise names the primary itself, what was acknowledged under the one before may be only
            // there, and it is not replaced.
            let promised = status["failover"]["synchronous"]["names"].as_array();
            if promised.is_some_and(|names| names.iter().any(|name| name == primary.as_str())) {
                return Some(format!("{id} has no promise of {primary}'s own yet: {promised:?}"));
            }
            if agreed.get_or_insert_with(|| said.clone()) != &said {
                return Some(format!("the nodes do not agree: {agreed:?}, {said:?}"));
            }
        }
        None
    }

    /// What there is to find out why by.
    pub fn tell_all(&self) {
        for (id, status) in self.statuses() {
            println!("---- {id} ----\n{}", status.unwrap_or_default());
            if let Some(events) = self.sandbox.admin(&id, "/events") {
                println!("{events}");
            }
        }
    }

    pub fn is_whole_within(&self, within: Duration) -> bool {
        let since = Instant::now();
        self.waits_for(within, || self.why_not_whole(since).is_none())
    }

    /// What one of the servers answers to its superuser.
    pub fn psql(&self, server: &str, sql: &str) -> String {
        let part = self.sandbox.part(server);
        let data = Path::new(part["data_directory"].as_str().unwrap());
        let socket = data.parent().unwrap().join("socket");
        let url = format!("host={} port={} user=postgres dbname=app", socket.display(), part["port"]);
        psql(&url, &[sql]).output()
    }
}
