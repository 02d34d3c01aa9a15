//! The instance metadata service (version 2) of one node: its identity and its credentials, on a port of its own.

use crate::api::REGION;
use crate::http::Message;
use crate::locked;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Duration, sleep};

const ROLE: &str = "komainu-node";
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub struct Imds {
    pub address: SocketAddr,
    mac: String,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    pages: HashMap<String, String>,
    tokens: Vec<String>,
    asked: Vec<String>,
    forget_after: Option<usize>,
}

pub struct Instance<'a> {
    pub instance: &'a str,
    pub interface: &'a str,
    pub mac: &'a str,
    pub subnet: &'a str,
    pub private_ip: &'a str,
    pub ipv6: Option<&'a str>,
    pub access_key: &'a str,
}

impl Drop for Imds {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Imds {
    /// On a port of this address.
    pub async fn start(on: IpAddr, of: &Instance<'_>) -> io::Result<Imds> {
        let mut pages = HashMap::new();
        let mut page =
            |path: &str, text: &str| pages.insert(format!("/latest/meta-data/{path}"), text.to_owned());
        page("instance-id", of.instance);
        page("placement/availability-zone", &format!("{REGION}a"));
        page("placement/region", REGION);
        page("local-ipv4", of.private_ip);
        page("mac", of.mac);
        page("network/interfaces/macs/", &format!("02:ff:ff:ff:ff:ff/\n{}/", of.mac));
        for (mac, number, interface, address) in
            [(of.mac, "0", of.interface, of.private_ip), ("02:ff:ff:ff:ff:ff", "1", "eni-second", "10.9.9.9")]
        {
            let mut leaf =
                |name: &str, text: &str| page(&format!("network/interfaces/macs/{mac}/{name}"), text);
            leaf("device-number", number);
            leaf("interface-id", interface);
            leaf("subnet-id", of.subnet);
            leaf("local-ipv4s", address);
        }
        if let Some(ipv6) = of.ipv6 {
            page(&format!("network/interfaces/macs/{}/ipv6s", of.mac), ipv6);
        }
        page("iam/security-credentials/", ROLE);
        page(
            &format!("iam/security-credentials/{ROLE}"),
            &format!(
                r#"{{"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "{}", "SecretAccessKey": "secret",
                    "Token": "token", "LastUpdated": "2026-01-01T00:00:00Z", "Expiration": "2099-01-01T00:00:00Z"}}"#,
                of.access_key
            ),
        );
        let state = Arc::new(Mutex::new(State { pages, ..State::default() }));
        let listener = TcpListener::bind((on, 0)).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn({
            let state = state.clone();
            async move {
                loop {
                    match listener.accept().await {
                        Ok((stream, _)) => drop(tokio::spawn(serve(stream, state.clone()))),
                        Err(_) => sleep(ACCEPT_PAUSE).await,
                    }
                }
            }
        });
        Ok(Imds { address, mac: of.mac.to_owned(), state, task })
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// As a restarted service: tokens given out are unknown, from so many requests on.
    pub fn forget_tokens_after(&self, requests: usize) {
        let mut state = locked(&self.state);
        state.forget_after = Some(state.asked.len() + requests);
    }

    /// From now on the instance has this public address.
    pub fn give_public(&self, address: &str) {
        let page = format!("/latest/meta-data/network/interfaces/macs/{}/public-ipv4s", self.mac);
        locked(&self.state).pages.insert(page, address.to_owned());
    }

    /// The pages asked for, refusals included.
    pub fn asked(&self) -> Vec<String> {
        locked(&self.state).asked.clone()
    }
}

async fn serve(stream: TcpStream, state: Arc<Mutex<State>>) {
    let mut stream = BufStream::new(stream);
    while let Ok(Some(request)) = Message::read(&mut stream).await {
        let answer = answer(&request, &mut locked(&state));
        if answer.write(&mut stream).await.is_err() {
            break;
        }
    }
    let _ = stream.shutdown().await;
}

fn answer(request: &Message, state: &mut State) -> Message {
    let text = |status, body: &str| Message::response(status, "text/plain", body);
    if request.method() == "PUT" && request.path() == "/latest/api/token" {
        let ttl =
            request.header("x-aws-ec2-metadata-token-ttl-seconds").and_then(|ttl| ttl.parse::<u32>().ok());
        let Some(ttl @ 1..=21_600) = ttl else { return text(400, "") };
        let token = format!("token-{}", state.tokens.len() + 1);
        state.tokens.push(token.clone());
        let mut answer = text(200, &token);
        answer.headers.push(("x-aws-ec2-metadata-token-ttl-seconds".into(), ttl.to_string()));
        return answer;
    }
    if state.forget_after.is_some_and(|after| state.asked.len() >= after) {
        state.forget_after = None;
        for token in &mut state.tokens {
            *token = "forgotten".into();
        }
    }
    state.asked.push(request.path().to_owned());
    let known = request.header("x-aws-ec2-metadata-token");
    if !known.is_some_and(|token| token != "forgotten" && state.tokens.iter().any(|given| given == token)) {
        return text(401, "");
    }
    match state.pages.get(request.path()) {
        Some(page) => text(200, page),
        None => text(404, ""),
    }
}
