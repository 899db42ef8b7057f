//! nftables: what is written is what is read back, all or nothing.

use std::net::IpAddr;

use tulle_net::Netns;
use tulle_net::nft::{
    AddressFamily, BaseChain, Batch, Chain, CommitError, Element, Family, Policy, Rule, Set, Table,
    read_table, table_names,
};

use crate::support::isolated;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> ipnet::IpNet {
    text.parse().unwrap()
}

/// Every kind of test and action once.
fn everything() -> Table {
    let tests = [
        Rule::new()
            .tcp()
            .source_port(1)
            .not_destination_port(2)
            .accept(),
        Rule::new()
            .udp()
            .destination_port(53)
            .set_connection_zone(1),
        Rule::new().syn().counter().drop(),
        Rule::new().source(net("10.0.0.0/8")).return_(),
        Rule::new().destination(net("fd00::1/128")).jump("other"),
        Rule::new().not_destination(ip("::1")).accept(),
        Rule::new().source_in(AddressFamily::Ipv4, "hosts").accept(),
        Rule::new()
            .destination_in(AddressFamily::Ipv6, "nets")
            .accept(),
        Rule::new().tcp().destination_port_in("ports").accept(),
        Rule::new().input_interface("eth0").accept(),
        Rule::new().mark(0x539, 0xfff).set_mark(0x1539, 0x1fff),
        Rule::new().not_mark(1, u32::MAX).tcp().intercept(15001),
        Rule::new()
            .destination_not_in(AddressFamily::Ipv6, "nets")
            .accept(),
        Rule::new()
            .not_input_interface("lo")
            .connection_redirected()
            .accept(),
        Rule::new().connection_unknown().accept(),
        Rule::new().has_owner().connection_not_redirected().accept(),
        Rule::new().one_in(3).accept(),
    ];
    let output = [
        Rule::new().output_interface("lo").accept(),
        Rule::new().not_output_interface("lo").tcp().redirect(15001),
        Rule::new()
            .family(AddressFamily::Ipv4)
            .tcp()
            .destination_nat(ip("10.0.0.1"), Some(80)),
        Rule::new()
            .family(AddressFamily::Ipv6)
            .destination_nat(ip("fd00::1"), None),
    ];
    let postrouting = [
        Rule::new()
            .owner_uid(7)
            .family(AddressFamily::Ipv4)
            .source_nat(ip("10.0.0.2")),
        Rule::new().masquerade(),
    ];
    let guarded = BaseChain {
        policy: Policy::Drop,
        priority: -7,
        ..BaseChain::MANGLE_OUTPUT
    };
    Table {
        comment: Some("every kind once".into()),
        sets: vec![
            Set::addresses(
                "hosts",
                AddressFamily::Ipv4,
                [ip("10.0.0.9"), ip("10.0.0.3")],
            ),
            Set::networks(
                "nets",
                AddressFamily::Ipv6,
                [net("fd00::/8"), net("ff00::/8")],
            ),
            Set::networks(
                "all",
                AddressFamily::Ipv4,
                [net("0.0.0.0/0"), net("10.0.0.0/8")],
            ),
            Set::ports("ports", [80, 443]),
            Set::ports("none", []),
        ],
        chains: vec![
            Chain::base("prerouting", BaseChain::MANGLE_PREROUTING, tests),
            Chain::base("output", BaseChain::NAT_OUTPUT, output),
            Chain::base("postrouting", BaseChain::NAT_POSTROUTING, postrouting),
            Chain::base("guarded", guarded, []),
            Chain::regular("other", [Rule::new().counter()]),
        ],
        ..Table::new(Family::Inet, "everything")
    }
}

#[test]
fn what_is_written_is_read_back() {
    isolated(|| {
        let netns = Netns::create().unwrap();
        let written = everything();
        Batch::new().create(&written).commit(&netns).unwrap();
        let read = read_table(&netns, Family::Inet, "everything")
            .unwrap()
            .unwrap();
        for (written, read) in written.chains.iter().zip(&read.chains) {
            for (written, read) in written.rules.iter().zip(&read.rules) {
                assert_eq!(written, read);
            }
        }
        assert_eq!(read, written);
        assert_eq!(table_names(&netns, Family::Inet).unwrap(), ["everything"]);
        // Another namespace knows nothing of it.
        assert_eq!(
            table_names(&Netns::current().unwrap(), Family::Inet).unwrap(),
            [""; 0]
        );
    });
}

#[test]
fn replacing_and_deleting_are_repeatable() {
    isolated(|| {
        let netns = Netns::create().unwrap();
        let first = everything();
        let second = Table {
            comment: None,
            chains: vec![],
            sets: vec![],
            ..first.clone()
        };
        for table in [&first, &first, &second, &first] {
            Batch::new().replace(table).commit(&netns).unwrap();
            let read = read_table(&netns, Family::Inet, "everything").unwrap();
            assert_eq!(read.as_ref(), Some(table));
        }
        for _ in 0..2 {
            Batch::new()
                .delete(Family::Inet, "everything")
                .commit(&netns)
                .unwrap();
            assert_eq!(
                read_table(&netns, Family::Inet, "everything").unwrap(),
                None
            );
        }
        Batch::new().commit(&netns).unwrap();
    });
}

#[test]
fn a_refused_step_is_named_and_nothing_is_changed() {
    isolated(|| {
        let netns = Netns::create().unwrap();
        let nowhere = Rule::new().jump("nowhere");
        // Redirecting is for NAT chains.
        let redirect = Rule::new().tcp().redirect(1);
        for (wrong, refused) in [
            (vec![nowhere.clone()], "rule 2 of chain filter"),
            (vec![redirect], "rule 2 of chain filter"),
            (
                vec![nowhere.clone(), Rule::new().counter(), nowhere],
                "rule 2 of chain filter",
            ),
        ] {
            let rules = [vec![Rule::new().counter()], wrong].concat();
            let table = Table {
                chains: vec![Chain::base("filter", BaseChain::RAW_OUTPUT, rules)],
                ..Table::new(Family::Inet, "broken")
            };
            let error = Batch::new().create(&table).commit(&netns).unwrap_err();
            let CommitError::Refused { step, source } = &error else {
                panic!("{error:?}");
            };
            assert_eq!(step, refused, "{source}");
            assert_eq!(table_names(&netns, Family::Inet).unwrap(), [""; 0]);
        }
    });
}

#[test]
fn elements_come_and_go_without_touching_rules() {
    isolated(|| {
        let netns = Netns::create().unwrap();
        let table = everything();
        Batch::new().create(&table).commit(&netns).unwrap();
        // More than fit into one message.
        let many: Vec<_> = (1000..4000).map(Element::port).collect();
        let add = Batch::new().add_elements(Family::Inet, "everything", "none", &many);
        add.commit(&netns).unwrap();
        add.commit(&netns).unwrap();
        let ports = |netns| {
            let table = read_table(netns, Family::Inet, "everything")
                .unwrap()
                .unwrap();
            table
                .sets
                .into_iter()
                .find(|set| set.name == "none")
                .unwrap()
        };
        assert_eq!(ports(&netns), Set::ports("none", 1000..4000));
        let remove = Batch::new().delete_elements(Family::Inet, "everything", "none", &many[1..]);
        remove.commit(&netns).unwrap();
        assert_eq!(ports(&netns), Set::ports("none", [1000]));
        assert!(remove.commit(&netns).is_err());
    });
}

#[test]
fn writers_at_the_same_time_all_succeed() {
    isolated(|| {
        let netns = Netns::create().unwrap();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let netns = &netns;
                scope.spawn(move || {
                    let table = Table::new(Family::Ipv4, format!("table{writer}"));
                    for _ in 0..50 {
                        loop {
                            match Batch::new().replace(&table).commit(netns) {
                                Ok(()) => break,
                                Err(CommitError::Contended) => {}
                                Err(error) => panic!("{error:?}"),
                            }
                        }
                    }
                });
            }
        });
        let mut names = table_names(&netns, Family::Ipv4).unwrap();
        names.sort();
        assert_eq!(names, ["table0", "table1", "table2", "table3"]);
    });
}
