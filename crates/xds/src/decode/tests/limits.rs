//! Limits, to bytes and back.

use std::time::Duration;

use proptest::{collection::vec, option, prelude::*, sample::select};
use prost::Message;
use tulle_model::{
    PolicyKey, ServiceKey,
    http::BackendService,
    limit::{
        Counted, Descriptor, GlobalLimit, Limit, LimitPolicy, LimitUnit, LocalLimit, RequestPart,
    },
};
use tulle_proto::mesh as wire;

use super::strategies::http;
use crate::{
    Configuration, ConfigurationName,
    decode::{self, InvalidResource},
    encode,
};

fn text() -> impl Strategy<Value = String> {
    "[a-z./{}]{1,6}"
}

fn part() -> impl Strategy<Value = RequestPart> {
    prop_oneof![
        text().prop_map(RequestPart::Text),
        text().prop_map(RequestPart::Header),
        text().prop_map(RequestPart::Query),
        vec(text(), 1..3).prop_map(RequestPart::Claim),
        select(vec![
            RequestPart::Principal,
            RequestPart::RemoteAddress,
            RequestPart::Method,
            RequestPart::Path,
        ]),
    ]
}

fn local() -> impl Strategy<Value = LocalLimit> {
    (1..u32::MAX, 1..u64::MAX, 1..u32::MAX, vec(part(), 0..3)).prop_map(
        |(requests, per, burst, by)| LocalLimit {
            requests,
            per: Duration::from_millis(per),
            burst,
            by,
        },
    )
}

fn global() -> impl Strategy<Value = GlobalLimit> {
    let unit = select(vec![
        LimitUnit::Second,
        LimitUnit::Minute,
        LimitUnit::Hour,
        LimitUnit::Day,
        LimitUnit::Week,
        LimitUnit::Month,
        LimitUnit::Year,
    ]);
    let service =
        (text(), text(), 1..u16::MAX).prop_map(|(namespace, host, port)| BackendService {
            key: ServiceKey::new(namespace, host),
            port: Some(port),
            subset: None,
        });
    let descriptor = (vec((text(), part()), 0..3), option::of((1..u32::MAX, unit)))
        .prop_map(|(entries, limit)| Descriptor { entries, limit });
    (
        option::of(service),
        text(),
        1..u64::MAX,
        any::<bool>(),
        vec(descriptor, 0..3),
    )
        .prop_map(
            |(service, domain, timeout, fail_open, descriptors)| GlobalLimit {
                service,
                domain,
                timeout: Duration::from_millis(timeout),
                fail_open,
                descriptors,
            },
        )
}

fn limit() -> impl Strategy<Value = Limit> {
    let counted = prop_oneof![
        local().prop_map(Counted::Here),
        global().prop_map(Counted::There),
    ];
    (text(), http(), any::<[bool; 3]>(), counted).prop_map(
        |(name, mut about, [dry_run, tells, resource_exhausted], counted)| {
            about.tokens.clear();
            Limit {
                name: name.into(),
                about,
                dry_run,
                tells,
                resource_exhausted,
                counted,
            }
        },
    )
}

proptest! {
    #[test]
    fn limits_survive(limits in prop_oneof![
        vec(limit(), 0..3).prop_map(Ok),
        text().prop_map(Err),
    ]) {
        let key = PolicyKey::new("shop", "target_Service_web_p");
        let policy = Configuration::Limits(Box::new(LimitPolicy { key: key.clone(), limits }));
        let name = policy.name();
        prop_assert_eq!(ConfigurationName::parse(&name.to_string()), Some(name));
        prop_assert_eq!(policy.name(), ConfigurationName::Limits(key));
        prop_assert_eq!(decode::configuration(&encode::configuration(&policy)), Ok(policy));
    }
}

#[test]
fn half_a_limit_is_none() {
    let refused = |limit: wire::Limit| {
        let policy = wire::LimitPolicy {
            limits: vec![limit],
            ..wire::LimitPolicy::default()
        };
        let kind = Some(wire::configuration::Kind::Limits(policy));
        decode::configuration(&wire::Configuration { kind }.encode_to_vec()).unwrap_err()
    };
    let here = wire::LocalLimit {
        requests: 1,
        per: 1,
        burst: 1,
        by: Vec::new(),
    };
    let counted_by = |here| wire::Limit {
        counted: Some(wire::limit::Counted::Here(here)),
        ..wire::Limit::default()
    };
    let nobody = wire::Limit::default();
    assert_eq!(refused(nobody), InvalidResource::Missing("who counts"));
    for (half, what) in [
        (
            wire::LocalLimit {
                requests: 0,
                ..here.clone()
            },
            "requests of a limit",
        ),
        (
            wire::LocalLimit {
                per: 0,
                ..here.clone()
            },
            "period of a limit",
        ),
        (
            wire::LocalLimit {
                burst: 0,
                ..here.clone()
            },
            "burst of a limit",
        ),
        (
            wire::LocalLimit {
                by: vec![wire::RequestPart::default()],
                ..here.clone()
            },
            "part of a request",
        ),
    ] {
        assert_eq!(refused(counted_by(half)), InvalidResource::Missing(what));
    }
    let matched = wire::TextMatch { kind: None };
    let about = wire::HttpConditions {
        methods: vec![matched],
        ..wire::HttpConditions::default()
    };
    let unreadable = wire::Limit {
        about: Some(about),
        ..counted_by(here)
    };
    let what = "conditions of a limit";
    assert_eq!(refused(unreadable), InvalidResource::Missing(what));
}
