//! What holds for one port of a service, or of a subset.

use std::time::Duration;

use tulle_manifest::destination_rule::{
    ClientTls, ConnectionPool, ConsistentHash, DestinationRuleSpec, LoadBalancer, OutlierDetection,
    ProxyProtocol, RetryBudget, TrafficPolicy as Written, Tunnel, Warmup as WrittenWarmup,
};
use tulle_model::{
    http::ALL,
    traffic::{Balancing, HashOf, Limits, Outliers, TrafficPolicy, Warmup},
};

use crate::validate;

/// What is said in one place or another.
#[derive(Clone, Copy, Default)]
struct Said<'a> {
    balancer: Option<&'a LoadBalancer>,
    pool: Option<&'a ConnectionPool>,
    outliers: Option<&'a OutlierDetection>,
    tls: Option<&'a ClientTls>,
    tunnel: Option<&'a Tunnel>,
    proxy_protocol: Option<&'a ProxyProtocol>,
    budget: Option<&'a RetryBudget>,
}

/// What a subset says comes before what is said in general, block by block. What is said of a port comes before both, and stands for all
/// blocks but those that ports cannot have.
pub(super) fn merged(
    general: Option<&Written>,
    subset: Option<&Written>,
    port: Option<u16>,
) -> TrafficPolicy {
    let mut said = Said::default();
    for written in [general, subset].into_iter().flatten() {
        said = Said {
            balancer: written.load_balancer.as_ref().or(said.balancer),
            pool: written.connection_pool.as_ref().or(said.pool),
            outliers: written.outlier_detection.as_ref().or(said.outliers),
            tls: written.tls.as_ref().or(said.tls),
            tunnel: written.tunnel.as_ref().or(said.tunnel),
            proxy_protocol: written.proxy_protocol.as_ref().or(said.proxy_protocol),
            budget: written.retry_budget.as_ref().or(said.budget),
        };
        let mut ports = written.port_level_settings.iter();
        let own = ports.find(|of| {
            let number = of
                .port
                .as_ref()
                .and_then(|of| u16::try_from(of.number).ok());
            port.is_some() && number == port
        });
        if let Some(own) = own {
            said = Said {
                balancer: own.load_balancer.as_ref(),
                pool: own.connection_pool.as_ref(),
                outliers: own.outlier_detection.as_ref(),
                tls: own.tls.as_ref(),
                ..said
            };
        }
    }
    said.policy()
}

/// Whether a rule wants that endpoints are not asked as usual, wherever it says so.
pub(super) fn wants_more(spec: &DestinationRuleSpec) -> bool {
    let of_subsets = spec.subsets.iter();
    let of_subsets = of_subsets.filter_map(|subset| subset.traffic_policy.as_ref());
    let mut policies = of_subsets.chain(&spec.traffic_policy);
    policies.any(|policy| {
        let of_ports = policy.port_level_settings.iter();
        let mut modes = of_ports.map(|of| &of.tls).chain([&policy.tls]);
        let is_usual = |tls: &ClientTls| {
            let mode = tls.mode.as_deref();
            matches!(mode, None | Some("DISABLE" | "ISTIO_MUTUAL"))
        };
        modes.any(|tls| tls.as_ref().is_some_and(|tls| !is_usual(tls)))
            || policy.tunnel.is_some()
            || policy.proxy_protocol.is_some()
    })
}

impl Said<'_> {
    fn policy(self) -> TrafficPolicy {
        let http = self.pool.and_then(|pool| pool.http.as_ref());
        TrafficPolicy {
            balancing: self.balancer.map(balancing).unwrap_or_default(),
            warmup: self.balancer.and_then(warmup),
            limits: self.limits(),
            upgrade: http.is_some_and(|http| http.h2_upgrade_policy.as_deref() == Some("UPGRADE")),
            outliers: self.outliers.map(outliers),
            refused: self.refused(),
        }
    }

    fn limits(self) -> Limits {
        let tcp = self.pool.and_then(|pool| pool.tcp.as_ref());
        let http = self.pool.and_then(|pool| pool.http.as_ref());
        // 0 says nothing.
        let most = |number: Option<i64>| {
            let number = number.and_then(|number| u32::try_from(number).ok());
            number.filter(|number| *number > 0)
        };
        let idle = http.and_then(|http| http.idle_timeout.as_deref());
        Limits {
            connections: most(tcp.and_then(|tcp| tcp.max_connections)),
            pending: most(http.and_then(|http| http.http1_max_pending_requests)),
            requests: most(http.and_then(|http| http.http2_max_requests)),
            retries: most(http.and_then(|http| http.max_retries)),
            retry_share: self.budget.map(|budget| share(budget.percent, 20.0)),
            least_retries: self.budget.map_or(0, |budget| {
                let least = budget.min_retry_concurrency.unwrap_or(3);
                u32::try_from(least).unwrap_or_default()
            }),
            per_connection: most(http.and_then(|http| http.max_requests_per_connection)),
            connect_timeout: tcp.and_then(|tcp| duration(tcp.connect_timeout.as_deref())),
            idle_timeout: duration(idle),
        }
    }

    /// Why nothing may be sent: whoever wants TLS, or to be told of the client, must not get requests without.
    fn refused(self) -> Option<String> {
        let mode = self.tls.and_then(|tls| tls.mode.as_deref());
        let why = match mode {
            Some(mode @ ("SIMPLE" | "MUTUAL")) => {
                format!("TLS to endpoints, {mode}, is not done yet")
            }
            _ if self.tunnel.is_some() => "tunnels to other hosts are not done yet".to_owned(),
            _ if self.proxy_protocol.is_some() => "proxyProtocol is not done yet".to_owned(),
            _ => return None,
        };
        Some(why)
    }
}

fn balancing(written: &LoadBalancer) -> Balancing {
    if let Some(of) = written.consistent_hash.as_ref().and_then(hash) {
        return Balancing::Hash(of);
    }
    match written.simple.as_deref() {
        Some("RANDOM") => Balancing::Random,
        Some("ROUND_ROBIN") => Balancing::RoundRobin,
        _ => Balancing::LeastRequest,
    }
}

fn hash(written: &ConsistentHash) -> Option<HashOf> {
    if let Some(name) = &written.http_header_name {
        return Some(HashOf::Header(name.to_ascii_lowercase()));
    }
    if let Some(cookie) = &written.http_cookie {
        let attributes = cookie.attributes.iter();
        return Some(HashOf::Cookie {
            name: cookie.name.clone(),
            ttl: cookie.ttl.as_deref().and_then(validate::istio_duration),
            path: cookie.path.clone(),
            attributes: attributes
                .map(|attribute| (attribute.name.clone(), attribute.value.clone()))
                .collect(),
        });
    }
    if written.use_source_ip == Some(true) {
        return Some(HashOf::SourceIp);
    }
    let query = written.http_query_parameter_name.clone();
    query.map(HashOf::Query)
}

fn warmup(written: &LoadBalancer) -> Option<Warmup> {
    let takes_weights = written.consistent_hash.is_none()
        && !matches!(written.simple.as_deref(), Some("RANDOM" | "PASSTHROUGH"));
    if !takes_weights {
        return None;
    }
    let older = written
        .warmup_duration_secs
        .as_deref()
        .map(|duration| WrittenWarmup {
            duration: duration.to_owned(),
            ..WrittenWarmup::default()
        });
    let written = written.warmup.as_ref().or(older.as_ref())?;
    Some(Warmup {
        duration: duration(Some(&written.duration))?,
        least: share(written.minimum_percent, 10.0),
        aggression: thousandths(written.aggression.unwrap_or(1.0)),
    })
}

fn outliers(written: &OutlierDetection) -> Outliers {
    // 0 turns it off.
    let after = |number: Option<i64>, usual: i64| {
        let number = u32::try_from(number.unwrap_or(usual)).unwrap_or(u32::MAX);
        (number > 0).then_some(number)
    };
    let percent = |number: Option<i64>, usual: u8| {
        number.map_or(usual, |number| {
            u8::try_from(number.clamp(0, 100)).unwrap_or(usual)
        })
    };
    let split = written.split_external_local_origin_errors == Some(true);
    Outliers {
        server_errors: after(written.consecutive5xx_errors, 5),
        gateway_errors: after(written.consecutive_gateway_errors, 0),
        local_failures: after(written.consecutive_local_origin_failures, 5).filter(|_| split),
        split,
        interval: duration(written.interval.as_deref()).unwrap_or(Duration::from_secs(10)),
        base: duration(written.base_ejection_time.as_deref()).unwrap_or(Duration::from_secs(30)),
        most_ejected: percent(written.max_ejection_percent, 10),
        least_healthy: percent(written.min_health_percent, 0),
    }
}

fn duration(written: Option<&str>) -> Option<Duration> {
    validate::istio_duration(written?).filter(|duration| !duration.is_zero())
}

/// Of a million.
fn share(percent: Option<f64>, usual: f64) -> u32 {
    let part = percent.unwrap_or(usual).clamp(0.0, 100.0) / 100.0;
    rounded(part * f64::from(ALL))
}

fn thousandths(number: f64) -> u32 {
    rounded(number.clamp(1.0, 1e6) * 1000.0)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "neither negative nor more than a thousand million"
)]
fn rounded(number: f64) -> u32 {
    number.round() as u32
}
