//! One question to one resolver (RFC 1035, section 4): which addresses does a name have?
//!
//! The system's resolver would answer from caches and files, and asks whom it likes; here it matters what one
//! particular server says now. Only what that takes: one question over UDP, A and AAAA answers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;

const ANSWER_DEADLINE: Duration = Duration::from_secs(1);
/// Without EDNS, no answer is longer.
const MESSAGE_LIMIT_BYTES: usize = 512;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;

pub(super) async fn ask(resolver: SocketAddr, name: &str, ipv6: bool) -> io::Result<Vec<IpAddr>> {
    let local: SocketAddr = if resolver.is_ipv4() {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(resolver).await?;
    // The socket is connected and its port is new: an id adds nothing here against strangers.
    let id = socket.local_addr()?.port();
    let question = question(id, name, if ipv6 { TYPE_AAAA } else { TYPE_A })?;
    socket.send(&question).await?;
    let mut buffer = [0; MESSAGE_LIMIT_BYTES];
    let read = tokio::time::timeout(ANSWER_DEADLINE, socket.recv(&mut buffer)).await??;
    parse(&buffer[..read], id)
}

fn question(id: u16, name: &str, kind: u16) -> io::Result<Vec<u8>> {
    let mut message = Vec::with_capacity(32 + name.len());
    message.extend(id.to_be_bytes());
    // Recursion desired; one question.
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|length| (1..=63).contains(length));
        message.push(length.ok_or_else(|| invalid("a label of the name is empty or too long"))?);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    Ok(message)
}

fn parse(message: &[u8], id: u16) -> io::Result<Vec<IpAddr>> {
    let mut reader = Reader { message, at: 0 };
    let answers_our_question = reader.u16()? == id;
    let flags = reader.u16()?;
    if !answers_our_question || flags & 0x8000 == 0 {
        return Err(invalid("not an answer to the question"));
    }
    if flags & 0x000f != 0 {
        return Err(io::Error::other(format!("the resolver answers with code {}", flags & 0x000f)));
    }
    let (questions, answers) = (reader.u16()?, reader.u16()?);
    reader.take(4)?;
    for _ in 0..questions {
        reader.skip_name()?;
        reader.take(4)?;
    }
    let mut addresses = Vec::new();
    for _ in 0..answers {
        reader.skip_name()?;
        let kind = reader.u16()?;
        reader.take(6)?;
        let length = reader.u16()?;
        let data = reader.take(length.into())?;
        match kind {
            TYPE_A => addresses.extend(<[u8; 4]>::try_from(data).map(IpAddr::from)),
            TYPE_AAAA => addresses.extend(<[u8; 16]>::try_from(data).map(IpAddr::from)),
            _ => {}
        }
    }
    Ok(addresses)
}

struct Reader<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> io::Result<&'a [u8]> {
        let taken = self.message.get(self.at..self.at + length).ok_or_else(|| invalid("cut off"))?;
        self.at += length;
        Ok(taken)
    }

    fn u16(&mut self) -> io::Result<u16> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Labels up to an empty one, or up to a pointer to an earlier place, which ends the name.
    fn skip_name(&mut self) -> io::Result<()> {
        loop {
            match self.take(1)?[0] {
                0 => return Ok(()),
                length @ 1..=63 => drop(self.take(length.into())?),
                _ => return self.take(1).map(drop),
            }
        }
    }
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(id: u16, records: &[(u16, &[u8])]) -> Vec<u8> {
        let mut message = question(id, "db.example.org", TYPE_A).unwrap();
        message[2] |= 0x80;
        message[7] = u8::try_from(records.len()).unwrap();
        for (kind, data) in records {
            // The name is a pointer to the question's.
            message.extend([0xc0, 12]);
            message.extend(kind.to_be_bytes());
            message.extend([0, 1, 0, 0, 0, 5]);
            message.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
            message.extend(*data);
        }
        message
    }

    #[test]
    fn addresses_behind_an_alias_are_found() {
        let message = answer(7, &[(5, &[1, b'x', 0]), (TYPE_A, &[10, 0, 0, 1]), (TYPE_AAAA, &[0; 16])]);
        let expected: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap(), "::".parse().unwrap()];
        assert_eq!(parse(&message, 7).unwrap(), expected);
        assert!(parse(&message, 8).is_err());
        let mut refused = answer(7, &[]);
        refused[3] |= 3;
        assert!(parse(&refused, 7).unwrap_err().to_string().contains("code 3"));
        assert!(question(1, "a..b", TYPE_A).is_err());
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), cut in 0usize..100) {
            let _ = parse(&bytes, 7);
            let mut message = answer(7, &[(TYPE_A, &[10, 0, 0, 1])]);
            message.truncate(cut);
            let _ = parse(&message, 7);
        }
    }
}
