use std::sync::Arc;

use tulle_manifest::{
    DestinationRule, HTTPRoute, Metadata, Object, VirtualService, source::Change,
};

use super::*;
use crate::{index::Index, mesh::Mesh, testing};

const WORLD: &str = "apiVersion: v1
kind: Service
metadata: {name: s, namespace: shop}
spec: {ports: [{port: 80}, {port: 53, protocol: UDP}]}
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: shop}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: far, namespace: other, labels: {istio.io/use-waypoint: w, istio.io/use-waypoint-namespace: shop}}
spec: {ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: alone, namespace: other}
spec: {ports: [{port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: e, namespace: shop}
spec: {hosts: [e.example], ports: [{number: 443, name: tls}], resolution: DNS}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: w, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE, allowedRoutes: {namespaces: {from: All}}}]}
status: {addresses: [{value: 10.9.9.9}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec: {gatewayClassName: another, listeners: [{name: web, port: 80, protocol: HTTP}]}
---
";

fn index(more: &str) -> Index {
    let mut index = Index::new(Arc::new(Mesh::default()));
    let objects = testing::objects(&format!("{WORLD}{more}")).into_iter();
    index.apply(objects.map(Change::Upsert).collect());
    index
}

fn route(spec: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: r, namespace: shop}}\nspec: {{{spec}}}\n---\n"
    )
}

fn http_route(yaml: &str) -> Arc<HTTPRoute> {
    match testing::objects(yaml).pop() {
        Some(Object::HTTPRoute(route)) => route,
        other => panic!("{other:?}"),
    }
}

#[test]
fn parents_are_judged_by_what_they_are() {
    let index = index("");
    let service = |rest: &str| format!("{{group: '', kind: Service, {rest}}}");
    let gateway = |rest: &str| format!("{{{rest}}}");
    use BadParent::*;
    for (written, expected) in [
        (service("name: s"), Some(None)),
        (service("name: s, port: 80"), Some(None)),
        (service("name: s, port: 80, sectionName: x"), Some(None)),
        (service("name: s, port: 81"), Some(Some(NoPort))),
        (service("name: none"), Some(Some(NotFound))),
        (service("name: headless"), Some(Some(NoAddress))),
        (
            service("name: alone, namespace: other"),
            Some(Some(OtherNamespace)),
        ),
        (service("name: far, namespace: other"), Some(None)),
        (
            "{group: networking.istio.io, kind: ServiceEntry, name: e, port: 443}".to_owned(),
            Some(None),
        ),
        (
            "{group: networking.istio.io, kind: ServiceEntry, name: x}".to_owned(),
            Some(Some(NotFound)),
        ),
        (gateway("name: w"), Some(Some(Waypoint))),
        (
            gateway("name: w, sectionName: mesh, port: 15008"),
            Some(Some(Waypoint)),
        ),
        (gateway("name: w, sectionName: web"), Some(Some(NoListener))),
        (gateway("name: w, port: 80"), Some(Some(NoListener))),
        // Of other controllers.
        (gateway("name: edge"), None),
        (gateway("name: none"), None),
        (
            "{group: example.com, kind: Service, name: s}".to_owned(),
            None,
        ),
    ] {
        let route = http_route(&route(&format!("parentRefs: [{written}]")));
        let found = parent(&index, "shop", &route.spec.parent_refs[0]);
        let why = found.map(|found| match found {
            Parent::Served(_) => None,
            Parent::Refused(why) => Some(why),
        });
        assert_eq!(why, expected, "{written}");
    }
}

fn grant(rest: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1beta1\nkind: ReferenceGrant\nmetadata: {{name: g, namespace: other}}\nspec: {{{rest}}}\n---\n"
    )
}

#[test]
fn backends_are_judged_by_what_they_are() {
    use BadBackend::*;
    for (backend, expected) in [
        ("name: s, port: 80", None),
        ("name: s, port: 80, namespace: shop", None),
        ("name: s, port: 81", Some(NoPort)),
        ("name: s", Some(NoPort)),
        ("name: s, port: 53", Some(Protocol)),
        ("name: none, port: 80", Some(NotFound)),
        (
            "group: networking.istio.io, kind: Hostname, name: e.example, port: 443",
            None,
        ),
        (
            "group: networking.istio.io, kind: Hostname, name: s.shop.svc.cluster.local, port: 80",
            None,
        ),
        (
            "group: networking.istio.io, kind: Hostname, name: x.example, port: 443",
            Some(NotFound),
        ),
        (
            "group: networking.istio.io, kind: Hostname, name: far.other.svc.cluster.local, port: 80",
            Some(NotPermitted),
        ),
        ("kind: Pod, name: s, port: 80", Some(Kind)),
        (
            "group: example.com, kind: Service, name: s, port: 80",
            Some(Kind),
        ),
        ("name: far, namespace: other, port: 80", Some(NotPermitted)),
        // Whether it is there is not told either.
        ("name: none, namespace: other, port: 80", Some(NotPermitted)),
    ] {
        let plain = format!("rules: [{{backendRefs: [{{{backend}}}]}}]");
        let mirror = format!(
            "rules: [{{filters: [{{type: RequestMirror, requestMirror: {{backendRef: {{{backend}}}}}}}]}}]"
        );
        for (spec, field) in [
            (plain, "spec.rules[0].backendRefs[0]"),
            (mirror, "spec.rules[0].filters[0].requestMirror.backendRef"),
        ] {
            let route = http_route(&route(&spec));
            let bad = backends(&index(""), &route);
            assert_eq!(bad.first().map(|(why, _)| *why), expected, "{spec}");
            assert!(
                bad.iter().all(|(_, finding)| finding.field == field),
                "{bad:?}"
            );
        }
    }
}

#[test]
fn what_another_namespace_grants_may_be_named() {
    let from = "from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: shop}]";
    let to = "to: [{group: '', kind: Service}]";
    let by_name = http_route(&route(
        "rules: [{backendRefs: [{name: far, namespace: other, port: 80}]}]",
    ));
    let host =
        "{group: networking.istio.io, kind: Hostname, name: far.other.svc.cluster.local, port: 80}";
    let by_host = http_route(&route(&format!("rules: [{{backendRefs: [{host}]}}]")));
    for (granted, expected) in [
        (format!("{from}, {to}"), true),
        (
            format!("{from}, to: [{{group: '', kind: Service, name: far}}]"),
            true,
        ),
        (
            format!("{from}, to: [{{group: '', kind: Service, name: alone}}]"),
            false,
        ),
        (format!("{from}, to: [{{group: '', kind: Secret}}]"), false),
        (
            format!("{}, {to}", from.replace("HTTPRoute", "GRPCRoute")),
            false,
        ),
        (format!("{}, {to}", from.replace("shop", "visitors")), false),
        (
            format!("{}, {to}", from.replace("gateway.networking.k8s.io", "''")),
            false,
        ),
        // What else it may ask for is not known.
        (format!("{from}, {to}, unless: x"), false),
    ] {
        for route in [&by_name, &by_host] {
            let bad = backends(&index(&grant(&granted)), route);
            assert_eq!(bad.is_empty(), expected, "{granted}");
        }
    }
    let elsewhere = grant(&format!("{from}, {to}")).replace("namespace: other", "namespace: third");
    assert!(!backends(&index(&elsewhere), &by_name).is_empty());
}

#[test]
fn rules_count_from_the_namespace_of_the_host_or_of_its_waypoint() {
    use Unenforced::*;
    for (namespace, host, expected, of_rule_too) in [
        ("shop", "s", Err(NotBound), Err(NotBound)),
        (
            "shop",
            "s.shop.svc.cluster.local",
            Err(NotBound),
            Err(NotBound),
        ),
        ("shop", "none", Err(NotFound), Err(NotFound)),
        ("other", "far", Ok(()), Ok(())),
        ("shop", "far.other.svc.cluster.local", Ok(()), Ok(())),
        (
            "third",
            "far.other.svc.cluster.local",
            Err(OtherNamespace),
            Err(OtherNamespace),
        ),
        (
            "istio-system",
            "far.other.svc.cluster.local",
            Err(OtherNamespace),
            Ok(()),
        ),
        (
            "istio-system",
            "s.shop.svc.cluster.local",
            Err(OtherNamespace),
            Err(NotBound),
        ),
        (
            "third",
            "e.example",
            Err(OtherNamespace),
            Err(OtherNamespace),
        ),
        ("third", "*.example", Ok(()), Ok(())),
    ] {
        let mut service = VirtualService {
            metadata: Metadata::new(namespace, "v"),
            ..VirtualService::default()
        };
        service.spec.hosts = vec![host.to_owned()];
        let judged = of_virtual_service(&index(""), &service);
        assert_eq!(judged, [(host.to_owned(), expected)], "{namespace} {host}");
        let mut rule = DestinationRule {
            metadata: Metadata::new(namespace, "d"),
            ..DestinationRule::default()
        };
        rule.spec.host = host.to_owned();
        let judged = of_rule(&index(""), &rule);
        assert_eq!(
            judged,
            [(host.to_owned(), of_rule_too)],
            "{namespace} {host}"
        );
    }
}

#[test]
fn destinations_that_are_not_there_are_found() {
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d, namespace: shop}\n\
        spec: {host: s, subsets: [{name: v1, labels: {a: b}}]}\n---\n";
    // Of another namespace: it defines none.
    let foreign = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: d, namespace: other}\n\
        spec: {host: s.shop.svc.cluster.local, subsets: [{name: v2, labels: {a: b}}]}\n---\n";
    let index = index(&format!("{rule}{foreign}"));
    let subsets = Subsets::of(&index);
    for (spec, expected) in [
        (
            "http: [{route: [{destination: {host: s, subset: v1}}, {destination: {host: e.example}}]}]",
            vec![],
        ),
        (
            "http: [{route: [{destination: {host: s, subset: v2}}]}, {route: [{destination: {host: x}}], mirror: {host: y}}]",
            vec![
                "spec.http[0].route[0].destination.subset",
                "spec.http[1].route[0].destination.host",
                "spec.http[1].mirror.host",
            ],
        ),
        (
            "http: [{delegate: {name: d, namespace: a}}], tcp: [{route: [{destination: {host: x}}]}]",
            vec![
                "spec.tcp[0].route[0].destination.host",
                "spec.http[0].delegate",
            ],
        ),
    ] {
        let yaml = format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v, namespace: shop}}\nspec: {{{spec}}}\n"
        );
        let Some(Object::VirtualService(service)) = testing::objects(&yaml).pop() else {
            panic!("{yaml}");
        };
        let found = destinations(&index, &subsets, &service);
        let fields: Vec<&str> = found.iter().map(|finding| finding.field.as_str()).collect();
        assert_eq!(fields, expected, "{spec}");
    }
}
