//! Between the nodes and moto: keeps a log of the calls, misbehaves to order, and behaves like AWS where moto does not
//! (`deviations`).
//!
//! Changing calls go through one after the other, since moto does not guard its own state against two at once.

use crate::deviations::{Corrected, parameter};
use crate::http::Message;
use crate::locked;
use crate::service::{Service, error};
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub const CHANGES: [&str; 8] = [
    "AssociateAddress",
    "DisassociateAddress",
    "ReplaceRoute",
    "CreateRoute",
    "AssignPrivateIpAddresses",
    "UnassignPrivateIpAddresses",
    "ChangeResourceRecordSets",
    "StopInstances",
];

/// In the body of a change that is made to be refused.
const PROBE: &str = "probe";

/// The access key of whoever changes things past komainu; spared all faults.
pub const BY_HAND: &str = "by-hand";

#[derive(Debug, Clone)]
pub enum Fault {
    /// "Slow down", in the words of the service.
    Throttle,
    ServerError,
    Deny,
    /// The connection breaks, nothing was done.
    Reset,
    /// It was done, and the connection breaks.
    LoseReply,
    /// It is done after a while, whether or not the caller still waits.
    Delay(Duration),
    /// It is held up until `let_go`, and then done, whether or not the caller still waits.
    Hold,
    /// Text in the answer is exchanged.
    Rewrite(&'static str, &'static str),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub operation: String,
    /// The access key it was signed with: each node has its own.
    pub by: String,
    /// It got as far as moto.
    pub done: bool,
    /// Moto did what it says.
    pub accepted: bool,
    /// When that was known.
    pub at: Instant,
}

/// Of a sandbox that runs for days nobody reads the first ones.
const CALLS_KEPT: usize = 100_000;
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub struct Proxy {
    pub address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    moto: Corrected,
    calls: Mutex<VecDeque<Call>>,
    rules: Mutex<Vec<Rule>>,
    /// Requests held up at the moment: operation and caller.
    waiting: Mutex<Vec<(String, String)>>,
    changing: tokio::sync::Mutex<()>,
    /// How often what was held up was let go.
    let_go: watch::Sender<u64>,
    /// How often something was changed.
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct Rule {
    /// Of one caller only, by its access key.
    by: Option<String>,
    operations: Vec<String>,
    fault: Fault,
    /// None: until `heal`.
    times: Option<u32>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// On a port of this address.
    pub async fn start(on: IpAddr, moto: SocketAddr) -> io::Result<Proxy> {
        let listener = TcpListener::bind((on, 0)).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            moto: Corrected::new(moto),
            calls: Mutex::default(),
            rules: Mutex::default(),
            waiting: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            let_go: watch::Sender::new(0),
            changed: watch::Sender::new(0),
        });
        let task = tokio::spawn({
            let state = state.clone();
            async move {
                loop {
                    match listener.accept().await {
                        Ok((stream, _)) => drop(tokio::spawn(serve(stream, state.clone()))),
                        Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                    }
                }
            }
        });
        Ok(Proxy { address, state, task })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// No operation named: all of them.
    pub fn fault(&self, operations: &[&str], fault: Fault, times: Option<u32>) {
        self.rule(None, operations, fault, times);
    }

    /// The same, for one caller only.
    pub fn fault_of(&self, by: &str, operations: &[&str], fault: Fault, times: Option<u32>) {
        self.rule(Some(by.to_owned()), operations, fault, times);
    }

    fn rule(&self, by: Option<String>, operations: &[&str], fault: Fault, times: Option<u32>) {
        let operations = operations.iter().map(|&name| name.to_owned()).collect();
        locked(&self.state.rules).push(Rule { by, operations, fault, times });
    }

    /// What is held up now goes on.
    pub fn let_go(&self) {
        self.state.let_go.send_modify(|times| *times += 1);
    }

    /// Tells of each change that went through here.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.state.changed.subscribe()
    }

    pub fn heal(&self) {
        locked(&self.state.rules).clear();
    }

    pub fn calls(&self) -> Vec<Call> {
        locked(&self.state.calls).iter().cloned().collect()
    }

    /// How many requests are held up, and still to be done.
    pub fn waiting(&self) -> usize {
        locked(&self.state.waiting).len()
    }

    /// How many requests of this caller's are held up, those included for which it waits no longer.
    pub fn waiting_of(&self, by: &str, operation: &str) -> usize {
        locked(&self.state.waiting).iter().filter(|(held, of)| held == operation && of == by).count()
    }

    /// The changing calls a node sent, whatever became of them.
    pub fn changes(&self, by: &str) -> Vec<String> {
        let calls = self.calls().into_iter();
        calls
            .filter(|call| call.by == by && CHANGES.contains(&call.operation.as_str()))
            .map(|call| call.operation)
            .collect()
    }
}

impl State {
    fn fault_for(&self, operation: &str, by: &str) -> Option<Fault> {
        let mut rules = locked(&self.rules);
        let rule = rules.iter_mut().find(|rule| {
            rule.times != Some(0)
                && rule.by.as_ref().is_none_or(|only| only == by)
                && (rule.operations.is_empty() || rule.operations.iter().any(|name| name == operation))
        })?;
        if let Some(times) = &mut rule.times {
            *times -= 1;
        }
        Some(rule.fault.clone())
    }

    /// The answer is moto's; None if it was not asked.
    fn note(&self, operation: &str, by: &str, answer: Option<&Message>) {
        let accepted = answer.is_some_and(|answer| (200..300).contains(&answer.status()));
        let (operation, by) = (operation.to_owned(), by.to_owned());
        let call = Call { operation, by, done: answer.is_some(), accepted, at: Instant::now() };
        let mut calls = locked(&self.calls);
        if calls.len() == CALLS_KEPT {
            calls.pop_front();
        }
        calls.push_back(call);
    }
}

/// A request that is listed until it is done.
struct HeldUp<'a> {
    waiting: &'a Mutex<Vec<(String, String)>>,
    request: (String, String),
}

impl HeldUp<'_> {
    fn list<'a>(waiting: &'a Mutex<Vec<(String, String)>>, operation: &str, by: &str) -> HeldUp<'a> {
        let request = (operation.to_owned(), by.to_owned());
        locked(waiting).push(request.clone());
        HeldUp { waiting, request }
    }
}

impl Drop for HeldUp<'_> {
    fn drop(&mut self) {
        let mut waiting = locked(self.waiting);
        let place = waiting.iter().position(|held| *held == self.request);
        place.map(|place| waiting.swap_remove(place));
    }
}

async fn serve(stream: TcpStream, state: Arc<State>) {
    let mut stream = BufStream::new(stream);
    while let Ok(Some(request)) = Message::read(&mut stream).await {
        // In a task of its own: what is on its way arrives although the caller has hung up.
        let answer = tokio::spawn(answer(request, state.clone())).await;
        let Ok(Some(answer)) = answer else {
            let _ = stream.get_ref().set_zero_linger();
            return;
        };
        if answer.write(&mut stream).await.is_err() {
            break;
        }
    }
    let _ = stream.shutdown().await;
}

/// None: break the connection.
async fn answer(request: Message, state: Arc<State>) -> Option<Message> {
    let operation = operation(&request);
    let by = signer(&request);
    let fault = if by == BY_HAND { None } else { state.fault_for(&operation, &by) };
    let service = Service::of(&request);
    let refuse = |(status, code): (u16, &str)| {
        state.note(&operation, &by, None);
        Some(error(service, status, code))
    };
    let is_dry = parameter(&request, "DryRun").as_deref() == Some("true");
    // Route 53 has no DryRun: a change that it must refuse tries a permission there.
    let is_probe = is_dry || operation == "ChangeResourceRecordSets" && request.body.contains(PROBE);
    let mut _held_up = None;
    match &fault {
        Some(Fault::Throttle) => return refuse(service.throttled()),
        Some(Fault::ServerError) => return refuse(service.failed()),
        Some(Fault::Deny) => return refuse(service.denied()),
        Some(Fault::Reset) => {
            state.note(&operation, &by, None);
            return None;
        }
        // It changes nothing, so nothing of it is on its way.
        Some(Fault::Delay(_) | Fault::Hold) if is_probe => {}
        Some(Fault::Delay(delay)) => {
            _held_up = Some(HeldUp::list(&state.waiting, &operation, &by));
            tokio::time::sleep(*delay).await;
        }
        Some(Fault::Hold) => {
            _held_up = Some(HeldUp::list(&state.waiting, &operation, &by));
            // An error is the proxy's end.
            let _ = state.let_go.subscribe().changed().await;
        }
        Some(Fault::LoseReply | Fault::Rewrite(..)) | None => {}
    }
    if is_dry {
        state.note(&format!("{operation} (DryRun)"), &by, None);
        return Some(error(Service::Ec2, 412, "DryRunOperation"));
    }
    let answer = if CHANGES.contains(&operation.as_str()) {
        let _alone = state.changing.lock().await;
        let answer = state.moto.change(&request, &operation).await;
        state.changed.send_modify(|times| *times += 1);
        answer
    } else {
        state.moto.look(&request, &operation).await
    };
    let noted = if is_probe { format!("{operation} (probe)") } else { operation };
    state.note(&noted, &by, answer.as_ref().ok());
    let mut answer = answer.ok()?;
    if let Some(Fault::Rewrite(from, to)) = &fault {
        answer.body = answer.body.replace(from, to);
    }
    if matches!(fault, Some(Fault::LoseReply)) { None } else { Some(answer) }
}

fn operation(request: &Message) -> String {
    if let Some(action) = parameter(request, "Action") {
        return action;
    }
    if let Some((_, action)) = request.header("x-amz-target").and_then(|target| target.split_once('.')) {
        return action.to_owned();
    }
    let path = request.path();
    match (request.method(), path) {
        ("POST", path) if path.contains("/rrset") => "ChangeResourceRecordSets",
        ("GET", path) if path.contains("/rrset") => "ListResourceRecordSets",
        ("GET", path) if path.contains("/change/") => "GetChange",
        ("GET", path) if path.contains("/hostedzonelimit/") => "GetHostedZoneLimit",
        _ => path,
    }
    .to_owned()
}

fn signer(request: &Message) -> String {
    let credential = request.header("authorization").and_then(|header| header.split_once("Credential="));
    credential.map_or_else(String::new, |(_, rest)| rest.split('/').next().unwrap_or_default().to_owned())
}
