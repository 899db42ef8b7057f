use std::collections::BTreeMap;

use super::*;
use crate::testing::{gateway, gateway_class, namespace, service};

/// Gateways by name, and classes.
#[derive(Default)]
struct Known {
    gateways: BTreeMap<ObjectKey, Gateway>,
    classes: BTreeMap<String, GatewayClass>,
}

impl Known {
    fn with(gateways: &[Gateway]) -> Self {
        let entries = gateways.iter().map(|one| (one.metadata.key(), one.clone()));
        Self {
            gateways: entries.collect(),
            ..Self::default()
        }
    }
}

impl Gateways for Known {
    fn gateway(&self, key: &ObjectKey) -> Option<&Gateway> {
        self.gateways.get(key)
    }

    fn class(&self, name: &str) -> Option<&GatewayClass> {
        self.classes.get(name)
    }

    fn network(&self) -> &'static str {
        "net"
    }
}

/// A waypoint in `shop`: its labels, the rest of its listener, its status.
fn waypoint(name: &str, labels: &str, listener: &str, status: &str) -> Gateway {
    gateway(&format!(
        "metadata: {{name: {name}, namespace: shop, labels: {{{labels}}}}}
spec: {{gatewayClassName: istio-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE{listener}}}]}}
status: {{addresses: {status}}}
"
    ))
}

const READY: &str =
    "[{type: IPAddress, value: 10.0.0.9}, {type: Hostname, value: w.shop.svc.cluster.local}]";

fn at(hostname: &str) -> GatewayAddress {
    GatewayAddress {
        destination: Destination::Hostname(ServiceKey::new("shop", hostname)),
        hbone_mtls_port: 15008,
    }
}

fn metadata(namespace: &str, labels: &str, annotations: &str) -> Metadata {
    service(&format!(
        "metadata: {{name: s, namespace: {namespace}, labels: {{{labels}}}, annotations: {{{annotations}}}}}\n"
    ))
    .metadata
}

fn refused(binding: &Binding) -> Option<Unbound> {
    assert!(binding.waypoint.is_none() || binding.report.as_ref().unwrap().refused.is_none());
    binding.report.as_ref().and_then(|report| report.refused)
}

#[test]
fn own_label_counts_and_then_the_namespaces() {
    let known = Known::with(&[
        waypoint("w", "", "", READY),
        waypoint("v", "", "", "[{value: 10.0.0.7}]"),
    ]);
    let shop = namespace("metadata: {name: shop, labels: {istio.io/use-waypoint: w}}\n");
    let of = |labels: &str, traffic| {
        binding(&metadata("shop", labels, ""), Some(&shop), traffic, &known)
    };
    let inherited = of("", Traffic::Service);
    assert_eq!(inherited.waypoint, Some(at("w.shop.svc.cluster.local")));
    let own = of("istio.io/use-waypoint: v", Traffic::Service)
        .waypoint
        .unwrap();
    let ip = NetworkAddress::new("net".into(), "10.0.0.7".parse().unwrap());
    assert_eq!(own.destination, Destination::Address(ip));
    for none in ["istio.io/use-waypoint: none", "istio.io/use-waypoint: ''"] {
        assert_eq!(of(none, Traffic::Service), Binding::default(), "{none}");
    }
    // One that is missing is missed, and no other stands in for it.
    let missing = of("istio.io/use-waypoint: w2", Traffic::Service);
    assert_eq!(refused(&missing), Some(Unbound::NotReady));
    // A namespace asks for its services; a pod that asks itself is told.
    assert_eq!(of("", Traffic::Workload), Binding::default());
    let own = of("istio.io/use-waypoint: w", Traffic::Workload);
    assert_eq!(refused(&own), Some(Unbound::UnsupportedTraffic));
    let gateway = of(
        "gateway.istio.io/managed: istio.io-mesh-controller",
        Traffic::Service,
    );
    assert_eq!(gateway, Binding::default());
}

#[test]
fn ingress_goes_through_it_if_the_label_says_so() {
    let known = Known::with(&[waypoint("w", "", "", READY)]);
    let shop = |labels: &str| {
        namespace(&format!(
            "metadata: {{name: shop, labels: {{istio.io/use-waypoint: w{labels}}}}}\n"
        ))
    };
    let asks = ", istio.io/ingress-use-waypoint: 'true'";
    for (namespace, own, expected) in [
        ("", "", false),
        ("", "istio.io/ingress-use-waypoint: 'true'", true),
        (asks, "", true),
        (asks, "istio.io/ingress-use-waypoint: 'false'", false),
        // Without a waypoint there is none to go through.
        (asks, "istio.io/use-waypoint: missing", false),
    ] {
        let (namespace, own) = (shop(namespace), metadata("shop", own, ""));
        let found = binding(&own, Some(&namespace), Traffic::Service, &known);
        assert_eq!(
            found.ingress, expected,
            "{:?} {:?}",
            namespace.metadata.labels, own.labels
        );
        assert_eq!(found.report.unwrap().ingress, expected);
    }
}

#[test]
fn waypoint_must_be_one_and_have_an_address() {
    let ready = || waypoint("w", "", "", READY);
    let wish = metadata("shop", "istio.io/use-waypoint: w", "");
    let of = |gateway: Gateway, class: Option<GatewayClass>| {
        let mut known = Known::with(&[gateway]);
        known.classes = class
            .map(|class| (class.metadata.name.clone(), class))
            .into_iter()
            .collect();
        binding(&wish, None, Traffic::Service, &known)
    };
    assert_eq!(refused(&of(ready(), None)), None);
    assert_eq!(
        refused(&of(waypoint("w", "", "", "[]"), None)),
        Some(Unbound::NotReady)
    );
    let mut other = ready();
    "istio".clone_into(&mut other.spec.gateway_class_name);
    assert_eq!(refused(&of(other.clone(), None)), Some(Unbound::NotReady));
    let class = gateway_class(
        "metadata: {name: istio}\nspec: {controllerName: tulle.io/mesh-controller}\n",
    );
    assert_eq!(refused(&of(other, Some(class))), None);
    let mut listener = ready();
    listener.spec.listeners[0].protocol = "HTTP".to_owned();
    assert_eq!(refused(&of(listener, None)), Some(Unbound::NotReady));
    let mut port = ready();
    port.spec.listeners[0].port = 15009;
    assert_eq!(of(port, None).waypoint.unwrap().hbone_mtls_port, 15009);
}

#[test]
fn traffic_and_namespaces_that_a_waypoint_is_for() {
    use Traffic::{Service, Workload};
    for (label, service, workload) in [
        ("", true, false),
        ("istio.io/waypoint-for: service", true, false),
        ("istio.io/waypoint-for: workload", false, true),
        ("istio.io/waypoint-for: all", true, true),
        ("istio.io/waypoint-for: none", false, false),
    ] {
        let known = Known::with(&[waypoint("w", label, "", READY)]);
        let wish = metadata("shop", "istio.io/use-waypoint: w", "");
        for (traffic, taken) in [(Service, service), (Workload, workload)] {
            let expected = (!taken).then_some(Unbound::UnsupportedTraffic);
            let found = binding(&wish, None, traffic, &known);
            assert_eq!(refused(&found), expected, "{label} {traffic:?}");
        }
    }
    let from_shop = "istio.io/use-waypoint: w, istio.io/use-waypoint-namespace: shop";
    let gold = namespace("metadata: {name: bank, labels: {tier: gold}}\n");
    let plain = namespace("metadata: {name: bank}\n");
    for (listener, of, admitted) in [
        ("", &gold, false),
        (", allowedRoutes: {namespaces: {from: All}}", &plain, true),
        (", allowedRoutes: {namespaces: {from: None}}", &gold, false),
        (
            ", allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {tier: gold}}}}",
            &gold,
            true,
        ),
        (
            ", allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {tier: gold}}}}",
            &plain,
            false,
        ),
        (
            ", allowedRoutes: {namespaces: {from: Selector}}",
            &gold,
            false,
        ),
    ] {
        let known = Known::with(&[waypoint("w", "", listener, READY)]);
        let found = binding(&metadata("bank", from_shop, ""), Some(of), Service, &known);
        let expected = (!admitted).then_some(Unbound::Denied);
        assert_eq!(
            refused(&found),
            expected,
            "{listener} {:?}",
            of.metadata.labels
        );
    }
}

#[test]
fn canary_takes_its_share_or_is_reported() {
    let known = Known::with(&[
        waypoint("w", "", "", "[{type: Hostname, value: w}]"),
        waypoint("c", "", "", "[{type: Hostname, value: c}]"),
    ]);
    let of = |canary: &str, weight: &str| {
        let labels = format!("istio.io/use-waypoint: w, istio.io/use-waypoint-canary: {canary}");
        let annotations = match weight {
            "" => String::new(),
            weight => format!("istio.io/use-waypoint-canary-weight: '{weight}'"),
        };
        binding(
            &metadata("shop", &labels, &annotations),
            None,
            Traffic::Service,
            &known,
        )
    };
    for (weight, shares) in [("30", [70, 30]), ("", [100, 0]), ("100", [0, 100])] {
        let found = of("c", weight);
        assert_eq!(found.waypoint, Some(at("w")));
        let expected =
            [("w", shares[0]), ("c", shares[1])].map(|(name, weight)| WeightedWaypoint {
                destination: at(name),
                weight,
            });
        assert_eq!(found.weighted, expected, "{weight}");
    }
    for (canary, weight, why) in [
        ("c", "101", Unbound::CanaryWeight),
        ("c", "many", Unbound::CanaryWeight),
        ("w", "10", Unbound::CanarySameAsPrimary),
        ("x", "10", Unbound::NotReady),
    ] {
        let found = of(canary, weight);
        assert_eq!((found.waypoint, found.weighted), (Some(at("w")), vec![]));
        assert_eq!(found.report.unwrap().canary, Some(why), "{canary} {weight}");
    }
}

#[test]
fn what_stands_behind_ztunnel_says_how_it_is_reached() {
    let of = |gateway: &str, class: &str| {
        let annotation = |said: &str| match said {
            "" => String::new(),
            said => format!(", annotations: {{ambient.istio.io/waypoint-inbound-binding: {said}}}"),
        };
        let gateway = crate::testing::gateway(&format!(
            "metadata: {{name: w, namespace: shop{}}}\nspec: {{gatewayClassName: c, listeners: []}}\n",
            annotation(gateway)
        ));
        let class = gateway_class(&format!(
            "metadata: {{name: c{}}}\nspec: {{controllerName: example/other}}\n",
            annotation(class)
        ));
        inbound_binding(&gateway, Some(&class))
    };
    let tunnel = |proxy_protocol, port| {
        Some(ApplicationTunnel {
            proxy_protocol,
            port,
        })
    };
    assert_eq!(of("", ""), None);
    assert_eq!(of("PROXY/15088", ""), tunnel(true, Some(15088)));
    assert_eq!(of("", "PROXY"), tunnel(true, None));
    assert_eq!(of("NONE/80", "PROXY/1"), tunnel(false, Some(80)));
    for wrong in ["HTTP/80", "PROXY/0", "PROXY/port", "PROXY/"] {
        assert_eq!(of(wrong, ""), None, "{wrong}");
    }
}
