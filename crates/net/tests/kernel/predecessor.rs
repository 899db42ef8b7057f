//! Redirection in a pod that another mesh's agent has redirected before.

use netlink_packet_route::rule::{RuleAction, RuleAttribute};
use tulle_net::Netns;
use tulle_net::nft::{BaseChain, Batch, Chain, Family, Rule, Table, read_table, table_names};
use tulle_net::redirect::{Drift, apply, remove, verify};

use crate::redirect::routing;
use crate::support::{FAMILIES, accept, dial, isolated_async, meshed, plain, routes_of, talk};

/// A chain that would take all TCP to a port where nobody listens.
fn astray(name: &str) -> Chain {
    Chain::regular(name, [Rule::new().tcp().counter().redirect(9)])
}

/// As its agent writes it with nftables.
fn with_nftables(name: &str) -> Table {
    let output = Rule::new().jump("istio-output");
    Table {
        chains: vec![
            astray("istio-output"),
            Chain::base("output", BaseChain::NAT_OUTPUT, [output]),
        ],
        ..Table::new(Family::Inet, name)
    }
}

/// As iptables writes it, into a table that it shares with others.
fn with_iptables(family: Family, own: &[&str]) -> Table {
    let jump = |chain: &str| Rule::new().counter().jump(chain);
    let wanted = |chain: &&&str| own.contains(*chain);
    let jumps = ["OTHERS", "ISTIO_OUTPUT"];
    let output: Vec<Rule> = jumps.iter().filter(wanted).map(|to| jump(to)).collect();
    let mut chains = vec![Chain::regular("OTHERS", [Rule::new().counter()])];
    let theirs = ["ISTIO_PRERT", "ISTIO_OUTPUT"];
    chains.extend(theirs.iter().filter(wanted).map(|chain| astray(chain)));
    chains.push(Chain::base("OUTPUT", BaseChain::NAT_OUTPUT, output));
    Table {
        chains,
        ..Table::new(family, "nat")
    }
}

async fn add_routing_rule(pod: &Netns) {
    let add = routes_of(pod).rule().add().v4();
    let mut request = add
        .table_id(100)
        .action(RuleAction::ToTable)
        .priority(32_764)
        .fw_mark(0x111);
    let mask = RuleAttribute::FwMask(0xfff);
    request.message_mut().attributes.push(mask);
    request.execute().await.unwrap();
}

#[test]
fn what_another_mesh_has_left_goes_as_ours_comes() {
    isolated_async(async || {
        let (cable, ztunnel) = meshed(&plain()).await;
        remove(&cable.pod).unwrap();
        let before = routing(&cable.pod).await;
        let everything = ["OTHERS", "ISTIO_OUTPUT", "ISTIO_PRERT"];
        Batch::new()
            .create(&with_nftables("istio-ambient-nat"))
            .create(&with_nftables("istio-ambient-raw"))
            .create(&with_nftables("others"))
            .create(&with_iptables(Family::Ipv4, &everything))
            .create(&with_iptables(Family::Ipv6, &everything))
            .commit(&cable.pod)
            .unwrap();
        add_routing_rule(&cable.pod).await;
        assert_ne!(routing(&cable.pod).await, before);

        apply(&cable.pod, &plain()).unwrap();
        verify(&cable.pod, &plain()).unwrap();
        let mut left = table_names(&cable.pod, Family::Inet).unwrap();
        left.sort();
        assert_eq!(left, ["others", "tulle"]);
        for family in [Family::Ipv4, Family::Ipv6] {
            let left = read_table(&cable.pod, family, "nat").unwrap();
            assert_eq!(left, Some(with_iptables(family, &["OTHERS"])));
        }
        // What nobody but its writer knows stays, and would lead astray.
        Batch::new()
            .delete(Family::Inet, "others")
            .commit(&cable.pod)
            .unwrap();
        for ip in FAMILIES {
            let mut app = dial(&cable.pod, ip.peer, 80).await;
            talk(&mut app, &mut accept(&ztunnel.outbound).await.0).await;
        }
        // It runs again, beside ours.
        Batch::new()
            .create(&with_nftables("istio-ambient-mangle"))
            .commit(&cable.pod)
            .unwrap();
        let found = verify(&cable.pod, &plain());
        assert!(matches!(found, Err(Drift::Predecessor)), "{found:?}");
        apply(&cable.pod, &plain()).unwrap();
        assert_eq!(table_names(&cable.pod, Family::Inet).unwrap(), ["tulle"]);

        remove(&cable.pod).unwrap();
        assert_eq!(routing(&cable.pod).await, before);
    });
}

#[test]
fn what_a_sidecar_has_left_stays() {
    isolated_async(async || {
        let (cable, _ztunnel) = meshed(&plain()).await;
        let sidecar = with_iptables(Family::Ipv4, &["ISTIO_OUTPUT"]);
        Batch::new().create(&sidecar).commit(&cable.pod).unwrap();
        verify(&cable.pod, &plain()).unwrap();
        apply(&cable.pod, &plain()).unwrap();
        let left = read_table(&cable.pod, Family::Ipv4, "nat").unwrap();
        assert_eq!(left, Some(sidecar));
    });
}
