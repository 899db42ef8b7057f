//! RequestAuthentication: which tokens are valid.
//!
//! Spec: `control-plane.md` §3.6.

use std::time::Duration;

use tulle_manifest::{JwtRule, RequestAuthentication};
use tulle_model::token::{KeyAddress, KeyFetch, TokenKeys, TokenPlace, TokenPolicy, TokenRule};

use super::authorization::{token_key, token_targets};
use crate::{mesh::Mesh, validate};

/// What is sent of one that is in order, for each of its targets.
pub fn tokens(mesh: &Mesh, policy: &RequestAuthentication) -> Vec<TokenPolicy> {
    let targets = token_targets(mesh, policy).into_iter();
    let policies = targets.map(|target| TokenPolicy {
        key: token_key(policy, &target),
        rules: policy.spec.jwt_rules.iter().map(rule).collect(),
    });
    policies.collect()
}

fn rule(written: &JwtRule) -> TokenRule {
    let headers = written.output_claim_to_headers.iter();
    TokenRule {
        issuer: written.issuer.clone(),
        audiences: written.audiences.clone(),
        keys: keys(written),
        places: places(written),
        payload_header: written.output_payload_to_header.clone(),
        claim_headers: headers
            .map(|copied| (copied.header.clone(), copied.claim.clone()))
            .collect(),
        forward: written.forward_original_token == Some(true),
        lists: written.space_delimited_claims.clone(),
    }
}

/// Those that are written count. Nobody is asked for any here: who may write a policy must not thereby send `tulled` anywhere.
fn keys(written: &JwtRule) -> TokenKeys {
    if let Some(keys) = &written.jwks {
        return TokenKeys::Written(keys.clone());
    }
    let timeout = written.timeout.as_deref();
    TokenKeys::Fetched(KeyFetch {
        from: match &written.jwks_uri {
            Some(url) => KeyAddress::Url(url.clone()),
            None => KeyAddress::Issuer(written.issuer.clone()),
        },
        timeout: timeout
            .and_then(validate::istio_duration)
            .unwrap_or(FETCH_TIMEOUT),
    })
}

/// Those that are written, instead of the usual ones.
fn places(written: &JwtRule) -> Vec<TokenPlace> {
    let headers = written
        .from_headers
        .iter()
        .map(|header| TokenPlace::Header {
            name: header.name.to_ascii_lowercase(),
            prefix: header.prefix.clone().unwrap_or_default(),
        });
    let params = written.from_params.iter().cloned().map(TokenPlace::Query);
    let cookies = written.from_cookies.iter().cloned().map(TokenPlace::Cookie);
    let mut places: Vec<TokenPlace> = headers.chain(params).chain(cookies).collect();
    if places.is_empty() {
        places.push(TokenPlace::Header {
            name: "authorization".to_owned(),
            prefix: "Bearer ".to_owned(),
        });
        places.push(TokenPlace::Query("access_token".to_owned()));
    }
    places
}

const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use tulle_manifest::JwtHeader;

    use super::*;

    #[test]
    fn keys_that_are_written_are_asked_for_nowhere() {
        let rule = |jwks: Option<&str>, uri: Option<&str>, timeout: Option<&str>| {
            keys(&JwtRule {
                issuer: "https://i.example".to_owned(),
                jwks: jwks.map(str::to_owned),
                jwks_uri: uri.map(str::to_owned),
                timeout: timeout.map(str::to_owned),
                ..JwtRule::default()
            })
        };
        let fetched = |from, seconds| {
            TokenKeys::Fetched(KeyFetch {
                from,
                timeout: Duration::from_secs(seconds),
            })
        };
        let url = || KeyAddress::Url("http://k/".to_owned());
        let written = TokenKeys::Written("{}".to_owned());
        assert_eq!(rule(Some("{}"), Some("http://k/"), None), written);
        assert_eq!(rule(None, Some("http://k/"), None), fetched(url(), 5));
        assert_eq!(rule(None, Some("http://k/"), Some("2s")), fetched(url(), 2));
        let issuer = KeyAddress::Issuer("https://i.example".to_owned());
        assert_eq!(rule(None, None, None), fetched(issuer, 5));
    }

    #[test]
    fn tokens_are_where_they_usually_are_unless_it_is_said() {
        let header = |name: &str, prefix: &str| TokenPlace::Header {
            name: name.to_owned(),
            prefix: prefix.to_owned(),
        };
        let usual = [
            header("authorization", "Bearer "),
            TokenPlace::Query("access_token".to_owned()),
        ];
        assert_eq!(places(&JwtRule::default()), usual);
        let written = JwtRule {
            from_headers: vec![JwtHeader {
                name: "X-Token".to_owned(),
                ..JwtHeader::default()
            }],
            from_cookies: vec!["token".to_owned()],
            ..JwtRule::default()
        };
        let said = [
            header("x-token", ""),
            TokenPlace::Cookie("token".to_owned()),
        ];
        assert_eq!(places(&written), said);
    }
}
