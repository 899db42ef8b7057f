//! Which TCP ports somebody listens on, by socket diagnostics.

use std::collections::BTreeSet;
use std::io;

use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use nix::libc;

use crate::netlink::{Conversation, Raw};
use crate::netns::Netns;

/// Those of `ports` that a TCP socket of the namespace listens on, on whichever address, in the order of `ports`.
///
/// The kernel lists listening sockets only, so this costs the same in a pod with many connections.
///
/// # Errors
/// If the namespace cannot be entered; `NotFound` where the kernel has no socket diagnostics for TCP; `Interrupted` if
/// listeners come and go all the time.
pub fn listening(netns: &Netns, ports: &[u16]) -> io::Result<Vec<u16>> {
    let mut conversation = Conversation::open_in(netns, NETLINK_SOCK_DIAG)?;
    let mut found = BTreeSet::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let sockets = conversation.dump(&ask_for_listeners(family))?;
        found.extend(sockets.iter().filter_map(local_port));
    }
    let asked = ports.iter().copied();
    Ok(asked.filter(|port| found.contains(port)).collect())
}

/// Spec: Linux `include/uapi/linux/inet_diag.h`, `inet_diag_req_v2`.
fn ask_for_listeners(family: libc::c_int) -> Raw {
    let number = |constant: libc::c_int| u8::try_from(constant).unwrap_or(0);
    let (extensions, padding) = (0, 0);
    let mut bytes = vec![
        number(family),
        number(libc::IPPROTO_TCP),
        extensions,
        padding,
    ];
    bytes.extend((1_u32 << TCP_LISTEN).to_ne_bytes());
    // Whichever ports, addresses and interface.
    bytes.extend([0; SOCKET_ID]);
    Raw {
        kind: SOCK_DIAG_BY_FAMILY,
        bytes,
    }
}

/// An answer begins with family, state, timer and retransmissions; then comes the socket's identity, which begins with its
/// own port.
///
/// Spec: as before, `inet_diag_msg`.
fn local_port(answer: &Raw) -> Option<u16> {
    let identity = answer.bytes.get(4..)?;
    identity.first_chunk().copied().map(u16::from_be_bytes)
}

/// Ports, addresses, interface and cookie.
const SOCKET_ID: usize = 48;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const TCP_LISTEN: u32 = 10;
