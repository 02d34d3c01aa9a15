//! For tests: a server that speaks just enough of the protocol to be asked.
//!
//! Invariant: it is gone, with its connections, when it is dropped.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::{JoinHandle, JoinSet};

use crate::config;
use crate::wire::message::{self, Report, TransactionStatus};
use crate::wire::sqlstate::SqlState;

#[derive(Debug, Clone)]
pub enum Reply {
    Row(Vec<Option<String>>),
    /// An error that ends the connection.
    Error(&'static str),
    Silence,
}

impl Reply {
    pub fn row<const N: usize>(values: [&str; N]) -> Self {
        Reply::Row(values.iter().map(|value| Some((*value).to_owned())).collect())
    }

    pub fn row_of(values: &[Option<&str>]) -> Self {
        Reply::Row(values.iter().map(|value| value.map(str::to_owned)).collect())
    }
}

type Script = Box<dyn FnMut(&str) -> Reply + Send>;

#[derive(Clone)]
struct Shared {
    script: Arc<Mutex<Script>>,
    questions: Arc<AtomicUsize>,
    databases: Arc<Mutex<Vec<String>>>,
    hang_up: broadcast::Sender<()>,
}

pub struct FakeServer {
    port: u16,
    shared: Shared,
    accepting: JoinHandle<()>,
}

impl FakeServer {
    /// `script` is asked what to reply to each question.
    pub async fn start(script: impl FnMut(&str) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Shared {
            script: Arc::new(Mutex::new(Box::new(script))),
            questions: Arc::default(),
            databases: Arc::default(),
            hang_up: broadcast::channel(1).0,
        };
        let accepting = tokio::spawn({
            let shared = shared.clone();
            async move {
                let mut connections = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    let shared = shared.clone();
                    connections.spawn(async move {
                        let mut hang_up = shared.hang_up.subscribe();
                        tokio::select! {
                            _ = converse(stream, shared) => {}
                            _ = hang_up.recv() => {}
                        }
                    });
                }
            }
        });
        FakeServer { port, shared, accepting }
    }

    pub fn reply_with(&self, script: impl FnMut(&str) -> Reply + Send + 'static) {
        *self.shared.script.lock().unwrap() = Box::new(script);
    }

    /// Ends the connections there are.
    pub fn hang_up(&self) {
        self.shared.hang_up.send(()).unwrap();
    }

    pub fn questions(&self) -> usize {
        self.shared.questions.load(Ordering::SeqCst)
    }

    /// Those that were connected to, in order.
    pub fn databases(&self) -> Vec<String> {
        self.shared.databases.lock().unwrap().clone()
    }

    pub fn config(&self, id: &str) -> config::Server {
        config::Server::at(id, "127.0.0.1", self.port)
    }

    pub fn health(&self) -> config::Health {
        config::Health {
            user: "komainu".to_owned(),
            password_file: None,
            database: "postgres".to_owned(),
            period_ms: 50,
            timeout_ms: 1000,
            connect_timeout_ms: 1000,
            retries: 2,
        }
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn converse(mut stream: TcpStream, shared: Shared) -> std::io::Result<()> {
    let mut out = BytesMut::new();
    let startup = body(&mut stream).await?;
    let texts: Vec<&str> = startup[4..].split(|&b| b == 0).map(|t| std::str::from_utf8(t).unwrap()).collect();
    let database = texts.chunks(2).find(|pair| pair[0] == "database").unwrap()[1];
    shared.databases.lock().unwrap().push(database.to_owned());
    message::frame(&mut out, b'R', |out| out.put_i32(0)).unwrap();
    message::ready_for_query(&mut out, TransactionStatus::Idle);
    stream.write_all(&out).await?;
    while stream.read_u8().await? == b'Q' {
        let sql = body(&mut stream).await?;
        let sql = std::str::from_utf8(sql.strip_suffix(&[0]).unwrap()).unwrap();
        shared.questions.fetch_add(1, Ordering::SeqCst);
        let reply = shared.script.lock().unwrap()(sql);
        out.clear();
        match reply {
            Reply::Row(values) => {
                let columns: Vec<&str> = values.iter().map(|_| "c").collect();
                let values: Vec<Option<&str>> = values.iter().map(Option::as_deref).collect();
                message::text_row_description(&mut out, &columns);
                message::text_row(&mut out, &values);
                message::command_complete(&mut out, "SELECT 1");
                message::ready_for_query(&mut out, TransactionStatus::Idle);
            }
            Reply::Error(state) => {
                Report::fatal(SqlState(state.as_bytes().try_into().unwrap()), "it is so").encode(&mut out);
                return stream.write_all(&out).await;
            }
            Reply::Silence => std::future::pending().await,
        }
        stream.write_all(&out).await?;
    }
    Ok(())
}

/// What follows a length that counts itself.
async fn body(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut body = vec![0; stream.read_u32().await? as usize - 4];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

/// Waits until something is so, and fails when it takes too long.
pub async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
