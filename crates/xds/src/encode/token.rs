//! Which tokens are valid.

use tulle_model::token::{KeyAddress, KeyFetch, TokenKeys, TokenPlace, TokenPolicy, TokenRule};
use tulle_proto::mesh as wire;

use super::configuration::milliseconds;

pub(super) fn policy(value: &TokenPolicy) -> wire::TokenPolicy {
    wire::TokenPolicy {
        namespace: value.key.namespace.as_ref().to_owned(),
        name: value.key.name.as_ref().to_owned(),
        rules: value.rules.iter().map(rule).collect(),
    }
}

fn rule(value: &TokenRule) -> wire::TokenRule {
    let headers = value.claim_headers.iter();
    let headers = headers.map(|(header, claim)| wire::ClaimHeader {
        header: header.clone(),
        claim: claim.clone(),
    });
    wire::TokenRule {
        issuer: value.issuer.clone(),
        audiences: value.audiences.clone(),
        keys: match &value.keys {
            TokenKeys::Written(keys) => keys.clone(),
            TokenKeys::Fetched(_) => String::new(),
        },
        fetch: match &value.keys {
            TokenKeys::Written(_) => None,
            TokenKeys::Fetched(of) => Some(fetch(of)),
        },
        places: value.places.iter().map(place).collect(),
        payload_header: value.payload_header.clone().unwrap_or_default(),
        claim_headers: headers.collect(),
        forward: value.forward,
        lists: value.lists.clone(),
    }
}

fn fetch(value: &KeyFetch) -> wire::KeyFetch {
    wire::KeyFetch {
        url: match &value.from {
            KeyAddress::Url(url) => url.clone(),
            // It is that of the rule.
            KeyAddress::Issuer(_) => String::new(),
        },
        timeout: milliseconds(Some(value.timeout)),
    }
}

fn place(value: &TokenPlace) -> wire::TokenPlace {
    use wire::token_place::Kind;
    let kind = match value {
        TokenPlace::Header { name, prefix } => Kind::Header(wire::TokenHeader {
            name: name.clone(),
            prefix: prefix.clone(),
        }),
        TokenPlace::Query(name) => Kind::Query(name.clone()),
        TokenPlace::Cookie(name) => Kind::Cookie(name.clone()),
    };
    wire::TokenPlace { kind: Some(kind) }
}
