//! Any value of the model that can be sent.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use proptest::{collection::vec, option, prelude::*, sample::select};
use tulle_model::{
    Action, AppProtocol, ApplicationTunnel, Authorization, Clause, Destination, GatewayAddress,
    HeaderMatch, Health, HealthPolicy, HttpMatch, IpFamilies, LoadBalancing, LoadBalancingMode,
    Locality, Match, NetworkAddress, NetworkMode, PathMatch, PolicyKey, PortMapping, RoutingScope,
    Rule, Scope, Service, ServiceAccountMatch, ServiceKey, ServicePort, SpiffeId, StringMatch,
    TokenMatch, TrustDomain, TunnelProtocol, Uid, Vip, Visibility, WeightedWaypoint, Workload,
    WorkloadType, token::TokenField,
};

pub(crate) fn workload() -> impl Strategy<Value = Workload> {
    let who = (name(), name(), identity(), text(), vec(ip(), 0..3));
    let place = (text(), option::of(name()), text(), locality(), name());
    let reach = (
        option::of(gateway()),
        option::of(gateway()),
        option::of(tunnel()),
        vec(policy_key(), 0..3),
        services(),
    );
    let kinds = (
        select(vec![NetworkMode::Standard, NetworkMode::HostNetwork]),
        select(vec![TunnelProtocol::None, TunnelProtocol::Hbone]),
        select(vec![Health::Healthy, Health::Unhealthy]),
        select(vec![
            WorkloadType::Deployment,
            WorkloadType::CronJob,
            WorkloadType::Pod,
            WorkloadType::Job,
        ]),
        any::<bool>(),
        any::<u32>(),
    );
    (who, place, reach, kinds, (text(), text(), text())).prop_map(
        |(who, place, reach, kinds, telemetry)| Workload {
            uid: Uid::new(who.0),
            name: who.1,
            namespace: who.2.namespace().into(),
            identity: who.2,
            network: who.3,
            addresses: who.4,
            node: place.0,
            hostname: place.1,
            workload_name: place.2,
            locality: place.3,
            cluster_id: place.4,
            waypoint: reach.0,
            network_gateway: reach.1,
            application_tunnel: reach.2,
            authorization_policies: reach.3,
            services: reach.4,
            network_mode: kinds.0,
            tunnel_protocol: kinds.1,
            health: kinds.2,
            workload_type: kinds.3,
            native_tunnel: kinds.4,
            capacity: kinds.5,
            canonical_name: telemetry.0,
            canonical_revision: telemetry.1,
        },
    )
}

pub(crate) fn service() -> impl Strategy<Value = Service> {
    let families = vec![
        IpFamilies::Automatic,
        IpFamilies::Ipv4Only,
        IpFamilies::Ipv6Only,
        IpFamilies::Dual,
    ];
    let waypoints = (option::of(gateway()), vec((gateway(), any::<u32>()), 0..3));
    (
        (
            service_key(),
            text(),
            vec(vip(), 0..3),
            vec(service_port(), 0..3),
        ),
        (vec(text(), 0..3), waypoints, load_balancing()),
        select(families),
        any::<[bool; 2]>(),
        select(vec![Visibility::Public, Visibility::Namespace]),
    )
        .prop_map(
            |(what, how, ip_families, [canonical, ingress], visibility)| Service {
                ingress_use_waypoint: ingress,
                key: what.0,
                name: what.1,
                vips: what.2,
                ports: what.3,
                subject_alt_names: how.0,
                waypoint: how.1.0,
                weighted_waypoints: how
                    .1
                    .1
                    .into_iter()
                    .map(|(destination, weight)| WeightedWaypoint {
                        destination,
                        weight,
                    })
                    .collect(),
                load_balancing: how.2,
                ip_families,
                canonical,
                visibility,
            },
        )
}

pub(crate) fn policy() -> impl Strategy<Value = Authorization> {
    let clause = vec(conditions(), 0..3).prop_map(|matches| Clause { matches });
    let rule = vec(clause, 0..3).prop_map(|clauses| Rule { clauses });
    (
        policy_key(),
        select(vec![
            Scope::Global,
            Scope::Namespace,
            Scope::WorkloadSelector,
        ]),
        select(vec![Action::Allow, Action::Deny, Action::Audit]),
        vec(rule, 0..3),
        any::<bool>(),
        option::of("[a-z]{1,8}"),
    )
        .prop_map(
            |(key, scope, action, rules, dry_run, authorizer)| Authorization {
                key,
                scope,
                action,
                rules,
                // What is never enforced is not tried out.
                dry_run: dry_run && action != Action::Audit,
                authorizer: authorizer.map(Into::into),
            },
        )
}

pub(crate) fn http() -> impl Strategy<Value = HttpMatch> {
    let strings = || vec(string_match(), 0..2);
    let ranges = || vec(range(), 0..2);
    let path = prop_oneof![
        string_match().prop_map(PathMatch::Text),
        text().prop_map(PathMatch::Template),
    ];
    let paths = vec(path, 0..2);
    let header =
        (text(), strings(), strings()).prop_map(|(name, values, not_values)| HeaderMatch {
            name,
            values,
            not_values,
        });
    let field = prop_oneof![
        Just(TokenField::Principal),
        vec("[a-z]{1,3}", 0..3).prop_map(TokenField::Claim),
    ];
    let token = (field, strings(), strings()).prop_map(|(field, values, not_values)| TokenMatch {
        field,
        values,
        not_values,
    });
    (
        (strings(), strings(), strings(), strings()),
        (paths.clone(), paths),
        (ranges(), ranges()),
        vec(header, 0..2),
        vec(token, 0..2),
    )
        .prop_map(|(strings, paths, ranges, headers, tokens)| HttpMatch {
            hosts: strings.0,
            not_hosts: strings.1,
            methods: strings.2,
            not_methods: strings.3,
            paths: paths.0,
            not_paths: paths.1,
            remote_ips: ranges.0,
            not_remote_ips: ranges.1,
            headers,
            tokens,
        })
}

fn conditions() -> impl Strategy<Value = Match> {
    let strings = || vec(string_match(), 0..2);
    let ranges = || vec(range(), 0..2);
    let ports = || vec(any::<u16>(), 0..3);
    let accounts = || vec(account(), 0..2);
    (
        (strings(), strings(), strings(), strings()),
        (ranges(), ranges(), ranges(), ranges()),
        (ports(), ports(), accounts(), accounts()),
        option::of(http()),
        any::<bool>(),
    )
        .prop_map(|(strings, ranges, rest, http, malformed)| Match {
            namespaces: strings.0,
            not_namespaces: strings.1,
            principals: strings.2,
            not_principals: strings.3,
            source_ips: ranges.0,
            not_source_ips: ranges.1,
            destination_ips: ranges.2,
            not_destination_ips: ranges.3,
            destination_ports: rest.0,
            not_destination_ports: rest.1,
            service_accounts: rest.2,
            not_service_accounts: rest.3,
            http: http.map(Box::new),
            malformed,
        })
}

fn string_match() -> impl Strategy<Value = StringMatch> {
    prop_oneof![
        text().prop_map(StringMatch::Exact),
        text().prop_map(StringMatch::Prefix),
        text().prop_map(StringMatch::Suffix),
        Just(StringMatch::Presence),
    ]
}

fn account() -> impl Strategy<Value = ServiceAccountMatch> {
    (text(), text()).prop_map(|(namespace, service_account)| ServiceAccountMatch {
        namespace,
        service_account,
    })
}

fn range() -> impl Strategy<Value = IpNet> {
    (ip(), any::<u8>()).prop_map(|(ip, length)| {
        let width: u8 = if ip.is_ipv4() { 32 } else { 128 };
        IpNet::new(ip, length % (width + 1)).unwrap()
    })
}

fn vip() -> impl Strategy<Value = Vip> {
    prop_oneof![
        address().prop_map(Vip::Host),
        (text(), range()).prop_filter_map("host", |(network, range)| {
            (range.prefix_len() < range.max_prefix_len()).then(|| Vip::Range {
                network,
                address: range.network(),
                prefix: range.prefix_len(),
            })
        }),
    ]
}

fn load_balancing() -> impl Strategy<Value = LoadBalancing> {
    let scope = select(vec![
        RoutingScope::Region,
        RoutingScope::Zone,
        RoutingScope::Subzone,
        RoutingScope::Node,
        RoutingScope::Cluster,
        RoutingScope::Network,
    ]);
    let mode = select(vec![
        LoadBalancingMode::Standard,
        LoadBalancingMode::Strict,
        LoadBalancingMode::Failover,
        LoadBalancingMode::Passthrough,
    ]);
    let health = select(vec![HealthPolicy::OnlyHealthy, HealthPolicy::AllowAll]);
    (vec(scope, 0..4), mode, health).prop_map(|(routing_preference, mode, health_policy)| {
        LoadBalancing {
            routing_preference,
            mode,
            health_policy,
        }
    })
}

fn service_port() -> impl Strategy<Value = ServicePort> {
    let protocol = select(vec![
        AppProtocol::Unknown,
        AppProtocol::Http11,
        AppProtocol::Http2,
        AppProtocol::Grpc,
        AppProtocol::Tcp,
        AppProtocol::Tls,
    ]);
    (any::<u16>(), any::<u16>(), protocol).prop_map(|(service_port, target_port, app_protocol)| {
        ServicePort {
            service_port,
            target_port,
            app_protocol,
        }
    })
}

fn services() -> impl Strategy<Value = BTreeMap<ServiceKey, Vec<PortMapping>>> {
    let port = (any::<u16>(), any::<u16>()).prop_map(|(service_port, target_port)| PortMapping {
        service_port,
        target_port,
    });
    proptest::collection::btree_map(service_key(), vec(port, 0..3), 0..3)
}

fn gateway() -> impl Strategy<Value = GatewayAddress> {
    let destination = prop_oneof![
        address().prop_map(Destination::Address),
        service_key().prop_map(Destination::Hostname),
    ];
    (destination, any::<u16>()).prop_map(|(destination, hbone_mtls_port)| GatewayAddress {
        destination,
        hbone_mtls_port,
    })
}

fn tunnel() -> impl Strategy<Value = ApplicationTunnel> {
    (any::<bool>(), option::of(1..=u16::MAX)).prop_map(|(proxy_protocol, port)| ApplicationTunnel {
        proxy_protocol,
        port,
    })
}

fn locality() -> impl Strategy<Value = Locality> {
    (text(), text(), text()).prop_map(|(region, zone, subzone)| Locality {
        region,
        zone,
        subzone,
    })
}

fn identity() -> impl Strategy<Value = SpiffeId> {
    (
        "[a-z]{1,4}|cluster\\.local",
        "[a-z]{1,4}",
        "[a-z]{1,4}|default",
    )
        .prop_map(|(td, ns, sa)| SpiffeId::new(TrustDomain::new(&td).unwrap(), &ns, &sa).unwrap())
}

fn service_key() -> impl Strategy<Value = ServiceKey> {
    ("[a-z]{1,4}", "[a-z*.]{1,8}").prop_map(|(ns, host)| ServiceKey::new(ns, host))
}

fn policy_key() -> impl Strategy<Value = PolicyKey> {
    ("[a-z]{0,4}", "[a-z-]{1,8}").prop_map(|(ns, name)| PolicyKey::new(ns, name))
}

fn address() -> impl Strategy<Value = NetworkAddress> {
    (text(), ip()).prop_map(|(network, ip)| NetworkAddress::new(network, ip))
}

fn ip() -> impl Strategy<Value = IpAddr> {
    any::<IpAddr>().prop_map(|ip| ip.to_canonical())
}

fn name() -> impl Strategy<Value = Arc<str>> {
    "[a-zA-Z0-9/._-]{1,12}".prop_map(Into::into)
}

fn text() -> impl Strategy<Value = Arc<str>> {
    "\\PC{0,6}".prop_map(Into::into)
}
