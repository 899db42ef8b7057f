//! The name servers of this host, and how they are asked.
//!
//! One after the other, a second apart, until one of them answers: a server that is down costs a second, not a client's
//! patience. One that fails or refuses is not asked again. The first answer counts, whoever gives it.
//!
//! Spec: `resolv.conf(5)`; RFC 5452 for what makes an answer believable: a port and a number that nobody could guess.

use std::{
    collections::VecDeque,
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::rand;
use futures_util::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};
use tulle_net::{
    Netns,
    connect::{ConnectOptions, connect},
    udp,
};

use super::message::{Query, Reply, Transport};

/// The servers that a `resolv.conf` names, which is read again from time to time.
#[derive(Debug)]
pub struct NameServers {
    path: PathBuf,
    /// Our own namespace, from where alone a server on loopback can be reached.
    own: Netns,
    read: Mutex<Option<(Instant, Arc<Servers>)>>,
    /// Room for queries of all pods together.
    room: Semaphore,
    /// Room for our own, which pods cannot take.
    own_room: Semaphore,
}

/// Servers, and how long they are waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Servers {
    addresses: Vec<IpAddr>,
    patience: Duration,
    attempts: usize,
}

/// From where servers are asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// The pod's namespace, or our own.
    pub(super) netns: &'a Netns,
    /// Mark of our packets, by which those that leave a pod are not captured; none in our own namespace.
    pub(super) mark: Option<u32>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error("no name server in {0}")]
    NoServers(PathBuf),
    #[error("{server}: {error}")]
    Failed {
        server: IpAddr,
        #[source]
        error: io::Error,
    },
    #[error("too many queries at once")]
    Busy,
}

impl NameServers {
    /// The servers in this file, which is of the namespace `own`.
    pub fn new(path: PathBuf, own: Netns) -> Self {
        Self {
            path,
            own,
            read: Mutex::new(None),
            room: Semaphore::new(MOST_QUERIES),
            own_room: Semaphore::new(MOST_OWN_QUERIES),
        }
    }

    /// Our own namespace, where nothing is captured.
    pub(super) fn here(&self) -> Place<'_> {
        Place {
            netns: &self.own,
            mark: None,
        }
    }

    /// Asks until somebody answers. If nobody does so definitely, the last answer counts.
    pub(super) async fn ask(
        &self,
        place: Place<'_>,
        query: &Query,
        transport: Transport,
    ) -> Result<Vec<u8>, AskError> {
        let room = match place.mark {
            Some(_) => &self.room,
            None => &self.own_room,
        };
        let Ok(_room) = room.try_acquire() else {
            return Err(AskError::Busy);
        };
        let servers = self.servers();
        let Servers {
            addresses,
            patience,
            attempts,
        } = &*servers;
        let ask = |server: IpAddr| async move {
            let own = server.is_loopback();
            let netns = if own { &self.own } else { place.netns };
            let at = SocketAddr::new(server, PORT);
            let asked = timeout(*patience, exchange(netns, place.mark, at, query, transport));
            let silent = |_| Err(io::ErrorKind::TimedOut.into());
            (server, asked.await.unwrap_or_else(silent))
        };
        let mut left: VecDeque<IpAddr> = addresses.repeat(*attempts).into();
        let mut asked = FuturesUnordered::new();
        let mut last = Err(AskError::NoServers(self.path.clone()));
        asked.extend(left.pop_front().map(ask));
        loop {
            tokio::select! {
                answered = asked.next() => {
                    let Some((server, answer)) = answered else { return last };
                    match answer {
                        Ok(Reply { bytes, is_final: true }) => return Ok(bytes),
                        Ok(Reply { bytes, .. }) => last = Ok(bytes),
                        // An answer that was had is better than the reason why there is no other.
                        Err(error) => last = last.or(Err(AskError::Failed { server, error })),
                    }
                    // It would say the same again.
                    left.retain(|next| *next != server);
                }
                () = sleep(NEXT_SERVER), if !left.is_empty() && asked.len() < MOST_ASKED => {}
            }
            asked.extend(left.pop_front().map(ask));
        }
    }

    fn servers(&self) -> Arc<Servers> {
        let mut read = self.read.lock();
        match &*read {
            Some((at, servers)) if at.elapsed() < READ_AGAIN => servers.clone(),
            known => {
                let servers = Servers::read(&self.path)
                    .map(Arc::new)
                    .unwrap_or_else(|error| {
                        let path = self.path.display();
                        tracing::warn!(%error, %path, "the name servers cannot be read");
                        // What was known is more than nothing.
                        let known = known.as_ref().map(|(_, servers)| servers.clone());
                        known.unwrap_or_else(|| Arc::new(Servers::parse(b"")))
                    });
                *read = Some((Instant::now(), servers.clone()));
                servers
            }
        }
    }
}

impl Servers {
    fn read(path: &Path) -> io::Result<Self> {
        Ok(Self::parse(&fs::read(path)?))
    }

    /// Lines that are not understood are left out, as every resolver does.
    fn parse(text: &[u8]) -> Self {
        let (config, _) = resolv_conf::Config::parse_with_errors(text);
        let addresses = config.nameservers.iter().map(IpAddr::from);
        Self {
            addresses: addresses.take(MOST_SERVERS).collect(),
            patience: Duration::from_secs(config.timeout.clamp(1, 30).into()),
            attempts: config.attempts.clamp(1, 5) as usize,
        }
    }
}

/// Asks one server. What answers anything else is not heard.
pub(super) async fn exchange(
    netns: &Netns,
    mark: Option<u32>,
    server: SocketAddr,
    query: &Query,
    transport: Transport,
) -> io::Result<Reply> {
    let mut id = [0; 2];
    rand::fill(&mut id).map_err(io::Error::other)?;
    let id = u16::from_be_bytes(id);
    let message = query.renumbered(id);
    match transport {
        Transport::Udp => {
            let socket = udp::connect(netns, server, mark)?;
            socket.send(&message).await?;
            loop {
                let (reply, _) = udp::receive(&socket).await?;
                if let Some(reply) = query.relayed(&reply, id) {
                    return Ok(reply);
                }
            }
        }
        Transport::Tcp => {
            let options = ConnectOptions {
                mark,
                ..ConnectOptions::default()
            };
            let mut stream = connect(netns, server, &options).await?;
            stream.write_all(&framed(&message)?).await?;
            let mut reply = vec![0; stream.read_u16().await?.into()];
            stream.read_exact(&mut reply).await?;
            let wrong = || io::Error::new(io::ErrorKind::InvalidData, "answers something else");
            query.relayed(&reply, id).ok_or_else(wrong)
        }
    }
}

/// A message by TCP: its length goes first.
pub(super) fn framed(message: &[u8]) -> io::Result<Vec<u8>> {
    let len = u16::try_from(message.len()).map_err(io::Error::other)?;
    Ok([&len.to_be_bytes(), message].concat())
}

const PORT: u16 = 53;
/// Queries that are open at a time; each may have a descriptor for each of its servers.
const MOST_QUERIES: usize = 4096;
const MOST_OWN_QUERIES: usize = 1024;
/// Servers that are asked at the same time.
const MOST_ASKED: usize = 3;
/// As resolvers do.
const MOST_SERVERS: usize = 3;
/// How long one server is waited for before the next is asked as well.
const NEXT_SERVER: Duration = Duration::from_secs(1);
/// How long the file is believed.
const READ_AGAIN: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_resolvers_do() {
        let text = b"# comment\nnameserver 10.0.0.10\nnameserver fd00::a\nnonsense\nnameserver 10.0.0.11\n\
            nameserver 10.0.0.12\nsearch a b\noptions timeout:2 attempts:3 ndots:5\n";
        let servers = Servers::parse(text);
        let expected = ["10.0.0.10", "fd00::a", "10.0.0.11"];
        assert_eq!(
            servers.addresses,
            expected.map(|ip| ip.parse::<IpAddr>().unwrap())
        );
        assert_eq!((servers.patience.as_secs(), servers.attempts), (2, 3));

        let defaults = Servers::parse(b"");
        assert!(defaults.addresses.is_empty());
        assert_eq!((defaults.patience.as_secs(), defaults.attempts), (5, 2));
    }
}
