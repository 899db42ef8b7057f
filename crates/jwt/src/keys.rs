//! Public keys of an issuer (RFC 7517).

use jsonwebtoken::{
    Algorithm, DecodingKey, Header, Validation, decode, decode_header,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;

/// The keys that an issuer signs with.
#[derive(Default)]
pub struct Keys(Vec<Key>);

/// What is no set of keys.
#[derive(Debug, thiserror::Error)]
pub enum InvalidKeys {
    /// It is not written as one.
    #[error("it is no set of keys")]
    Syntax(#[from] serde_json::Error),
    /// A token without the name of a key would be tried with each.
    #[error("it has {0} keys, of at most {MOST}")]
    TooMany(usize),
}

struct Key {
    id: Option<String>,
    /// What it may be used with: those of its kind, or the one that it says.
    algorithms: &'static [Algorithm],
    said: Option<Algorithm>,
    key: DecodingKey,
}

impl Keys {
    /// Reads them. Those that are not understood, or not for signatures, are left out; symmetric ones, and private ones that others can
    /// read, prove nothing.
    ///
    /// # Errors
    /// [`InvalidKeys`], where nothing is known of any key.
    pub fn read(json: &[u8]) -> Result<Self, InvalidKeys> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        let Set { keys } = serde_json::from_slice(json)?;
        if keys.len() > MOST {
            return Err(InvalidKeys::TooMany(keys.len()));
        }
        Ok(Self(keys.into_iter().filter_map(Key::new).collect()))
    }

    /// Whether a key has this name, or may have it.
    pub fn has(&self, id: &str) -> bool {
        let may_have = |key: &Key| key.id.as_deref().is_none_or(|own| own == id);
        self.0.iter().any(may_have)
    }

    /// What a token says, if one of these has signed it.
    pub(crate) fn open(&self, token: &str) -> Option<Value> {
        let header = decode_header(token).ok()?;
        // Whoever does not know what is critical must not go on (RFC 7515 §4.1.11).
        if header.crit.is_some() {
            return None;
        }
        let mut keys = self.0.iter().filter(|key| key.is_for(&header));
        keys.find_map(|key| key.open(token, header.alg))
    }
}

impl Key {
    fn new(json: Value) -> Option<Self> {
        if json.get("d").is_some() {
            return None;
        }
        let said = match json.get("alg").and_then(Value::as_str) {
            Some(said) => Some(said.parse().ok()?),
            None => None,
        };
        let jwk: Jwk = serde_json::from_value(json).ok()?;
        if matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption)) {
            return None;
        }
        let algorithms: &[Algorithm] = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => &RSA,
            AlgorithmParameters::EllipticCurve(of) => match of.curve {
                EllipticCurve::P256 => &[Algorithm::ES256],
                EllipticCurve::P384 => &[Algorithm::ES384],
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(_) => &[Algorithm::EdDSA],
            _ => return None,
        };
        Some(Self {
            key: DecodingKey::from_jwk(&jwk).ok()?,
            id: jwk.common.key_id,
            said,
            algorithms,
        })
    }

    fn is_for(&self, header: &Header) -> bool {
        let is_meant = match (&header.kid, &self.id) {
            (Some(wanted), Some(id)) => wanted == id,
            _ => true,
        };
        let is_said = self.said.is_none_or(|said| said == header.alg);
        is_meant && is_said && self.algorithms.contains(&header.alg)
    }

    fn open(&self, token: &str, algorithm: Algorithm) -> Option<Value> {
        // Time and audience are looked at where there is something to say about them.
        let mut validation = Validation::new(algorithm);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_aud = false;
        let opened = decode::<Value>(token, &self.key, &validation);
        Some(opened.ok()?.claims)
    }
}

/// Keys of one issuer.
const MOST: usize = 256;
const RSA: [Algorithm; 6] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];
