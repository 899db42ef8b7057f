//! Keys and tokens for tests.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode, jwk::Jwk};
use serde_json::{Value, json};

/// Someone who signs tokens.
pub(crate) struct Signer {
    key: EncodingKey,
    id: String,
}

impl Signer {
    pub(crate) fn new(id: &str) -> Self {
        let pair = rcgen::KeyPair::generate().expect("a key is made");
        let pem = pair.serialize_pem();
        Self {
            key: EncodingKey::from_ec_pem(pem.as_bytes()).expect("it is a key"),
            id: id.to_owned(),
        }
    }

    /// Its public key, as JSON.
    pub(crate) fn public(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, Algorithm::ES256).expect("it is a key");
        jwk.common.key_id = Some(self.id.clone());
        json!(jwk)
    }

    pub(crate) fn sign(&self, claims: &Value) -> String {
        self.sign_as(
            &Header {
                kid: Some(self.id.clone()),
                ..Header::new(Algorithm::ES256)
            },
            claims,
        )
    }

    pub(crate) fn sign_as(&self, header: &Header, claims: &Value) -> String {
        encode(header, claims, &self.key).expect("it is signed")
    }
}
