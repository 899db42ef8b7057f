//! The addresses of a namespace.

use std::io;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::netlink::Conversation;
use crate::netns::Netns;

/// The addresses of all interfaces of a namespace, loopback included, in the order in which they were given.
///
/// # Errors
/// When the kernel does not tell.
pub fn addresses(netns: &Netns) -> io::Result<Vec<IpAddr>> {
    Ok(list(netns)?.into_iter().map(|(ip, _)| ip).collect())
}

/// The same with their scopes.
pub(crate) fn list(netns: &Netns) -> io::Result<Vec<(IpAddr, AddressScope)>> {
    let mut conversation = Conversation::open_in(netns, NETLINK_ROUTE)?;
    let everything = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let listed = conversation.dump(&everything)?;
    let read = listed.iter().filter_map(|listed| match listed {
        RouteNetlinkMessage::NewAddress(message) => own_address(message),
        _ => None,
    });
    Ok(read.collect())
}

fn own_address(message: &AddressMessage) -> Option<(IpAddr, AddressScope)> {
    let attributes = || message.attributes.iter();
    // On a point-to-point link the plain address is the peer's.
    let local = attributes().find_map(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let plain = attributes().find_map(|attribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    });
    local.or(plain).map(|ip| (ip, message.header.scope))
}
