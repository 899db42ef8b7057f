//! The key that signs tokens, kept in a file.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use jsonwebtoken::{DecodingKey, EncodingKey, errors};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};

use crate::files;

/// An ECDSA P-256 key.
pub struct TokenKey {
    signing: EncodingKey,
    verifying: DecodingKey,
}

impl TokenKey {
    /// Reads the key of a state directory; makes one if there is none.
    ///
    /// # Errors
    /// [`KeyError`] when it cannot be read, made or written.
    pub fn load_or_generate(state: &Path) -> Result<Self, KeyError> {
        let path = state.join(FILE);
        let failed = |source| KeyError::File {
            path: path.clone(),
            source,
        };
        if !path.exists() {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(KeyError::Generate)?;
            files::create_private(&path, &key.serialize_pem()).map_err(failed)?;
        }
        Self::from_pem(&fs::read_to_string(&path).map_err(failed)?)
            .map_err(|_| KeyError::Unusable { path })
    }

    fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let key = KeyPair::from_pem(pem).map_err(KeyError::Generate)?;
        Ok(Self {
            signing: EncodingKey::from_ec_pem(pem.as_bytes()).map_err(KeyError::Sign)?,
            verifying: DecodingKey::from_ec_pem(key.public_key_pem().as_bytes())
                .map_err(KeyError::Sign)?,
        })
    }

    pub(super) fn signing(&self) -> &EncodingKey {
        &self.signing
    }

    pub(super) fn verifying(&self) -> &DecodingKey {
        &self.verifying
    }
}

impl std::fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenKey(..)")
    }
}

/// Why there is no key, or no token.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("token key {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The file does not hold an ECDSA P-256 key in PEM.
    #[error("token key {} is not an ECDSA P-256 key", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
    },
    /// No key could be made.
    #[error("cannot make a token key")]
    Generate(#[source] rcgen::Error),
    /// No token could be made.
    #[error("cannot sign a token")]
    Sign(#[source] errors::Error),
}

const FILE: &str = "token-key.pem";
