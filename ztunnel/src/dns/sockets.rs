//! The sockets that a pod's queries arrive at, on its loopback addresses.

use std::{
    io,
    net::{
        IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdTcpListener,
        UdpSocket as StdUdpSocket,
    },
};

use tokio::net::{TcpListener, UdpSocket};
use tulle_net::{
    Netns,
    listen::{ListenOptions, Transparent, lacks_address, listen},
    udp,
};

use super::DnsSettings;
use crate::proxy::ProxySettings;
use tulle_route::DNS_PORT;

/// Sockets that belong to no thread yet.
#[derive(Debug, Default)]
pub struct DnsSockets {
    udp: Vec<StdUdpSocket>,
    tcp: Vec<StdTcpListener>,
}

/// Sockets of the thread that serves them.
#[derive(Debug, Default)]
pub struct DnsListeners {
    /// One for each family.
    pub udp: Vec<UdpSocket>,
    /// One for each family.
    pub tcp: Vec<TcpListener>,
}

impl DnsSockets {
    /// Opens them in a pod. A family that the pod does without is left out.
    ///
    /// # Errors
    /// If one of the ports is taken.
    pub fn open(netns: &Netns, dns: &DnsSettings, settings: &ProxySettings) -> io::Result<Self> {
        let ipv6 = dns.ipv6.then_some(Ipv6Addr::LOCALHOST.into());
        let mut sockets = Self::default();
        for ip in [Ipv4Addr::LOCALHOST.into()].into_iter().chain(ipv6) {
            match sockets.open_at(netns, ip, settings) {
                Err(error) if lacks_address(&error) => {}
                Err(error) => {
                    let text = format!("listen for DNS on {ip}, port {DNS_PORT}: {error}");
                    return Err(io::Error::new(error.kind(), text));
                }
                Ok(()) => {}
            }
        }
        Ok(sockets)
    }

    fn open_at(&mut self, netns: &Netns, ip: IpAddr, settings: &ProxySettings) -> io::Result<()> {
        let addr = SocketAddr::new(ip, DNS_PORT);
        let udp = udp::bind(netns, addr, settings.reuse_port)?;
        let options = ListenOptions {
            mark: Some(settings.mark),
            // What is captured keeps the address that the app dialled.
            transparent: Transparent::Required,
            reuse_port: settings.reuse_port,
            local: true,
            ..ListenOptions::new(addr)
        };
        self.tcp.push(listen(netns, &options)?.socket);
        self.udp.push(udp);
        Ok(())
    }

    /// Hands them to the runtime of this thread.
    ///
    /// # Errors
    /// As `epoll_ctl(2)`.
    pub fn into_listeners(self) -> io::Result<DnsListeners> {
        Ok(DnsListeners {
            udp: (self.udp.into_iter().map(UdpSocket::from_std)).collect::<Result<_, _>>()?,
            tcp: (self.tcp.into_iter().map(TcpListener::from_std)).collect::<Result<_, _>>()?,
        })
    }
}
