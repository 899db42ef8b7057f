//! RequestAuthentication.

use std::time::Duration;

use http::Uri;
use jsonwebtoken::{
    DecodingKey,
    jwk::{AlgorithmParameters, Jwk},
};
use serde::Deserialize;
use serde_json::Value;
use tulle_manifest::{JwtRule, RequestAuthenticationSpec};

use super::{Check, values::targets};

/// What a RequestAuthentication says.
pub(super) fn request_authentication(check: &mut Check, spec: &RequestAuthenticationSpec) {
    targets(
        check,
        spec.selector.as_ref(),
        spec.target_ref.as_ref(),
        &spec.target_refs,
    );
    if spec.jwt_rules.is_empty() {
        check.ignored("jwtRules", "is empty: no token is asked about");
    }
    check.at_most("jwtRules", &spec.jwt_rules, 4096);
    check.each("jwtRules", &spec.jwt_rules, rule);
}

fn rule(check: &mut Check, rule: &JwtRule) {
    check.required("issuer", &rule.issuer);
    check.each("audiences", &rule.audiences, |check, audience| {
        check.required("", audience);
    });
    keys(check, rule);
    check.each("fromHeaders", &rule.from_headers, |check, header| {
        check.header_name("name", &header.name);
    });
    check.each("fromParams", &rule.from_params, |check, name| {
        check.required("", name);
    });
    check.each("fromCookies", &rule.from_cookies, |check, name| {
        check.header_name("", name);
    });
    check.some(
        "outputPayloadToHeader",
        &rule.output_payload_to_header,
        |check, name| {
            check.header_name("", name);
        },
    );
    check.each(
        "outputClaimToHeaders",
        &rule.output_claim_to_headers,
        |check, copied| {
            check.header_name("header", &copied.header);
            check.required("claim", &copied.claim);
        },
    );
    check.istio_duration("timeout", &rule.timeout, Duration::from_millis(1));
    check.each(
        "spaceDelimitedClaims",
        &rule.space_delimited_claims,
        |check, name| {
            check.required("", name);
        },
    );
}

fn keys(check: &mut Check, rule: &JwtRule) {
    let (uri, keys) = (rule.jwks_uri.as_deref(), rule.jwks.as_deref());
    match (uri, keys) {
        // Keys that are written count, and nobody is asked.
        (Some(_), Some(_)) => check.ignored("jwksUri", "no effect: keys are written in jwks"),
        (None, None) => issuer(check, &rule.issuer),
        (Some(_), None) | (None, Some(_)) => {}
    }
    if let Some(uri) = uri {
        url(check, "jwksUri", uri);
    }
    if let Some(keys) = keys {
        key_set(check, keys);
    }
}

/// Who is asked where the keys are, if nobody says so.
fn issuer(check: &mut Check, issuer: &str) {
    let is_url = issuer.starts_with("https://") || issuer.starts_with("http://");
    if !issuer.is_empty() && !is_url {
        check.invalid(
            "issuer",
            "is no URL to ask for keys, and neither jwks nor jwksUri is set",
        );
    }
}

fn url(check: &mut Check, field: &str, text: &str) {
    let read = text.parse::<Uri>().ok().filter(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
            && !uri
                .authority()
                .is_some_and(|authority| authority.as_str().contains('@'))
    });
    if read.is_none() {
        check.invalid(field, format!("{text:?} is no http or https URL"));
    }
}

/// Keys as they are written: public ones, of which at least one is understood. Others are skipped, as RFC 7517 §5 says.
fn key_set(check: &mut Check, text: &str) {
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let keys = match serde_json::from_str::<Set>(text) {
        Ok(set) => set.keys,
        Err(error) => return check.invalid("jwks", format!("is no set of keys: {error}")),
    };
    // What can sign, and is written where others may read it, proves nothing.
    if keys.iter().any(|key| key.get("d").is_some()) {
        check.invalid("jwks", "has a private key");
    }
    let keys = keys.into_iter().map(serde_json::from_value::<Jwk>);
    let (symmetric, public): (Vec<Jwk>, Vec<Jwk>) = keys
        .filter_map(Result::ok)
        .partition(|key| matches!(key.algorithm, AlgorithmParameters::OctetKey(_)));
    if !symmetric.is_empty() {
        check.invalid("jwks", "has a symmetric key");
    }
    if !public.iter().any(|key| DecodingKey::from_jwk(key).is_ok()) {
        check.invalid("jwks", "has no public key that is understood");
    }
}
