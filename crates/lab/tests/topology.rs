//! The lab's network: who reaches whom, in which address family.

#![expect(clippy::unwrap_used, reason = "the helpers are part of the tests")]

use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tulle_lab::{
    Families, Lab, LabSpec, Pod, PodSpec, ServiceSpec,
    sandbox::{self, Sandbox},
};

async fn lab_with_three_pods(sandbox: &Sandbox, families: Families) -> Lab {
    let spec = LabSpec {
        families,
        ..LabSpec::default()
    };
    let mut lab = Lab::create(sandbox, &spec).await.unwrap();
    for (pod, node) in [
        ("shop/cart", "node1"),
        ("shop/web", "node2"),
        ("bank/ledger", "node1"),
    ] {
        lab.add_pod(PodSpec::new(pod, node)).await.unwrap();
    }
    lab
}

/// Sends a line from one pod to the other, and returns it with the client's address as the server saw it.
async fn say(from: &Pod, to: &Pod, at: IpAddr) -> (String, IpAddr) {
    let listener = to.listen(7000).unwrap();
    let client = async {
        let mut stream = from
            .connect(SocketAddr::new(at, 7000))
            .await
            .unwrap_or_else(|error| panic!("{} to {at}: {error}", from.full_name()));
        stream.write_all(b"hello").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut end = Vec::new();
        stream.read_to_end(&mut end).await.unwrap();
    };
    let server = async {
        let (mut stream, peer) = listener.accept().await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        (heard, peer.ip().to_canonical())
    };
    tokio::join!(client, server).1
}

async fn everyone_reaches_everyone(sandbox: Sandbox, families: Families) {
    let lab = lab_with_three_pods(&sandbox, families).await;
    for from in lab.pods() {
        for to in lab.pods() {
            for (source, address) in from.addresses().iter().zip(to.addresses()) {
                let heard = say(from, to, *address).await;
                assert_eq!(
                    heard,
                    ("hello".into(), *source),
                    "{} to {address}",
                    from.full_name()
                );
            }
        }
    }
}

#[test]
fn pods_reach_each_other_over_both_families() {
    sandbox::test(async |sandbox| everyone_reaches_everyone(sandbox, Families::Dual).await);
}

#[test]
fn pods_reach_each_other_over_ipv4_alone() {
    sandbox::test(async |sandbox| everyone_reaches_everyone(sandbox, Families::V4).await);
}

#[test]
fn pods_reach_each_other_over_ipv6_alone() {
    sandbox::test(async |sandbox| everyone_reaches_everyone(sandbox, Families::V6).await);
}

#[test]
fn traffic_between_nodes_is_seen_on_their_cable_and_local_traffic_is_not() {
    sandbox::test(async |sandbox| {
        let lab = lab_with_three_pods(&sandbox, Families::Dual).await;
        let (cart, web, ledger) = (
            lab.pod("shop/cart"),
            lab.pod("shop/web"),
            lab.pod("bank/ledger"),
        );
        let capture = lab.capture("node1", "node2").await.unwrap();
        say(cart, web, web.ip()).await;
        say(cart, web, web.ipv6().unwrap()).await;
        say(cart, ledger, ledger.ip()).await;
        let flows = capture.finish().await.unwrap();
        let heard: Vec<IpAddr> = flows
            .iter()
            .filter(|flow| flow.payload == b"hello")
            .map(|flow| flow.destination.ip())
            .collect();
        assert_eq!(heard, web.addresses(), "{flows:#?}");
        assert!(flows.iter().all(|flow| flow.source.ip() != ledger.ip() && flow.destination.ip() != ledger.ip()));
    });
}

#[test]
fn a_removed_pod_is_gone_and_its_address_is_used_again() {
    sandbox::test(async |sandbox| {
        let mut lab = lab_with_three_pods(&sandbox, Families::Dual).await;
        let address = lab.pod("shop/web").ip();
        lab.remove_pod("shop/web").await.unwrap();
        let refused = lab
            .pod("shop/cart")
            .connect(SocketAddr::new(address, 7000))
            .await;
        assert!(refused.is_err());
        lab.add_pod(PodSpec::new("shop/new", "node2"))
            .await
            .unwrap();
        assert_eq!(lab.pod("shop/new").ip(), address);
        let heard = say(lab.pod("shop/cart"), lab.pod("shop/new"), address).await;
        assert_eq!(heard.0, "hello");
    });
}

#[test]
fn a_service_address_leads_to_every_pod_it_selects_and_to_no_other() {
    sandbox::test(async |sandbox| {
        let mut lab = lab_with_three_pods(&sandbox, Families::Dual).await;
        lab.add_pod(PodSpec::new("shop/web2", "node1").label("app", "web"))
            .await
            .unwrap();
        lab.add_service(ServiceSpec::new("shop/web").port(80, 7000))
            .unwrap();
        let servers = ["shop/web", "shop/web2"];
        let listeners = servers.map(|pod| lab.pod(pod).listen(7000).unwrap());
        let wrong = lab.pod("bank/ledger").listen(7000).unwrap();
        for address in lab.service("shop/web").addresses() {
            let mut reached = [0; 2];
            while reached.contains(&0) {
                assert!(reached.iter().sum::<u32>() < 200, "{address}: {reached:?}");
                let client = lab
                    .pod("bank/ledger")
                    .connect(SocketAddr::new(*address, 80))
                    .await
                    .unwrap();
                let [one, two] = &listeners;
                let (server, (_, peer)) = tokio::select! {
                    accepted = one.accept() => (0, accepted.unwrap()),
                    accepted = two.accept() => (1, accepted.unwrap()),
                    _ = wrong.accept() => panic!("a pod that is not selected was reached"),
                };
                assert_eq!(peer.port(), client.local_addr().unwrap().port());
                reached[server] += 1;
            }
        }
    });
}

#[test]
fn a_service_without_pods_is_not_reached() {
    sandbox::test(async |sandbox| {
        let mut lab = lab_with_three_pods(&sandbox, Families::Dual).await;
        lab.add_service(ServiceSpec::new("shop/web").port(80, 7000))
            .unwrap();
        lab.remove_pod("shop/web").await.unwrap();
        for address in lab.service("shop/web").addresses() {
            let refused = lab
                .pod("shop/cart")
                .connect(SocketAddr::new(*address, 80))
                .await;
            assert!(refused.is_err(), "{address}");
        }
    });
}
