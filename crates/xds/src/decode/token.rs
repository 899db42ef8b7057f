//! Which tokens are valid. What cannot be understood is refused as a whole.

use tulle_model::{
    PolicyKey,
    token::{TokenPlace, TokenPolicy, TokenRule},
};
use tulle_proto::mesh as wire;

use super::{
    InvalidResource,
    configuration::{Decoded, all, text},
};

pub(super) fn policy(value: wire::TokenPolicy) -> Decoded<TokenPolicy> {
    Ok(TokenPolicy {
        key: PolicyKey::new(value.namespace, value.name),
        rules: all(value.rules, rule)?,
    })
}

fn rule(value: wire::TokenRule) -> Decoded<TokenRule> {
    let headers = value.claim_headers.into_iter();
    Ok(TokenRule {
        issuer: text(value.issuer).ok_or(InvalidResource::Missing("issuer"))?,
        audiences: value.audiences,
        keys: value.keys,
        places: all(value.places, place)?,
        payload_header: text(value.payload_header),
        claim_headers: headers.map(|of| (of.header, of.claim)).collect(),
        forward: value.forward,
        lists: value.lists,
    })
}

fn place(value: wire::TokenPlace) -> Decoded<TokenPlace> {
    use wire::token_place::Kind;
    let missing = InvalidResource::Missing("place of a token");
    Ok(match value.kind.ok_or(missing)? {
        Kind::Header(header) => TokenPlace::Header {
            name: header.name,
            prefix: header.prefix,
        },
        Kind::Query(name) => TokenPlace::Query(name),
        Kind::Cookie(name) => TokenPlace::Cookie(name),
    })
}
