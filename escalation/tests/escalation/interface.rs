//! Addresses on a real kernel's interfaces, in a network namespace of the test's own.
//!
//! A thread cannot leave its user's namespaces for a new one while others run, so each test runs itself again inside
//! `unshare`: as root directly, else with a user namespace, else through sudo. Where none of these works it fails.

use crate::support::until;
use crate::support::world::{Contender, quick};
use komainu_escalation::endpoint::Host;
use komainu_escalation::interface::InterfaceSettings;
use komainu_escalation::{EndpointSettings, MethodSettings, Owner, Reason, State};
use std::process::{Command, Output, Stdio};

/// Set in the second run, inside the namespace.
const INSIDE: &str = "KOMAINU_TEST_INSIDE";

/// Runs the test of this name in a new network namespace, or the body if this is that run.
fn in_namespace(test: &str, body: impl Future<Output = ()>) {
    if std::env::var_os(INSIDE).is_some() {
        ip("link set lo up");
        ip("link add v0 type veth peer name v1");
        ip("link set v0 up");
        ip("link set v1 up");
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(body);
        return;
    }
    let name = format!("interface::{test}");
    let this = std::env::current_exe().unwrap();
    let mut refusals = Vec::new();
    for enter in [&["unshare", "-n"][..], &["unshare", "-rn"], &["sudo", "-n", "unshare", "-n"]] {
        let (program, arguments) = enter.split_first().unwrap();
        let works = Command::new(program).args(arguments).arg("true").stderr(Stdio::null()).status();
        if !works.is_ok_and(|status| status.success()) {
            refusals.push(enter.join(" "));
            continue;
        }
        let output = Command::new(program)
            .args(arguments)
            .arg("env")
            .arg(format!("{INSIDE}=1"))
            .arg(format!("KOMAINU_TEST_PYTHON={}", std::env::var("KOMAINU_TEST_PYTHON").unwrap_or_default()))
            .arg(&this)
            .args(["--exact", &name, "--nocapture", "--test-threads=1"])
            .output()
            .unwrap();
        assert!(output.status.success() && ran_one(&output), "{}", text(&output));
        return;
    }
    panic!("no way to make a network namespace; tried {refusals:?}");
}

fn ran_one(output: &Output) -> bool {
    String::from_utf8_lossy(&output.stdout).contains("1 passed")
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn ip(arguments: &str) -> String {
    // An ordinary user's path lacks the place where Debian keeps it.
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new("ip")
        .env("PATH", path)
        .args(arguments.split(' '))
        .output()
        .expect("iproute2 must be installed");
    assert!(output.status.success(), "ip {arguments}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn has(address: &str) -> bool {
    ip("addr show dev v0").contains(&format!(" {address} "))
}

fn contender(address: &str, lifetime_s: u32) -> Contender {
    let method = MethodSettings::Interface(InterfaceSettings {
        device: "v0".into(),
        address: address.parse().unwrap(),
        lifetime_s,
    });
    let settings = EndpointSettings { name: "app".into(), method, pre: None, post: None };
    Contender::start(&settings, &Host { node: "n1".into(), cloud: None, pace: quick() })
}

#[test]
fn an_address_comes_and_goes_with_the_claim() {
    in_namespace("an_address_comes_and_goes_with_the_claim", async {
        ip("addr add 10.5.0.1/24 dev v0");
        let mut contender = contender("10.5.0.9/24", 3);
        contender.take(1).await;
        assert!(has("10.5.0.9/24") && has("10.5.0.1/24"));
        assert!(ip("addr show dev v0").contains("valid_lft"), "it has a lifetime");

        contender.release(2).await;
        assert!(!has("10.5.0.9/24") && has("10.5.0.1/24"), "nothing else is taken away");

        contender.take(3).await;
        contender.lease(false);
        contender.until("without a lease", |status| status.reason == Reason::LeaseMissing).await;
        until("it is taken down without a lease", async || !has("10.5.0.9/24")).await;
        contender.lease(true);
        contender.until_state(State::Held).await;

        // By hand.
        ip("addr del 10.5.0.9/24 dev v0");
        contender.event(Reason::Drift).await;
        until("repaired", async || has("10.5.0.9/24")).await;
    });
}

#[test]
fn an_address_left_behind_is_taken_away_by_whoever_starts_without_owning_it() {
    in_namespace("an_address_left_behind_is_taken_away_by_whoever_starts_without_owning_it", async {
        ip("addr add 10.5.0.9/24 dev v0");
        let _contender = contender("10.5.0.9/24", 0);
        until("gone", async || !has("10.5.0.9/24")).await;
    });
}

#[test]
fn the_kernel_takes_it_away_when_nobody_renews_it() {
    in_namespace("the_kernel_takes_it_away_when_nobody_renews_it", async {
        let contender = contender("10.5.0.9/24", 3);
        contender.take(1).await;
        let lifetime = || -> u32 {
            let shown = ip("-4 addr show dev v0");
            let (_, seconds) = shown.split_once("valid_lft ").expect("it is there");
            seconds.split_once("sec").unwrap().0.parse().unwrap()
        };
        let mut last = lifetime();
        until("it is renewed", async || {
            let renewed = lifetime() > last;
            last = lifetime();
            renewed
        })
        .await;
        // As a kill, or a freeze, would leave it.
        drop(contender);
        until("the kernel removed it", async || !has("10.5.0.9/24")).await;
    });
}

#[test]
fn ipv6_is_usable_at_once() {
    in_namespace("ipv6_is_usable_at_once", async {
        let contender = contender("2001:db8::9/64", 3);
        contender.take(1).await;
        let shown = ip("-6 addr show dev v0");
        let line = shown.lines().find(|line| line.contains("2001:db8::9/64")).expect("it is there");
        assert!(line.contains("nodad") && !line.contains("tentative"), "{line}");
        contender.release(2).await;
        assert!(!ip("-6 addr show dev v0").contains("2001:db8::9/64"));
    });
}

#[test]
fn a_missing_interface_is_said() {
    in_namespace("a_missing_interface_is_said", async {
        ip("link del v0");
        let contender = contender("10.5.0.9/24", 3);
        contender.claim(Owner::This, 1);
        let status = contender.until_state(State::Blocked).await;
        assert_eq!(status.reason, Reason::TargetMissing, "{status:?}");
    });
}

/// Prints each frame that arrives at the other end of the wire.
const SNIFFER: &str = "
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind(('v1', 0))
print('ready', flush=True)
while True:
    print(s.recv(2000).hex(), flush=True)
";

fn neighbours_hear(address: &str, is_it: impl Fn(&str) -> bool + Send + 'static) -> impl Future<Output = ()> {
    use std::io::{BufRead, BufReader};
    let address = address.to_owned();
    async move {
        let mut sniffer = Command::new(std::env::var("KOMAINU_TEST_PYTHON").unwrap())
            .args(["-c", SNIFFER])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut frames = BufReader::new(sniffer.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert_eq!(frames.next().as_deref(), Some("ready"));
        let contender = contender(&address, 3);
        contender.take(1).await;
        let heard = tokio::task::spawn_blocking(move || frames.any(|frame| is_it(&frame)));
        crate::support::within("an announcement", heard).await.unwrap();
        sniffer.kill().unwrap();
        sniffer.wait().unwrap();
    }
}

#[test]
fn neighbours_hear_of_an_ipv4_address() {
    in_namespace(
        "neighbours_hear_of_an_ipv4_address",
        // To all, ARP, and the address is sender and target both.
        neighbours_hear("10.5.0.9/24", |frame| {
            frame.starts_with("ffffffffffff")
                && frame[24..28] == *"0806"
                && frame[56..64] == *"0a050009"
                && frame[76..84] == *"0a050009"
        }),
    );
}

#[test]
fn neighbours_hear_of_an_ipv6_address() {
    in_namespace(
        "neighbours_hear_of_an_ipv6_address",
        // Neighbour advertisement (136) with "override" of this very address.
        neighbours_hear("2001:db8::9/64", |frame| {
            frame[24..28] == *"86dd"
                && frame.len() >= 156
                && frame[108..110] == *"88"
                && frame[116..118] == *"20"
                && frame[124..156] == *"20010db8000000000000000000000009"
        }),
    );
}
