//! How traffic is led. What cannot be understood is refused as a whole: endpoints would get what they must not.

use std::time::Duration;

use tulle_model::{
    ServiceKey, Uid,
    traffic::{
        Balancing, HashOf, Limits, Membership, Outliers, PolicyByPort, Subset, TrafficPolicy,
        TrafficRule, Warmup,
    },
};
use tulle_proto::mesh as wire;

use super::{
    InvalidResource,
    configuration::{Decoded, all, milliseconds, persistence, port, text},
};

pub(super) fn rule(value: wire::TrafficRule) -> Decoded<TrafficRule> {
    Ok(TrafficRule {
        service: ServiceKey::new(value.namespace, value.hostname),
        general: by_port(value.general)?,
        subsets: all(value.subsets, |subset| {
            Ok(Subset {
                name: subset.name,
                policy: by_port(subset.policy)?,
            })
        })?,
        persistence: value.persistence.map(persistence).transpose()?,
    })
}

pub(super) fn membership(value: wire::Membership) -> Decoded<Membership> {
    let uid = text(value.uid).ok_or(InvalidResource::Missing("uid"))?;
    let subsets = value.subsets.into_iter();
    let subsets = subsets.map(|of| (ServiceKey::new(of.namespace, of.hostname), of.name));
    Ok(Membership {
        workload: Uid::new(uid),
        subsets: subsets.collect(),
    })
}

fn by_port(value: Option<wire::PolicyByPort>) -> Decoded<PolicyByPort> {
    let value = value.unwrap_or_default();
    Ok(PolicyByPort {
        any: policy(value.any)?,
        ports: all(value.ports, |of| {
            Ok((port("ports", of.port)?, policy(of.policy)?))
        })?,
    })
}

fn policy(value: Option<wire::TrafficPolicy>) -> Decoded<TrafficPolicy> {
    let value = value.ok_or(InvalidResource::Missing("policy"))?;
    let balancing = value
        .balancing
        .ok_or(InvalidResource::Missing("balancing"))?;
    Ok(TrafficPolicy {
        balancing: match balancing {
            wire::traffic_policy::Balancing::Plain(value) => plain(value)?,
            wire::traffic_policy::Balancing::Hash(value) => Balancing::Hash(hash(value)?),
        },
        warmup: value.warmup.map(|warmup| Warmup {
            duration: Duration::from_millis(warmup.duration),
            least: warmup.least,
            aggression: warmup.aggression,
        }),
        limits: limits(value.limits.unwrap_or_default()),
        upgrade: value.upgrade,
        outliers: value.outliers.map(outliers).transpose()?,
        refused: text(value.refused),
    })
}

fn plain(value: i32) -> Decoded<Balancing> {
    let unknown = || InvalidResource::Enum {
        field: "balancing",
        value,
    };
    Ok(match wire::Plain::try_from(value).map_err(|_| unknown())? {
        wire::Plain::Unspecified => return Err(unknown()),
        wire::Plain::LeastRequest => Balancing::LeastRequest,
        wire::Plain::Random => Balancing::Random,
        wire::Plain::RoundRobin => Balancing::RoundRobin,
    })
}

fn hash(value: wire::HashOf) -> Decoded<HashOf> {
    use wire::hash_of::Kind;
    Ok(match value.kind.ok_or(InvalidResource::Missing("hash"))? {
        Kind::Header(name) => HashOf::Header(name),
        Kind::Cookie(cookie) => HashOf::Cookie {
            name: cookie.name,
            ttl: cookie.ttl.map(Duration::from_millis),
            path: text(cookie.path),
            attributes: cookie
                .attributes
                .into_iter()
                .map(|attribute| (attribute.name, attribute.value))
                .collect(),
        },
        Kind::SourceIp(wire::Present {}) => HashOf::SourceIp,
        Kind::Query(name) => HashOf::Query(name),
    })
}

fn limits(value: wire::Limits) -> Limits {
    Limits {
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

fn outliers(value: wire::Outliers) -> Decoded<Outliers> {
    let percent = |field, value: u32| {
        let percent = u8::try_from(value).ok().filter(|percent| *percent <= 100);
        percent.ok_or(InvalidResource::Percent { field, value })
    };
    Ok(Outliers {
        server_errors: value.server_errors,
        gateway_errors: value.gateway_errors,
        local_failures: value.local_failures,
        split: value.split,
        interval: Duration::from_millis(value.interval),
        base: Duration::from_millis(value.base),
        most_ejected: percent("most_ejected", value.most_ejected)?,
        least_healthy: percent("least_healthy", value.least_healthy)?,
    })
}
