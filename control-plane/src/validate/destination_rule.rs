//! DestinationRule.

use std::time::Duration;

use tulle_manifest::destination_rule::{
    ClientTls, ConnectionPool, ConsistentHash, DestinationRuleSpec, LoadBalancer,
    LocalityLoadBalancer, OutlierDetection, PortTrafficPolicy, Subset, TrafficPolicy, Tunnel,
    Warmup,
};

use super::{Check, pool};

/// What a DestinationRule says.
pub(super) fn destination_rule(check: &mut Check, spec: &DestinationRuleSpec) {
    if check.required("host", &spec.host) {
        check.host("host", &spec.host, true);
    }
    if spec.workload_selector.is_some() {
        check.unsupported("workloadSelector", "waypoints act for all clients alike");
    }
    check.some("trafficPolicy", &spec.traffic_policy, policy);
    check.distinct(
        "subsets",
        spec.subsets.iter().map(|subset| subset.name.as_str()),
    );
    check.each("subsets", &spec.subsets, subset);
}

fn subset(check: &mut Check, subset: &Subset) {
    if check.required("name", &subset.name) {
        let is_label = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if subset.name.len() > 63 || !subset.name.chars().all(is_label) {
            check.invalid(
                "name",
                "is no name of at most 63 letters, digits, dots and dashes",
            );
        }
    }
    if subset.labels.is_empty() {
        check.ignored("labels", "are missing: the subset is all endpoints");
    }
    check.some("trafficPolicy", &subset.traffic_policy, policy);
}

fn policy(check: &mut Check, policy: &TrafficPolicy) {
    shared(
        check,
        &policy.load_balancer,
        &policy.connection_pool,
        &policy.outlier_detection,
        &policy.tls,
    );
    check.at_most("portLevelSettings", &policy.port_level_settings, 4096);
    let ports = policy.port_level_settings.iter();
    let ports = ports.filter_map(|of| Some(of.port.as_ref()?.number.to_string()));
    let ports: Vec<String> = ports.collect();
    check.distinct("portLevelSettings", ports.iter().map(String::as_str));
    check.each("portLevelSettings", &policy.port_level_settings, of_port);
    check.some("tunnel", &policy.tunnel, tunnel);
    check.some(
        "proxyProtocol",
        &policy.proxy_protocol,
        |check, protocol| {
            check.word("version", protocol.version.as_deref(), &["V1", "V2"]);
        },
    );
    check.some("retryBudget", &policy.retry_budget, |check, budget| {
        check.share("percent", budget.percent);
        check.within("minRetryConcurrency", budget.min_retry_concurrency, 0, U32);
    });
}

fn of_port(check: &mut Check, policy: &PortTrafficPolicy) {
    match &policy.port {
        Some(port) => check.port("port.number", Some(port.number)),
        None => check.invalid("port", "is missing"),
    }
    shared(
        check,
        &policy.load_balancer,
        &policy.connection_pool,
        &policy.outlier_detection,
        &policy.tls,
    );
}

/// What holds for all ports, or for one.
fn shared(
    check: &mut Check,
    balancer: &Option<LoadBalancer>,
    pool: &Option<ConnectionPool>,
    outlier: &Option<OutlierDetection>,
    client: &Option<ClientTls>,
) {
    check.some("loadBalancer", balancer, load_balancer);
    check.some("connectionPool", pool, pool::connection_pool);
    check.some("outlierDetection", outlier, pool::outlier_detection);
    check.some("tls", client, tls);
}

fn load_balancer(check: &mut Check, balancer: &LoadBalancer) {
    check.alternatives(&[
        ("simple", balancer.simple.is_some()),
        ("consistentHash", balancer.consistent_hash.is_some()),
    ]);
    check.word("simple", balancer.simple.as_deref(), &SIMPLE);
    check.some("consistentHash", &balancer.consistent_hash, hash);
    check.some("localityLbSetting", &balancer.locality_lb_setting, locality);
    check.alternatives(&[
        ("warmup", balancer.warmup.is_some()),
        (
            "warmupDurationSecs",
            balancer.warmup_duration_secs.is_some(),
        ),
    ]);
    check.istio_duration("warmupDurationSecs", &balancer.warmup_duration_secs, LEAST);
    check.some("warmup", &balancer.warmup, warmup);
    let warms = balancer.warmup.is_some() || balancer.warmup_duration_secs.is_some();
    let takes_weights = balancer.consistent_hash.is_none()
        && !matches!(balancer.simple.as_deref(), Some("RANDOM" | "PASSTHROUGH"));
    if warms && !takes_weights {
        check.ignored(
            "warmup",
            "no effect: only LEAST_REQUEST and ROUND_ROBIN give new endpoints less",
        );
    }
}

fn hash(check: &mut Check, hash: &ConsistentHash) {
    check.one_of(&[
        ("httpHeaderName", hash.http_header_name.is_some()),
        ("httpCookie", hash.http_cookie.is_some()),
        ("useSourceIp", hash.use_source_ip == Some(true)),
        (
            "httpQueryParameterName",
            hash.http_query_parameter_name.is_some(),
        ),
    ]);
    check.some("httpHeaderName", &hash.http_header_name, |check, name| {
        check.header_name("", name);
    });
    check.some(
        "httpQueryParameterName",
        &hash.http_query_parameter_name,
        |check, name| {
            check.required("", name);
        },
    );
    check.some("httpCookie", &hash.http_cookie, |check, cookie| {
        check.header_name("name", &cookie.name);
        check.istio_duration("ttl", &cookie.ttl, Duration::ZERO);
        check.each("attributes", &cookie.attributes, |check, attribute| {
            check.required("name", &attribute.name);
        });
    });
    check.alternatives(&[
        ("ringHash", hash.ring_hash.is_some()),
        ("maglev", hash.maglev.is_some()),
    ]);
    check.within("minimumRingSize", hash.minimum_ring_size, 0, LARGEST_RING);
    check.some("ringHash", &hash.ring_hash, |check, ring| {
        check.within("minimumRingSize", ring.minimum_ring_size, 0, LARGEST_RING);
    });
    check.some("maglev", &hash.maglev, |check, maglev| {
        let size = maglev.table_size;
        check.within("tableSize", size, 1, LARGEST_TABLE);
        if size.is_some_and(|size| (2..=LARGEST_TABLE).contains(&size) && !is_prime(size)) {
            check.invalid("tableSize", "is no prime");
        }
    });
}

fn is_prime(number: i64) -> bool {
    let factors = (2..).take_while(|factor| factor * factor <= number);
    number > 1 && factors.into_iter().all(|factor| number % factor != 0)
}

fn locality(check: &mut Check, locality: &LocalityLoadBalancer) {
    check.alternatives(&[
        ("distribute", !locality.distribute.is_empty()),
        ("failover", !locality.failover.is_empty()),
    ]);
    check.each("distribute", &locality.distribute, |check, distribute| {
        check.required("from", &distribute.from);
        let sum: i64 = distribute
            .to
            .values()
            .fold(0, |sum, share| sum.saturating_add(*share));
        if distribute
            .to
            .values()
            .any(|share| !(0..=100).contains(share))
            || sum != 100
        {
            check.invalid("to", "shares are 0 to 100, and 100 together");
        }
    });
    check.each("failover", &locality.failover, |check, failover| {
        check.required("from", &failover.from);
        check.required("to", &failover.to);
        if failover.from == failover.to {
            check.invalid("to", "is where it comes from");
        }
    });
    check.each(
        "failoverPriority",
        &locality.failover_priority,
        |check, label| {
            check.required("", label);
        },
    );
}

fn warmup(check: &mut Check, warmup: &Warmup) {
    check.istio_duration("duration", &Some(warmup.duration.clone()), LEAST);
    check.share("minimumPercent", warmup.minimum_percent);
    if warmup
        .aggression
        .is_some_and(|aggression| !(1.0..=1e6).contains(&aggression))
    {
        check.invalid("aggression", "is less than 1, or too large");
    }
}

fn tls(check: &mut Check, tls: &ClientTls) {
    let mode = tls.mode.as_deref().unwrap_or("DISABLE");
    check.word(
        "mode",
        Some(mode),
        &["DISABLE", "SIMPLE", "MUTUAL", "ISTIO_MUTUAL"],
    );
    let has_files = tls.client_certificate.is_some() || tls.private_key.is_some();
    match mode {
        "ISTIO_MUTUAL" => {
            check.ignored(
                "mode",
                "no effect: what stays in the mesh has mutual TLS in any case",
            );
            if has_files || tls.credential_name.is_some() {
                check.invalid("mode", "ISTIO_MUTUAL takes no certificates of others");
            }
        }
        "MUTUAL" => {
            if tls.credential_name.is_none()
                && (tls.client_certificate.is_none() || tls.private_key.is_none())
            {
                check.invalid(
                    "",
                    "MUTUAL needs clientCertificate and privateKey, or credentialName",
                );
            }
            if tls.credential_name.is_some() && has_files {
                check.invalid(
                    "credentialName",
                    "stands beside clientCertificate or privateKey",
                );
            }
        }
        _ if has_files => check.ignored("clientCertificate", "no effect: only MUTUAL shows one"),
        _ => {}
    }
    check.some("sni", &tls.sni, |check, sni| check.host("", sni, false));
    if tls.insecure_skip_verify == Some(true) {
        check.ignored("insecureSkipVerify", "nobody proves who they are");
    }
}

fn tunnel(check: &mut Check, tunnel: &Tunnel) {
    check.word("protocol", tunnel.protocol.as_deref(), &["CONNECT", "POST"]);
    if check.required("targetHost", &tunnel.target_host) && tunnel.target_host.contains('*') {
        check.invalid("targetHost", "is no single host");
    }
    check.port("targetPort", Some(tunnel.target_port));
}

const SIMPLE: [&str; 6] = [
    "UNSPECIFIED",
    "LEAST_REQUEST",
    "LEAST_CONN",
    "RANDOM",
    "PASSTHROUGH",
    "ROUND_ROBIN",
];
const LEAST: Duration = Duration::from_millis(1);
const LARGEST_RING: i64 = 8 << 20;
const LARGEST_TABLE: i64 = 5_000_011;
const U32: i64 = u32::MAX as i64;
