//! Packets with descriptors over a `SOCK_SEQPACKET` Unix socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};

/// The largest packet, both ways: each side reads into a buffer of this size.
pub(crate) const MAX_PACKET: usize = 1024;

/// One end of a connection.
///
/// Tokio has no type of its own for these sockets, but its stream registers any Unix socket with the runtime; the
/// packets are sent and received by us.
#[derive(Debug)]
pub(crate) struct PacketSocket(pub(crate) UnixStream);

/// What arrived in one packet.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) bytes: Vec<u8>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl PacketSocket {
    pub(crate) fn connect(path: &Path) -> io::Result<Self> {
        let socket = new_socket()?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(Self(UnixStream::from_std(socket.into())?))
    }

    /// Sends one packet, with at most one descriptor. Cancel-safe: it is sent whole or not at all.
    pub(crate) async fn send(
        &self,
        bytes: &[u8],
        descriptor: Option<BorrowedFd<'_>>,
    ) -> io::Result<()> {
        let send = || send_packet(self.0.as_fd(), bytes, descriptor);
        self.0.async_io(Interest::WRITABLE, send).await
    }

    /// Receives one packet; `None` once the peer has closed. Cancel-safe.
    ///
    /// A packet that did not fit, in bytes or in descriptors, is an [`io::ErrorKind::InvalidData`] error.
    pub(crate) async fn receive(&self) -> io::Result<Option<Packet>> {
        let receive = || receive_packet(self.0.as_fd());
        self.0.async_io(Interest::READABLE, receive).await
    }

    /// The user that the peer ran as when it connected.
    pub(crate) fn peer_user(&self) -> io::Result<u32> {
        Ok(self.0.peer_cred()?.uid())
    }
}

/// A socket that accepts connections.
#[derive(Debug)]
pub(crate) struct PacketListener(UnixListener);

impl PacketListener {
    /// Listens at `path`, which must not exist; only the owner may connect.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        let socket = new_socket()?;
        // Before the bind, so that there is no moment in which others could connect: the socket file takes the mode
        // of the socket.
        rustix::fs::fchmod(&socket, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(Self(UnixListener::from_std(socket.into())?))
    }

    pub(crate) async fn accept(&self) -> io::Result<PacketSocket> {
        let (socket, _) = self.0.accept().await?;
        Ok(PacketSocket(socket))
    }
}

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

fn send_packet(
    socket: BorrowedFd<'_>,
    bytes: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.map(|descriptor| [descriptor]);
    if let Some(descriptors) = &descriptors
        && !control.push(SendAncillaryMessage::ScmRights(descriptors))
    {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let iov = [IoSlice::new(bytes)];
    rustix::net::sendmsg(socket, &iov, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive_packet(socket: BorrowedFd<'_>) -> io::Result<Option<Packet>> {
    let mut bytes = [0; MAX_PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "packet is too large or has too many descriptors",
        ));
    }
    let Some(bytes) = bytes.get(..received.bytes).filter(|b| !b.is_empty()) else {
        return Ok(None); // No message of this protocol is empty, so this is the end of the stream.
    };
    Ok(Some(Packet {
        bytes: bytes.to_vec(),
        descriptors,
    }))
}

/// Room to see that there is more than the one descriptor that is allowed.
const MAX_DESCRIPTORS: usize = 2;

const BACKLOG: i32 = 16;
