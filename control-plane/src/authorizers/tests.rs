use std::sync::Arc;

use tulle_manifest::source::Change;
use tulle_model::StringMatch;
use tulle_xds::store::Transaction;

use super::*;
use crate::{mesh::Mesh, testing::objects};

const GUARD: &str = "
---
apiVersion: v1
kind: Service
metadata: {name: guard, namespace: shop}
spec: {clusterIP: 10.96.0.9, ports: [{port: 9000}]}
";

fn settings(providers: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n    trustDomain: x\n    extensionProviders:\n{providers}"
    )
}

fn apply(index: &mut Index, yaml: &str) -> Transaction {
    index.apply(objects(yaml).into_iter().map(Change::Upsert).collect())
}

/// Names of what was said, and whether it is there.
fn told(transaction: &Transaction) -> Vec<(&str, bool)> {
    let all = transaction.configurations.iter();
    let all = all.filter(|(name, _)| name.starts_with("authorizers/"));
    all.map(|(name, said)| (name.as_str(), said.is_some()))
        .collect()
}

#[test]
fn who_may_be_asked_is_told_as_long_as_it_is_so() {
    let mut index = Index::new(Arc::new(Mesh::default()));
    let grpc = "    - {name: guard, envoyExtAuthzGrpc: {service: guard.shop.svc.cluster.local, port: 9000}}\n";
    // Its service is not known yet.
    assert!(told(&apply(&mut index, &settings(grpc))).is_empty());
    assert_eq!(
        told(&apply(&mut index, GUARD)),
        [("authorizers/guard", true)]
    );
    assert!(index.can_be_asked("guard") && !index.can_be_asked("other"));
    assert_eq!(told(&index.everything()), [("authorizers/guard", true)]);
    let other = grpc.replace("name: guard", "name: other");
    assert_eq!(
        told(&apply(&mut index, &settings(&other))),
        [("authorizers/guard", false), ("authorizers/other", true)]
    );
    // What cannot be understood changes nothing, nor does what is elsewhere.
    assert!(told(&apply(&mut index, &settings("    - 1\n"))).is_empty());
    let elsewhere = settings(grpc).replace("istio-system", "shop");
    assert!(told(&apply(&mut index, &elsewhere)).is_empty());
    let gone = objects(&settings(grpc)).remove(0).id();
    assert_eq!(
        told(&index.apply(vec![Change::Remove(gone)])),
        [("authorizers/other", false)]
    );
}

#[test]
fn all_that_is_written_counts() {
    let mut index = Index::new(Arc::new(Mesh::default()));
    let http = "
    - name: guard
      envoyExtAuthzHttp:
        service: shop/guard.shop.svc.cluster.local
        port: 9000
        timeout: 250ms
        failOpen: true
        statusOnError: '503'
        clearRouteCache: true
        pathPrefix: /check
        includeRequestBodyInCheck: {maxRequestBytes: 10, allowPartialMessage: true, packAsBytes: true}
        includeRequestHeadersInCheck: [X-Key, x-of-*, '*-id']
        includeAdditionalHeadersInCheck: {X-Who: waypoint}
        headersToUpstreamOnAllow: [x-user]
        headersToDownstreamOnAllow: [x-seen]
        headersToDownstreamOnDeny: [location]
";
    apply(&mut index, GUARD);
    apply(&mut index, &settings(http));
    let exact = |name: &str| StringMatch::Exact(name.into());
    let expected = Authorizer {
        name: "guard".into(),
        service: BackendService {
            key: ServiceKey::new("shop", "guard.shop.svc.cluster.local"),
            port: Some(9000),
            subset: None,
        },
        timeout: Duration::from_millis(250),
        fail_open: true,
        status_on_error: 503,
        routes_again: true,
        body: Some(BodySample {
            most: 10,
            partial: true,
            as_bytes: true,
        }),
        protocol: AuthorizerProtocol::Http(HttpQuestion {
            path_prefix: "/check".to_owned(),
            shown: vec![
                exact("x-key"),
                StringMatch::Prefix("x-of-".into()),
                StringMatch::Suffix("-id".into()),
            ],
            said: [("x-who".to_owned(), "waypoint".to_owned())].into(),
            to_endpoint: vec![exact("x-user")],
            to_client: vec![exact("x-seen")],
            to_refused: vec![exact("location")],
        }),
    };
    assert_eq!(
        authorizers(&index).into_values().collect::<Vec<_>>(),
        [expected]
    );
}

#[test]
fn who_is_not_described_in_order_is_not_asked() {
    let problems = |rest: &str| {
        let mut index = Index::new(Arc::new(Mesh::default()));
        apply(&mut index, GUARD);
        let map = settings(&format!("    - {{name: guard, {rest}}}\n"));
        let id = objects(&map).remove(0).id();
        apply(&mut index, &map);
        let problems = index.reports().problems_of(&id).iter();
        let problems = problems
            .map(|problem| problem.finding.field.clone())
            .collect::<Vec<_>>();
        assert_eq!(problems.is_empty(), index.can_be_asked("guard"), "{rest}");
        problems
    };
    let service = "service: guard.shop.svc.cluster.local";
    let at = "data.mesh.extensionProviders[0]";
    let grpc = format!("{at}.envoyExtAuthzGrpc");
    for (rest, field) in [
        ("{port: 1}".to_owned(), "service"),
        (format!("{{{service}}}"), "port"),
        (format!("{{{service}, port: 0}}"), "port"),
        (
            format!("{{{service}, port: 9000, timeout: soon}}"),
            "timeout",
        ),
        (
            format!("{{{service}, port: 9000, statusOnError: '200 OK'}}"),
            "statusOnError",
        ),
        (
            format!("{{{service}, port: 9000, pathPrefix: /x}}"),
            "pathPrefix",
        ),
        (
            format!("{{{service}, port: 9000, failClosed: true}}"),
            "failClosed",
        ),
        (
            format!("{{{service}, port: 9000, includeRequestBodyInCheck: {{}}}}"),
            "includeRequestBodyInCheck.maxRequestBytes",
        ),
    ] {
        let found = problems(&format!("envoyExtAuthzGrpc: {rest}"));
        assert_eq!(found, [format!("{grpc}.{field}")], "{rest}");
    }
    let star =
        format!("envoyExtAuthzHttp: {{{service}, port: 9000, headersToUpstreamOnAllow: ['*']}}");
    assert_eq!(
        problems(&star),
        [format!(
            "{at}.envoyExtAuthzHttp.headersToUpstreamOnAllow[0]"
        )]
    );
    assert!(problems(&format!("envoyExtAuthzGrpc: {{{service}, port: 9000}}")).is_empty());
}
