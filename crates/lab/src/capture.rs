//! What passes over a link: the bytes of each TCP connection, as a bystander sees them.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::socket::{LinkAddr, recvfrom};
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::task::{JoinHandle, spawn_blocking};
use tulle_net::Netns;

mod packet;
mod stream;
mod tls;

use packet::Segment;
use stream::Stream;
pub use tls::{ContentType, Record, records};

use crate::link::Links;

/// A sniffer on one interface. Dropping it ends the capture.
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Shared>,
    reading: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    flows: Mutex<Flows>,
    ending: AtomicBool,
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.shared.ending.store(true, Ordering::Relaxed);
    }
}

impl Capture {
    /// Starts to watch the interface `name` of `netns`. Packets sent after the return are seen.
    ///
    /// It reads on a thread of its own, so that a busy runtime loses no packets.
    ///
    /// # Errors
    /// When there is no such interface or packet sockets are not permitted.
    pub async fn start(netns: &Netns, name: &str) -> Result<Self> {
        let index = Links::open(netns)?.index(name).await?;
        let socket = netns
            .enter(packet_socket)?
            .context("cannot open a packet socket")?;
        let shared = Arc::new(Shared::default());
        let reading = spawn_blocking({
            let shared = Arc::clone(&shared);
            move || read(&socket, index, &shared)
        });
        Ok(Self { shared, reading })
    }

    /// What was read so far, one entry per direction of a connection, ordered by addresses. Packets of the last
    /// moment may be missing; [`Capture::finish`] has them all.
    pub fn flows(&self) -> Vec<Flow> {
        self.shared.flows.lock().list()
    }

    /// Ends the capture and returns everything that was sent before the call.
    ///
    /// # Errors
    /// When the reader failed.
    pub async fn finish(mut self) -> Result<Vec<Flow>> {
        self.shared.ending.store(true, Ordering::Relaxed);
        (&mut self.reading).await?;
        Ok(self.flows())
    }
}

/// One direction of a TCP connection.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Who sent.
    pub source: SocketAddr,
    /// Who received.
    pub destination: SocketAddr,
    /// Packets seen, those without payload included.
    pub packets: u64,
    /// Payload bytes seen, repetitions included.
    pub bytes: u64,
    /// The first [`MAX_PAYLOAD`] bytes of payload, in sending order, up to the first gap.
    pub payload: Vec<u8>,
}

impl Flow {
    /// Whether `needle` is in the payload.
    pub fn contains(&self, needle: &[u8]) -> bool {
        !needle.is_empty()
            && self
                .payload
                .windows(needle.len())
                .any(|window| window == needle)
    }
}

/// Payload kept per direction.
pub const MAX_PAYLOAD: usize = 1 << 20;
/// Directions kept; later connections are not recorded.
pub const MAX_FLOWS: usize = 4096;

#[derive(Debug, Default)]
struct Flows(BTreeMap<(SocketAddr, SocketAddr), Stream>);

impl Flows {
    fn record(&mut self, segment: &Segment<'_>) {
        let ends = (segment.source, segment.destination);
        if self.0.contains_key(&ends) || self.0.len() < MAX_FLOWS {
            self.0.entry(ends).or_default().add(segment);
        }
    }

    fn list(&self) -> Vec<Flow> {
        let flow = |(&(source, destination), stream): (&(SocketAddr, SocketAddr), &Stream)| Flow {
            source,
            destination,
            packets: stream.packets(),
            bytes: stream.bytes(),
            payload: stream.payload(),
        };
        self.0.iter().map(flow).collect()
    }
}

/// A socket that gets a copy of every packet of its namespace, from the network header on.
fn packet_socket() -> io::Result<Socket> {
    let every_protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(every_protocol))?;
    // The kernel caps this at its limit; a larger buffer loses fewer packets of a busy link.
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Records packets until told to end and none is waiting.
fn read(socket: &Socket, index: u32, shared: &Shared) {
    let mut buffer = vec![0; LARGEST_PACKET];
    loop {
        let ending = shared.ending.load(Ordering::Relaxed);
        match receive(socket, &mut buffer) {
            Ok((length, from)) if from == Some(index) => {
                let packet = buffer.get(..length).unwrap_or_default();
                if let Some(segment) = packet::parse(packet) {
                    shared.flows.lock().record(&segment);
                }
            }
            Ok(_) => {}
            Err(_) if ending => return,
            Err(_) => {}
        }
    }
}

fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<(usize, Option<u32>)> {
    let (length, from) = recvfrom::<LinkAddr>(socket.as_raw_fd(), buffer)?;
    let index = from.and_then(|from| u32::try_from(from.ifindex()).ok());
    Ok((length, index))
}

const ETH_P_ALL: u16 = 3;
const LARGEST_PACKET: usize = 1 << 16;
const RECEIVE_BUFFER: usize = 8 << 20;
/// How long a packet is waited for before looking whether to end.
const PATIENCE: Duration = Duration::from_millis(20);
