//! How traffic is led, to bytes and back.

use std::time::Duration;

use proptest::prelude::*;
use prost::Message;
use tulle_model::{
    ServiceKey, Uid,
    http::{Persistence, PersistsBy},
    traffic::{
        Balancing, HashOf, Limits, Membership, Outliers, PolicyByPort, Subset, TrafficPolicy,
        TrafficRule, Warmup,
    },
};
use tulle_proto::mesh as wire;

use crate::{
    Configuration, ConfigurationName,
    decode::{self, InvalidResource},
    encode,
};

fn everything() -> Configuration {
    let full = TrafficPolicy {
        balancing: Balancing::Hash(HashOf::Cookie {
            name: "user".to_owned(),
            ttl: Some(Duration::ZERO),
            path: Some("/".to_owned()),
            attributes: vec![
                ("Secure".to_owned(), None),
                ("SameSite".to_owned(), Some("Lax".to_owned())),
            ],
        }),
        warmup: Some(Warmup {
            duration: Duration::from_secs(30),
            least: 100_000,
            aggression: 1000,
        }),
        limits: Limits {
            connections: Some(1),
            pending: Some(0),
            requests: Some(3),
            retries: Some(4),
            retry_share: Some(200_000),
            least_retries: 3,
            per_connection: Some(6),
            connect_timeout: Some(Duration::from_millis(7)),
            idle_timeout: Some(Duration::from_millis(8)),
        },
        upgrade: true,
        outliers: Some(Outliers {
            server_errors: Some(5),
            gateway_errors: None,
            local_failures: Some(2),
            split: true,
            interval: Duration::from_secs(10),
            base: Duration::from_secs(30),
            most_ejected: 10,
            least_healthy: 50,
        }),
        refused: Some("TLS".to_owned()),
    };
    let by = |balancing| TrafficPolicy {
        balancing,
        ..TrafficPolicy::default()
    };
    let header = HashOf::Header("x-user".to_owned());
    let ports = vec![
        (1, by(Balancing::Random)),
        (2, by(Balancing::RoundRobin)),
        (3, by(Balancing::Hash(header))),
        (4, by(Balancing::Hash(HashOf::SourceIp))),
        (5, by(Balancing::Hash(HashOf::Query("user".to_owned())))),
    ];
    Configuration::Traffic(Box::new(TrafficRule {
        service: ServiceKey::new("shop", "web.shop.svc.cluster.local"),
        general: PolicyByPort { any: full, ports },
        subsets: vec![Subset {
            name: "v1".to_owned(),
            policy: PolicyByPort::default(),
        }],
        persistence: Some(Persistence {
            by: PersistsBy::Header("x-session".to_owned()),
            lasts: None,
            idle: Some(Duration::from_secs(60)),
        }),
    }))
}

fn membership() -> Configuration {
    let web = ServiceKey::new("shop", "web.shop.svc.cluster.local");
    Configuration::Membership(Box::new(Membership {
        workload: Uid::new("cluster//Pod/shop/web-1"),
        subsets: vec![(web, "v1".to_owned())],
    }))
}

#[test]
fn traffic_round_trips_with_its_name() {
    for (configuration, name) in [
        (everything(), "traffic/shop/web.shop.svc.cluster.local"),
        (membership(), "subsets/cluster//Pod/shop/web-1"),
    ] {
        let bytes = encode::configuration(&configuration);
        assert_eq!(decode::configuration(&bytes).unwrap(), configuration);
        assert_eq!(configuration.name().to_string(), name);
        assert_eq!(
            ConfigurationName::parse(name),
            Some(configuration.name()),
            "{name}"
        );
    }
    for name in ["", "routes", "traffic/web", "other/shop/web"] {
        assert_eq!(ConfigurationName::parse(name), None, "{name}");
    }
}

#[test]
fn traffic_that_is_not_fully_understood_is_rejected() {
    let refused = |edit: &dyn Fn(&mut wire::TrafficPolicy)| {
        let bytes = encode::configuration(&everything());
        let mut message = wire::Configuration::decode(&*bytes).unwrap();
        let Some(wire::configuration::Kind::Traffic(rule)) = &mut message.kind else {
            panic!("{message:?}");
        };
        let general = rule.general.as_mut().unwrap();
        edit(general.any.as_mut().unwrap());
        decode::configuration(&message.encode_to_vec()).unwrap_err()
    };
    assert_eq!(
        refused(&|policy| policy.balancing = None),
        InvalidResource::Missing("balancing")
    );
    let plain = |number| wire::traffic_policy::Balancing::Plain(number);
    assert_eq!(
        refused(&|policy| policy.balancing = Some(plain(99))),
        InvalidResource::Enum {
            field: "balancing",
            value: 99
        }
    );
    assert_eq!(
        refused(&|policy| policy.outliers.as_mut().unwrap().most_ejected = 101),
        InvalidResource::Percent {
            field: "most_ejected",
            value: 101
        }
    );
}

proptest! {
    #[test]
    fn damaged_traffic_never_panics(at in any::<prop::sample::Index>(), value in any::<u8>(), cut in any::<prop::sample::Index>()) {
        let mut bytes = encode::configuration(&everything());
        let at = at.index(bytes.len());
        bytes[at] = value;
        let whole = bytes.len();
        bytes.truncate(cut.index(whole + 1));
        let _ = decode::configuration(&bytes);
    }
}
