//! How many requests may pass. What cannot be understood is refused as a whole: a limit that is left out limits nothing.

use tulle_model::{
    HttpMatch, PolicyKey, ServiceKey,
    http::BackendService,
    limit::{
        Counted, Descriptor, GlobalLimit, Limit, LimitPolicy, LimitUnit, LocalLimit, RequestPart,
    },
};
use tulle_proto::mesh as wire;

use super::{
    InvalidResource,
    authorization::conditions_on_requests,
    configuration::{Decoded, all, milliseconds, port, text},
};

pub(super) fn policy(value: wire::LimitPolicy) -> Decoded<LimitPolicy> {
    Ok(LimitPolicy {
        key: PolicyKey::new(value.namespace, value.name),
        limits: match text(value.refused) {
            Some(why) => Err(why),
            None => Ok(all(value.limits, limit)?),
        },
    })
}

fn limit(value: wire::Limit) -> Decoded<Limit> {
    let unreadable = InvalidResource::Missing("conditions of a limit");
    let counted = value.counted;
    Ok(Limit {
        name: value.name.into(),
        about: match value.about {
            Some(about) => conditions_on_requests(about).ok_or(unreadable)?,
            None => HttpMatch::default(),
        },
        dry_run: value.dry_run,
        tells: value.tells,
        resource_exhausted: value.resource_exhausted,
        counted: match counted.ok_or(InvalidResource::Missing("who counts"))? {
            wire::limit::Counted::Here(value) => Counted::Here(local(value)?),
            wire::limit::Counted::There(value) => Counted::There(global(value)?),
        },
    })
}

fn local(value: wire::LocalLimit) -> Decoded<LocalLimit> {
    let positive = |value: u32, what| match value {
        0 => Err(InvalidResource::Missing(what)),
        value => Ok(value),
    };
    Ok(LocalLimit {
        requests: positive(value.requests, "requests of a limit")?,
        per: milliseconds(value.per).ok_or(InvalidResource::Missing("period of a limit"))?,
        burst: positive(value.burst, "burst of a limit")?,
        by: all(value.by, part)?,
    })
}

fn global(value: wire::GlobalLimit) -> Decoded<GlobalLimit> {
    let service = match value.hostname.is_empty() {
        true => None,
        false => Some(BackendService {
            key: ServiceKey::new(value.namespace, value.hostname),
            port: Some(port("port of a limit's service", value.port)?),
            subset: None,
        }),
    };
    Ok(GlobalLimit {
        service,
        domain: value.domain,
        timeout: milliseconds(value.timeout).ok_or(InvalidResource::Missing("timeout"))?,
        fail_open: value.fail_open,
        descriptors: all(value.descriptors, descriptor)?,
    })
}

fn descriptor(value: wire::Descriptor) -> Decoded<Descriptor> {
    let entry = |entry: wire::DescriptorEntry| {
        let missing = InvalidResource::Missing("value of an entry");
        Ok((entry.key, part(entry.value.ok_or(missing)?)?))
    };
    Ok(Descriptor {
        limit: match value.requests {
            0 => None,
            requests => Some((requests, unit(value.unit)?)),
        },
        entries: all(value.entries, entry)?,
    })
}

fn unit(value: i32) -> Decoded<LimitUnit> {
    Ok(match wire::LimitUnit::try_from(value) {
        Ok(wire::LimitUnit::Second) => LimitUnit::Second,
        Ok(wire::LimitUnit::Minute) => LimitUnit::Minute,
        Ok(wire::LimitUnit::Hour) => LimitUnit::Hour,
        Ok(wire::LimitUnit::Day) => LimitUnit::Day,
        Ok(wire::LimitUnit::Week) => LimitUnit::Week,
        Ok(wire::LimitUnit::Month) => LimitUnit::Month,
        Ok(wire::LimitUnit::Year) => LimitUnit::Year,
        Ok(wire::LimitUnit::Unspecified) | Err(_) => {
            return Err(InvalidResource::Enum {
                field: "unit of a limit",
                value,
            });
        }
    })
}

fn part(value: wire::RequestPart) -> Decoded<RequestPart> {
    use wire::request_part::Kind;
    let missing = InvalidResource::Missing("part of a request");
    Ok(match value.kind.ok_or(missing)? {
        Kind::Text(text) => RequestPart::Text(text),
        Kind::Header(name) => RequestPart::Header(name),
        Kind::Query(name) => RequestPart::Query(name),
        Kind::Claim(path) => RequestPart::Claim(path.names),
        Kind::Principal(wire::Present {}) => RequestPart::Principal,
        Kind::RemoteAddress(wire::Present {}) => RequestPart::RemoteAddress,
        Kind::Method(wire::Present {}) => RequestPart::Method,
        Kind::Path(wire::Present {}) => RequestPart::Path,
    })
}
