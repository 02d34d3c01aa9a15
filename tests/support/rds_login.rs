//! The login of RDS with IAM tokens, before a real PostgreSQL: TLS, the role's password asked for in clear, and the token
//! checked as AWS documents it. Behind that it is the server itself.
//!
//! What it cannot show is whether AWS would agree: it checks the signature by its published rules, not by AWS's code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::{digest, hmac};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// What tokens are signed with here, and checked against.
pub const ACCESS_KEY: &str = "AKIDEXAMPLE";
pub const SECRET_KEY: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

pub struct RdsLogin {
    port: u16,
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    /// In the order they came, with who wanted to log in.
    tokens: Vec<(String, String)>,
    refused: Vec<String>,
}

impl Drop for RdsLogin {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RdsLogin {
    /// Before the server with this socket; a token is taken for so long after it was signed.
    pub async fn start(socket: PathBuf, certificate: &Path, key: &Path, valid_for: Duration) -> RdsLogin {
        let chain: Vec<_> = CertificateDer::pem_file_iter(certificate).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(key).unwrap();
        let tls = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        let tls = TlsAcceptor::from(Arc::new(tls));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let noted = seen.clone();
        let task = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let (tls, socket, seen) = (tls.clone(), socket.clone(), noted.clone());
                tokio::spawn(async move { serve(tcp, tls, &socket, &seen, port, valid_for).await });
            }
        });
        RdsLogin { port, seen, task }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Of this role, in the order they came.
    pub fn tokens(&self, user: &str) -> Vec<String> {
        let seen = self.seen.lock().unwrap();
        seen.tokens.iter().filter(|(by, _)| by == user).map(|(_, token)| token.clone()).collect()
    }

    pub fn refused(&self) -> Vec<String> {
        self.seen.lock().unwrap().refused.clone()
    }
}

async fn serve(
    mut tcp: TcpStream,
    tls: TlsAcceptor,
    socket: &Path,
    seen: &Mutex<Seen>,
    port: u16,
    valid_for: Duration,
) -> Option<()> {
    let mut request = [0; 8];
    tcp.read_exact(&mut request).await.ok()?;
    if request != [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f] {
        // `rds.force_ssl`, and who cancels.
        return None;
    }
    tcp.write_all(b"S").await.ok()?;
    let mut client = tls.accept(tcp).await.ok()?;
    let startup = read_startup(&mut client).await?;
    if startup[4..8] == [0x04, 0xd2, 0x16, 0x2e] {
        let mut server = UnixStream::connect(socket).await.ok()?;
        server.write_all(&startup).await.ok()?;
        return None;
    }
    let user = user_of(&startup)?;
    // AuthenticationCleartextPassword.
    client.write_all(&[b'R', 0, 0, 0, 8, 0, 0, 0, 3]).await.ok()?;
    client.flush().await.ok()?;
    let token = read_password(&mut client).await?;
    let verdict =
        check(&token, &format!("localhost:{port}"), &user, SECRET_KEY, SystemTime::now(), valid_for);
    seen.lock().unwrap().tokens.push((user.clone(), token));
    if let Err(why) = verdict {
        seen.lock().unwrap().refused.push(why);
        let text = format!("SFATAL\0VFATAL\0C28000\0MPAM authentication failed for user \"{user}\"\0\0");
        let length = (text.len() as u32 + 4).to_be_bytes();
        client.write_all(&[b"E", &length[..], text.as_bytes()].concat()).await.ok()?;
        client.shutdown().await.ok()?;
        return None;
    }
    let mut server = UnixStream::connect(socket).await.ok()?;
    server.write_all(&startup).await.ok()?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await.ok()?;
    Some(())
}

async fn read_startup(client: &mut TlsStream<TcpStream>) -> Option<Vec<u8>> {
    let mut startup = vec![0; 4];
    client.read_exact(&mut startup).await.ok()?;
    let length = u32::from_be_bytes(startup[..].try_into().unwrap()) as usize;
    startup.resize(length, 0);
    client.read_exact(&mut startup[4..]).await.ok()?;
    Some(startup)
}

fn user_of(startup: &[u8]) -> Option<String> {
    let mut texts =
        startup[8..].split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
    while let Some(name) = texts.next() {
        let value = texts.next()?;
        if name == "user" {
            return Some(value);
        }
    }
    None
}

async fn read_password(client: &mut TlsStream<TcpStream>) -> Option<String> {
    let mut header = [0; 5];
    client.read_exact(&mut header).await.ok()?;
    let mut body = vec![0; u32::from_be_bytes(header[1..].try_into().unwrap()) as usize - 4];
    client.read_exact(&mut body).await.ok()?;
    (header[0] == b'p').then(|| String::from_utf8(body).unwrap().trim_end_matches('\0').to_owned())
}

/// Whether a token lets `user` in here, by the rules of Signature Version 4.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>
pub fn check(
    token: &str,
    here: &str,
    user: &str,
    secret_key: &str,
    now: SystemTime,
    valid_for: Duration,
) -> Result<(), String> {
    let (host, query) = token.split_once("/?").ok_or("it is no URL")?;
    let pairs: BTreeMap<&str, &str> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
    let of = |name: &str| pairs.get(name).copied().ok_or(format!("it has no {name}"));
    if host != here {
        return Err(format!("it is for {host}"));
    }
    if of("Action")? != "connect" || of("DBUser")? != user {
        return Err(format!("it is for {}", of("DBUser")?));
    }
    let (date, credential) = (of("X-Amz-Date")?, of("X-Amz-Credential")?.replace("%2F", "/"));
    let scope = credential.split_once('/').ok_or("it has no scope")?.1;
    let age = now.duration_since(seconds(date)).unwrap_or_default();
    if age > valid_for || age.as_secs() > of("X-Amz-Expires")?.parse::<u64>().map_err(|e| e.to_string())? {
        return Err(format!("it expired: it is {} s old", age.as_secs()));
    }
    let signed: Vec<_> = pairs.iter().filter(|(name, _)| **name != "X-Amz-Signature").collect();
    let query: Vec<_> = signed.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let request = format!("GET\n/\n{}\nhost:{host}\n\nhost\n{}", query.join("&"), hex(sha256(b"").as_ref()));
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", hex(sha256(request.as_bytes()).as_ref()));
    let mut key = format!("AWS4{secret_key}").into_bytes();
    for part in scope.split('/') {
        key = sign(&key, part);
    }
    match hex(&sign(&key, &to_sign)) == of("X-Amz-Signature")? {
        true => Ok(()),
        false => Err("its signature is another's".to_owned()),
    }
}

/// `20240826T220000Z`
fn seconds(date: &str) -> SystemTime {
    let number = |from: usize, to: usize| date[from..to].parse::<i64>().unwrap();
    let (year, month, day) = (number(0, 4), number(4, 6), number(6, 8));
    // The days since 1970 of the proleptic Gregorian calendar, the year beginning in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    let of_day = number(9, 11) * 3600 + number(11, 13) * 60 + number(13, 15);
    UNIX_EPOCH + Duration::from_secs((days * 86_400 + of_day).try_into().unwrap())
}

fn sign(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

fn sha256(bytes: &[u8]) -> digest::Digest {
    digest::digest(&digest::SHA256, bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A token that the AWS SDK for Rust has for an example: what it says is right, and nothing else is.
#[test]
fn the_check_takes_the_published_token_and_no_other() {
    let token = "prod-instance.us-east-1.rds.amazonaws.com:3306/?Action=connect&DBUser=peccy\
        &X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=akid%2F20240826%2Fus-east-1%2Frds-db%2Faws4_request\
        &X-Amz-Date=20240826T220000Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host\
        &X-Amz-Signature=dd0cba843009474347af724090233265628ace491ea17ce3eb3da098b983ad89";
    let here = "prod-instance.us-east-1.rds.amazonaws.com:3306";
    let signed_at = UNIX_EPOCH + Duration::from_secs(1_724_709_600);
    let (age, quarter) = (|seconds| signed_at + Duration::from_secs(seconds), Duration::from_secs(900));
    let checked = |token: &str, user, now| check(token, here, user, "secret", now, quarter);
    assert_eq!(checked(token, "peccy", age(899)), Ok(()));
    assert!(checked(token, "peccy", age(901)).unwrap_err().contains("expired"));
    assert!(checked(token, "other", age(1)).unwrap_err().contains("peccy"));
    assert!(checked(&token.replace("peccy", "other"), "other", age(1)).unwrap_err().contains("signature"));
    assert!(
        check(token, "elsewhere:3306", "peccy", "secret", age(1), quarter).unwrap_err().contains("it is for")
    );
    assert!(check(token, here, "peccy", "Secret", age(1), quarter).unwrap_err().contains("signature"));
}
