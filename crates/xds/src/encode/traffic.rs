//! How traffic is led.

use tulle_model::traffic::{
    Balancing, HashOf, Limits, Membership, Outliers, PolicyByPort, TrafficPolicy, TrafficRule,
};
use tulle_proto::mesh as wire;

use super::configuration::{milliseconds, persistence};

pub(super) fn rule(value: &TrafficRule) -> wire::TrafficRule {
    let subsets = value.subsets.iter().map(|subset| wire::Subset {
        name: subset.name.clone(),
        policy: Some(by_port(&subset.policy)),
    });
    wire::TrafficRule {
        namespace: value.service.namespace.as_ref().to_owned(),
        hostname: value.service.hostname.as_ref().to_owned(),
        general: Some(by_port(&value.general)),
        subsets: subsets.collect(),
        persistence: value.persistence.as_ref().map(persistence),
    }
}

pub(super) fn membership(value: &Membership) -> wire::Membership {
    let subsets = value
        .subsets
        .iter()
        .map(|(service, name)| wire::SubsetName {
            namespace: service.namespace.as_ref().to_owned(),
            hostname: service.hostname.as_ref().to_owned(),
            name: name.clone(),
        });
    wire::Membership {
        uid: value.workload.to_string(),
        subsets: subsets.collect(),
    }
}

fn by_port(value: &PolicyByPort) -> wire::PolicyByPort {
    let ports = value.ports.iter().map(|(port, of)| wire::PortPolicy {
        port: u32::from(*port),
        policy: Some(policy(of)),
    });
    wire::PolicyByPort {
        any: Some(policy(&value.any)),
        ports: ports.collect(),
    }
}

fn policy(value: &TrafficPolicy) -> wire::TrafficPolicy {
    let plain = |value: wire::Plain| wire::traffic_policy::Balancing::Plain(value.into());
    let balancing = match &value.balancing {
        Balancing::LeastRequest => plain(wire::Plain::LeastRequest),
        Balancing::Random => plain(wire::Plain::Random),
        Balancing::RoundRobin => plain(wire::Plain::RoundRobin),
        Balancing::Hash(of) => wire::traffic_policy::Balancing::Hash(hash(of)),
    };
    wire::TrafficPolicy {
        balancing: Some(balancing),
        warmup: value.warmup.map(|warmup| wire::Warmup {
            duration: milliseconds(Some(warmup.duration)),
            least: warmup.least,
            aggression: warmup.aggression,
        }),
        limits: Some(limits(&value.limits)),
        upgrade: value.upgrade,
        outliers: value.outliers.as_ref().map(outliers),
        refused: value.refused.clone().unwrap_or_default(),
    }
}

fn hash(value: &HashOf) -> wire::HashOf {
    use wire::hash_of::Kind;
    let kind = match value {
        HashOf::Header(name) => Kind::Header(name.clone()),
        HashOf::Cookie {
            name,
            ttl,
            path,
            attributes,
        } => Kind::Cookie(wire::Cookie {
            name: name.clone(),
            ttl: ttl.map(|ttl| milliseconds(Some(ttl))),
            path: path.clone().unwrap_or_default(),
            attributes: attributes
                .iter()
                .map(|(name, value)| wire::CookieAttribute {
                    name: name.clone(),
                    value: value.clone(),
                })
                .collect(),
        }),
        HashOf::SourceIp => Kind::SourceIp(wire::Present {}),
        HashOf::Query(name) => Kind::Query(name.clone()),
    };
    wire::HashOf { kind: Some(kind) }
}

fn limits(value: &Limits) -> wire::Limits {
    wire::Limits {
        connections: value.connections,
        pending: value.pending,
        requests: value.requests,
        retries: value.retries,
        retry_share: value.retry_share,
        least_retries: value.least_retries,
        per_connection: value.per_connection,
        connect_timeout: milliseconds(value.connect_timeout),
        idle_timeout: milliseconds(value.idle_timeout),
    }
}

fn outliers(value: &Outliers) -> wire::Outliers {
    wire::Outliers {
        server_errors: value.server_errors,
        gateway_errors: value.gateway_errors,
        local_failures: value.local_failures,
        split: value.split,
        interval: milliseconds(Some(value.interval)),
        base: milliseconds(Some(value.base)),
        most_ejected: u32::from(value.most_ejected),
        least_healthy: u32::from(value.least_healthy),
    }
}
