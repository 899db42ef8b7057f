use tulle_model::AppProtocol;

use super::*;
use crate::testing;

fn translated(spec: &str, annotations: &str, of_namespace: &str) -> Option<Resource> {
    let object = testing::service(&format!(
        "metadata: {{name: cart, namespace: shop, annotations: {{{annotations}}}}}\nspec: {{{spec}}}"
    ));
    let namespace = testing::namespace(&format!(
        "metadata: {{name: shop, annotations: {{{of_namespace}}}}}"
    ));
    service(
        &Mesh::default(),
        &object,
        Some(&namespace),
        "net",
        Binding::default(),
    )
}

#[test]
fn cluster_ip_service() {
    let spec = "clusterIP: 10.1.0.5, clusterIPs: [10.1.0.5, 'fd00::5'], ipFamilies: [IPv4, IPv6], \
        selector: {app: cart}, ports: [{name: http, port: 80, targetPort: web}, \
        {name: grpc, port: 81, targetPort: 8081}, {port: 53, protocol: UDP}]";
    let address = |text: &str| Vip::Host(NetworkAddress::new("net".into(), text.parse().unwrap()));
    let port = |service_port, target_port, app_protocol| ServicePort {
        service_port,
        target_port,
        app_protocol,
    };
    let expected = Resource {
        vips: vec![address("10.1.0.5"), address("fd00::5")],
        ports: vec![
            port(80, 0, AppProtocol::Http11),
            port(81, 8081, AppProtocol::Grpc),
            port(53, 53, AppProtocol::Tcp),
        ],
        ip_families: IpFamilies::Dual,
        canonical: true,
        ..Resource::new("cart", "shop", "cart.shop.svc.cluster.local")
    };
    assert_eq!(translated(spec, "", ""), Some(expected));
}

#[test]
fn kinds_of_services() {
    for (spec, exists, vips) in [
        ("clusterIP: None", true, 0),
        ("clusterIP: ''", true, 0),
        ("clusterIP: 10.0.0.1", true, 1),
        ("type: ExternalName, externalName: example.com", false, 0),
    ] {
        let resource = translated(spec, "", "");
        assert_eq!(resource.is_some(), exists, "{spec}");
        assert_eq!(resource.map_or(0, |found| found.vips.len()), vips, "{spec}");
    }
}

#[test]
fn load_balancing_is_decided_by_the_first_that_speaks() {
    use LoadBalancingMode::{Failover, Standard, Strict};
    const ANNOTATION: &str = "networking.istio.io/traffic-distribution";
    for (spec, own, of_namespace, mode, scopes) in [
        ("", "", "", Standard, 0),
        ("internalTrafficPolicy: Cluster", "", "", Standard, 0),
        (
            "internalTrafficPolicy: Local, trafficDistribution: PreferClose",
            "",
            "",
            Strict,
            1,
        ),
        (
            "trafficDistribution: PreferClose",
            "PreferSameNode",
            "",
            Failover,
            3,
        ),
        ("trafficDistribution: PreferSameZone", "", "", Failover, 3),
        ("trafficDistribution: PreferSameNode", "", "", Failover, 5),
        ("", "preferclose", "PreferSameNode", Failover, 3),
        ("", "", "PREFERSAMENODE", Failover, 5),
        ("", "Any", "PreferSameNode", Standard, 0),
    ] {
        let annotation = |value: &str| match value {
            "" => String::new(),
            value => format!("{ANNOTATION}: {value}"),
        };
        let resource = translated(spec, &annotation(own), &annotation(of_namespace)).unwrap();
        let found = resource.load_balancing;
        let got = (found.mode, found.routing_preference.len());
        assert_eq!(got, (mode, scopes), "{spec} / {own} / {of_namespace}");
        assert_eq!(found.health_policy, HealthPolicy::OnlyHealthy);
    }
    let unready = translated("publishNotReadyAddresses: true", "", "").unwrap();
    assert_eq!(unready.load_balancing.health_policy, HealthPolicy::AllowAll);
}

#[test]
fn families() {
    for (families, expected) in [
        ("[]", IpFamilies::Automatic),
        ("[IPv4]", IpFamilies::Ipv4Only),
        ("[IPv6]", IpFamilies::Ipv6Only),
        ("[IPv6, IPv4]", IpFamilies::Dual),
    ] {
        let resource = translated(&format!("ipFamilies: {families}"), "", "").unwrap();
        assert_eq!(resource.ip_families, expected, "{families}");
    }
}
