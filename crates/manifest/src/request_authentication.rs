//! Which tokens of end users are valid.

use super::{PolicySelector, TargetRef, declared::Declared, fields::fields};

/// Which tokens of end users are valid.
pub type RequestAuthentication = Declared<RequestAuthenticationSpec>;

fields! {
    /// What a RequestAuthentication says.
    RequestAuthenticationSpec {
        selector: Option<PolicySelector>,
        target_ref: Option<TargetRef>,
        target_refs: Vec<TargetRef>,
        jwt_rules: Vec<JwtRule>,
    }

    /// Whose tokens are valid, and where they are.
    JwtRule {
        issuer: String,
        /// Any of these. Without any, whatever they are for.
        audiences: Vec<String>,
        jwks_uri: Option<String>,
        /// Public keys, as JSON.
        jwks: Option<String>,
        from_headers: Vec<JwtHeader>,
        from_params: Vec<String>,
        from_cookies: Vec<String>,
        output_payload_to_header: Option<String>,
        output_claim_to_headers: Vec<ClaimToHeader>,
        forward_original_token: Option<bool>,
        /// Of fetching the keys; 5 s if absent.
        timeout: Option<String>,
        space_delimited_claims: Vec<String>,
    }

    /// A header that holds a token.
    JwtHeader {
        name: String,
        prefix: Option<String>,
    }

    /// A claim that backends are told of.
    ClaimToHeader {
        header: String,
        claim: String,
    }
}
