use tulle_model::{PathMatch, ServiceKey, TargetKind};

use super::*;
use crate::testing::rate_limit_policy;

fn made(spec: &str) -> Vec<LimitPolicy> {
    let policy = rate_limit_policy(&format!(
        "metadata: {{name: p, namespace: shop}}\nspec: {{{spec}}}\n"
    ));
    let found = |asked: &GlobalRateLimit| {
        (asked.service == "there").then(|| BackendService {
            key: ServiceKey::new("shop", "there"),
            port: Some(80),
            subset: None,
        })
    };
    limits(&Mesh::default(), &policy, None, found)
}

fn only(limit: &str) -> Limit {
    let web = "targetRefs: [{kind: Service, name: web}]";
    let mut policies = made(&format!("{web}, limits: [{{name: a, {limit}}}]"));
    policies.pop().unwrap().limits.unwrap().pop().unwrap()
}

#[test]
fn each_target_has_limits_of_its_own() {
    let policies = made(
        "targetRefs: [{kind: Service, name: web}, {group: gateway.networking.k8s.io, kind: Gateway, name: w}, \
         {group: gateway.networking.k8s.io, kind: GatewayClass, name: c}, {kind: Pod, name: p}], \
         limits: [{name: a, local: {requests: 1, per: 1s}}]",
    );
    let targets: Vec<_> = policies
        .iter()
        .map(|policy| policy.key.target().unwrap().kind)
        .collect();
    // A class is the root namespace's.
    assert_eq!(targets, [TargetKind::Service, TargetKind::Gateway]);
    assert!(
        policies
            .iter()
            .all(|policy| policy.key.object_name() == "p")
    );
    assert_eq!(policies[0].limits, policies[1].limits);
}

#[test]
fn a_local_limit_has_its_defaults() {
    let limit = only("local: {requests: 100, per: 1m}");
    assert_eq!(limit.about, HttpMatch::default());
    assert!(!(limit.dry_run || limit.tells || limit.resource_exhausted));
    let local = LocalLimit {
        requests: 100,
        per: Duration::from_secs(60),
        burst: 100,
        by: Vec::new(),
    };
    assert_eq!(limit.counted, Counted::Here(local));
    let limit = only(
        "dryRun: true, rateLimitHeaders: true, rateLimitedAsResourceExhausted: true, \
         match: {methods: [GET], paths: ['/a/*'], headers: [{name: X-A}, {name: b, value: '*c'}]}, \
         local: {requests: 1, per: 50ms, burst: 2, by: [{principal: {}}, {remoteAddress: {}}, {header: X-Key}, {claim: a.b}, \
         {claim: '[a.b][c]'}, {queryParameter: q}, {method: {}}, {path: {}}]}",
    );
    assert!(limit.dry_run && limit.tells && limit.resource_exhausted);
    let prefix = PathMatch::Text(StringMatch::Prefix("/a/".into()));
    assert_eq!(limit.about.paths, [prefix]);
    assert_eq!(limit.about.methods, [StringMatch::Exact("GET".into())]);
    let headers = [
        ("x-a", StringMatch::Presence),
        ("b", StringMatch::Suffix("c".into())),
    ];
    for (header, (name, value)) in limit.about.headers.iter().zip(headers) {
        assert_eq!((&*header.name, &header.values[..]), (name, &[value][..]));
    }
    let Counted::Here(local) = limit.counted else {
        panic!("{limit:?}");
    };
    assert_eq!(local.burst, 2);
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let by = [
        RequestPart::Principal,
        RequestPart::RemoteAddress,
        RequestPart::Header("x-key".to_owned()),
        RequestPart::Claim(names(&["a", "b"])),
        RequestPart::Claim(names(&["a.b", "c"])),
        RequestPart::Query("q".to_owned()),
        RequestPart::Method,
        RequestPart::Path,
    ];
    assert_eq!(local.by, by);
}

#[test]
fn a_service_that_is_not_there_is_nobody() {
    let of = |service: &str, more: &str| {
        let limit = only(&format!(
            "global: {{service: {service}, port: 80, domain: d, {more} \
             descriptors: [{{entries: [{{key: k, value: v}}, {{key: l, path: {{}}}}], limit: {{requests: 5, unit: DAY}}}}]}}"
        ));
        match limit.counted {
            Counted::There(global) => global,
            Counted::Here(local) => panic!("{local:?}"),
        }
    };
    let usual = of("there", "");
    assert_eq!(usual.service.as_ref().unwrap().port, Some(80));
    assert_eq!((usual.timeout, usual.fail_open), (TIMEOUT, true));
    let entries = vec![
        ("k".to_owned(), RequestPart::Text("v".to_owned())),
        ("l".to_owned(), RequestPart::Path),
    ];
    let limit = Some((5, LimitUnit::Day));
    assert_eq!(usual.descriptors, [Descriptor { entries, limit }]);
    let other = of("gone", "timeout: 1s, failOpen: false,");
    assert_eq!(other.service, None);
    assert_eq!(
        (other.timeout, other.fail_open),
        (Duration::from_secs(1), false)
    );
}
