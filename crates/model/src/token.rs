//! Which tokens of end users (JSON Web Tokens, RFC 7519) are valid.

use std::time::Duration;

use crate::PolicyKey;

/// What a RequestAuthentication says of the tokens in requests to one of its targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenPolicy {
    /// Its name and target.
    pub key: PolicyKey,
    /// A token is valid if one of these takes it.
    pub rules: Vec<TokenRule>,
}

/// Whose tokens are valid, where they are, and what becomes of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenRule {
    /// Who issues them: claim `iss`.
    pub issuer: String,
    /// Claim `aud` has one of these; whatever it has, if there are none.
    pub audiences: Vec<String>,
    /// Its public keys.
    pub keys: TokenKeys,
    /// Where they are.
    pub places: Vec<TokenPlace>,
    /// A header that tells the endpoint the claims, as they are in the token.
    pub payload_header: Option<String>,
    /// Headers that tell it one claim each, whose name may be a path with dots.
    pub claim_headers: Vec<(String, String)>,
    /// The endpoint sees the token.
    pub forward: bool,
    /// Claims that are lists with spaces between their values, besides `scope` and `permission`.
    pub lists: Vec<String>,
}

/// Where the public keys of an issuer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenKeys {
    /// Here (RFC 7517), as JSON; none is known if it is empty.
    Written(String),
    /// Elsewhere: the waypoint asks for them.
    Fetched(KeyFetch),
}

impl Default for TokenKeys {
    fn default() -> Self {
        Self::Written(String::new())
    }
}

/// How keys are asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyFetch {
    /// Who is asked.
    pub from: KeyAddress,
    /// How long all of that may take.
    pub timeout: Duration,
}

/// Who is asked for keys.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeyAddress {
    /// This URL has them.
    Url(String),
    /// The issuer of this name, a URL, tells where they are (OpenID Connect Discovery §4).
    Issuer(String),
}

/// A place where a token may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenPlace {
    /// In a header, by its name in lower case, behind a prefix.
    Header {
        /// Which.
        name: String,
        /// What comes before it.
        prefix: String,
    },
    /// A parameter of the query.
    Query(String),
    /// A cookie.
    Cookie(String),
}

/// What no issuer and no subject has.
pub const PARTS: char = '\0';

/// What a condition on a valid token is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TokenField {
    /// Issuer and subject, with [`PARTS`] between them: both may have slashes.
    Principal,
    /// A claim, by its path.
    Claim(Vec<String>),
}
