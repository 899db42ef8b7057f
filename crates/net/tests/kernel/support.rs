//! Runs a test again as root of new namespaces, and builds a pod and a peer inside them.

use std::env;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use futures_util::TryStreamExt;
use netlink_packet_route::address::AddressHeaderFlags;
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection};
use std::os::fd::AsRawFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;
use tulle_net::Netns;
use tulle_net::connect::{ConnectOptions, connect};
use tulle_net::listen::{ListenOptions, Transparent, listen};
use tulle_net::process::ChildNamespaces;
use tulle_net::redirect::{RedirectConfig, apply};

/// Runs the body of the calling test in a child that is root of new user, mount, PID and network
/// namespaces. Whatever the body makes is gone with the child.
///
/// Takes the test's name from the type of the closure: call it straight from the test function.
pub(crate) fn isolated<F: FnOnce()>(body: F) {
    isolated_as(test_name::<F>(), body);
}

/// As [`isolated`] for a test that awaits.
pub(crate) fn isolated_async<F: AsyncFnOnce()>(body: F) {
    isolated_as(test_name::<F>(), || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(body());
    });
}

fn isolated_as(name: &str, body: impl FnOnce()) {
    if env::var_os(INSIDE).is_some() {
        return body();
    }
    let mut again = Command::new(env::current_exe().unwrap());
    again.args(["--exact", name, "--nocapture", "--test-threads=1"]);
    again.env(INSIDE, "1");
    ChildNamespaces {
        user: !nix::unistd::geteuid().is_root(),
        mount: true,
        pid: true,
        net: true,
    }
    .apply(&mut again);
    let output = again.output().expect("needs root or user namespaces");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{name}: {}\n{text}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr),
    );
}

/// `kernel::module::test::{{closure}}` without its ends.
fn test_name<F>() -> &'static str {
    let path = std::any::type_name::<F>();
    let path = path.trim_end_matches("::{{closure}}");
    path.split_once("::").unwrap().1
}

/// A pod and a peer, joined by a cable. All that the pod sends goes to the peer.
pub(crate) struct Cable {
    pub(crate) pod: Netns,
    pub(crate) peer: Netns,
}

impl Cable {
    pub(crate) async fn new() -> Self {
        let cable = Self {
            pod: Netns::create().unwrap(),
            peer: Netns::create().unwrap(),
        };
        let (pod, peer) = (routes_of(&cable.pod), routes_of(&cable.peer));
        join(&pod, &cable.peer, "eth0").await;
        for family in FAMILIES {
            plug(&pod, "eth0", &[family.pod]).await;
            plug(&peer, "eth0", &[family.peer, family.probe]).await;
            send_all_to(&pod, family.peer).await;
        }
        cable
    }
}

pub(crate) fn plain() -> RedirectConfig {
    RedirectConfig::default()
}

/// A pod with redirection and something that listens on ztunnel's ports.
pub(crate) async fn meshed(config: &RedirectConfig) -> (Cable, Ztunnel) {
    let cable = Cable::new().await;
    let ztunnel = Ztunnel {
        outbound: proxy(&cable.pod, 15001),
        inbound: proxy(&cable.pod, 15006),
        hbone: proxy(&cable.pod, 15008),
    };
    apply(&cable.pod, config).unwrap();
    (cable, ztunnel)
}

/// What listens on ztunnel's ports.
pub(crate) struct Ztunnel {
    pub(crate) outbound: TcpListener,
    pub(crate) inbound: TcpListener,
    pub(crate) hbone: TcpListener,
}

/// Lays a cable from `eth0` here to the interface `name` there. Both are down.
pub(crate) async fn join(here: &Handle, there: &Netns, name: &str) {
    let pair = LinkVeth::new("eth0", "passing").build();
    here.link().add(pair).execute().await.unwrap();
    let far = LinkUnspec::new_with_index(index(here, "passing").await).name(name);
    let far = far.setns_by_fd(there.fd().as_raw_fd()).build();
    here.link().set(far).execute().await.unwrap();
}

/// What is for nobody nearby goes to `gateway`.
pub(crate) async fn send_all_to(handle: &Handle, gateway: IpAddr) {
    let route = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(unspecified(gateway), 0)
        .unwrap()
        .gateway(gateway)
        .unwrap();
    handle.route().add(route.build()).execute().await.unwrap();
}

/// Brings the interface `name` up with these addresses.
pub(crate) async fn plug(handle: &Handle, name: &str, addresses: &[IpAddr]) {
    let index = index(handle, name).await;
    let up = LinkUnspec::new_with_index(index).up().build();
    handle.link().set(up).execute().await.unwrap();
    for address in addresses {
        let prefix = if address.is_ipv4() { 24 } else { 64 };
        let mut add = handle.address().add(index, *address, prefix);
        add.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        add.execute().await.unwrap();
    }
}

async fn index(handle: &Handle, name: &str) -> u32 {
    let mut found = handle.link().get().match_name(name).execute();
    found.try_next().await.unwrap().unwrap().header.index
}

/// A conversation about links, addresses, routes and routing rules.
pub(crate) fn routes_of(netns: &Netns) -> Handle {
    let (connection, handle, _) = netns.enter(new_connection).unwrap().unwrap();
    tokio::spawn(connection);
    handle
}

/// The addresses of one family.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addresses {
    pub(crate) pod: IpAddr,
    pub(crate) peer: IpAddr,
    pub(crate) probe: IpAddr,
    /// Nobody's address; the pod would send there by way of the peer.
    pub(crate) stranger: IpAddr,
    pub(crate) loopback: IpAddr,
}

pub(crate) const FAMILIES: [Addresses; 2] = [
    Addresses {
        pod: ip4(10, 1, 0, 2),
        peer: ip4(10, 1, 0, 1),
        probe: ip4(169, 254, 7, 127),
        stranger: ip4(192, 0, 2, 9),
        loopback: ip4(127, 0, 0, 1),
    },
    Addresses {
        pod: ip6([0xfd00, 0, 0, 0, 0, 0, 0, 2]),
        peer: ip6([0xfd00, 0, 0, 0, 0, 0, 0, 1]),
        probe: ip6([
            0xfd16, 0x9254, 0x7127, 0x1337, 0xffff, 0xffff, 0xffff, 0xffff,
        ]),
        stranger: ip6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 9]),
        loopback: ip6([0, 0, 0, 0, 0, 0, 0, 1]),
    },
];

const fn ip4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(std::net::Ipv4Addr::new(a, b, c, d))
}

const fn ip6(segments: [u16; 8]) -> IpAddr {
    let [a, b, c, d, e, f, g, h] = segments;
    IpAddr::V6(std::net::Ipv6Addr::new(a, b, c, d, e, f, g, h))
}

pub(crate) fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => ip4(0, 0, 0, 0),
        IpAddr::V6(_) => ip6([0; 8]),
    }
}

/// Listens on all addresses, as an app would.
pub(crate) fn app(netns: &Netns, port: u16) -> TcpListener {
    listener(netns, &ListenOptions::new(wildcard(port)))
}

/// Listens on all addresses, as ztunnel would.
pub(crate) fn proxy(netns: &Netns, port: u16) -> TcpListener {
    let options = ListenOptions {
        mark: Some(PROXY_MARK),
        transparent: Transparent::Required,
        ..ListenOptions::new(wildcard(port))
    };
    listener(netns, &options)
}

fn listener(netns: &Netns, options: &ListenOptions) -> TcpListener {
    TcpListener::from_std(listen(netns, options).unwrap().socket).unwrap()
}

pub(crate) fn wildcard(port: u16) -> SocketAddr {
    SocketAddr::from(([0_u16; 8], port))
}

/// The options of a socket of ztunnel.
pub(crate) fn as_proxy(source: Option<IpAddr>) -> ConnectOptions {
    ConnectOptions {
        mark: Some(PROXY_MARK),
        source,
        ..ConnectOptions::default()
    }
}

/// Connects as an app would.
pub(crate) async fn dial(netns: &Netns, ip: IpAddr, port: u16) -> TcpStream {
    dial_as(netns, ip, port, &ConnectOptions::default()).await
}

pub(crate) async fn dial_as(
    netns: &Netns,
    ip: IpAddr,
    port: u16,
    options: &ConnectOptions,
) -> TcpStream {
    let addr = SocketAddr::new(ip, port);
    let connected = soon(connect(netns, addr, options)).await;
    connected.unwrap_or_else(|error| panic!("{addr}: {error}"))
}

/// A socket that will dial from this address and port.
pub(crate) fn socket_at(netns: &Netns, addr: SocketAddr) -> TcpSocket {
    let socket = netns.enter(|| match addr {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    });
    let socket = socket.unwrap().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(addr).unwrap();
    socket
}

/// The next connection, and the address it comes from.
pub(crate) async fn accept(listener: &TcpListener) -> (TcpStream, IpAddr) {
    let (stream, peer) = soon(listener.accept()).await.unwrap();
    (stream, peer.ip().to_canonical())
}

/// Bytes go both ways.
pub(crate) async fn talk(a: &mut TcpStream, b: &mut TcpStream) {
    for (text, from, to) in [(b"ping", 0, 1), (b"pong", 1, 0)] {
        let ends = [&mut *a, &mut *b];
        ends[from].write_all(text).await.unwrap();
        let mut read = [0; 4];
        soon(ends[to].read_exact(&mut read)).await.unwrap();
        assert_eq!(&read, text);
    }
}

/// Waits for what must happen without further ado.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(5), future)
        .await
        .expect("in time")
}

pub(crate) const PROXY_MARK: u32 = 0x539;
const INSIDE: &str = "TULLE_NET_TEST_INSIDE";
