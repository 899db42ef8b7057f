//! What a client of the control plane says about itself.

use std::{fmt, fs::File, io, io::Read, path::Path, path::PathBuf};

use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};

/// The metadata that goes with every request.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Sent as `authorization: Bearer <token>`.
    pub token: TokenSource,
    /// Sent as `clusterid`.
    pub cluster_id: Option<String>,
    /// More headers, for proxies in between.
    pub headers: Vec<(String, String)>,
}

impl Credentials {
    /// Adds them to a request's metadata. A token file is read each time: its content is short-lived.
    ///
    /// # Errors
    /// [`CredentialsError`] when the token cannot be read, or something cannot be sent as a header.
    pub fn apply(&self, metadata: &mut MetadataMap) -> Result<(), CredentialsError> {
        if let Some(token) = self.token.read()? {
            let mut value = ascii("authorization", &format!("Bearer {token}"))?;
            value.set_sensitive(true);
            metadata.insert("authorization", value);
        }
        if let Some(cluster_id) = &self.cluster_id {
            metadata.insert("clusterid", ascii("clusterid", cluster_id)?);
        }
        for (name, value) in &self.headers {
            let key = MetadataKey::from_bytes(name.to_ascii_lowercase().as_bytes())
                .map_err(|_| CredentialsError::Header(name.clone()))?;
            metadata.insert(key, ascii(name, value)?);
        }
        Ok(())
    }
}

/// Where the bearer token comes from.
#[derive(Clone, PartialEq, Eq, Default)]
pub enum TokenSource {
    /// A file, trimmed; read at every request.
    File(PathBuf),
    /// The token itself.
    Literal(String),
    /// No token is sent.
    #[default]
    None,
}

impl TokenSource {
    fn read(&self) -> Result<Option<String>, CredentialsError> {
        let token = match self {
            Self::None => return Ok(None),
            Self::Literal(token) => token.clone(),
            Self::File(path) => {
                read_bounded(path, MAX_TOKEN).map_err(|source| CredentialsError::TokenFile {
                    path: path.clone(),
                    source,
                })?
            }
        };
        match token.trim() {
            "" => Err(CredentialsError::EmptyToken),
            token => Ok(Some(token.to_owned())),
        }
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({})", path.display()),
            Self::Literal(_) => f.write_str("Literal(..)"),
            Self::None => f.write_str("None"),
        }
    }
}

/// Why a request could not be authenticated.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The token file cannot be read.
    #[error("cannot read a token from {}", path.display())]
    TokenFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The token is blank.
    #[error("the token is empty")]
    EmptyToken,
    /// Not possible as a header name or value.
    #[error("cannot be sent as header {0:?}")]
    Header(String),
}

/// Reads a small text file. A larger one is an error rather than a surprise in memory.
pub(super) fn read_bounded(path: &Path, limit: u64) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?
        .take(limit + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > limit {
        return Err(io::Error::other(format!("more than {limit} bytes")));
    }
    Ok(text)
}

fn ascii(name: &str, value: &str) -> Result<MetadataValue<Ascii>, CredentialsError> {
    value
        .parse()
        .map_err(|_| CredentialsError::Header(name.to_owned()))
}

/// Service account tokens are about 1 KiB.
const MAX_TOKEN: u64 = 64 << 10;
