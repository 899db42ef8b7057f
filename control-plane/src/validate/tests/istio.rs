use super::{table, told};

/// A public key of a test, as any library makes one.
const KEY: &str = r#"{"kty": "EC", "crv": "P-256", "kid": "k", "alg": "ES256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

fn keys(keys: &str) -> String {
    format!("jwtRules: [{{issuer: 'i', jwks: '{{\"keys\": [{keys}]}}'}}]")
}

#[test]
fn request_authentications_are_checked() {
    let private = KEY.replace("\"kid\"", "\"d\": \"jpsQnnGQmL\", \"kid\"");
    let symmetric = r#"{"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ"}"#;
    let unknown = r#"{"kty": "future"}"#;
    table(
        "RequestAuthentication",
        &[
            (&keys(KEY), ""),
            (&keys(&format!("{unknown}, {KEY}")), ""),
            (&keys(unknown), "Invalid spec.jwtRules[0].jwks"),
            (&keys(""), "Invalid spec.jwtRules[0].jwks"),
            (&keys(&private), "Invalid spec.jwtRules[0].jwks"),
            (
                &keys(&format!("{symmetric}, {KEY}")),
                "Invalid spec.jwtRules[0].jwks",
            ),
            (
                "jwtRules: [{issuer: i, jwks: broken}]",
                "Invalid spec.jwtRules[0].jwks",
            ),
            (
                "jwtRules: [{issuer: 'https://i.example', jwksUri: 'https://i.example/keys', timeout: 2s}]",
                "",
            ),
            ("jwtRules: [{issuer: 'https://i.example'}]", ""),
            ("jwtRules: [{issuer: i}]", "Invalid spec.jwtRules[0].issuer"),
            (
                "jwtRules: [{jwksUri: 'https://i.example'}]",
                "Invalid spec.jwtRules[0].issuer",
            ),
            (
                "jwtRules: [{issuer: i, jwksUri: 'file:///etc/passwd'}]",
                "Invalid spec.jwtRules[0].jwksUri",
            ),
            (
                "jwtRules: [{issuer: i, jwksUri: 'https://a@b/'}]",
                "Invalid spec.jwtRules[0].jwksUri",
            ),
            (
                "jwtRules: [{issuer: 'https://i', fromHeaders: [{name: 'a b'}], outputPayloadToHeader: '', \
                 outputClaimToHeaders: [{header: x}], timeout: 0s, audiences: ['']}]",
                "Invalid spec.jwtRules[0].audiences[0], Invalid spec.jwtRules[0].fromHeaders[0].name, \
                 Invalid spec.jwtRules[0].outputClaimToHeaders[0].claim, Invalid spec.jwtRules[0].outputPayloadToHeader, \
                 Invalid spec.jwtRules[0].timeout",
            ),
            ("", "Ignored spec.jwtRules"),
            (
                "jwtRules: [{issuer: 'https://i', onlyIf: x}], selector: {matchLabels: {a: b}, matchExpressions: []}",
                "Unsupported spec.jwtRules[0].onlyIf, Unsupported spec.selector.matchExpressions",
            ),
            (
                "jwtRules: [{issuer: 'https://i'}], selector: {}, targetRefs: [{kind: Service, name: s, namespace: other}]",
                "Invalid spec, Invalid spec.targetRefs[0].namespace",
            ),
        ],
    );
    assert_eq!(
        told(
            "RequestAuthentication",
            &format!("{}, targetRef: {{kind: Service}}", keys(KEY))
        ),
        ["Invalid spec.targetRef.name"]
    );
}

#[test]
fn rate_limit_policies_are_checked() {
    let limits = |limit: &str| format!("limits: [{{name: a, {limit}}}]");
    let local = |more: &str| limits(&format!("local: {{requests: 1, per: 1s, {more}}}"));
    let global = |more: &str| {
        limits(&format!(
            "global: {{service: ns/a.b, port: 80, domain: d, {more}}}"
        ))
    };
    let counted = "descriptors: [{entries: [{key: k, value: v}]}]";
    let at = "spec.limits[0]";
    for (spec, expected) in [
        (local(""), ""),
        (local("burst: 5, by: [{header: a}, {claim: a.b}, {principal: {}}]"), ""),
        (global(counted), ""),
        (global(&format!("{counted}, timeout: 1s, failOpen: false")), ""),
        (
            limits("match: {methods: [GET], paths: ['/a/*'], headers: [{name: x}]}, local: {requests: 1, per: 50ms}"),
            "",
        ),
        (String::new(), "Invalid spec.limits"),
        (limits(""), "Invalid AT"),
        (limits("local: {}, global: {}"), "Invalid AT, Invalid AT.global.descriptors, Invalid AT.global.domain, \
            Invalid AT.global.port, Invalid AT.global.service, Invalid AT.local.per, Invalid AT.local.requests"),
        (local("more: 1"), "Unsupported AT.local.more"),
        (local("burst: 0"), "Invalid AT.local.burst"),
        (limits("local: {requests: 1000001, per: 49ms}"), "Invalid AT.local.per, Invalid AT.local.requests"),
        (limits("local: {requests: 1, per: 25h}"), "Invalid AT.local.per"),
        (local("by: [{}]"), "Invalid AT.local.by[0]"),
        (local("by: [{header: a, path: {}}]"), "Invalid AT.local.by[0]"),
        (local("by: [{key: a, header: b}]"), "Invalid AT.local.by[0]"),
        (local("by: [{header: 'a b'}, {claim: a.}]"), "Invalid AT.local.by[0].header, Invalid AT.local.by[1].claim"),
        (local("by: [{principal: {sure: 1}}]"), "Unsupported AT.local.by[0].principal.sure"),
        (
            limits("match: {}, local: {requests: 1, per: 1s}"),
            "Invalid AT.match",
        ),
        (
            limits("match: {methods: ['a*b'], paths: ['/{x}'], headers: [{name: '', value: '**'}]}, local: {requests: 1, per: 1s}"),
            "Invalid AT.match.headers[0].name, Invalid AT.match.headers[0].value, Invalid AT.match.methods[0], Invalid AT.match.paths[0]",
        ),
        (global("timeout: 11s, descriptors: [{entries: []}]"), "Invalid AT.global.descriptors[0].entries, Invalid AT.global.timeout"),
        (
            global("descriptors: [{entries: [{value: v}], limit: {requests: 0, unit: DECADE}}]"),
            "Invalid AT.global.descriptors[0].entries[0].key, Invalid AT.global.descriptors[0].limit.requests, \
             Invalid AT.global.descriptors[0].limit.unit",
        ),
        ("limits: [{name: a.b, local: {requests: 1, per: 1s}}]".to_owned(), "Invalid AT.name"),
        (
            "limits: [{name: a, local: {requests: 1, per: 1s}}, {name: a, local: {requests: 1, per: 1s}}]".to_owned(),
            "Invalid spec.limits",
        ),
        (format!("{}, selector: {{}}", local("")), "Unsupported spec.selector"),
    ] {
        table("RateLimitPolicy", &[(&spec, &expected.replace("AT", at))]);
    }
}

#[test]
fn virtual_services_are_checked() {
    let to = "route: [{destination: {host: a}}]";
    let at = "spec.http[0]";
    for (rule, expected) in [
        (to.to_owned(), String::new()),
        (
            format!(
                "match: [{{uri: {{prefix: /}}, headers: {{x-a: {{}}, b: {{regex: '*'}}}}, port: 80}}], {to}, timeout: 0s"
            ),
            String::new(),
        ),
        (
            "redirect: {uri: /x, redirectCode: 308, derivePort: FROM_REQUEST_PORT}".to_owned(),
            String::new(),
        ),
        (
            "directResponse: {status: 503, body: {string: x}}".to_owned(),
            String::new(),
        ),
        (
            "delegate: {name: x, namespace: y}".to_owned(),
            String::new(),
        ),
        (
            format!("{to}, retries: {{attempts: 2, retryOn: '5xx, 503,reset', perTryTimeout: 2s}}"),
            String::new(),
        ),
        (
            format!(
                "{to}, fault: {{delay: {{fixedDelay: 5s, percentage: {{value: 0.1}}}}, abort: {{grpcStatus: UNAVAILABLE, percentage: {{value: 100}}}}}}"
            ),
            String::new(),
        ),
        (
            format!(
                "{to}, corsPolicy: {{allowOrigins: [{{exact: 'https://a'}}], maxAge: 24h, unmatchedPreflights: IGNORE}}"
            ),
            String::new(),
        ),
        (
            format!(
                "{to}, headers: {{request: {{set: {{':authority': x, a: '100%%'}}, remove: [c]}}}}"
            ),
            String::new(),
        ),
        (
            format!(
                "{to}, headers: {{request: {{set: {{':authority': x, a: '%REQ(b)%'}}, remove: [c]}}}}"
            ),
            format!("Unsupported {at}.headers.request.set[a]"),
        ),
        (String::new(), format!("Invalid {at}")),
        (
            format!("{to}, directResponse: {{status: 200}}"),
            format!("Invalid {at}"),
        ),
        (
            format!("match: [{{uri: {{regex: '('}}}}], {to}"),
            format!("Invalid {at}.match[0].uri.regex"),
        ),
        (
            format!("match: [{{uri: {{}}}}], {to}"),
            format!("Invalid {at}.match[0].uri"),
        ),
        (
            format!("match: [{{uri: {{exact: a, prefix: b}}}}], {to}"),
            format!("Invalid {at}.match[0].uri"),
        ),
        (
            format!(
                "match: [{{headers: {{'a b': {{exact: c}}, '@request.auth.claims.x': {{exact: c}}}}}}], {to}"
            ),
            format!("Invalid {at}.match[0].headers[a b]"),
        ),
        (
            format!("match: [{{withoutHeaders: {{'@request.auth.claims': {{exact: c}}}}}}], {to}"),
            format!("Invalid {at}.match[0].withoutHeaders[@request.auth.claims]"),
        ),
        (
            format!("match: [{{notYet: 1}}], {to}"),
            format!("Unsupported {at}.match[0].notYet"),
        ),
        (
            "route: [{destination: {host: ''}}]".to_owned(),
            format!("Invalid {at}.route[0].destination.host"),
        ),
        (
            "route: [{destination: {host: '*.a'}}]".to_owned(),
            format!("Invalid {at}.route[0].destination.host"),
        ),
        (
            "route: [{destination: {host: a, port: {number: 0}}}]".to_owned(),
            format!("Invalid {at}.route[0].destination.port.number"),
        ),
        (
            "route: [{destination: {host: a}, weight: -1}, {destination: {host: b}}]".to_owned(),
            format!("Invalid {at}.route"),
        ),
        (
            "route: [{destination: {host: a}}, {destination: {host: b}}]".to_owned(),
            format!("Ignored {at}.route"),
        ),
        (
            "redirect: {redirectCode: 200}, rewrite: {uri: /}".to_owned(),
            format!("Invalid {at}.redirect.redirectCode, Invalid {at}.rewrite"),
        ),
        (
            "directResponse: {status: 99, body: {bytes: '?'}}".to_owned(),
            format!("Invalid {at}.directResponse.body.bytes, Invalid {at}.directResponse.status"),
        ),
        (
            format!("{to}, timeout: soon"),
            format!("Invalid {at}.timeout"),
        ),
        (
            format!("{to}, retries: {{attempts: -1, retryOn: 'sometimes,700,retriable-headers'}}"),
            format!(
                "Invalid {at}.retries.attempts, Invalid {at}.retries.retryOn, Invalid {at}.retries.retryOn, Unsupported {at}.retries.retryOn"
            ),
        ),
        (format!("{to}, fault: {{}}"), format!("Invalid {at}.fault")),
        (
            format!("{to}, fault: {{abort: {{httpStatus: 500}}}}"),
            format!("Ignored {at}.fault.abort.percentage"),
        ),
        (
            format!("{to}, fault: {{abort: {{httpStatus: 5, percentage: {{value: 101}}}}}}"),
            format!(
                "Invalid {at}.fault.abort.httpStatus, Invalid {at}.fault.abort.percentage.value"
            ),
        ),
        (
            format!("{to}, fault: {{delay: {{percentage: {{value: 1}}}}}}"),
            format!("Invalid {at}.fault.delay.fixedDelay"),
        ),
        (
            format!("{to}, mirrorPercentage: {{value: 200}}"),
            format!("Ignored {at}.mirrorPercentage, Invalid {at}.mirrorPercentage.value"),
        ),
        (
            format!(
                "{to}, mirror: {{host: a}}, mirrors: [{{destination: {{host: b}}, percentage: {{value: 1}}}}]"
            ),
            format!("Invalid {at}"),
        ),
        (
            format!(
                "{to}, corsPolicy: {{allowOrigins: [{{regex: '['}}], allowMethods: ['G T'], maxAge: x}}"
            ),
            format!(
                "Invalid {at}.corsPolicy.allowMethods[0], Invalid {at}.corsPolicy.allowOrigins[0].regex, Invalid {at}.corsPolicy.maxAge"
            ),
        ),
        (
            format!(
                "{to}, headers: {{response: {{remove: ['host', ':path'], add: {{':path': x}}}}}}"
            ),
            format!(
                "Invalid {at}.headers.response.remove[0], Invalid {at}.headers.response.remove[1], Unsupported {at}.headers.response.add[:path]"
            ),
        ),
        (
            format!("{to}, rewrite: {{uri: /, uriRegexRewrite: {{match: '(', rewrite: x}}}}"),
            format!("Invalid {at}.rewrite, Invalid {at}.rewrite.uriRegexRewrite.match"),
        ),
        (
            format!("{to}, rewrite: {{}}"),
            format!("Invalid {at}.rewrite"),
        ),
    ] {
        let spec = format!("hosts: [a], http: [{{{rule}}}]");
        assert_eq!(told("VirtualService", &spec).join(", "), expected, "{spec}");
    }
    let rule = format!("{{{to}}}");
    table(
        "VirtualService",
        &[
            ("hosts: [a]", "Invalid spec"),
            (
                &format!("hosts: ['*', '*.b', 10.0.0.1], http: [{rule}]"),
                "",
            ),
            (
                &format!("hosts: [a b, a, a], http: [{rule}]"),
                "Invalid spec.hosts, Invalid spec.hosts[0]",
            ),
            (
                &format!("hosts: [a], http: [{rule}, {rule}]"),
                "Ignored spec.http",
            ),
            ("http: [{delegate: {name: x}}]", "Invalid spec.http"),
            (
                &format!(
                    "hosts: [a], tcp: [{{match: [{{port: 1, destinationSubnets: [10.0.0.0/8]}}], {to}}}]"
                ),
                "",
            ),
            (
                "hosts: [a], tcp: [{match: [{sourceSubnet: x}]}]",
                "Invalid spec.tcp[0].match[0].sourceSubnet, Invalid spec.tcp[0].route",
            ),
            (
                &format!("hosts: [a], tls: [{{match: [{{sniHosts: ['*.a']}}], {to}}}]"),
                "",
            ),
            (
                &format!("hosts: [a], tls: [{{match: [{{}}], {to}}}, {{{to}}}]"),
                "Invalid spec.tls[0].match[0].sniHosts, Invalid spec.tls[1].match",
            ),
        ],
    );
}

#[test]
fn destination_rules_are_checked() {
    let at = "spec.trafficPolicy";
    for (policy, expected) in [
        ("loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 30s, minimumPercent: 10, aggression: 1.5}}".to_owned(), String::new()),
        ("loadBalancer: {consistentHash: {httpCookie: {name: c, ttl: 0s}, maglev: {tableSize: 65537}}}".to_owned(), String::new()),
        ("connectionPool: {tcp: {maxConnections: 1, connectTimeout: 1s, tcpKeepalive: {time: 7200s}}, http: {maxRequestsPerConnection: 1, h2UpgradePolicy: UPGRADE}}".to_owned(), String::new()),
        ("outlierDetection: {consecutive5xxErrors: 5, interval: 10s, baseEjectionTime: 30s, maxEjectionPercent: 100}".to_owned(), String::new()),
        ("tls: {mode: SIMPLE, sni: a.example}".to_owned(), String::new()),
        ("portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]".to_owned(), String::new()),
        ("loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {b: 60, c: 40}}]}}".to_owned(), String::new()),
        ("loadBalancer: {simple: FASTEST}".to_owned(), format!("Invalid {at}.loadBalancer.simple")),
        ("loadBalancer: {simple: RANDOM, consistentHash: {useSourceIp: true}}".to_owned(), format!("Invalid {at}.loadBalancer")),
        ("loadBalancer: {simple: RANDOM, warmup: {duration: 1s}}".to_owned(), format!("Ignored {at}.loadBalancer.warmup")),
        ("loadBalancer: {consistentHash: {}}".to_owned(), format!("Invalid {at}.loadBalancer.consistentHash")),
        ("loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 65536}}}".to_owned(), format!("Invalid {at}.loadBalancer.consistentHash.maglev.tableSize")),
        ("loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {b: 60}}], failover: [{from: a, to: a}]}}".to_owned(),
            format!("Invalid {at}.loadBalancer.localityLbSetting, Invalid {at}.loadBalancer.localityLbSetting.distribute[0].to, Invalid {at}.loadBalancer.localityLbSetting.failover[0].to")),
        ("loadBalancer: {warmup: {duration: '', aggression: 0}}".to_owned(), format!("Invalid {at}.loadBalancer.warmup.aggression, Invalid {at}.loadBalancer.warmup.duration")),
        ("connectionPool: {tcp: {maxConnections: -1, connectTimeout: 1us}, http: {useClientProtocol: true, h2UpgradePolicy: UPGRADE}}".to_owned(),
            format!("Invalid {at}.connectionPool.http.h2UpgradePolicy, Invalid {at}.connectionPool.tcp.connectTimeout, Invalid {at}.connectionPool.tcp.maxConnections")),
        ("outlierDetection: {maxEjectionPercent: 101, consecutiveErrors: 1, consecutiveLocalOriginFailures: 1}".to_owned(),
            format!("Ignored {at}.outlierDetection.consecutiveLocalOriginFailures, Invalid {at}.outlierDetection.maxEjectionPercent, Unsupported {at}.outlierDetection.consecutiveErrors")),
        ("tls: {mode: MUTUAL}".to_owned(), format!("Invalid {at}.tls")),
        ("tls: {mode: ISTIO_MUTUAL}".to_owned(), format!("Ignored {at}.tls.mode")),
        ("tls: {mode: TLS}".to_owned(), format!("Invalid {at}.tls.mode")),
        ("portLevelSettings: [{port: {number: 80}}, {port: {number: 80}}, {}]".to_owned(), format!("Invalid {at}.portLevelSettings, Invalid {at}.portLevelSettings[2].port")),
        ("proxyProtocol: {version: V3}, retryBudget: {percent: 101}".to_owned(), format!("Invalid {at}.proxyProtocol.version, Invalid {at}.retryBudget.percent")),
        ("tunnel: {targetHost: '*', targetPort: 0}".to_owned(), format!("Invalid {at}.tunnel.targetHost, Invalid {at}.tunnel.targetPort")),
        ("zoneAware: {}".to_owned(), format!("Unsupported {at}.zoneAware")),
    ] {
        let spec = format!("host: a, trafficPolicy: {{{policy}}}");
        assert_eq!(told("DestinationRule", &spec).join(", "), expected, "{spec}");
    }
    table(
        "DestinationRule",
        &[
            ("", "Invalid spec.host"),
            ("host: 'a b'", "Invalid spec.host"),
            ("host: '*.a', subsets: [{name: v1, labels: {a: b}}]", ""),
            (
                "host: a, subsets: [{name: v1, labels: {a: b}}, {name: v1}, {name: 'v 1', labels: {a: b}}, {labels: {a: b}}]",
                "Ignored spec.subsets[1].labels, Invalid spec.subsets, Invalid spec.subsets[2].name, Invalid spec.subsets[3].name",
            ),
            (
                "host: a, workloadSelector: {}",
                "Unsupported spec.workloadSelector",
            ),
        ],
    );
}

#[test]
fn telemetries_are_checked() {
    table(
        "Telemetry",
        &[
            (
                "tracing: [{providers: [{name: otel}], randomSamplingPercentage: 10, customTags: {a: {literal: {value: b}}}}], \
                 metrics: [{overrides: [{match: {metric: REQUEST_COUNT, mode: SERVER}, tagOverrides: {x: {value: request.path}, y: {operation: REMOVE}}}]}], \
                 accessLogging: [{filter: {expression: 'response.code >= 500'}}]",
                "",
            ),
            (
                "tracing: [{randomSamplingPercentage: 101, customTags: {a: {}, b: {literal: {value: x}, header: {name: y}}}, \
                 match: {mode: CLIENT}, providers: [{name: a}, {}]}]",
                "Ignored spec.tracing[0].match.mode, Ignored spec.tracing[0].providers, Invalid spec.tracing[0].customTags[a], \
                 Invalid spec.tracing[0].customTags[b], Invalid spec.tracing[0].providers[1].name, \
                 Invalid spec.tracing[0].randomSamplingPercentage",
            ),
            (
                "metrics: [{reportingInterval: x, overrides: [{match: {metric: SOME, customMetric: own, mode: BOTH}, \
                 tagOverrides: {x: {}, y: {operation: REMOVE, value: z}}}]}]",
                "Ignored spec.metrics[0].reportingInterval, Invalid spec.metrics[0].overrides[0].match, Invalid spec.metrics[0].overrides[0].match.metric, \
                 Invalid spec.metrics[0].overrides[0].match.mode, Invalid spec.metrics[0].overrides[0].tagOverrides[x].value, \
                 Invalid spec.metrics[0].overrides[0].tagOverrides[y].value, Invalid spec.metrics[0].reportingInterval",
            ),
            (
                "accessLogging: [{filter: {}}], other: 1",
                "Invalid spec.accessLogging[0].filter.expression, Unsupported spec.other",
            ),
        ],
    );
}
