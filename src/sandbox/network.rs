//! A network of the sandbox's own on this machine: a namespace and an address for each node and server, joined
//! by a bridge.
//!
//! Owns the namespaces and the wires between them. Needs root. Nothing has a name that could be left
//! behind: each namespace lives by a process of ours that sleeps in it, and what is in it goes with it.
//! Invariant: it ends with this process, also when that is killed.
//!
//! ```text
//!  here 198.18.N.1 ──── bridge, in a namespace of its own ──┬── node1 198.18.N.11
//!                                                           ├── node2 198.18.N.12
//!                                                           ├── pg1   198.18.N.21
//! ```

use std::env;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;

use crate::postgres::process;

/// RFC 2544's, for tests of networks: nobody is reached there. One of its 256 networks is ours.
const NETWORKS: (u8, u8) = (198, 18);
const PREFIX: u8 = 24;
/// Here.
const OUTSIDE: u8 = 1;
const FIRST_NODE: u8 = 11;
const FIRST_SERVER: u8 = 21;
/// Of whichever node owns it.
const VIRTUAL: u8 = 100;
/// What the wire is called inside of a node's namespace.
pub const DEVICE: &str = "eth0";
const BRIDGE: &str = "bridge";
const UPLINK: &str = "outside";
const HOLDER_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(2);

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("network namespaces need root: run it with sudo, or leave --netns away")]
    NotRoot,
    #[error("cannot run {program}; is {package} installed?")]
    Run { program: &'static str, package: &'static str, source: io::Error },
    #[error("ip {arguments} failed: {output}")]
    Ip { arguments: String, output: String },
    #[error("cannot make a network namespace: {0}")]
    Namespace(String),
    #[error("all networks from 198.18.0.0/24 to 198.18.255.0/24 are in use here")]
    NoneFree,
}

#[derive(Debug)]
pub struct Network {
    number: u8,
    switch: Namespace,
    hosts: Vec<Host>,
}

/// Where a node or server is.
#[derive(Debug)]
struct Host {
    id: String,
    number: u8,
    namespace: Namespace,
}

impl Network {
    /// With a place for each of these nodes, the first at `.11`, and each of these servers, the first at `.21`.
    pub fn create(nodes: &[String], servers: &[String]) -> Result<Self, NetworkError> {
        if !rustix::process::geteuid().is_root() {
            return Err(NetworkError::NotRoot);
        }
        let switch = Namespace::create()?;
        switch.ip(&["link", "add", BRIDGE, "type", "bridge"])?;
        switch.ip(&["link", "set", "dev", BRIDGE, "up"])?;
        let number = uplink(&switch)?;
        let network = Self { number, switch, hosts: Vec::new() };
        let numbered = nodes.iter().zip(FIRST_NODE..).chain(servers.iter().zip(FIRST_SERVER..));
        numbered.into_iter().try_fold(network, |mut network, (id, number)| {
            let namespace = network.wire(id, number)?;
            network.hosts.push(Host { id: id.clone(), number, namespace });
            Ok(network)
        })
    }

    pub fn net(&self) -> Ipv4Net {
        Ipv4Net::new(self.host(0), PREFIX).expect("24 is a prefix of IPv4")
    }

    /// An address that is nobody's yet, for the nodes to hand on.
    pub fn virtual_address(&self) -> Ipv4Addr {
        self.host(VIRTUAL)
    }

    /// Where nodes and servers reach this machine.
    pub fn here(&self) -> Ipv4Addr {
        self.host(OUTSIDE)
    }

    pub fn address(&self, id: &str) -> Option<Ipv4Addr> {
        let host = self.hosts.iter().find(|host| host.id == id)?;
        Some(self.host(host.number))
    }

    /// The process whose network is this node's or server's: for `nsenter --net --target`.
    pub fn holder(&self, id: &str) -> Option<u32> {
        let host = self.hosts.iter().find(|host| host.id == id)?;
        Some(host.namespace.holder.id())
    }

    /// One more address for this node, as the owner of an address that is routed to it has it.
    pub fn give(&self, id: &str, address: Ipv4Net) -> Result<(), NetworkError> {
        let Some(host) = self.hosts.iter().find(|host| host.id == id) else { return Ok(()) };
        host.namespace.ip(&["address", "add", &address.to_string(), "dev", "lo"])
    }

    /// Takes its wire out of the bridge: its own end stays up, and whatever is sent is gone without a word.
    pub fn cut(&self, id: &str) -> Result<(), NetworkError> {
        self.switch.ip(&["link", "set", "dev", id, "nomaster"])
    }

    pub fn join(&self, id: &str) -> Result<(), NetworkError> {
        self.switch.ip(&["link", "set", "dev", id, "master", BRIDGE])
    }

    fn host(&self, host: u8) -> Ipv4Addr {
        host_of(self.number, host)
    }

    fn wire(&self, id: &str, host: u8) -> Result<Namespace, NetworkError> {
        let namespace = Namespace::create()?;
        let holder = namespace.holder.id().to_string();
        self.switch.ip(&["link", "add", id, "type", "veth", "peer", "name", DEVICE, "netns", &holder])?;
        self.join(id)?;
        self.switch.ip(&["link", "set", "dev", id, "up"])?;
        let address = format!("{}/{PREFIX}", self.host(host));
        namespace.ip(&["address", "add", &address, "dev", DEVICE])?;
        namespace.ip(&["link", "set", "dev", DEVICE, "up"])?;
        namespace.ip(&["link", "set", "dev", "lo", "up"])?;
        Ok(namespace)
    }
}

fn host_of(number: u8, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(NETWORKS.0, NETWORKS.1, number, host)
}

/// Makes the wire from here to the switch, in the first network that nobody has.
fn uplink(switch: &Namespace) -> Result<u8, NetworkError> {
    let holder = switch.holder.id().to_string();
    for number in 0..=u8::MAX {
        let net = format!("{}/{PREFIX}", host_of(number, 0));
        if !here(&["route", "show", &net])?.is_empty() {
            continue;
        }
        let name = format!("komainu{number}");
        // Whoever else is starting now has the same idea; the name is taken only once.
        let wire = ["link", "add", &name, "type", "veth", "peer", "name", UPLINK, "netns", &holder];
        match here(&wire) {
            Err(NetworkError::Ip { output, .. }) if output.contains("File exists") => continue,
            made => made?,
        };
        switch.ip(&["link", "set", "dev", UPLINK, "master", BRIDGE])?;
        switch.ip(&["link", "set", "dev", UPLINK, "up"])?;
        here(&["address", "add", &format!("{}/{PREFIX}", host_of(number, OUTSIDE)), "dev", &name])?;
        here(&["link", "set", "dev", &name, "up"])?;
        return Ok(number);
    }
    Err(NetworkError::NoneFree)
}

/// A network namespace, and the sleeping process by which it lives.
#[derive(Debug)]
struct Namespace {
    holder: Child,
}

impl Namespace {
    fn create() -> Result<Self, NetworkError> {
        let mut unshare = process::command("unshare", "KILL", None);
        unshare.args(["--net", "--", "sleep", "infinity"]);
        // The terminal's Ctrl-C is for the sandbox, which ends it last.
        std::os::unix::process::CommandExt::process_group(&mut unshare, 0);
        unshare.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let run = |source| NetworkError::Run { program: "unshare", package: "util-linux", source };
        let mut namespace = Self { holder: process::spawn(unshare).map_err(run)? };
        let deadline = Instant::now() + HOLDER_TIMEOUT;
        while !namespace.is_apart() {
            if let Ok(Some(status)) = namespace.holder.try_wait() {
                return Err(NetworkError::Namespace(format!("unshare --net ended with {status}")));
            }
            if Instant::now() >= deadline {
                return Err(NetworkError::Namespace("unshare --net takes too long".to_owned()));
            }
            thread::sleep(POLL);
        }
        Ok(namespace)
    }

    fn is_apart(&self) -> bool {
        let ours = fs::read_link("/proc/self/ns/net");
        let its = fs::read_link(format!("/proc/{}/ns/net", self.holder.id()));
        matches!((ours, its), (Ok(ours), Ok(its)) if ours != its)
    }

    /// Runs `ip` in here.
    fn ip(&self, arguments: &[&str]) -> Result<(), NetworkError> {
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--net", "--target", &self.holder.id().to_string(), "--", "ip"]);
        ip(nsenter, arguments).map(drop)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Runs `ip` outside of all namespaces of ours.
fn here(arguments: &[&str]) -> Result<String, NetworkError> {
    ip(Command::new("ip"), arguments)
}

fn ip(mut command: Command, arguments: &[&str]) -> Result<String, NetworkError> {
    // `su` and the like keep an ordinary user's path, which lacks the place where Debian keeps it.
    let path = format!("{}:/usr/sbin:/sbin", env::var("PATH").unwrap_or_default());
    let output = command.args(arguments).env("PATH", path).stdin(Stdio::null()).output();
    let output = output.map_err(|source| NetworkError::Run { program: "ip", package: "iproute2", source })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(NetworkError::Ip { arguments: arguments.join(" "), output: said });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Set in the second run, inside the namespace.
    const INSIDE: &str = "KOMAINU_TEST_INSIDE";

    /// Runs the test of this name where we are root and no network is anybody else's: as root, with a user
    /// namespace, or through sudo. Where none of these works it fails.
    fn in_namespace(test: &str, body: impl FnOnce()) {
        if env::var_os(INSIDE).is_some() {
            return body();
        }
        let name = format!("sandbox::network::tests::{test}");
        for enter in ["unshare -n", "unshare -rn", "sudo -n unshare -n"] {
            let mut words = enter.split(' ');
            let mut command = Command::new(words.next().unwrap());
            command.args(words);
            let works = Command::new(command.get_program()).args(command.get_args()).arg("true").output();
            if !works.is_ok_and(|output| output.status.success()) {
                continue;
            }
            command.arg("env").arg(format!("{INSIDE}=1")).arg(env::current_exe().unwrap());
            let output = command.args(["--exact", &name, "--nocapture"]).output().unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.contains("1 passed"), "{said}{errors}");
            return;
        }
        panic!("no way to make a network namespace");
    }

    fn reaches(network: &Network, from: &str, to: Ipv4Addr) -> bool {
        is_refused(network, from, to, 30)
    }

    fn is_cut_off(network: &Network, from: &str, to: Ipv4Addr) -> bool {
        !is_refused(network, from, to, 1)
    }

    /// A refusal is an answer; only silence is none.
    fn is_refused(network: &Network, from: &str, to: Ipv4Addr, within_s: u32) -> bool {
        let connect = format!("timeout {within_s} bash -c '</dev/tcp/{to}/9' 2>&1 | grep -q refused");
        let holder = network.holder(from).unwrap().to_string();
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--net", "--target", &holder, "--", "sh", "-c", &connect]);
        nsenter.status().unwrap().success()
    }

    #[test]
    fn nodes_reach_each_other_until_one_is_cut_off() {
        in_namespace("nodes_reach_each_other_until_one_is_cut_off", || {
            let network = Network::create(&["node1".into(), "node2".into()], &["pg1".into()]).unwrap();
            let (one, two) = (network.address("node1").unwrap(), network.address("node2").unwrap());
            let server = network.address("pg1").unwrap();
            assert!(reaches(&network, "node1", server) && reaches(&network, "pg1", two));
            assert!(reaches(&network, "node1", two) && reaches(&network, "node2", network.host(OUTSIDE)));
            network.cut("node1").unwrap();
            assert!(is_cut_off(&network, "node1", two) && is_cut_off(&network, "node2", one));
            assert!(reaches(&network, "node2", network.host(OUTSIDE)));
            network.join("node1").unwrap();
            assert!(reaches(&network, "node1", two) && reaches(&network, "node2", one));
        });
    }

    #[test]
    fn two_have_networks_of_their_own_and_leave_nothing() {
        in_namespace("two_have_networks_of_their_own_and_leave_nothing", || {
            let (first, second) = (Network::create(&[], &[]).unwrap(), Network::create(&[], &[]).unwrap());
            assert_eq!((first.number, second.number), (0, 1));
            drop(first);
            let deadline = Instant::now() + HOLDER_TIMEOUT;
            while here(&["link", "show", "dev", "komainu0"]).is_ok() {
                assert!(Instant::now() < deadline, "komainu0 is still there");
                thread::sleep(POLL);
            }
            assert!(here(&["link", "show", "dev", "komainu1"]).is_ok());
        });
    }
}
