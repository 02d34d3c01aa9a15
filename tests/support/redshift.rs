//! What answers as Redshift does, as far as komainu could notice: a real PostgreSQL behind a relay that says it is 8.0.2,
//! reports no more than such an old one, and turns each statement that Redshift does not know into a syntax error, which the
//! server then makes itself.
//!
//! By AWS's list of unsupported features and functions, and what PostgreSQL 8.0 had. Nobody has compared it with Redshift.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// In a text, in lower case.
const UNKNOWN: &[&str] = &[
    "discard ",
    "deallocate all",
    "listen ",
    "load '",
    "pg_is_in_recovery",
    "pg_last_wal",
    "pg_last_xact",
    "pg_current_wal",
    "pg_walfile_name",
    "pg_control_",
    "pg_stat_wal_receiver",
    "pg_stat_replication",
    "pg_replication_slots",
    "pg_postmaster_start_time",
    "pg_my_temp_schema",
    "pg_listening_channels",
    "pg_cursors",
    "pg_roles",
    "pg_advisory",
    "server_version_num",
    "current_setting('role')",
    "json_agg",
    "unnest",
];
const SYNTAX_ERROR: &str = "redshift does not know this";
/// By PostgreSQL 8.0; all others came later.
const REPORTED: &[&str] = &[
    "client_encoding",
    "DateStyle",
    "integer_datetimes",
    "is_superuser",
    "server_encoding",
    "server_version",
    "session_authorization",
    "TimeZone",
];
const TLS_REQUEST: u32 = 80_877_103;
const CANCEL_REQUEST: u32 = 80_877_102;

pub struct Redshift {
    port: u16,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    unknown: Mutex<Vec<String>>,
    logins: AtomicUsize,
    is_over: AtomicBool,
}

impl Redshift {
    /// Before the server at this port of 127.0.0.1.
    pub fn start(server: u16) -> Redshift {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen = Arc::new(Seen::default());
        let all = seen.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if all.is_over.load(Ordering::Relaxed) {
                    return;
                }
                let seen = all.clone();
                thread::spawn(move || serve(client, server, &seen));
            }
        });
        Redshift { port, seen }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Texts that it did not know, in the order they came.
    pub fn unknown(&self) -> Vec<String> {
        self.seen.unknown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Connections that were begun, those of whoever looks among them.
    pub fn logins(&self) -> usize {
        self.seen.logins.load(Ordering::Relaxed)
    }
}

impl Drop for Redshift {
    fn drop(&mut self) {
        self.seen.is_over.store(true, Ordering::Relaxed);
        // Wakes the one that listens.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

/// None: one of the two has gone.
fn serve(mut client: TcpStream, server: u16, seen: &Arc<Seen>) -> Option<()> {
    let startup = loop {
        let mut length = [0; 4];
        client.read_exact(&mut length).ok()?;
        let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
        client.read_exact(&mut body).ok()?;
        match u32::from_be_bytes(body[..4].try_into().unwrap()) {
            TLS_REQUEST => client.write_all(b"N").ok()?,
            _ => break [&length[..], &body].concat(),
        }
    };
    let mut to_server = TcpStream::connect(("127.0.0.1", server)).ok()?;
    to_server.write_all(&startup).ok()?;
    if startup[4..8] == CANCEL_REQUEST.to_be_bytes() {
        return None;
    }
    seen.logins.fetch_add(1, Ordering::Relaxed);
    for stream in [&client, &to_server] {
        let _ = stream.set_nodelay(true);
    }
    let (mut from_client, mut from_server) = (client.try_clone().ok()?, to_server.try_clone().ok()?);
    thread::spawn(move || {
        let mut answers = || loop {
            let (tag, body) = message(&mut from_server)?;
            if let Some(body) = answered(tag, body) {
                send(&mut client, tag, &body)?;
            }
        };
        let _: Option<()> = answers();
        let _ = (client.shutdown(Shutdown::Both), from_server.shutdown(Shutdown::Both));
    });
    let mut asks = || loop {
        let (tag, body) = message(&mut from_client)?;
        send(&mut to_server, tag, &asked(tag, body, seen))?;
    };
    let _: Option<()> = asks();
    let _ = (from_client.shutdown(Shutdown::Both), to_server.shutdown(Shutdown::Both));
    Some(())
}

fn message(from: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut header = [0; 5];
    from.read_exact(&mut header).ok()?;
    let mut body = vec![0; u32::from_be_bytes(header[1..].try_into().unwrap()) as usize - 4];
    from.read_exact(&mut body).ok()?;
    Some((header[0], body))
}

fn send(to: &mut TcpStream, tag: u8, body: &[u8]) -> Option<()> {
    let length = (body.len() as u32 + 4).to_be_bytes();
    to.write_all(&[&[tag][..], &length, body].concat()).ok()
}

/// Of a Query or a Parse with an unknown text: with one that is no SQL.
fn asked(tag: u8, body: Vec<u8>, seen: &Seen) -> Vec<u8> {
    let begin = match tag {
        b'Q' => 0,
        b'P' => body.iter().position(|byte| *byte == 0).map_or(body.len(), |end| end + 1),
        _ => return body,
    };
    let Some(length) = body[begin..].iter().position(|byte| *byte == 0) else { return body };
    let text = String::from_utf8_lossy(&body[begin..begin + length]).into_owned();
    let lower = text.to_lowercase();
    if !UNKNOWN.iter().any(|unknown| lower.contains(unknown)) {
        return body;
    }
    seen.unknown.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    [&body[..begin], SYNTAX_ERROR.as_bytes(), &body[begin + length..]].concat()
}

/// None: it would not have said so.
fn answered(tag: u8, body: Vec<u8>) -> Option<Vec<u8>> {
    if tag != b'S' {
        return Some(body);
    }
    let name = body.split(|byte| *byte == 0).next()?;
    let name = std::str::from_utf8(name).ok()?;
    match name {
        "server_version" => Some(b"server_version\x008.0.2\0".to_vec()),
        _ => REPORTED.contains(&name).then_some(body),
    }
}
