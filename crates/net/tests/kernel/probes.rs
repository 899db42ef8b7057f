//! Health probes from the node: what passes by ztunnel, and what does not.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use tokio::net::TcpListener;
use tulle_net::Netns;
use tulle_net::connect::{ConnectOptions, connect};
use tulle_net::nft::{BaseChain, Batch, Chain, Family, Rule, Table};
use tulle_net::probes::{HostProbes, ProbeConfig};
use tulle_net::redirect::{apply, remove};

use crate::support::{
    Addresses, Cable, FAMILIES, accept, app, dial, isolated_async, join, plain, plug, routes_of,
    send_all_to, soon, talk,
};

/// A node with a pod and a way to the outside, where a client is. The pod's app listens, and nobody on ztunnel's ports:
/// what is captured does not arrive.
struct Node {
    host: Netns,
    pod: Netns,
    outside: Netns,
    app: TcpListener,
}

impl Node {
    async fn new() -> Self {
        let Cable { pod, peer: host } = Cable::new().await;
        let outside = Netns::create().unwrap();
        let (inner, outer) = (routes_of(&host), routes_of(&outside));
        join(&outer, &host, "eth1").await;
        for (family, far) in FAMILIES.into_iter().zip(OUTSIDE) {
            // No address of the node's own, so that only translation brings answers home.
            take_away(&inner, family.probe).await;
            plug(&inner, "eth1", &[far.node]).await;
            plug(&outer, "eth0", &[far.client]).await;
            send_all_to(&outer, far.node).await;
        }
        let forward = || FORWARDING.map(|path| std::fs::write(path, "1").unwrap());
        host.enter(forward).unwrap();
        apply(&pod, &plain()).unwrap();
        Self {
            app: app(&pod, PORT),
            host,
            pod,
            outside,
        }
    }

    fn let_probes_pass(&self, config: ProbeConfig) {
        let pods = FAMILIES.map(|family| family.pod);
        HostProbes::new(config).reconcile(&self.host, pods).unwrap();
    }

    /// The app can be called, and sees this caller.
    async fn assert_sees(&self, from: &Netns, to: IpAddr, caller: IpAddr) {
        let mut client = dial(from, to, PORT).await;
        let (mut server, seen) = accept(&self.app).await;
        assert_eq!(seen, caller, "called at {to}");
        talk(&mut client, &mut server).await;
    }
}

async fn assert_refused(from: &Netns, to: IpAddr) {
    let options = ConnectOptions::default();
    let outcome = soon(connect(from, (to, PORT).into(), &options)).await;
    let outcome = outcome.map_err(|error| error.kind());
    assert_eq!(outcome.err(), Some(ErrorKind::ConnectionRefused), "{to}");
}

async fn take_away(handle: &rtnetlink::Handle, ip: IpAddr) {
    let filtered = handle.address().get().set_address_filter(ip);
    let found = filtered.execute().try_next().await.unwrap().unwrap();
    handle.address().del(found).execute().await.unwrap();
}

#[test]
fn i_probes_reach_the_app_and_nothing_does_without_the_table() {
    isolated_async(async || {
        let node = Node::new().await;
        let probes = HostProbes::new(ProbeConfig::default());
        for family in FAMILIES {
            assert_refused(&node.host, family.pod).await;
            probes.reconcile(&node.host, [family.pod]).unwrap();
            node.assert_sees(&node.host, family.pod, family.probe).await;
            probes.reconcile(&node.host, []).unwrap();
            assert_refused(&node.host, family.pod).await;
            probes.reconcile(&node.host, [family.pod]).unwrap();
            node.assert_sees(&node.host, family.pod, family.probe).await;
            probes.remove(&node.host).unwrap();
            assert_refused(&node.host, family.pod).await;
        }
    });
}

#[test]
fn what_the_node_forwards_is_no_probe() {
    isolated_async(async || {
        let node = Node::new().await;
        node.let_probes_pass(ProbeConfig::default());
        for (family, far) in FAMILIES.into_iter().zip(OUTSIDE) {
            assert_refused(&node.outside, family.pod).await;
            node.assert_sees(&node.host, family.pod, family.probe).await;
            remove(&node.pod).unwrap();
            node.assert_sees(&node.outside, family.pod, far.client)
                .await;
            apply(&node.pod, &plain()).unwrap();
        }
    });
}

/// Such a client would look like the node itself.
#[test]
fn what_the_node_masquerades_is_no_probe() {
    isolated_async(async || {
        let node = Node::new().await;
        masquerade(&node.host);
        node.let_probes_pass(ProbeConfig::default());
        for family in FAMILIES {
            assert_refused(&node.outside, family.pod).await;
            // Also made before ours, the other table does not come first.
            node.assert_sees(&node.host, family.pod, family.probe).await;
            remove(&node.pod).unwrap();
            node.assert_sees(&node.outside, family.pod, family.peer)
                .await;
            apply(&node.pod, &plain()).unwrap();
        }
    });
}

fn masquerade(host: &Netns) {
    let all = [Rule::new().masquerade()];
    let table = Table {
        chains: vec![Chain::base("post", BaseChain::NAT_POSTROUTING, all)],
        ..Table::new(Family::Inet, "network")
    };
    Batch::new().create(&table).commit(host).unwrap();
}

#[test]
fn only_the_given_user_sends_probes() {
    isolated_async(async || {
        let node = Node::new().await;
        let ours = nix::unistd::geteuid().as_raw();
        for uid in [ours, ours + 1] {
            node.let_probes_pass(ProbeConfig {
                uid: Some(uid),
                ..ProbeConfig::default()
            });
            for family in FAMILIES {
                if uid == ours {
                    node.assert_sees(&node.host, family.pod, family.probe).await;
                } else {
                    assert_refused(&node.host, family.pod).await;
                }
            }
        }
    });
}

#[test]
fn what_calls_a_service_is_no_probe() {
    isolated_async(async || {
        let node = Node::new().await;
        node.let_probes_pass(ProbeConfig::default());
        let to_pod = |(service, family): (&Outside, Addresses)| {
            Rule::new()
                .destination(service.client)
                .destination_nat(family.pod, None)
        };
        let table = Table {
            chains: vec![Chain::base(
                "services",
                BaseChain::NAT_OUTPUT,
                OUTSIDE.iter().zip(FAMILIES).map(to_pod),
            )],
            ..Table::new(Family::Inet, "services")
        };
        Batch::new().create(&table).commit(&node.host).unwrap();
        for (family, service) in FAMILIES.into_iter().zip(OUTSIDE) {
            assert_refused(&node.host, service.client).await;
            node.assert_sees(&node.host, family.pod, family.probe).await;
            remove(&node.pod).unwrap();
            // Whichever of its addresses the node chose: it is not the probe's.
            let _client = dial(&node.host, service.client, PORT).await;
            assert_ne!(accept(&node.app).await.1, family.probe);
            apply(&node.pod, &plain()).unwrap();
        }
    });
}

#[test]
fn ipv6_can_be_left_out() {
    isolated_async(async || {
        let node = Node::new().await;
        node.let_probes_pass(ProbeConfig {
            ipv6: false,
            ..ProbeConfig::default()
        });
        let [v4, v6] = FAMILIES;
        node.assert_sees(&node.host, v4.pod, v4.probe).await;
        assert_refused(&node.host, v6.pod).await;
    });
}

/// Nothing on the node tracks connections before: the kernel hears of this one in its midst, and takes it for new.
#[test]
fn a_connection_from_before_stays_what_it_is() {
    isolated_async(async || {
        let node = Node::new().await;
        remove(&node.pod).unwrap();
        let mut pairs = Vec::new();
        for family in FAMILIES {
            let client = dial(&node.host, family.pod, PORT).await;
            pairs.push((client, accept(&node.app).await.0));
        }
        node.let_probes_pass(ProbeConfig::default());
        for (client, server) in &mut pairs {
            talk(client, server).await;
        }
    });
}

/// As long as something else on the node translates addresses too: the kernel stops when nobody asks for it any more.
#[test]
fn connections_survive_the_table_coming_and_going() {
    isolated_async(async || {
        let node = Node::new().await;
        remove(&node.pod).unwrap();
        masquerade(&node.host);
        let probes = HostProbes::new(ProbeConfig::default());
        for family in FAMILIES {
            let mut before = dial(&node.host, family.pod, PORT).await;
            let (mut server, from) = accept(&node.app).await;
            assert_eq!(from, family.peer);
            probes.reconcile(&node.host, [family.pod]).unwrap();
            talk(&mut before, &mut server).await;
            let mut probe = dial(&node.host, family.pod, PORT).await;
            let (mut probed, from) = accept(&node.app).await;
            assert_eq!(from, family.probe);
            probes.reconcile(&node.host, []).unwrap();
            talk(&mut probe, &mut probed).await;
            probes.remove(&node.host).unwrap();
            talk(&mut probe, &mut probed).await;
            talk(&mut before, &mut server).await;
        }
    });
}

/// The addresses beyond the node.
#[derive(Clone, Copy)]
struct Outside {
    node: IpAddr,
    client: IpAddr,
}

const OUTSIDE: [Outside; 2] = [
    Outside {
        node: IpAddr::V4(Ipv4Addr::new(10, 2, 0, 1)),
        client: IpAddr::V4(Ipv4Addr::new(10, 2, 0, 2)),
    },
    Outside {
        node: IpAddr::V6(Ipv6Addr::new(0xfd02, 0, 0, 0, 0, 0, 0, 1)),
        client: IpAddr::V6(Ipv6Addr::new(0xfd02, 0, 0, 0, 0, 0, 0, 2)),
    },
];
const FORWARDING: [&str; 2] = [
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/ipv6/conf/all/forwarding",
];
const PORT: u16 = 8080;
