//! RequestAuthentication: which tokens are valid.
//!
//! Spec: `control-plane.md` §3.6.

use tulle_manifest::{JwtRule, RequestAuthentication};
use tulle_model::token::{TokenPlace, TokenPolicy, TokenRule};

use super::authorization::{token_key, token_targets};
use crate::mesh::Mesh;

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
        keys: written.jwks.clone().unwrap_or_default(),
        places: places(written),
        payload_header: written.output_payload_to_header.clone(),
        claim_headers: headers
            .map(|copied| (copied.header.clone(), copied.claim.clone()))
            .collect(),
        forward: written.forward_original_token == Some(true),
        lists: written.space_delimited_claims.clone(),
    }
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

#[cfg(test)]
mod tests {
    use tulle_manifest::JwtHeader;

    use super::*;

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
