use std::{net::IpAddr, sync::Arc};

use tulle_model::{SpiffeId, StringMatch};
use tulle_policy::{CompiledPolicy, Connection, PolicySet};

use super::*;
use crate::{testing, translate::Outcome};

fn policy(namespace: &str, spec: &str) -> AuthorizationPolicy {
    testing::authorization_policy(&format!(
        "metadata: {{name: p, namespace: {namespace}}}\nspec: {{{spec}}}"
    ))
}

fn translated(spec: &str) -> (Authorization, PolicyReport) {
    let (sent, report) = authorization(&Mesh::default(), &policy("a", spec));
    (sent.unwrap_or_else(|| panic!("not sent: {spec}")), report)
}

fn fields(report: &PolicyReport) -> Vec<&str> {
    report.findings.iter().map(|f| f.field.as_str()).collect()
}

/// Whether a connection of `client` (a service account of namespace `a`, or nobody) to `port` is allowed.
fn allows(policy: &Authorization, client: Option<&str>, port: u16) -> bool {
    let id: Option<SpiffeId> = client.map(|name| {
        format!("spiffe://cluster.local/ns/a/sa/{name}")
            .parse()
            .unwrap()
    });
    let connection = Connection {
        identity: id.as_ref(),
        source_ip: IpAddr::from([10, 0, 0, 1]),
        destination_ip: IpAddr::from([10, 0, 0, 2]),
        destination_port: port,
    };
    let compiled = Arc::new(CompiledPolicy::compile(policy));
    PolicySet::new([compiled], Vec::new())
        .check(&connection)
        .is_ok()
}

#[test]
fn all_that_node_proxies_can_check_is_translated_exactly() {
    let (sent, report) = translated(
        "action: DENY, selector: {matchLabels: {app: web}}, rules: [{\
         from: [{source: {principals: [cluster.local/ns/b/sa/c, 'x*', '*y', '*'], \
           notPrincipals: [td/ns/b/sa/d], namespaces: [n], notNamespaces: ['m*'], \
           ipBlocks: [10.0.0.0/8, 10.1.1.1], notIpBlocks: ['fd00::/8']}}, \
           {source: {serviceAccounts: [sa, ns/sa], notServiceAccounts: [other]}}], \
         to: [{operation: {ports: ['80', '443'], notPorts: ['81']}}], \
         when: [{key: source.ip, values: [10.0.0.1/8]}, {key: destination.ip, notValues: [10.0.0.2]}, \
           {key: source.namespace, values: [b]}, {key: source.principal, values: ['*']}, \
           {key: source.serviceAccount, values: [q]}, {key: destination.port, values: ['1'], notValues: ['2']}]\
         }, {}]",
    );
    assert_eq!(report.outcome, Outcome::Exact, "{report:?}");
    assert_eq!(
        (sent.scope, sent.action),
        (Scope::WorkloadSelector, Action::Deny)
    );
    let exact = |text: &str| StringMatch::Exact(text.into());
    let net = |text: &str| text.parse().unwrap();
    let account = |namespace: &str, name: &str| tulle_model::ServiceAccountMatch {
        namespace: namespace.into(),
        service_account: name.into(),
    };
    let from = [
        Match {
            principals: vec![
                exact("cluster.local/ns/b/sa/c"),
                StringMatch::Prefix("x".into()),
                StringMatch::Suffix("y".into()),
                StringMatch::Presence,
            ],
            not_principals: vec![exact("td/ns/b/sa/d")],
            namespaces: vec![exact("n")],
            not_namespaces: vec![StringMatch::Prefix("m".into())],
            source_ips: vec![net("10.0.0.0/8"), net("10.1.1.1/32")],
            not_source_ips: vec![net("fd00::/8")],
            ..Match::default()
        },
        Match {
            service_accounts: vec![account("a", "sa"), account("ns", "sa")],
            not_service_accounts: vec![account("a", "other")],
            ..Match::default()
        },
    ];
    let to = Match {
        destination_ports: vec![80, 443],
        not_destination_ports: vec![81],
        ..Match::default()
    };
    let when = [
        Match {
            source_ips: vec![net("10.0.0.0/8")],
            ..Match::default()
        },
        Match {
            not_destination_ips: vec![net("10.0.0.2/32")],
            ..Match::default()
        },
        Match {
            namespaces: vec![exact("b")],
            ..Match::default()
        },
        Match {
            principals: vec![StringMatch::Presence],
            ..Match::default()
        },
        Match {
            service_accounts: vec![account("a", "q")],
            ..Match::default()
        },
        Match {
            destination_ports: vec![1],
            not_destination_ports: vec![2],
            ..Match::default()
        },
    ];
    let clauses: Vec<Clause> = [from.to_vec(), vec![to]]
        .into_iter()
        .chain(when.map(|found| vec![found]))
        .map(|matches| Clause { matches })
        .collect();
    assert_eq!(sent.rules, [Rule { clauses }, Rule::default()]);
}

#[test]
fn who_enforces_a_policy() {
    let selector = "selector: {matchLabels: {a: b}}";
    for (namespace, spec, scope) in [
        ("a", "", Some(Scope::Namespace)),
        ("istio-system", "", Some(Scope::Global)),
        ("a", "selector: {}", Some(Scope::Namespace)),
        ("a", "selector: {matchLabels: {}}", Some(Scope::Namespace)),
        ("a", selector, Some(Scope::WorkloadSelector)),
        ("istio-system", selector, Some(Scope::WorkloadSelector)),
        ("a", "targetRef: {kind: Service, name: x}", None),
        ("a", "targetRefs: [{kind: Gateway, name: x}]", None),
        ("a", "action: AUDIT", None),
        ("a", "action: CUSTOM, provider: {name: x}", None),
    ] {
        let policy = policy(namespace, spec);
        let (sent, report) = authorization(&Mesh::default(), &policy);
        assert_eq!(sent.map(|sent| sent.scope), scope, "{namespace} {spec}");
        let outcome = if scope.is_some() {
            Outcome::Exact
        } else {
            Outcome::NotSent
        };
        assert_eq!(report.outcome, outcome);
        assert_eq!(is_sent(&Mesh::default(), &policy), scope.is_some());
        assert_eq!(report.findings.len(), usize::from(scope.is_none()));
    }
}

#[test]
fn dry_run_is_sent_only_to_proxies_that_know_it() {
    let mut policy = policy("a", "");
    policy
        .metadata
        .annotations
        .insert(DRY_RUN.to_owned(), "true".to_owned());
    let (off, on) = (
        Mesh::default(),
        Mesh {
            dry_run_policies: true,
            ..Mesh::default()
        },
    );
    assert_eq!(authorization(&off, &policy).0, None);
    assert!(authorization(&on, &policy).0.unwrap().dry_run);
    policy
        .metadata
        .annotations
        .insert(DRY_RUN.to_owned(), "false".to_owned());
    assert!(!authorization(&off, &policy).0.unwrap().dry_run);
}

/// Fields and values that cannot be translated, as parts of a rule that is otherwise about port 80.
const UNTRANSLATABLE: [(&str, &str); 21] = [
    (
        "to: [{operation: {ports: ['80'], paths: [/x]}}]",
        "to[0].operation.paths",
    ),
    (
        "to: [{operation: {ports: ['80'], notMethods: [GET]}}]",
        "to[0].operation.notMethods",
    ),
    (
        "to: [{operation: {ports: ['80'], hosts: [x]}}]",
        "to[0].operation.hosts",
    ),
    (
        "to: [{operation: {ports: ['80'], futureField: x}}]",
        "to[0].operation.futureField",
    ),
    (
        "to: [{operation: {ports: ['80']}, future: x}]",
        "to[0].future",
    ),
    (
        "to: [{operation: {ports: ['80']}}], future: {x: [y]}",
        "future",
    ),
    (
        "to: [{operation: {ports: ['80', 'x']}}]",
        "to[0].operation.ports[1]",
    ),
    (
        "to: [{operation: {ports: ['80'], notPorts: ['65536']}}]",
        "to[0].operation.notPorts[0]",
    ),
    (
        "to: [{operation: {ports: ['80'], notPorts: ['+1']}}]",
        "to[0].operation.notPorts[0]",
    ),
    (
        "to: [{operation: {ports: ['80']}}], from: [{source: {requestPrincipals: ['*']}}]",
        "from[0].source.requestPrincipals",
    ),
    (
        "to: [{operation: {ports: ['80']}}], from: [{source: {remoteIpBlocks: [10.0.0.0/8]}}]",
        "from[0].source.remoteIpBlocks",
    ),
    (
        "to: [{operation: {ports: ['80']}}], from: [{source: {trustDomains: [td]}}]",
        "from[0].source.trustDomains",
    ),
    (
        "to: [{operation: {ports: ['80']}}], from: [{source: {notTrustDomains: [td]}}]",
        "from[0].source.notTrustDomains",
    ),
    (
        "to: [{operation: {ports: ['80']}}], from: [{source: {notIpBlocks: [10.0.0.0/33]}}]",
        "from[0].source.notIpBlocks[0]",
    ),
    (
        "to: [{operation: {ports: ['80']}}], from: [{source: {notPrincipals: ['a*b']}}]",
        "from[0].source.notPrincipals[0]",
    ),
    (
        "to: [{operation: {ports: ['80']}}], from: [{source: {notPrincipals: ['spiffe://td/ns/a/sa/b']}}]",
        "from[0].source.notPrincipals[0]",
    ),
    (
        "to: [{operation: {ports: ['80']}}], from: [{source: {serviceAccounts: [a/b/c]}}]",
        "from[0].source.serviceAccounts[0]",
    ),
    (
        "to: [{operation: {ports: ['80']}}], from: [{source: {}}]",
        "from[0].source",
    ),
    (
        "to: [{operation: {ports: ['80']}}], when: [{key: 'request.headers[x]', values: [y]}]",
        "when[0].key",
    ),
    (
        "to: [{operation: {ports: ['80']}}], when: [{key: source.ip}]",
        "when[0]",
    ),
    (
        "to: [{operation: {ports: ['80']}}], when: [{key: source.namespace, values: [a], future: 1}]",
        "when[0].future",
    ),
];

#[test]
fn what_cannot_be_translated_never_allows_more() {
    for (rule, field) in UNTRANSLATABLE {
        let path = format!("spec.rules[0].{field}");
        // The rule is left out; the policy stays and refuses what the other rule does not allow.
        let (allow, report) = translated(&format!(
            "action: ALLOW, rules: [{{{rule}}}, {{to: [{{operation: {{ports: ['81']}}}}]}}]"
        ));
        assert_eq!(fields(&report), [path.as_str(), "spec.rules[0]"], "{rule}");
        assert_eq!(report.outcome, Outcome::Adjusted);
        assert!(!allows(&allow, Some("sa"), 80), "{rule}");
        assert!(allows(&allow, Some("sa"), 81), "{rule}");

        // The rule refuses at least what is left of it.
        let (deny, report) = translated(&format!("action: DENY, rules: [{{{rule}}}]"));
        assert_eq!(fields(&report), [path.as_str(), "spec.rules[0]"], "{rule}");
        assert!(!allows(&deny, Some("sa"), 80), "{rule}");
    }
}

#[test]
fn a_denial_keeps_what_can_be_checked_and_drops_the_rest() {
    for (rules, port_80, port_81) in [
        // Nothing left: everything is refused.
        ("[{to: [{operation: {paths: [/admin]}}]}]", false, false),
        (
            "[{when: [{key: 'request.headers[x]', values: [y]}]}]",
            false,
            false,
        ),
        // One entry of a list holds for everything: so does the list.
        (
            "[{to: [{operation: {ports: ['80']}}, {operation: {methods: [GET]}}]}]",
            false,
            false,
        ),
        // The other clause still narrows the rule.
        (
            "[{from: [{source: {principals: [cluster.local/ns/a/sa/other]}}], to: [{operation: {methods: [GET]}}]}]",
            true,
            true,
        ),
        (
            "[{from: [{source: {principals: [cluster.local/ns/a/sa/sa]}}], to: [{operation: {methods: [GET]}}]}]",
            false,
            false,
        ),
        (
            "[{to: [{operation: {ports: ['80'], methods: [GET]}}]}]",
            false,
            true,
        ),
        // An invalid entry of a list that spares ports: none is spared.
        ("[{to: [{operation: {notPorts: ['80', x]}}]}]", false, false),
        // Nothing but what can be checked.
        ("[{to: [{operation: {notPorts: ['80']}}]}]", true, false),
        ("[]", true, true),
    ] {
        let (sent, _) = translated(&format!("action: DENY, rules: {rules}"));
        let got = (allows(&sent, Some("sa"), 80), allows(&sent, Some("sa"), 81));
        assert_eq!(got, (port_80, port_81), "{rules}");
    }
}

#[test]
fn an_allowing_policy_with_nothing_left_refuses_everything() {
    for spec in [
        "action: ALLOW",
        "",
        "rules: [{to: [{operation: {paths: [/x]}}]}]",
        "rules: [{}], future: 1",
        "rules: [{}], selector: {matchExpressions: []}",
    ] {
        let (sent, _) = translated(spec);
        assert_eq!(
            (sent.action, sent.rules.len()),
            (Action::Allow, 0),
            "{spec}"
        );
        assert!(!allows(&sent, Some("sa"), 80), "{spec}");
    }
    let (sent, report) = translated("rules: [{}]");
    assert!(allows(&sent, None, 80));
    assert_eq!(report.outcome, Outcome::Exact);
}

#[test]
fn principals_of_the_own_trust_domain_include_its_aliases() {
    let mesh = Mesh {
        trust_domain: "mesh.example".parse().unwrap(),
        trust_domain_aliases: vec!["old.example".parse().unwrap()],
        ..Mesh::default()
    };
    for (written, expected) in [
        (
            "cluster.local/ns/a/sa/b",
            vec!["mesh.example/ns/a/sa/b", "old.example/ns/a/sa/b"],
        ),
        (
            "old.example/ns/a/sa/b",
            vec!["mesh.example/ns/a/sa/b", "old.example/ns/a/sa/b"],
        ),
        (
            "cluster.local/ns/a/*",
            vec!["mesh.example/ns/a/*", "old.example/ns/a/*"],
        ),
        ("other.example/ns/a/sa/b", vec!["other.example/ns/a/sa/b"]),
        ("*/ns/a/sa/b", vec!["*/ns/a/sa/b"]),
        ("*", vec!["*"]),
    ] {
        let policy = policy(
            "a",
            &format!("rules: [{{from: [{{source: {{principals: ['{written}']}}}}]}}]"),
        );
        let sent = authorization(&mesh, &policy).0.unwrap();
        let found = &sent.rules[0].clauses[0].matches[0].principals;
        let texts: Vec<_> = found
            .iter()
            .map(|found| match found {
                StringMatch::Exact(text) => text.to_string(),
                StringMatch::Prefix(text) => format!("{text}*"),
                StringMatch::Suffix(text) => format!("*{text}"),
                StringMatch::Presence => "*".to_owned(),
            })
            .collect();
        assert_eq!(texts, expected, "{written}");
    }
}

#[test]
fn a_policy_with_targets_is_one_for_each() {
    let spec = "targetRefs: [{kind: Service, name: web}, {group: core, kind: Service, name: web}, \
        {group: networking.istio.io, kind: ServiceEntry, name: e}, {group: gateway.networking.k8s.io, kind: Gateway, name: w}, \
        {group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}, {kind: Pod, name: p}, \
        {kind: Service, name: x, namespace: b}, {kind: Service, name: a_b}, {kind: Service, name: ''}]";
    let keys = |namespace: &str| -> Vec<String> {
        let (sent, _) = targeted(&Mesh::default(), &policy(namespace, spec));
        assert!(
            sent.iter()
                .all(|policy| policy.scope == Scope::WorkloadSelector)
        );
        sent.into_iter()
            .map(|policy| policy.key.to_string())
            .collect()
    };
    let of_namespace = [
        "a/target_Service_web_p",
        "a/target_ServiceEntry_e_p",
        "a/target_Gateway_w_p",
    ];
    assert_eq!(keys("a"), of_namespace);
    // A class is for the root namespace alone.
    assert!(
        keys("istio-system")
            .contains(&"istio-system/target_GatewayClass_istio-waypoint_p".to_owned())
    );
}

#[test]
fn what_waypoints_can_check_is_translated_exactly() {
    let spec = "targetRefs: [{kind: Service, name: web}], action: DENY, rules: [{\
        from: [{source: {remoteIpBlocks: [10.0.0.0/8], notRemoteIpBlocks: [10.1.1.1]}}], \
        to: [{operation: {hosts: ['a.example', '*.b'], notHosts: [c], methods: [GET], notMethods: ['P*'], \
          paths: [/a, '/b/*', '/c/{*}/{**}'], notPaths: ['*.txt'], ports: ['80']}}], \
        when: [{key: 'request.headers[X-A]', values: ['1*'], notValues: ['12']}, {key: remote.ip, values: [10.0.0.9]}]}]";
    let (sent, report) = targeted(&Mesh::default(), &policy("a", spec));
    assert_eq!(report.outcome, Outcome::Exact, "{report:?}");
    let compiled = CompiledPolicy::compile(&sent[0]);
    let connection = Connection {
        identity: None,
        source_ip: IpAddr::from([10, 0, 0, 1]),
        destination_ip: IpAddr::from([10, 0, 0, 2]),
        destination_port: 80,
    };
    let matches = |host, method, path, remote: [u8; 4], header: &'static str| {
        let request = tulle_policy::Request {
            host,
            method,
            path,
            remote_ip: remote.into(),
            header: &|name| match name {
                "x-a" => header.split('+').map(str::as_bytes).collect(),
                _ => Vec::new(),
            },
            token: &|_| Vec::new(),
        };
        compiled.matches_request(&connection, request)
    };
    let nine = [10, 0, 0, 9];
    for (host, method, path, remote, header, expected) in [
        ("a.example", "GET", "/a", nine, "1", true),
        ("x.b", "GET", "/b/c", nine, "1", true),
        ("x.b", "GET", "/c/d/e/f", nine, "1", true),
        ("x.b", "GET", "/c/d", nine, "1", false),
        ("c", "GET", "/a", nine, "1", false),
        ("a.example", "POST", "/a", nine, "1", false),
        ("a.example", "GET", "/d", nine, "1", false),
        ("a.example", "GET", "/b/c.txt", nine, "1", false),
        ("a.example", "GET", "/a", [10, 1, 1, 1], "1", false),
        ("a.example", "GET", "/a", nine, "12", false),
        ("a.example", "GET", "/a", nine, "2", false),
        // One of several is enough for what refuses, in either direction.
        ("a.example", "GET", "/a", nine, "2+1", true),
        ("a.example", "GET", "/a", nine, "12+1", true),
    ] {
        let found = matches(host, method, path, remote, header);
        assert_eq!(found, expected, "{method} {host}{path} {remote:?} {header}");
    }
    assert!(
        compiled.matches(&connection),
        "of no request the rest holds"
    );
}

#[test]
fn what_waypoints_cannot_check_permits_nothing() {
    let target = "targetRefs: [{kind: Service, name: web}]";
    for (rest, client_allowed, outcome) in [
        (
            "action: ALLOW, rules: [{from: [{source: {serviceAccounts: [c]}}]}]",
            true,
            Outcome::Exact,
        ),
        // Of connections without HTTP nobody knows what a request would be.
        (
            "action: ALLOW, rules: [{to: [{operation: {methods: [GET]}}]}]",
            false,
            Outcome::Exact,
        ),
        (
            "action: DENY, rules: [{to: [{operation: {paths: [/admin]}}]}]",
            false,
            Outcome::Exact,
        ),
        (
            "action: DENY, rules: [{from: [{source: {serviceAccounts: [d]}}], to: [{operation: {paths: [/x]}}]}]",
            true,
            Outcome::Exact,
        ),
        (
            "action: ALLOW, rules: [{from: [{source: {requestPrincipals: ['*']}}]}]",
            false,
            Outcome::Exact,
        ),
        (
            "action: ALLOW, rules: [{to: [{operation: {paths: ['/a/{**}/{*}']}}]}]",
            false,
            Outcome::Adjusted,
        ),
        (
            "action: DENY, rules: [{when: [{key: 'request.auth.claims[a]', values: [b]}]}]",
            false,
            Outcome::Exact,
        ),
        (
            "action: DENY, rules: [{when: [{key: 'request.auth.claims[a', values: [b]}]}]",
            false,
            Outcome::Adjusted,
        ),
        // Where nobody can be asked, what would ask refuses.
        (
            "action: CUSTOM, provider: {name: x}, rules: [{}]",
            false,
            Outcome::Exact,
        ),
        ("action: CUSTOM, rules: [{}]", false, Outcome::Adjusted),
        (
            "action: CUSTOM, provider: {name: x}, rules: [{from: [{source: {requestPrincipals: ['*']}}]}]",
            false,
            Outcome::Adjusted,
        ),
        ("action: CUSTOM, provider: {name: x}", true, Outcome::Exact),
        (
            "action: ALLOW, surprise: 1, rules: [{}]",
            false,
            Outcome::Adjusted,
        ),
    ] {
        let (sent, report) = targeted(&Mesh::default(), &policy("a", &format!("{target}, {rest}")));
        assert_eq!(report.outcome, outcome, "{rest}: {report:?}");
        assert_eq!(allows(&sent[0], Some("c"), 80), client_allowed, "{rest}");
    }
    let (sent, report) = targeted(
        &Mesh::default(),
        &policy("a", &format!("{target}, action: AUDIT, rules: [{{}}]")),
    );
    assert_eq!(
        (sent.len(), sent[0].action, report.outcome),
        (1, Action::Audit, Outcome::Exact)
    );
}

#[test]
fn what_waypoints_ask_of_tokens() {
    let spec = "targetRefs: [{kind: Service, name: web}], action: ALLOW, rules: [\
        {from: [{source: {requestPrincipals: ['i/*'], notRequestPrincipals: ['i/root']}}]}, \
        {when: [{key: 'request.auth.claims[a][b]', values: [x, 'y*']}, {key: request.auth.audiences, notValues: [other]}]}, \
        {when: [{key: request.auth.presenter, values: ['*']}]}, {when: [{key: request.auth.principal, values: [j/s]}]}]";
    let (sent, report) = targeted(&Mesh::default(), &policy("a", spec));
    assert_eq!(report.outcome, Outcome::Exact, "{report:?}");
    let compiled = CompiledPolicy::compile(&sent[0]);
    let connection = Connection {
        identity: None,
        source_ip: IpAddr::from([10, 0, 0, 1]),
        destination_ip: IpAddr::from([10, 0, 0, 2]),
        destination_port: 80,
    };
    let matches = |principal: &str, claims: &[(&str, &'static str)]| {
        let principal = principal.replacen('|', "\0", 1);
        let request = tulle_policy::Request {
            host: "",
            method: "GET",
            path: "/",
            remote_ip: connection.source_ip,
            header: &|_| Vec::new(),
            token: &|field| match field {
                TokenField::Principal => vec![principal.as_str()],
                TokenField::Claim(path) => {
                    let values = claims.iter().filter(|(name, _)| *name == path.join("."));
                    values.map(|(_, value)| *value).collect()
                }
            },
        };
        compiled.matches_request(&connection, request)
    };
    for (principal, claims, expected) in [
        ("", &[][..], false),
        ("i|s", &[], true),
        // Of another issuer, and of a subject with a slash.
        ("i/j|s", &[], false),
        ("i|j/s", &[], true),
        ("j|s/t", &[], false),
        ("i|root", &[], false),
        ("", &[("a.b", "x")], true),
        ("", &[("a.b", "z"), ("a.b", "yes")], true),
        ("", &[("a.b", "z")], false),
        ("", &[("a.b", "x"), ("aud", "other")], false),
        ("", &[("a.b", "x"), ("aud", "web")], true),
        ("", &[("azp", "app")], true),
        ("j|s", &[], true),
        ("j|t", &[], false),
    ] {
        assert_eq!(
            matches(principal, claims),
            expected,
            "{principal} {claims:?}"
        );
    }
}
