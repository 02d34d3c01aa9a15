//! Tells the neighbours where an address is now: gratuitous ARP (RFC 5227) and unsolicited neighbour advertisement
//! (RFC 4861, section 7.2.6). Without it they send to the old place until their caches expire.

use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6};

const ETHERTYPE_ARP: u16 = 0x0806;
const BROADCAST: [u8; 6] = [0xff; 6];
/// All nodes of the link.
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const NEIGHBOR_ADVERTISEMENT: u8 = 136;
/// "Forget what you know."
const OVERRIDE: u8 = 0x20;
const TARGET_LINK_LAYER_ADDRESS: u8 = 2;

/// A request and a reply: some systems learn from one only, some from the other.
pub(super) fn gratuitous_arp(index: u32, mac: [u8; 6], address: Ipv4Addr) -> io::Result<()> {
    let socket =
        Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(i32::from(ETHERTYPE_ARP.to_be()))))?;
    let everybody = link_address(index)?;
    for operation in [1, 2] {
        socket.send_to(&arp(operation, mac, address), &everybody)?;
    }
    Ok(())
}

fn arp(operation: u16, mac: [u8; 6], address: Ipv4Addr) -> Vec<u8> {
    let mut packet = Vec::with_capacity(28);
    // Ethernet, IPv4, lengths of their addresses.
    packet.extend([0, 1, 0x08, 0, 6, 4]);
    packet.extend(operation.to_be_bytes());
    packet.extend(mac);
    packet.extend(address.octets());
    packet.extend(if operation == 1 { [0; 6] } else { BROADCAST });
    packet.extend(address.octets());
    packet
}

/// socket2 knows no address of this family.
fn link_address(index: u32) -> io::Result<SockAddr> {
    let index = i32::try_from(index).map_err(io::Error::other)?;
    let mut address = [0; 8];
    address[..6].copy_from_slice(&BROADCAST);
    let mut storage = SockAddrStorage::zeroed();
    #[expect(
        unsafe_code,
        reason = "sockaddr_ll is plain data, smaller than the storage, which is as aligned as any address"
    )]
    // SAFETY: every bit pattern is a sockaddr_ll, and its length is the one given.
    unsafe {
        *storage.view_as::<libc::sockaddr_ll>() = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: ETHERTYPE_ARP.to_be(),
            sll_ifindex: index,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: address,
        };
        Ok(SockAddr::new(storage, size_of::<libc::sockaddr_ll>() as libc::socklen_t))
    }
}

pub(super) fn unsolicited_advertisement(
    index: u32,
    mac: Option<[u8; 6]>,
    address: Ipv6Addr,
) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6))?;
    socket.set_multicast_if_v6(index)?;
    // Anything less would have crossed a router, and is dropped.
    socket.set_multicast_hops_v6(255)?;
    // From the address itself: hosts ignore what another one says of it.
    socket.bind(&SocketAddrV6::new(address, 0, 0, index).into())?;
    // The kernel fills in the checksum.
    let mut packet = vec![NEIGHBOR_ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
    packet.extend(address.octets());
    if let Some(mac) = mac {
        packet.extend([TARGET_LINK_LAYER_ADDRESS, 1]);
        packet.extend(mac);
    }
    socket.send_to(&packet, &SocketAddrV6::new(ALL_NODES, 0, 0, index).into())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arp_packet_names_the_address_twice() {
        let mac = [2, 0, 0, 0, 0, 7];
        let packet = arp(2, mac, Ipv4Addr::new(10, 0, 0, 9));
        assert_eq!(packet.len(), 28);
        assert_eq!(packet[6..8], [0, 2]);
        assert_eq!(packet[8..14], mac);
        assert_eq!((&packet[14..18], &packet[24..28]), (&[10, 0, 0, 9][..], &[10, 0, 0, 9][..]));
    }
}
