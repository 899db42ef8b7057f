//! Which tokens are valid. What cannot be understood is refused as a whole.

use tulle_model::{
    PolicyKey,
    token::{KeyAddress, KeyFetch, TokenKeys, TokenPlace, TokenPolicy, TokenRule},
};
use tulle_proto::mesh as wire;

use super::{
    InvalidResource,
    configuration::{Decoded, all, milliseconds, text},
};

pub(super) fn policy(value: wire::TokenPolicy) -> Decoded<TokenPolicy> {
    Ok(TokenPolicy {
        key: PolicyKey::new(value.namespace, value.name),
        rules: all(value.rules, rule)?,
    })
}

fn rule(value: wire::TokenRule) -> Decoded<TokenRule> {
    let headers = value.claim_headers.into_iter();
    let issuer = text(value.issuer).ok_or(InvalidResource::Missing("issuer"))?;
    Ok(TokenRule {
        keys: match value.fetch {
            None => TokenKeys::Written(value.keys),
            Some(of) => TokenKeys::Fetched(fetch(of, &issuer)?),
        },
        issuer,
        audiences: value.audiences,
        places: all(value.places, place)?,
        payload_header: text(value.payload_header),
        claim_headers: headers.map(|of| (of.header, of.claim)).collect(),
        forward: value.forward,
        lists: value.lists,
    })
}

fn fetch(value: wire::KeyFetch, issuer: &str) -> Decoded<KeyFetch> {
    let from = match text(value.url) {
        Some(url) => KeyAddress::Url(url),
        None => KeyAddress::Issuer(issuer.to_owned()),
    };
    let timeout = milliseconds(value.timeout).ok_or(InvalidResource::Missing("timeout"))?;
    Ok(KeyFetch { from, timeout })
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
