//! How many requests may pass.

use tulle_model::{
    HttpMatch,
    limit::{
        Counted, Descriptor, GlobalLimit, Limit, LimitPolicy, LimitUnit, LocalLimit, RequestPart,
    },
};
use tulle_proto::mesh as wire;

use super::{authorization::conditions_on_requests, configuration::milliseconds};

pub(super) fn policy(value: &LimitPolicy) -> wire::LimitPolicy {
    let limits = value.limits.as_ref();
    wire::LimitPolicy {
        namespace: value.key.namespace.as_ref().to_owned(),
        name: value.key.name.as_ref().to_owned(),
        limits: limits.map_or_else(|_| Vec::new(), |limits| limits.iter().map(limit).collect()),
        refused: limits.err().cloned().unwrap_or_default(),
    }
}

fn limit(value: &Limit) -> wire::Limit {
    let is_about_all = value.about == HttpMatch::default();
    wire::Limit {
        name: value.name.as_ref().to_owned(),
        about: (!is_about_all).then(|| conditions_on_requests(&value.about)),
        dry_run: value.dry_run,
        tells: value.tells,
        resource_exhausted: value.resource_exhausted,
        counted: Some(match &value.counted {
            Counted::Here(value) => wire::limit::Counted::Here(local(value)),
            Counted::There(value) => wire::limit::Counted::There(global(value)),
        }),
    }
}

fn local(value: &LocalLimit) -> wire::LocalLimit {
    wire::LocalLimit {
        requests: value.requests,
        per: milliseconds(Some(value.per)),
        burst: value.burst,
        by: value.by.iter().map(part).collect(),
    }
}

fn global(value: &GlobalLimit) -> wire::GlobalLimit {
    let service = value.service.as_ref();
    let key = service.map(|service| &service.key);
    wire::GlobalLimit {
        namespace: key.map_or_else(String::new, |key| key.namespace.as_ref().to_owned()),
        hostname: key.map_or_else(String::new, |key| key.hostname.as_ref().to_owned()),
        port: service
            .and_then(|service| service.port)
            .map_or(0, u32::from),
        domain: value.domain.clone(),
        timeout: milliseconds(Some(value.timeout)),
        fail_open: value.fail_open,
        descriptors: value.descriptors.iter().map(descriptor).collect(),
    }
}

fn descriptor(value: &Descriptor) -> wire::Descriptor {
    let entries = value
        .entries
        .iter()
        .map(|(key, value)| wire::DescriptorEntry {
            key: key.clone(),
            value: Some(part(value)),
        });
    let unit = value.limit.map(|(_, of)| unit(of));
    wire::Descriptor {
        entries: entries.collect(),
        requests: value.limit.map_or(0, |(requests, _)| requests),
        unit: unit.unwrap_or_default().into(),
    }
}

fn unit(value: LimitUnit) -> wire::LimitUnit {
    match value {
        LimitUnit::Second => wire::LimitUnit::Second,
        LimitUnit::Minute => wire::LimitUnit::Minute,
        LimitUnit::Hour => wire::LimitUnit::Hour,
        LimitUnit::Day => wire::LimitUnit::Day,
        LimitUnit::Week => wire::LimitUnit::Week,
        LimitUnit::Month => wire::LimitUnit::Month,
        LimitUnit::Year => wire::LimitUnit::Year,
    }
}

fn part(value: &RequestPart) -> wire::RequestPart {
    use wire::request_part::Kind;
    let kind = match value {
        RequestPart::Text(text) => Kind::Text(text.clone()),
        RequestPart::Header(name) => Kind::Header(name.clone()),
        RequestPart::Query(name) => Kind::Query(name.clone()),
        RequestPart::Claim(names) => Kind::Claim(wire::ClaimPath {
            names: names.clone(),
        }),
        RequestPart::Principal => Kind::Principal(wire::Present {}),
        RequestPart::RemoteAddress => Kind::RemoteAddress(wire::Present {}),
        RequestPart::Method => Kind::Method(wire::Present {}),
        RequestPart::Path => Kind::Path(wire::Present {}),
    };
    wire::RequestPart { kind: Some(kind) }
}
