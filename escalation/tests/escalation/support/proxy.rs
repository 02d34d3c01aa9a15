//! Between the nodes and moto: keeps a log of all calls, misbehaves to order, and behaves like AWS where moto does not.
//!
//! Where moto differs, and what is done here: DryRun of some calls is carried out (answered here instead); a private
//! address assigned with reassignment is not taken from its holder, and not found by its address (taken and found here); a
//! route that exists is created over (refused here); a record that exists is created twice, a
//! deletion need only match what was there at any time, and one that does not has another error code (all corrected).
//! Changing calls go through one after the other, since moto does not guard its own state against two at once.

use super::http::Message;
use super::moto::moto;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

pub const CHANGES: [&str; 7] = [
    "AssociateAddress",
    "DisassociateAddress",
    "ReplaceRoute",
    "CreateRoute",
    "AssignPrivateIpAddresses",
    "UnassignPrivateIpAddresses",
    "ChangeResourceRecordSets",
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

pub struct Proxy {
    pub address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    calls: Mutex<Vec<Call>>,
    rules: Mutex<Vec<Rule>>,
    /// Requests held up at the moment.
    waiting: AtomicUsize,
    changing: tokio::sync::Mutex<()>,
    /// Which interface each private address was assigned to.
    assigned: Mutex<HashMap<String, String>>,
}

struct Rule {
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
    pub async fn start() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let task = tokio::spawn({
            let state = state.clone();
            async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    tokio::spawn(serve(stream, state.clone()));
                }
            }
        });
        Proxy { address, state, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// No operation named: all of them.
    pub fn fault(&self, operations: &[&str], fault: Fault, times: Option<u32>) {
        let operations = operations.iter().map(|&name| name.to_owned()).collect();
        self.state.rules.lock().unwrap().push(Rule { operations, fault, times });
    }

    pub fn heal(&self) {
        self.state.rules.lock().unwrap().clear();
    }

    pub fn calls(&self) -> Vec<Call> {
        self.state.calls.lock().unwrap().clone()
    }

    /// How many requests are held up by a delay, and still to be done.
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
    fn fault_for(&self, operation: &str) -> Option<Fault> {
        let mut rules = self.rules.lock().unwrap();
        let rule = rules.iter_mut().find(|rule| {
            rule.times != Some(0)
                && (rule.operations.is_empty() || rule.operations.iter().any(|name| name == operation))
        })?;
        if let Some(times) = &mut rule.times {
            *times -= 1;
        }
        Some(rule.fault.clone())
    }

    fn note(&self, operation: &str, by: &str, done: bool) {
        let call = Call { operation: operation.to_owned(), by: by.to_owned(), done };
        self.calls.lock().unwrap().push(call);
    }
}

async fn serve(stream: TcpStream, state: Arc<State>) {
    let mut stream = BufStream::new(stream);
    while let Ok(Some(request)) = Message::read(&mut stream).await {
        // In a task of its own: what is on its way arrives although the caller has hung up.
        let answer = tokio::spawn(answer(request, state.clone())).await.unwrap();
        let Some(answer) = answer else {
            stream.get_ref().set_zero_linger().unwrap();
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
    let fault = if by == BY_HAND { None } else { state.fault_for(&operation) };
    let route53 = request.path().starts_with("/2013-04-01/");
    let refuse = |status: u16, code: &str| {
        state.note(&operation, &by, false);
        Some(error(route53, status, code))
    };
    match &fault {
        Some(Fault::Throttle) if route53 => return refuse(400, "Throttling"),
        Some(Fault::Throttle) => return refuse(503, "RequestLimitExceeded"),
        Some(Fault::ServerError) => return refuse(500, "InternalError"),
        Some(Fault::Deny) if route53 => return refuse(403, "AccessDenied"),
        Some(Fault::Deny) => return refuse(403, "UnauthorizedOperation"),
        Some(Fault::Reset) => {
            state.note(&operation, &by, false);
            return None;
        }
        Some(Fault::Delay(delay)) => {
            state.waiting.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(*delay).await;
        }
        Some(Fault::LoseReply | Fault::Rewrite(..)) | None => {}
    }
    if parameter(&request, "DryRun").as_deref() == Some("true") {
        state.note(&format!("{operation} (DryRun)"), &by, false);
        return Some(error(false, 412, "DryRunOperation"));
    }
    let mut answer = if CHANGES.contains(&operation.as_str()) {
        let _alone = state.changing.lock().await;
        change(&request, &operation, &state).await
    } else if operation == "DescribeNetworkInterfaces" {
        forward(&without_address_filter(&request)).await
    } else {
        forward(&request).await
    };
    state.note(&operation, &by, true);
    if let Some(Fault::Delay(_)) = &fault {
        state.waiting.fetch_sub(1, Ordering::SeqCst);
    }
    if let Some(Fault::Rewrite(from, to)) = &fault {
        answer.body = answer.body.replace(from, to);
    }
    if matches!(fault, Some(Fault::LoseReply)) { None } else { Some(answer) }
}

/// A changing call, with moto's deviations made up for.
async fn change(request: &Message, operation: &str, state: &State) -> Message {
    match operation {
        "AssignPrivateIpAddresses" => {
            let address = parameter(request, "PrivateIpAddress.1").unwrap();
            let interface = parameter(request, "NetworkInterfaceId").unwrap();
            let holder = state.assigned.lock().unwrap().insert(address.clone(), interface.clone());
            if let Some(holder) = holder.filter(|holder| *holder != interface) {
                let mut unassign = request.clone();
                unassign.body = request
                    .body
                    .replace("Action=AssignPrivateIpAddresses", "Action=UnassignPrivateIpAddresses")
                    .replace(&interface, &holder);
                forward(&unassign).await;
            }
            forward(request).await
        }
        "ChangeResourceRecordSets" => {
            if let Some(name) = fence_name(&request.body) {
                let present = present_fence(request, &name).await;
                let deleted = fence_value(&request.body, "DELETE");
                let created = fence_value(&request.body, "CREATE");
                if deleted.as_ref().is_some_and(|deleted| present.as_ref() != Some(deleted))
                    || (created.is_some() && deleted.is_none() && present.is_some())
                {
                    return error(true, 400, "InvalidChangeBatch");
                }
            }
            let mut answer = forward(request).await;
            answer.body = answer.body.replace("<Code>InvalidInput</Code>", "<Code>InvalidChangeBatch</Code>");
            answer
        }
        "CreateRoute" if route_exists(request).await => error(false, 400, "RouteAlreadyExists"),
        _ => forward(request).await,
    }
}

async fn route_exists(request: &Message) -> bool {
    let table = parameter(request, "RouteTableId").unwrap();
    let mut describe = request.clone();
    describe.body = format!("Action=DescribeRouteTables&Version=2016-11-15&RouteTableId.1={table}");
    let answer = forward(&describe).await.body;
    ["DestinationCidrBlock", "DestinationIpv6CidrBlock"].iter().any(|name| {
        let destination = parameter(request, name).map(|net| net.replace("%2F", "/").replace("%3A", ":"));
        destination.is_some_and(|net| answer.contains(&format!("CidrBlock>{net}<")))
    })
}

/// Without the filter by secondary addresses, which moto does not know: whoever asks finds them among all.
fn without_address_filter(request: &Message) -> Message {
    let kept = request.body.split('&').filter(|pair| !pair.starts_with("Filter.2."));
    Message { body: kept.collect::<Vec<_>>().join("&"), ..request.clone() }
}

fn fence_name(batch: &str) -> Option<String> {
    let start = batch.find("<Name>_komainu.")? + "<Name>".len();
    let length = batch[start..].find("</Name>")?;
    Some(batch[start..start + length].to_owned())
}

/// The value of the set that the batch deletes or creates.
fn fence_value(batch: &str, action: &str) -> Option<String> {
    let (_, rest) = batch.split_once(&format!("<Action>{action}</Action>"))?;
    value(rest)
}

async fn present_fence(request: &Message, name: &str) -> Option<String> {
    let path = request.path().trim_end_matches('/');
    let list = Message {
        start: format!("GET {path}?name={name}&type=TXT&maxitems=1 HTTP/1.1"),
        body: String::new(),
        ..request.clone()
    };
    let answer = forward(&list).await.body;
    let (_, set) = answer.split_once(&format!("<Name>{name}"))?;
    value(set)
}

fn value(xml: &str) -> Option<String> {
    let (_, value) = xml.split_once("<Value>")?;
    Some(value.split_once("</Value>")?.0.replace("&quot;", "\""))
}

async fn forward(request: &Message) -> Message {
    let stream = TcpStream::connect(moto().address).await.unwrap();
    let mut stream = BufStream::new(stream);
    request.write(&mut stream).await.unwrap();
    Message::read(&mut stream).await.unwrap().expect("moto answers")
}

fn operation(request: &Message) -> String {
    if let Some(action) = parameter(request, "Action") {
        return action;
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

fn parameter(request: &Message, name: &str) -> Option<String> {
    let pairs = request.body.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
}

fn signer(request: &Message) -> String {
    let credential = request.header("authorization").and_then(|header| header.split_once("Credential="));
    credential.map_or_else(String::new, |(_, rest)| rest.split('/').next().unwrap().to_owned())
}

fn error(route53: bool, status: u16, code: &str) -> Message {
    let body = if route53 {
        format!(
            "<ErrorResponse xmlns=\"https://route53.amazonaws.com/doc/2013-04-01/\"><Error><Type>Sender</Type>\
             <Code>{code}</Code><Message>as ordered</Message></Error><RequestId>1</RequestId></ErrorResponse>"
        )
    } else {
        format!(
            "<Response><Errors><Error><Code>{code}</Code><Message>as ordered</Message></Error></Errors>\
             <RequestID>1</RequestID></Response>"
        )
    };
    Message::response(status, "text/xml", body)
}
