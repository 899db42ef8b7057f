//! Conditions that cannot be understood must not disappear.

use prost::Message;
use tulle_model::Match;
use tulle_proto::security as wire;

use crate::decode::authorization;

fn policy(condition: wire::Match) -> wire::Authorization {
    wire::Authorization {
        name: "p".to_owned(),
        namespace: "shop".to_owned(),
        rules: vec![wire::Rule {
            clauses: vec![wire::Clause {
                matches: vec![condition],
            }],
        }],
        ..Default::default()
    }
}

fn decoded(condition: wire::Match) -> Match {
    let policy = authorization(&policy(condition).encode_to_vec()).unwrap();
    policy.rules[0].clauses[0].matches[0].clone()
}

fn cidr(bytes: &[u8], length: u32) -> wire::Address {
    wire::Address {
        address: bytes.to_vec().into(),
        length,
    }
}

/// One condition, spoiled.
type Spoiled = fn(&mut wire::Match);

#[test]
fn conditions_that_are_not_understood_mark_their_match() {
    let cases: &[(&str, Spoiled)] = &[
        ("namespaces", |m| {
            m.namespaces.push(wire::StringMatch::default())
        }),
        ("not_namespaces", |m| {
            m.not_namespaces.push(wire::StringMatch::default())
        }),
        ("principals", |m| {
            m.principals.push(wire::StringMatch::default())
        }),
        ("not_principals", |m| {
            m.not_principals.push(wire::StringMatch::default())
        }),
        ("source length", |m| m.source_ips.push(cidr(&[1, 2, 3], 8))),
        ("source prefix", |m| {
            m.source_ips.push(cidr(&[1, 2, 3, 4], 33))
        }),
        ("not source", |m| m.not_source_ips.push(cidr(&[], 0))),
        ("destination", |m| {
            m.destination_ips.push(cidr(&[0; 16], 129))
        }),
        ("not destination", |m| {
            m.not_destination_ips.push(cidr(&[0; 5], 0))
        }),
        ("ports", |m| m.destination_ports.push(65_536)),
        ("not ports", |m| m.not_destination_ports.push(u32::MAX)),
        ("extensions", |m| {
            m.extensions.push(wire::Extension::default())
        }),
    ];
    let good = wire::Match {
        destination_ports: vec![80],
        ..Default::default()
    };
    assert!(!decoded(good.clone()).malformed);
    for (name, spoil) in cases {
        let mut sent = good.clone();
        spoil(&mut sent);
        let got = decoded(sent);
        assert!(got.malformed, "{name}");
        assert_eq!(got.destination_ports, [80], "{name}");
    }
}

#[test]
fn ranges_are_canonical() {
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 0];
    let got = decoded(wire::Match {
        source_ips: vec![
            cidr(&[10, 1, 0, 0], 16),
            cidr(&mapped, 104),
            cidr(&[0; 16], 0),
        ],
        ..Default::default()
    });
    let texts: Vec<String> = got.source_ips.iter().map(ToString::to_string).collect();
    assert_eq!(texts, ["10.1.0.0/16", "10.0.0.0/8", "::/0"]);
    assert!(!got.malformed);
}

#[test]
fn unknown_scope_or_action_rejects_the_policy() {
    let empty = policy(wire::Match::default());
    for (sent, reason) in [
        (
            wire::Authorization {
                scope: 3,
                ..empty.clone()
            },
            "unsupported scope 3",
        ),
        (
            wire::Authorization {
                action: 2,
                ..empty.clone()
            },
            "unsupported action 2",
        ),
        (
            wire::Authorization {
                name: String::new(),
                ..empty.clone()
            },
            "policy name is not <namespace>/<name>",
        ),
        (
            wire::Authorization {
                namespace: "a/b".to_owned(),
                ..empty.clone()
            },
            "policy name is not <namespace>/<name>",
        ),
    ] {
        let error = authorization(&sent.encode_to_vec()).unwrap_err();
        assert_eq!(error.to_string(), reason);
    }
    authorization(&empty.encode_to_vec()).unwrap();
}
