//! A name server: answers A and AAAA questions over UDP from a hosted zone in moto, or from records of its own, with their TTL.
//!
//! Stands for Route 53's name servers and the VPC's resolver in one, without the time that spreading takes. Whoever
//! asks keeps an answer for as long as its TTL says. Invariant: what it answers is read from there at that moment.

use crate::api::{Api, element};
use crate::records::Records;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// Without EDNS, no message is longer.
const MESSAGE_BYTES: usize = 512;
const HEADER_BYTES: usize = 12;
const CLASS_IN: [u8; 2] = [0, 1];
const RECEIVE_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug, Clone)]
pub struct Zone {
    pub api: Api,
    pub id: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordType {
    A,
    Aaaa,
}

impl RecordType {
    fn name(self) -> &'static str {
        match self {
            RecordType::A => "A",
            RecordType::Aaaa => "AAAA",
        }
    }

    /// As RFC 1035 and RFC 3596 number it.
    fn number(self) -> [u8; 2] {
        match self {
            RecordType::A => [0, 1],
            RecordType::Aaaa => [0, 28],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    pub address: IpAddr,
    pub ttl_s: u32,
}

impl Zone {
    /// What the name has now; None if there is no such record.
    pub async fn ask(&self, name: &str, kind: RecordType) -> io::Result<Option<Answer>> {
        let name = name.trim_end_matches('.').to_lowercase();
        let kind = kind.name();
        let path = format!("/hostedzone/{}/rrset?name={name}&type={kind}&maxitems=1", self.id);
        let xml = self.api.route53("GET", &path, "").await?;
        // The list begins with the first name that is not before this one.
        let is_it = element(&xml, "Name").is_some_and(|found| found.trim_end_matches('.') == name)
            && element(&xml, "Type") == Some(kind);
        let answer = || {
            let address = element(&xml, "Value")?.parse().ok()?;
            Some(Answer { address, ttl_s: element(&xml, "TTL")?.parse().ok()? })
        };
        Ok(if is_it { answer() } else { None })
    }
}

/// Answers until dropped.
#[derive(Debug)]
pub struct NameServer {
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl NameServer {
    /// On a port of this address.
    pub async fn start(on: IpAddr, source: impl Into<Source>) -> io::Result<NameServer> {
        Self::start_at((on, 0).into(), source).await
    }

    pub async fn start_at(at: SocketAddr, source: impl Into<Source>) -> io::Result<NameServer> {
        let socket = UdpSocket::bind(at).await?;
        let address = socket.local_addr()?;
        Ok(NameServer { address, task: tokio::spawn(serve(socket, source.into())) })
    }
}

/// Where the answers come from.
#[derive(Debug)]
pub enum Source {
    Zone(Zone),
    Records(Records),
}

impl From<Zone> for Source {
    fn from(zone: Zone) -> Self {
        Source::Zone(zone)
    }
}

impl From<Records> for Source {
    fn from(records: Records) -> Self {
        Source::Records(records)
    }
}

impl Source {
    async fn ask(&self, name: &str, kind: RecordType) -> io::Result<Option<Answer>> {
        match self {
            Source::Zone(zone) => zone.ask(name, kind).await,
            Source::Records(records) => Ok(records.ask(name).filter(|_| kind == RecordType::A)),
        }
    }
}

async fn serve(socket: UdpSocket, source: Source) {
    let mut message = [0; MESSAGE_BYTES];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut message).await else {
            tokio::time::sleep(RECEIVE_PAUSE).await;
            continue;
        };
        let Some(question) = Question::read(&message[..length]) else { continue };
        let kind = [RecordType::A, RecordType::Aaaa].into_iter().find(|kind| kind.number() == question.kind);
        let found = match kind {
            Some(kind) => source.ask(&question.name, kind).await,
            None => Ok(None),
        };
        // Whoever asked and is gone does not miss it.
        let _ = socket.send_to(&question.answer(found.ok()), from).await;
    }
}

/// One question, as RFC 1035 writes it.
#[derive(Debug, PartialEq, Eq)]
struct Question<'a> {
    id: [u8; 2],
    name: String,
    kind: [u8; 2],
    bytes: &'a [u8],
}

impl Question<'_> {
    fn read(message: &[u8]) -> Option<Question<'_>> {
        let id = [*message.first()?, *message.get(1)?];
        let mut at = HEADER_BYTES;
        let mut labels = Vec::new();
        loop {
            match usize::from(*message.get(at)?) {
                0 => break,
                length @ 1..=63 => {
                    labels.push(str::from_utf8(message.get(at + 1..at + 1 + length)?).ok()?);
                    at += 1 + length;
                }
                _ => return None,
            }
        }
        let end = at + 5;
        let kind = message.get(at + 1..at + 3)?.try_into().ok()?;
        Some(Question { id, name: labels.join("."), kind, bytes: message.get(HEADER_BYTES..end)? })
    }

    /// None: the zone could not be asked.
    fn answer(&self, found: Option<Option<Answer>>) -> Vec<u8> {
        let server_failure = u8::from(found.is_none()) * 2;
        let found = found.flatten();
        let mut message = self.id.to_vec();
        // An answer with authority, to one question.
        message.extend([0x84, server_failure, 0, 1, 0, u8::from(found.is_some()), 0, 0, 0, 0]);
        message.extend(self.bytes);
        if let Some(answer) = found {
            // The name is the question's.
            message.extend([0xc0, HEADER_BYTES as u8]);
            message.extend(self.kind.iter().chain(&CLASS_IN));
            message.extend(answer.ttl_s.to_be_bytes());
            match answer.address {
                IpAddr::V4(address) => {
                    message.extend([0, 4]);
                    message.extend(address.octets());
                }
                IpAddr::V6(address) => {
                    message.extend([0, 16]);
                    message.extend(address.octets());
                }
            }
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(name: &str, kind: RecordType) -> Vec<u8> {
        let mut message = vec![7, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            message.push(label.len() as u8);
            message.extend(label.as_bytes());
        }
        message.push(0);
        message.extend(kind.number().iter().chain(&CLASS_IN));
        message
    }

    #[test]
    fn a_question_is_answered_with_its_own_words() {
        let message = question("db.komainu.test", RecordType::A);
        let read = Question::read(&message).unwrap();
        assert_eq!((read.name.as_str(), read.kind), ("db.komainu.test", RecordType::A.number()));
        let answer = read.answer(Some(Some(Answer { address: [10, 0, 0, 11].into(), ttl_s: 5 })));
        assert_eq!(answer[..2], [7, 9]);
        assert_eq!(answer[HEADER_BYTES..message.len()], message[HEADER_BYTES..]);
        assert_eq!(answer[message.len()..], [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 0, 0, 11]);
        assert_eq!(read.answer(Some(None))[7], 0, "no such record");
        assert_eq!(read.answer(None)[3] & 15, 2, "the zone could not be asked");
    }

    #[test]
    fn the_longer_address_has_its_own_type_and_length() {
        let message = question("db.komainu.test", RecordType::Aaaa);
        let address: IpAddr = "2001:db8::7".parse().unwrap();
        let answer = Question::read(&message).unwrap().answer(Some(Some(Answer { address, ttl_s: 5 })));
        assert_eq!(answer[message.len()..][..12], [0xc0, 12, 0, 28, 0, 1, 0, 0, 0, 5, 0, 16]);
        assert_eq!(answer[message.len() + 12..][..4], [0x20, 0x01, 0x0d, 0xb8]);
    }

    #[test]
    fn what_is_no_question_is_passed_over() {
        let whole = question("db.komainu.test", RecordType::A);
        for length in 0..whole.len() {
            assert_eq!(Question::read(&whole[..length]), None);
        }
        assert_eq!(Question::read(&[0xff; 40]), None);
    }
}
