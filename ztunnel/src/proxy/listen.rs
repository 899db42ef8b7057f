//! The listening sockets of a pod.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tulle_net::{
    Netns,
    listen::{ListenOptions, Listener, Transparent, listen},
};

use super::ProxySettings;
use crate::dns::DnsSockets;

/// The listeners of one pod for one thread.
pub struct PodListeners {
    /// Captures what the app sends.
    pub outbound: std::net::TcpListener,
    /// Captures plaintext on its way to the app.
    pub inbound: std::net::TcpListener,
    /// Where tunnels end.
    pub hbone: std::net::TcpListener,
    /// Where the app's DNS queries arrive. One thread has them: there are few.
    pub dns: Option<DnsSockets>,
    /// Whether sockets may carry other addresses than the pod's own.
    pub transparent: bool,
}

/// Opens the listeners of a pod, inside its namespace, once for each of `threads`.
///
/// # Errors
/// When any of them cannot be opened; none stays open then.
pub fn open_listeners(
    netns: &Netns,
    settings: &ProxySettings,
    threads: usize,
) -> io::Result<Vec<PodListeners>> {
    hand_over_what_waits(netns);
    // Any thread will do, if it is not the same for all pods.
    let server = usize::try_from(netns.id().ino).unwrap_or_default() % threads.max(1);
    (0..threads)
        .map(|thread| {
            let dns = settings.dns.as_ref().filter(|_| thread == server);
            let dns = dns.map(|dns| DnsSockets::open(netns, dns, settings));
            let outbound = open(netns, settings, threads, settings.outbound_port)?;
            let inbound = open(netns, settings, threads, settings.inbound_port)?;
            let hbone = open(netns, settings, threads, settings.hbone_port)?;
            Ok(PodListeners {
                transparent: inbound.transparent && hbone.transparent,
                outbound: outbound.socket,
                inbound: inbound.socket,
                hbone: hbone.socket,
                dns: dns.transpose()?,
            })
        })
        .collect()
}

/// Lets connections that wait on a listener which closes go to another one of the same port, as of the ztunnel that
/// takes over. Without it they are reset.
///
/// Kernels before 5.14 cannot do it, and the setting may be out of reach; then the node agent may have made it.
fn hand_over_what_waits(netns: &Netns) {
    let written = netns.enter(|| fs::write(MIGRATE, "1")).flatten();
    if let Err(error) = written {
        tracing::debug!(%error, "connections that wait on a closing listener will be reset");
    }
}

fn open(
    netns: &Netns,
    settings: &ProxySettings,
    threads: usize,
    port: u16,
) -> io::Result<Listener> {
    let any: IpAddr = if settings.ipv6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    let options = ListenOptions {
        mark: Some(settings.mark),
        transparent: match settings.original_source {
            // What is captured keeps its addresses, so the listener must accept for addresses that are not the pod's.
            _ if port == settings.outbound_port => Transparent::Required,
            None => Transparent::BestEffort,
            Some(true) => Transparent::Required,
            Some(false) => Transparent::Off,
        },
        reuse_port: settings.reuse_port || threads > 1,
        keepalive: settings.keepalive,
        local: port == settings.outbound_port,
        ..ListenOptions::new(SocketAddr::new(any, port))
    };
    listen(netns, &options)
        .map_err(|error| io::Error::new(error.kind(), format!("listen on port {port}: {error}")))
}

const MIGRATE: &str = "/proc/sys/net/ipv4/tcp_migrate_req";
