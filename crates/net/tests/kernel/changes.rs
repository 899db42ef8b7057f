//! Hearing of changes.

use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_route::route::RouteMessage;
use rtnetlink::{Handle, RouteMessageBuilder};
use tokio::time::timeout;
use tulle_net::Netns;
use tulle_net::changes::Changes;
use tulle_net::nft::{BaseChain, Batch, Chain, Element, Family, Rule, Set, Table};

use crate::support::{FAMILIES, isolated_async, routes_of, soon};

/// Takes everything that is announced until now.
async fn settle(changes: &mut Changes) {
    while timeout(QUIET, changes.changed()).await.is_ok() {}
}

async fn assert_quiet(changes: &mut Changes, after: &str) {
    let heard = timeout(QUIET, changes.changed()).await;
    assert!(heard.is_err(), "heard of something after {after}");
}

fn table() -> Table {
    let rule = Rule::new().tcp().destination_port_in("ports").accept();
    Table {
        sets: vec![Set::ports("ports", [80])],
        chains: vec![Chain::base("output", BaseChain::RAW_OUTPUT, [rule])],
        ..Table::new(Family::Inet, "watched")
    }
}

#[test]
fn every_change_of_nftables_is_announced() {
    isolated_async(async || {
        let netns = Netns::create().unwrap();
        let mut changes = Changes::watch(&netns).unwrap();
        assert_quiet(&mut changes, "nothing").await;
        let table = table();
        let more = [Element::port(81)];
        let (family, name) = (table.family, table.name.as_str());
        let steps = [
            ("creation", Batch::new().create(&table)),
            ("replacement", Batch::new().replace(&table)),
            (
                "an element that comes",
                Batch::new().add_elements(family, name, "ports", &more),
            ),
            (
                "an element that goes",
                Batch::new().delete_elements(family, name, "ports", &more),
            ),
            ("deletion", Batch::new().delete(family, name)),
        ];
        for (step, batch) in steps {
            batch.commit(&netns).unwrap();
            soon(changes.changed()).await.unwrap();
            settle(&mut changes).await;
            assert_quiet(&mut changes, step).await;
        }
    });
}

#[test]
fn rules_routes_and_addresses_are_announced() {
    isolated_async(async || {
        let netns = Netns::create().unwrap();
        let handle = routes_of(&netns);
        let mut changes = Changes::watch(&netns).unwrap();
        for family in FAMILIES {
            add_rule(&handle, family.peer).await;
            soon(changes.changed()).await.unwrap();
            settle(&mut changes).await;

            let route = route_to(family.stranger);
            handle.route().add(route.clone()).execute().await.unwrap();
            soon(changes.changed()).await.unwrap();
            settle(&mut changes).await;
            handle.route().del(route).execute().await.unwrap();
            soon(changes.changed()).await.unwrap();
            settle(&mut changes).await;

            let add = handle.address().add(LOOPBACK, family.pod, 32);
            add.execute().await.unwrap();
            soon(changes.changed()).await.unwrap();
            settle(&mut changes).await;
        }
    });
}

async fn add_rule(handle: &Handle, like: IpAddr) {
    let rule = handle.rule().add().priority(7).table_id(7);
    match like {
        IpAddr::V4(_) => rule.v4().execute().await.unwrap(),
        IpAddr::V6(_) => rule.v6().execute().await.unwrap(),
    }
}

fn route_to(ip: IpAddr) -> RouteMessage {
    let route = RouteMessageBuilder::<IpAddr>::new();
    let route = route.destination_prefix(ip, 32).unwrap();
    route.output_interface(LOOPBACK).build()
}

#[test]
fn what_happens_elsewhere_is_not_heard() {
    isolated_async(async || {
        let (watched, other) = (Netns::create().unwrap(), Netns::create().unwrap());
        let mut changes = Changes::watch(&watched).unwrap();
        let mut theirs = Changes::watch(&other).unwrap();
        Batch::new().create(&table()).commit(&other).unwrap();
        soon(theirs.changed()).await.unwrap();
        settle(&mut theirs).await;
        add_rule(&routes_of(&other), FAMILIES[0].peer).await;
        soon(theirs.changed()).await.unwrap();
        assert_quiet(&mut changes, "changes of another namespace").await;
    });
}

/// Far more than the sockets have room for.
#[test]
fn a_flood_is_one_change_and_then_it_is_quiet() {
    isolated_async(async || {
        let netns = Netns::create().unwrap();
        let mut changes = Changes::watch(&netns).unwrap();
        for _ in 0..50 {
            Batch::new().replace(&table()).commit(&netns).unwrap();
        }
        soon(changes.changed()).await.unwrap();
        assert_quiet(&mut changes, "the flood was heard of").await;
        Batch::new().replace(&table()).commit(&netns).unwrap();
        soon(changes.changed()).await.unwrap();
    });
}

/// Announcements come before the call that makes the change returns.
const QUIET: Duration = Duration::from_millis(50);
const LOOPBACK: u32 = 1;
