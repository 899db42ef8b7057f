use std::net::IpAddr;
use std::sync::Arc;

use tulle_policy::{CompiledPolicy, Connection, PolicySet};

use super::*;
use crate::testing;
use tulle_manifest::MutualTlsMode::{Disable, Permissive, Strict, Unset};

const MODES: [MutualTlsMode; 4] = [Unset, Disable, Permissive, Strict];
const PORTS: [u16; 3] = [80, 81, 82];

/// What the specification says, without our types: the last level that speaks decides, and a port's own mode before.
fn naive(levels: &[Option<MutualTlsMode>], port: Option<MutualTlsMode>) -> bool {
    let mut strict = false;
    for mode in levels.iter().copied().chain([port]).flatten() {
        match mode {
            Unset => {}
            Disable | Permissive => strict = false,
            Strict => strict = true,
        }
    }
    strict
}

/// Whether a plaintext connection to `port` is refused by the policies that follow from the map.
fn refuses_plaintext(map: &PortMap, port: u16) -> bool {
    let mesh = Mesh::default();
    let own = ObjectKey::new("shop", "policy");
    let sent: Vec<Authorization> = std::iter::once(static_strict(&mesh))
        .chain(derived_policy(&own, map))
        .collect();
    let referred = map.reference(&mesh, Some(&own));
    let found = referred.iter().map(|key| {
        let policy = sent.iter().find(|policy| policy.key == *key);
        Arc::new(CompiledPolicy::compile(
            policy.expect("referred to, but not sent"),
        ))
    });
    let policies = PolicySet::new(found.collect::<Vec<_>>(), Vec::new());
    let connection = |identity| Connection {
        identity,
        source_ip: IpAddr::from([10, 0, 0, 1]),
        destination_ip: IpAddr::from([10, 0, 0, 2]),
        destination_port: port,
    };
    let someone = "spiffe://cluster.local/ns/a/sa/b".parse().unwrap();
    assert!(
        policies.check(&connection(Some(&someone))).is_ok(),
        "{map:?}"
    );
    policies.check(&connection(None)).is_err()
}

#[test]
fn every_combination_of_levels_and_ports_is_enforced_as_specified() {
    let levels: Vec<_> = std::iter::once(None).chain(MODES.map(Some)).collect();
    let mut checked = 0;
    for mesh in &levels {
        for namespace in &levels {
            for workload in &levels {
                for first in &levels {
                    for second in &levels {
                        let named = [(80, *first), (81, *second)];
                        let ports: BTreeMap<u16, MutualTlsMode> = named
                            .into_iter()
                            .filter_map(|(port, mode)| Some((port, mode?)))
                            .collect();
                        let level = workload.map(|mode| WorkloadLevel {
                            mode,
                            ports: &ports,
                        });
                        let map = effective(*mesh, *namespace, level);
                        for port in PORTS {
                            let own = level.and_then(|level| level.ports.get(&port).copied());
                            let expected = naive(&[*mesh, *namespace, *workload], own);
                            let got = refuses_plaintext(&map, port);
                            assert_eq!(
                                got, expected,
                                "{mesh:?} {namespace:?} {workload:?} {ports:?} port {port}: {map:?}"
                            );
                            checked += 1;
                        }
                    }
                }
            }
        }
    }
    assert_eq!(checked, 5_usize.pow(5) * 3);
}

#[test]
fn shape_of_the_policies() {
    let own = ObjectKey::new("shop", "policy");
    let no_identity = || Match {
        not_principals: vec![StringMatch::Presence],
        ..Match::default()
    };
    let spares = |port| Match {
        not_destination_ports: vec![port],
        ..Match::default()
    };
    let static_strict = static_strict(&Mesh::default());
    assert_eq!(
        static_strict.key.to_string(),
        "istio-system/istio_converted_static_strict"
    );
    assert_eq!(static_strict.scope, Scope::WorkloadSelector);
    assert_eq!(
        static_strict.rules,
        [Rule {
            clauses: vec![clause(no_identity())]
        }]
    );

    let strict = PortMap {
        strict: true,
        exceptions: vec![80, 81],
    };
    let derived = derived_policy(&own, &strict).unwrap();
    assert_eq!(
        derived.key.to_string(),
        "shop/converted_peer_authentication_policy"
    );
    let clauses = [no_identity(), spares(80), spares(81)].map(clause).to_vec();
    assert_eq!(derived.rules, [Rule { clauses }]);

    let permissive = PortMap {
        strict: false,
        exceptions: vec![80],
    };
    let refused = Match {
        destination_ports: vec![80],
        ..no_identity()
    };
    let derived = derived_policy(&own, &permissive).unwrap();
    assert_eq!(
        derived.rules,
        [Rule {
            clauses: vec![clause(refused)]
        }]
    );
}

#[test]
fn a_policy_with_an_unknown_field_permits_nothing() {
    for (spec, mode, port) in [
        (
            "mtls: {mode: PERMISSIVE}, portLevelMtls: {80: {mode: DISABLE}}",
            Permissive,
            Disable,
        ),
        (
            "mtls: {mode: PERMISSIVE}, portLevelMtls: {80: {mode: DISABLE}}, x: 1",
            Unset,
            Unset,
        ),
        (
            "mtls: {mode: STRICT, x: 1}, portLevelMtls: {80: {mode: STRICT}}",
            Strict,
            Strict,
        ),
        (
            "selector: {matchExpressions: []}, mtls: {mode: DISABLE}, portLevelMtls: {80: {mode: STRICT}}",
            Unset,
            Strict,
        ),
    ] {
        let policy =
            testing::peer_authentication(&format!("metadata: {{name: p}}\nspec: {{{spec}}}"));
        let modes = Modes::of(&policy);
        assert_eq!((modes.mode, modes.ports[&80]), (mode, port), "{spec}");
    }
}

#[test]
fn what_has_no_effect_is_reported() {
    let selector = "selector: {matchLabels: {a: b}}";
    let ports = "portLevelMtls: {80: {mode: STRICT}}";
    for (namespace, spec, fields, outcome) in [
        (
            "shop",
            format!("{selector}, {ports}"),
            vec![],
            Outcome::Exact,
        ),
        (
            "shop",
            ports.to_owned(),
            vec!["spec.portLevelMtls"],
            Outcome::Adjusted,
        ),
        (
            "istio-system",
            selector.to_owned(),
            vec!["spec.selector"],
            Outcome::NotSent,
        ),
        (
            "shop",
            "mtls: {x: 1}".to_owned(),
            vec!["spec.mtls.x"],
            Outcome::Adjusted,
        ),
    ] {
        let policy = testing::peer_authentication(&format!(
            "metadata: {{name: p, namespace: {namespace}}}\nspec: {{{spec}}}"
        ));
        let report = peer_authentication_report(&Mesh::default(), &policy);
        let got: Vec<_> = report.findings.iter().map(|f| f.field.as_str()).collect();
        assert_eq!((got, report.outcome), (fields, outcome), "{spec}");
    }
}
