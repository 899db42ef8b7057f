//! Interfaces, addresses and routes of a namespace, over route netlink.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd,
    time::Duration,
};

use anyhow::{Context, Result};
use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::{
    address::{AddressAttribute, AddressHeaderFlags},
    link::{InfoData, InfoVeth},
    route::{RouteMessage, RouteScope, RouteType},
};
use rtnetlink::{
    Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection,
};
use tokio::task::JoinHandle;
use tulle_net::Netns;

use crate::process::wait_for;

/// A route netlink conversation inside one namespace.
pub(crate) struct Links {
    handle: Handle,
    connection: JoinHandle<()>,
}

impl Drop for Links {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Links {
    /// Opens the conversation.
    pub(crate) fn open(netns: &Netns) -> Result<Self> {
        let (connection, handle, _) = netns
            .enter(new_connection)?
            .context("cannot open route netlink")?;
        Ok(Self {
            handle,
            connection: tokio::spawn(connection),
        })
    }

    /// Makes a veth pair: `name` here, `peer` in the namespace `there`.
    ///
    /// The far end is born there. To move it later would stop all network configuration of the machine for many milliseconds.
    pub(crate) async fn veth(&self, name: &str, there: &Netns, peer: &str) -> Result<()> {
        let far = LinkMessageBuilder::<LinkUnspec>::new()
            .name(peer.to_owned())
            .setns_by_fd(there.fd().as_raw_fd())
            .build();
        let pair = LinkVeth::new(name, peer)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
            .build();
        let made = self.handle.link().add(pair).execute().await;
        made.with_context(|| format!("cannot make the veth pair {name}"))
    }

    /// The number of the interface `name`.
    pub(crate) async fn index(&self, name: &str) -> Result<u32> {
        let mut found = self.handle.link().get().match_name(name).execute();
        let link = found
            .try_next()
            .await
            .with_context(|| format!("no interface {name}"))?
            .with_context(|| format!("no interface {name}"))?;
        Ok(link.header.index)
    }

    /// Brings an interface up.
    pub(crate) async fn up(&self, index: u32) -> Result<()> {
        let up = LinkUnspec::new_with_index(index).up().build();
        let done = self.handle.link().set(up).execute().await;
        done.context("cannot bring an interface up")
    }

    /// Removes an interface, and with it the other end of its pair.
    pub(crate) async fn remove(&self, name: &str) -> Result<()> {
        let index = self.index(name).await?;
        Ok(self.handle.link().del(index).execute().await?)
    }

    /// Adds an address of one host. It is usable on return: no duplicate address detection.
    pub(crate) async fn address(&self, index: u32, address: IpAddr) -> Result<()> {
        let prefix = crate::address::host_prefix(address);
        let mut request = self.handle.address().add(index, address, prefix);
        let message = request.message_mut();
        message.header.flags |= AddressHeaderFlags::Nodad;
        // An address of one host is its own broadcast address, which some tools then show as such.
        message
            .attributes
            .retain(|attribute| !matches!(attribute, AddressAttribute::Broadcast(_)));
        let done = request.execute().await;
        done.with_context(|| format!("cannot add the address {address}"))?;
        // The kernel makes the local route of an IPv6 address a moment later, and what is sent to the address
        // until then is lost on the network.
        wait_for(
            &format!("local route of {address}"),
            SETTLE_LIMIT,
            async || self.is_local(address).await.then_some(()),
        )
        .await
    }

    async fn is_local(&self, address: IpAddr) -> bool {
        let lookup = match address {
            IpAddr::V4(ip) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(ip, 32)
                .build(),
            IpAddr::V6(ip) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(ip, 128)
                .build(),
        };
        let mut found = self.handle.route().get(lookup).execute();
        matches!(found.try_next().await, Ok(Some(route)) if route.header.kind == RouteType::Local)
    }

    /// Adds a route.
    pub(crate) async fn route(&self, route: Route) -> Result<()> {
        let message = route.message();
        let done = self.handle.route().add(message).execute().await;
        done.with_context(|| format!("cannot add {route:?}"))
    }
}

/// A route to `to` out of interface `index`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    pub(crate) to: IpNet,
    pub(crate) index: u32,
    /// The next hop; without one the destination is on the link.
    pub(crate) via: Option<IpAddr>,
    /// The source that connections of this host take.
    pub(crate) source: Option<IpAddr>,
}

impl Route {
    fn message(&self) -> RouteMessage {
        match self.to {
            IpNet::V4(to) => {
                let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
                    .destination_prefix(to.addr(), to.prefix_len())
                    .output_interface(self.index);
                match self.via {
                    // The next hop has an address of one host, so nothing says that it is on the link.
                    Some(IpAddr::V4(via)) => route = route.gateway(via).onlink(),
                    _ => route = route.scope(RouteScope::Link),
                }
                if let Some(IpAddr::V4(source)) = self.source {
                    route = route.pref_source(source);
                }
                route.build()
            }
            IpNet::V6(to) => {
                let mut route = RouteMessageBuilder::<Ipv6Addr>::new()
                    .destination_prefix(to.addr(), to.prefix_len())
                    .output_interface(self.index);
                if let Some(IpAddr::V6(via)) = self.via {
                    route = route.gateway(via).onlink();
                }
                if let Some(IpAddr::V6(source)) = self.source {
                    route = route.pref_source(source);
                }
                route.build()
            }
        }
    }
}

/// Writes network settings of a namespace, paths relative to `/proc/sys/net`. A setting that the kernel
/// lacks is skipped.
pub(crate) fn sysctls(netns: &Netns, settings: &[(&str, &str)]) -> Result<()> {
    netns.enter(|| {
        for (path, value) in settings {
            match fs::write(format!("/proc/sys/net/{path}"), value) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                done => done.with_context(|| format!("cannot set net/{path} to {value}"))?,
            }
        }
        Ok(())
    })?
}

const SETTLE_LIMIT: Duration = Duration::from_secs(5);
