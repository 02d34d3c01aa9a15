//! Addresses of network interfaces, through rtnetlink. Each request has a deadline.

use super::plan::Present;
use futures_util::{Stream, StreamExt};
use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, CacheInfo};
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::time::Duration;
use tokio::task::JoinHandle;

/// The kernel answers in microseconds. This is for a socket that has died.
const DEADLINE: Duration = Duration::from_secs(2);
/// In an address's lifetime this means "for ever".
const FOR_EVER: u32 = u32::MAX;

pub(super) struct Netlink {
    handle: rtnetlink::Handle,
    connection: JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Netlink {
    pub fn open() -> io::Result<Netlink> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Netlink { handle, connection: tokio::spawn(connection) })
    }

    pub async fn index(&self, device: &str) -> io::Result<Option<u32>> {
        Ok(self.link(device).await?.map(|link| link.header.index))
    }

    pub async fn hardware_address(&self, device: &str) -> io::Result<Option<[u8; 6]>> {
        let link = self.link(device).await?;
        let attributes = link.map(|link| link.attributes).unwrap_or_default();
        Ok(attributes.into_iter().find_map(|attribute| match attribute {
            LinkAttribute::Address(bytes) => bytes.try_into().ok().filter(|mac| *mac != [0; 6]),
            _ => None,
        }))
    }

    async fn link(&self, device: &str) -> io::Result<Option<LinkMessage>> {
        match first(self.handle.link().get().match_name(device.to_owned()).execute()).await {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            result => result,
        }
    }

    /// Exactly this address with exactly this prefix.
    pub async fn find(&self, index: u32, address: IpNet) -> io::Result<Option<Present>> {
        Ok(self.message(index, address).await?.map(|message| {
            let lifetime = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::CacheInfo(info) => Some(info.ifa_valid),
                _ => None,
            });
            Present { remaining_s: lifetime.filter(|seconds| *seconds != FOR_EVER) }
        }))
    }

    /// All addresses of this host.
    pub async fn all(&self) -> io::Result<Vec<IpAddr>> {
        within(async {
            let mut found = Vec::new();
            let mut messages = pin!(self.handle.address().get().execute());
            while let Some(message) = messages.next().await {
                found.extend(local(&message.map_err(to_io)?));
            }
            Ok(found)
        })
        .await
    }

    /// `present`: it is there already, and gets its lifetime anew.
    pub async fn add(
        &self,
        index: u32,
        address: IpNet,
        lifetime_s: Option<u32>,
        present: bool,
    ) -> io::Result<()> {
        let mut request = self.handle.address().add(index, address.addr(), address.prefix_len());
        if present {
            request = request.replace();
        }
        let mut info = CacheInfo::default();
        info.ifa_valid = lifetime_s.unwrap_or(FOR_EVER);
        info.ifa_preferred = info.ifa_valid;
        let attributes = &mut request.message_mut().attributes;
        attributes.push(AddressAttribute::CacheInfo(info));
        if address.addr().is_ipv6() {
            // Asking first whether somebody has it takes seconds, and a frozen former owner's kernel would say yes.
            attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        within(async { request.execute().await.map_err(to_io) }).await
    }

    pub async fn remove(&self, index: u32, address: IpNet) -> io::Result<()> {
        let Some(message) = self.message(index, address).await? else { return Ok(()) };
        within(async { self.handle.address().del(message).execute().await.map_err(to_io) }).await
    }

    async fn message(&self, index: u32, address: IpNet) -> io::Result<Option<AddressMessage>> {
        let request = self
            .handle
            .address()
            .get()
            .set_link_index_filter(index)
            .set_prefix_length_filter(address.prefix_len());
        within(async {
            let mut messages = pin!(request.execute());
            while let Some(message) = messages.next().await {
                let message = message.map_err(to_io)?;
                if local(&message) == Some(address.addr()) {
                    return Ok(Some(message));
                }
            }
            Ok(None)
        })
        .await
    }
}

/// The host's own address: on a point-to-point interface the other attribute is the peer's.
fn local(message: &AddressMessage) -> Option<IpAddr> {
    let find = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(wanted);
    find(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    })
    .or_else(|| {
        find(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

async fn first<T>(stream: impl Stream<Item = Result<T, rtnetlink::Error>>) -> io::Result<Option<T>> {
    within(async { pin!(stream).next().await.transpose().map_err(to_io) }).await
}

async fn within<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(DEADLINE, work).await?
}

fn to_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}
