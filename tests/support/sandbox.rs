//! A whole sandbox, as `komainu sandbox --json` runs it.

use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use komainu::sandbox::{ReservedPort, admin, process};
use serde_json::Value;

use super::{Finished, run};

/// It promises 20 s on a machine of its own; here other tests run beside it.
pub const SANDBOX_READY_WITHIN: Duration = Duration::from_secs(60);

pub struct Sandbox {
    pub child: Child,
    pub ready: Value,
    _port: ReservedPort,
}

impl Sandbox {
    pub fn start(arguments: &[&str]) -> Self {
        let port = ReservedPort::any().unwrap();
        let begun = Instant::now();
        let mut command = process::command(env!("CARGO_BIN_EXE_komainu"), "TERM", None);
        command.args(["sandbox", "--json", "--port", &port.number().to_string()]).args(arguments);
        if let Ok(python) = std::env::var("KOMAINU_TEST_PYTHON") {
            command.env("KOMAINU_PYTHON", python);
        }
        let mut child = process::spawn({
            command.stdin(Stdio::null()).stdout(Stdio::piped());
            command
        })
        .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(begun.elapsed() < SANDBOX_READY_WITHIN, "ready after {:?}", begun.elapsed());
        let ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        Self { child, ready, _port: port }
    }

    pub fn url(&self) -> &str {
        self.ready["url"].as_str().unwrap()
    }

    pub fn servers(&self) -> &[Value] {
        self.ready["servers"].as_array().unwrap()
    }

    pub fn nodes(&self) -> &[Value] {
        self.ready["nodes"].as_array().unwrap()
    }

    fn parts(&self) -> impl Iterator<Item = &Value> {
        let agents = self.ready["agents"].as_array().into_iter().flatten();
        self.nodes().iter().chain(self.servers()).chain(agents)
    }

    /// The node, server or agent of this id, as it was when all was ready.
    pub fn part(&self, id: &str) -> &Value {
        self.parts().find(|part| part["id"] == id).unwrap()
    }

    pub fn pid(&self, id: &str) -> u32 {
        self.part(id)["pid"].as_u64().unwrap().try_into().unwrap()
    }

    /// A page of a node's admin socket; none while it does not answer.
    pub fn admin(&self, id: &str, page: &str) -> Option<Value> {
        let socket = Path::new(self.part(id)["admin"].as_str().unwrap());
        let answer = admin::get_within(Duration::from_secs(1), socket, page).ok()?;
        serde_json::from_str(&answer.body).ok()
    }

    /// `komainu sandbox start`, of this sandbox.
    pub fn bring_back(&self, id: &str) -> Finished {
        let control = self.ready["control"].as_str().unwrap();
        let komainu = env!("CARGO_BIN_EXE_komainu");
        run(Command::new("timeout").args(["120", komainu, "sandbox", "start", id, "--socket", control]))
    }

    /// What a node's program does with such a call.
    pub fn tell(&self, action: &str, node: &str, epoch: u64) -> Finished {
        let call = format!(
            r#"{{"action":"{action}","endpoint":"app","method":"command","node":"{node}","epoch":{epoch}}}"#
        );
        let mut tell = Command::new(env!("CARGO_BIN_EXE_komainu"));
        tell.args(["sandbox", "tell", "--socket", self.ready["control"].as_str().unwrap()]);
        let mut child =
            tell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        writeln!(child.stdin.take().unwrap(), "{call}").unwrap();
        let output = child.wait_with_output().unwrap();
        Finished {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Process ids of nodes, servers and agents, and of the servers' own processes.
    pub fn processes(&self) -> Vec<u32> {
        let mut pids: Vec<u32> =
            self.parts().map(|it| it["pid"].as_u64().unwrap().try_into().unwrap()).collect();
        let children: Vec<u32> = pids.iter().flat_map(|pid| process::children_of(*pid)).collect();
        pids.extend(children);
        pids
    }

    pub fn directory(&self) -> PathBuf {
        let data = Path::new(self.servers()[0]["data_directory"].as_str().unwrap());
        data.ancestors().nth(2).unwrap().to_owned()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
