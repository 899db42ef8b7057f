//! The addresses of a namespace.

use std::io;
use std::net::IpAddr;

use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::netlink::Conversation;
use crate::netns::Netns;

/// The addresses of all interfaces of a namespace, loopback included: of IPv4 first, else in the order in which they were given.
///
/// # Errors
/// When the kernel does not tell.
pub fn addresses(netns: &Netns) -> io::Result<Vec<IpAddr>> {
    Ok(list(netns)?.into_iter().map(|(ip, _)| ip).collect())
}

/// The same with their scopes.
pub(crate) fn list(netns: &Netns) -> io::Result<Vec<(IpAddr, AddressScope)>> {
    let mut conversation = Conversation::open_in(netns, NETLINK_ROUTE)?;
    let mut list = Vec::new();
    // One family at a time: asked for all of them at once, the kernel takes the lock of all its network configuration, and
    // waits for whoever makes or removes another pod's network.
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut everything = AddressMessage::default();
        everything.header.family = family;
        let listed = conversation.dump(&RouteNetlinkMessage::GetAddress(everything))?;
        let of_family = listed.iter().filter_map(|listed| match listed {
            RouteNetlinkMessage::NewAddress(message) if message.header.family == family => {
                own_address(message)
            }
            _ => None,
        });
        list.extend(of_family);
    }
    Ok(list)
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
