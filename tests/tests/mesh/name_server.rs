//! A name server of tests, and the files that lead to it.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex},
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
};
use tulle_lab::{Mesh, sandbox::Sandbox};
use tulle_net::{
    Netns,
    listen::{ListenOptions, listen},
    udp,
};

use crate::world;

/// A name server, by UDP and by TCP.
pub(crate) struct NameServer {
    seen: Seen,
    _tasks: JoinSet<Result<()>>,
}

type Seen = Arc<Mutex<Vec<Vec<u8>>>>;
/// The answer to a query.
type Answers = Arc<dyn Fn(&[u8]) -> Vec<u8> + Send + Sync>;

impl NameServer {
    /// One that echoes: its answer is the query, marked as one.
    pub(crate) fn start(netns: &Netns, addresses: &[&str]) -> Result<Self> {
        Self::start_saying(netns, addresses, 0)
    }

    /// The same with this response code.
    pub(crate) fn start_saying(netns: &Netns, addresses: &[&str], code: u8) -> Result<Self> {
        Self::start_with(netns, addresses, move |query| echo(query, code))
    }

    /// One that gives these answers.
    pub(crate) fn start_with(
        netns: &Netns,
        addresses: &[&str],
        answer: impl Fn(&[u8]) -> Vec<u8> + Send + Sync + 'static,
    ) -> Result<Self> {
        let (seen, answer) = (Seen::default(), Arc::new(answer) as Answers);
        let mut tasks = JoinSet::new();
        for address in addresses {
            let address = SocketAddr::new(address.parse()?, 53);
            let tcp = listen(netns, &ListenOptions::new(address))?.socket;
            let tcp = TcpListener::from_std(tcp)?;
            tasks.spawn(by_tcp(tcp, Arc::clone(&seen), Arc::clone(&answer)));
            let each: Vec<IpAddr> = match address.ip().is_unspecified() {
                true => vec!["0.0.0.0".parse()?, "::".parse()?],
                false => vec![address.ip()],
            };
            for ip in each {
                let udp = udp::bind(netns, SocketAddr::new(ip, 53), false)?;
                let udp = UdpSocket::from_std(udp)?;
                tasks.spawn(by_udp(udp, Arc::clone(&seen), Arc::clone(&answer)));
            }
        }
        Ok(Self {
            seen,
            _tasks: tasks,
        })
    }

    /// What was asked since this was last called, without the numbers.
    pub(crate) fn take(&self) -> Vec<Vec<u8>> {
        let seen = std::mem::take(&mut *self.seen.lock().expect("no test panics with it"));
        seen.iter().map(|query| unnumbered(query)).collect()
    }

    pub(crate) fn forget(&self) {
        self.take();
    }
}

/// The answer of a server that echoes.
pub(crate) fn echo(query: &[u8], code: u8) -> Vec<u8> {
    let mut answer = query.to_vec();
    answer[2] |= 0x80;
    answer[3] |= code;
    answer
}

async fn by_udp(socket: UdpSocket, seen: Seen, answer: Answers) -> Result<()> {
    loop {
        let mut query = vec![0; 4096];
        let (len, from) = socket.recv_from(&mut query).await?;
        query.truncate(len);
        socket.send_to(&answer(&query), from).await?;
        seen.lock().expect("no test panics with it").push(query);
    }
}

async fn by_tcp(listener: TcpListener, seen: Seen, answer: Answers) -> Result<()> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        let query = read_framed(&mut stream).await?;
        stream.write_all(&framed(&answer(&query))).await?;
        seen.lock().expect("no test panics with it").push(query);
    }
}

/// A message by TCP.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let len = u16::try_from(message.len()).expect("a message of this test is short");
    [&len.to_be_bytes(), message].concat()
}

/// The next message of a connection.
pub(crate) async fn read_framed(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut message = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// A message without the number that it begins with.
pub(crate) fn unnumbered(message: &[u8]) -> Vec<u8> {
    message.get(2..).unwrap_or_default().to_vec()
}

/// Files that say who the name servers are.
pub(crate) struct Files(tempfile::TempDir);

impl Files {
    /// Tells the ztunnels, which look again now and then.
    pub(crate) fn name_servers(&self, servers: &[IpAddr]) -> Result<()> {
        let lines = servers
            .iter()
            .map(|server| format!("nameserver {server}\n"));
        self.write("ztunnel.conf", &lines.collect::<String>())?;
        Ok(())
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.0.path().join(name);
        fs::write(&path, text)?;
        Ok(path)
    }
}

/// A mesh whose ztunnels read [`Files`].
pub(crate) async fn start(sandbox: &Sandbox) -> Result<(Mesh, Files)> {
    let files = Files(tempfile::tempdir()?);
    let path = files.write("ztunnel.conf", "")?;
    let path = path.to_str().context("a path of ours is text")?.to_owned();
    let mesh = world::start_with(sandbox, |config| {
        let name = "TULLE_RESOLV_CONF".to_owned();
        config.ztunnel_env.push((name, path));
    });
    Ok((mesh.await?, files))
}
