//! Bearer tokens: bound service account tokens as Kubernetes issues them, signed by a key of our own.
//!
//! With objects from a directory there is no API server to ask for tokens or about them, so `tulled token` issues them.
//! A token names a pod by uid: it is worth nothing once that pod is gone.

mod key;

use std::time::{Duration, SystemTime};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, Header, Validation, decode, encode, errors::ErrorKind};
use serde::{Deserialize, Serialize};

pub use key::{KeyError, TokenKey};
use tulle_manifest::ObjectKey;

/// Who calls, as proven by a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Namespace and service account.
    pub account: ObjectKey,
    /// Name of its pod, which is in the same namespace.
    pub pod: String,
    /// Unique id of its pod.
    pub pod_uid: String,
    /// Node of its pod, if the token names it.
    pub node: Option<String>,
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// There is none, or it is no token at all, or not signed as ours are.
    #[error("malformed token")]
    Malformed,
    /// Another key signed it.
    #[error("wrong signature")]
    Signature,
    /// Its time is over.
    #[error("expired token")]
    Expired,
    /// Its time has not come.
    #[error("token is not valid yet")]
    NotYetValid,
    /// It is for another audience, or by another issuer.
    #[error("token is meant for somebody else")]
    Audience,
    /// It does not name a service account and its pod.
    #[error("token is not bound to a pod")]
    Unbound,
    /// Whoever knows did not say.
    #[error("nobody says whether the token is valid")]
    Unanswered,
}

impl TokenKey {
    /// Issues a token to `caller` from `now` on.
    ///
    /// # Errors
    /// [`KeyError::Sign`] when signing fails.
    pub fn issue(
        &self,
        caller: &Caller,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<String, KeyError> {
        let seconds = |at: SystemTime| {
            let since = at
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default();
            since.as_secs()
        };
        let (iat, exp) = (seconds(now), seconds(now).saturating_add(ttl.as_secs()));
        let ObjectKey { namespace, name } = &caller.account;
        let named = |name: &str, uid: &str| Named {
            name: name.to_owned(),
            uid: (!uid.is_empty()).then(|| uid.to_owned()),
        };
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: format!("{SUBJECT}{namespace}:{name}"),
            aud: vec![AUDIENCE.to_owned()],
            exp,
            nbf: iat,
            iat,
            kubernetes: Some(Bound {
                namespace: namespace.to_string(),
                pod: Some(named(&caller.pod, &caller.pod_uid)),
                serviceaccount: Some(named(name, "")),
                node: caller.node.as_deref().map(|node| named(node, "")),
            }),
        };
        encode(&Header::new(Algorithm::ES256), &claims, self.signing()).map_err(KeyError::Sign)
    }

    /// Verifies a token.
    ///
    /// # Errors
    /// [`InvalidToken`]; what exactly is wrong is not for the caller to know.
    pub fn verify(&self, token: &str) -> Result<Caller, InvalidToken> {
        if token.len() > MAX_TOKEN {
            return Err(InvalidToken::Malformed);
        }
        // The algorithm is ours to choose, not the token's.
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&[AUDIENCE]);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "nbf", "iss", "sub", "aud"]);
        validation.validate_nbf = true;
        validation.leeway = LEEWAY.as_secs();
        let token = decode::<Claims>(token, self.verifying(), &validation);
        let token = token.map_err(|error| reason(error.kind()))?;
        token.claims.caller().ok_or(InvalidToken::Unbound)
    }
}

/// What a token says of itself.
pub(crate) struct Claimed {
    /// When it expires.
    pub(crate) expiry: SystemTime,
    /// The pod that it is bound to.
    pub(crate) pod: ObjectKey,
    /// That pod's UID.
    pub(crate) uid: String,
}

/// What a token says of itself, if it is one for us: nothing is verified.
///
/// # Errors
/// [`InvalidToken`] if no signature could make it valid.
pub(crate) fn claimed(token: &str) -> Result<Claimed, InvalidToken> {
    #[derive(Deserialize)]
    struct Said {
        exp: u64,
        aud: Vec<String>,
        #[serde(rename = "kubernetes.io")]
        bound: Option<Bound>,
    }
    let mut parts = token.split('.');
    let (Some(_), Some(said), Some(_), None, true) = (
        parts.next(),
        parts.next(),
        parts.next(),
        parts.next(),
        token.len() <= MAX_TOKEN,
    ) else {
        return Err(InvalidToken::Malformed);
    };
    let said = BASE64_URL_SAFE_NO_PAD.decode(said).ok();
    let said = said.and_then(|said| serde_json::from_slice::<Said>(&said).ok());
    let said = said.ok_or(InvalidToken::Malformed)?;
    if !said.aud.iter().any(|audience| audience == AUDIENCE) {
        return Err(InvalidToken::Audience);
    }
    let expiry = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(said.exp));
    let Bound { namespace, pod, .. } = said.bound.ok_or(InvalidToken::Unbound)?;
    let pod = pod.ok_or(InvalidToken::Unbound)?;
    Ok(Claimed {
        expiry: expiry.ok_or(InvalidToken::Malformed)?,
        pod: ObjectKey::new(namespace, pod.name),
        uid: pod.uid.ok_or(InvalidToken::Unbound)?,
    })
}

fn reason(kind: &ErrorKind) -> InvalidToken {
    match kind {
        ErrorKind::InvalidSignature => InvalidToken::Signature,
        ErrorKind::ExpiredSignature => InvalidToken::Expired,
        ErrorKind::ImmatureSignature => InvalidToken::NotYetValid,
        ErrorKind::InvalidAudience | ErrorKind::InvalidIssuer => InvalidToken::Audience,
        _ => InvalidToken::Malformed,
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Vec<String>,
    exp: u64,
    nbf: u64,
    iat: u64,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<Bound>,
}

/// What a token is bound to.
#[derive(Debug, Serialize, Deserialize)]
struct Bound {
    namespace: String,
    pod: Option<Named>,
    serviceaccount: Option<Named>,
    node: Option<Named>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Named {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
}

impl Claims {
    /// The caller, if subject and binding agree and name a pod.
    fn caller(self) -> Option<Caller> {
        let (namespace, account) = self.sub.strip_prefix(SUBJECT)?.split_once(':')?;
        let bound = self.kubernetes?;
        let pod = bound.pod?;
        let agrees = bound.namespace == namespace && bound.serviceaccount?.name == account;
        let complete = [namespace, account, &pod.name]
            .iter()
            .all(|part| !part.is_empty());
        let pod_uid = pod.uid.filter(|uid| !uid.is_empty())?;
        (agrees && complete).then(|| Caller {
            account: ObjectKey::new(namespace, account),
            pod: pod.name,
            pod_uid,
            node: bound.node.map(|node| node.name),
        })
    }
}

const ISSUER: &str = "tulled";
/// Whom tokens are for.
pub(crate) const AUDIENCE: &str = "istio-ca";
/// What is before namespace and name of a service account.
pub(crate) const SUBJECT: &str = "system:serviceaccount:";
/// For clocks that do not agree.
const LEEWAY: Duration = Duration::from_secs(10);
const MAX_TOKEN: usize = 16 << 10;

#[cfg(test)]
mod tests;
