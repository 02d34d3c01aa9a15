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
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
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
    /// Requests held up at the moment.
    waiting: AtomicUsize,
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
            waiting: AtomicUsize::new(0),
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
        self.state.waiting.load(Ordering::SeqCst)
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

    fn note(&self, operation: &str, by: &str, done: bool) {
        let call = Call { operation: operation.to_owned(), by: by.to_owned(), done };
        let mut calls = locked(&self.calls);
        if calls.len() == CALLS_KEPT {
            calls.pop_front();
        }
        calls.push_back(call);
    }
}

/// Counts a request until it is done.
struct HeldUp<'a>(&'a AtomicUsize);

impl HeldUp<'_> {
    fn count(waiting: &AtomicUsize) -> HeldUp<'_> {
        waiting.fetch_add(1, Ordering::SeqCst);
        HeldUp(waiting)
    }
}

impl Drop for HeldUp<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
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
        state.note(&operation, &by, false);
        Some(error(service, status, code))
    };
    let mut _held_up = None;
    match &fault {
        Some(Fault::Throttle) => return refuse(service.throttled()),
        Some(Fault::ServerError) => return refuse(service.failed()),
        Some(Fault::Deny) => return refuse(service.denied()),
        Some(Fault::Reset) => {
            state.note(&operation, &by, false);
            return None;
        }
        Some(Fault::Delay(delay)) => {
            _held_up = Some(HeldUp::count(&state.waiting));
            tokio::time::sleep(*delay).await;
        }
        Some(Fault::Hold) => {
            _held_up = Some(HeldUp::count(&state.waiting));
            // An error is the proxy's end.
            let _ = state.let_go.subscribe().changed().await;
        }
        Some(Fault::LoseReply | Fault::Rewrite(..)) | None => {}
    }
    if parameter(&request, "DryRun").as_deref() == Some("true") {
        state.note(&format!("{operation} (DryRun)"), &by, false);
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
    state.note(&operation, &by, answer.is_ok());
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
        _ => path,
    }
    .to_owned()
}

fn signer(request: &Message) -> String {
    let credential = request.header("authorization").and_then(|header| header.split_once("Credential="));
    credential.map_or_else(String::new, |(_, rest)| rest.split('/').next().unwrap_or_default().to_owned())
}
