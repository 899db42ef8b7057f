//! The key of the certificate authority in a Secret, made by whichever replica comes first.
//!
//! Spec: `control-plane.md` §5.4.

use std::{collections::BTreeMap, time::SystemTime};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{Method, StatusCode};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};
use tracing::info;
use tulle_identity::ca::{LoadError, PemFiles};
use tulle_kubernetes::{CallError, Client, JSON, Outage};
use tulle_model::TrustDomain;

/// Why the Secret is of no use.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The API server refuses to show or to make it.
    #[error("Secret {namespace}/{NAME}: {source}")]
    Refused {
        /// Where it would be.
        namespace: String,
        /// What it says.
        source: CallError,
    },
    /// It was there, and is not any more.
    #[error(
        "Secret {namespace}/{NAME} is gone: put it back from a copy before the last replica ends"
    )]
    Gone {
        /// Where it was.
        namespace: String,
    },
    /// A part is not there, or not text.
    #[error("Secret {namespace}/{NAME} has no usable {part}")]
    Part {
        /// Where it is.
        namespace: String,
        /// The key in its data.
        part: &'static str,
    },
    /// There is none, and a key for it cannot be made.
    #[error("Secret {namespace}/{NAME} cannot be made")]
    Generate {
        /// Where it would be.
        namespace: String,
        /// Why not.
        source: LoadError,
    },
}

/// Reads the authority in the Secret `istio-ca-secret` of a namespace; makes both if there is none. An API server that does
/// not answer is waited for.
///
/// # Errors
/// [`SecretError`].
pub(crate) async fn read_or_generate(
    client: &Client,
    namespace: &str,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<PemFiles, SecretError> {
    let mut outage = Outage::of("the key of the certificate authority");
    loop {
        let error = match get(client, namespace).await {
            Ok(Some(secret)) => return secret.files(namespace),
            Ok(None) => {
                let files = PemFiles::generate(trust_domain, now).map_err(|source| {
                    SecretError::Generate {
                        namespace: namespace.to_owned(),
                        source,
                    }
                })?;
                match create(client, namespace, &files).await {
                    Ok(()) => {
                        info!(namespace, name = NAME, "certificate authority made");
                        return Ok(files);
                    }
                    // Another replica was faster.
                    Err(error) if error.code() == Some(StatusCode::CONFLICT) => continue,
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        if !error.is_outage() {
            return Err(refused(namespace)(error));
        }
        outage.failed(&error).await;
    }
}

/// Whether there is such a Secret. An API server that does not answer is waited for.
///
/// # Errors
/// [`SecretError`] when it refuses to say.
pub(crate) async fn exists(client: &Client, namespace: &str) -> Result<bool, SecretError> {
    let mut outage = Outage::of("the key of the certificate authority");
    loop {
        match get(client, namespace).await {
            Ok(secret) => return Ok(secret.is_some()),
            Err(error) if error.is_outage() => outage.failed(&error).await,
            Err(error) => return Err(refused(namespace)(error)),
        }
    }
}

/// Reads the authority as it is now.
///
/// # Errors
/// [`SecretError`]; an API server that does not answer is one too.
pub(crate) async fn read(client: &Client, namespace: &str) -> Result<PemFiles, SecretError> {
    match get(client, namespace).await.map_err(refused(namespace))? {
        Some(secret) => secret.files(namespace),
        None => Err(SecretError::Gone {
            namespace: namespace.to_owned(),
        }),
    }
}

/// The Secret, if there is one.
///
/// # Errors
/// [`CallError`].
pub(super) async fn get(client: &Client, namespace: &str) -> Result<Option<Secret>, CallError> {
    match client.get(&path(namespace)).await {
        Ok(secret) => Ok(Some(secret)),
        Err(error) if error.code() == Some(StatusCode::NOT_FOUND) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces the Secret, unless somebody has changed it since it was read.
///
/// # Errors
/// [`CallError`].
pub(super) async fn put(
    client: &Client,
    namespace: &str,
    secret: &Secret,
) -> Result<(), CallError> {
    let body = serde_json::to_vec(secret)?;
    let path = path(namespace);
    client.call(Method::PUT, &path, JSON, body).await.map(drop)
}

async fn create(client: &Client, namespace: &str, files: &PemFiles) -> Result<(), CallError> {
    let mut secret: Secret = serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        // By this label whoever removes the mesh knows that nobody brought it.
        "metadata": {
            "name": NAME,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/managed-by": "tulled"},
        },
        "type": "istio.io/ca-root",
    }))?;
    secret.set(CERTIFICATE, &files.certificate);
    secret.set(KEY, &files.key);
    // As Istio leaves them where the root signs by itself.
    secret.set(CHAIN, "");
    secret.set(ROOTS, "");
    let path = format!("/api/v1/namespaces/{namespace}/secrets");
    let body = serde_json::to_vec(&secret)?;
    client.call(Method::POST, &path, JSON, body).await.map(drop)
}

/// The Secret as far as it concerns us; all else is kept as it is.
#[derive(Clone, Deserialize, Serialize)]
pub(super) struct Secret {
    pub(super) metadata: SecretMetadata,
    #[serde(default, deserialize_with = "or_default")]
    data: BTreeMap<String, String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// Its metadata.
#[derive(Clone, Deserialize, Serialize)]
pub(super) struct SecretMetadata {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) annotations: BTreeMap<String, String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Secret {
    /// A part that there is: empty if it is not.
    ///
    /// # Errors
    /// [`SecretError::Part`] when it is no text.
    pub(super) fn part(&self, namespace: &str, part: &'static str) -> Result<String, SecretError> {
        let encoded = self.data.get(part).map_or("", String::as_str);
        let decoded = BASE64_STANDARD.decode(encoded).ok();
        let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
        text.ok_or_else(|| SecretError::Part {
            namespace: namespace.to_owned(),
            part,
        })
    }

    /// Writes a part.
    pub(super) fn set(&mut self, part: &str, text: &str) {
        let encoded = BASE64_STANDARD.encode(text);
        self.data.insert(part.to_owned(), encoded);
    }

    /// Leaves a part out.
    pub(super) fn remove(&mut self, part: &str) {
        self.data.remove(part);
    }

    /// The authority in it.
    ///
    /// # Errors
    /// [`SecretError::Part`].
    pub(super) fn files(&self, namespace: &str) -> Result<PemFiles, SecretError> {
        let some = |part| match self.part(namespace, part) {
            Ok(text) if text.is_empty() => Err(SecretError::Part {
                namespace: namespace.to_owned(),
                part,
            }),
            part => part,
        };
        let (certificate, key) = (some(CERTIFICATE)?, some(KEY)?);
        // Of a self-signed root, the other parts may be empty.
        let or_root = |text: String| match text.is_empty() {
            true => certificate.clone(),
            false => text,
        };
        Ok(PemFiles {
            chain: or_root(self.part(namespace, CHAIN)?),
            roots: or_root(self.part(namespace, ROOTS)?),
            key,
            certificate,
        })
    }

    /// Puts an authority in.
    pub(super) fn set_files(&mut self, files: &PemFiles) {
        self.set(CERTIFICATE, &files.certificate);
        self.set(KEY, &files.key);
        self.set(CHAIN, &files.chain);
        self.set(ROOTS, &files.roots);
    }
}

/// Reads an explicit `null` like what is not there.
fn or_default<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, String>, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

fn path(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/secrets/{NAME}")
}

fn refused(namespace: &str) -> impl Fn(CallError) -> SecretError {
    move |source| SecretError::Refused {
        namespace: namespace.to_owned(),
        source,
    }
}

/// Its name.
pub(crate) const NAME: &str = "istio-ca-secret";
const CERTIFICATE: &str = "ca-cert.pem";
const KEY: &str = "ca-key.pem";
const CHAIN: &str = "cert-chain.pem";
const ROOTS: &str = "root-cert.pem";

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(parts: &[(&str, &str)]) -> Result<PemFiles, SecretError> {
        let mut secret = empty();
        for (part, text) in parts {
            secret.set(part, text);
        }
        secret.files("istio-system")
    }

    fn empty() -> Secret {
        serde_json::from_value(json!({"metadata": {}})).unwrap()
    }

    #[test]
    fn what_is_not_ours_is_kept() {
        let found = json!({
            "apiVersion": "v1",
            "metadata": {"name": NAME, "resourceVersion": "7", "annotations": {"a": "b"}},
            "data": {"other": "eA=="},
            "type": "istio.io/ca-root",
            "immutable": false,
        });
        let mut secret: Secret = serde_json::from_value(found.clone()).unwrap();
        assert_eq!(serde_json::to_value(&secret).unwrap(), found);
        secret.set(KEY, "k");
        assert_eq!(secret.part("a", KEY).unwrap(), "k");
        secret.remove(KEY);
        assert_eq!(serde_json::to_value(&secret).unwrap(), found);
    }

    #[test]
    fn root_of_its_own_is_all_that_there_is() {
        let files = secret(&[(CERTIFICATE, "c"), (KEY, "k"), (CHAIN, "")]).unwrap();
        let parts = [files.certificate, files.key, files.chain, files.roots];
        assert_eq!(parts, ["c", "k", "c", "c"]);
        let whole = [(CERTIFICATE, "c"), (KEY, "k"), (CHAIN, "i"), (ROOTS, "r")];
        let files = secret(&whole).unwrap();
        assert_eq!([files.chain, files.roots], ["i", "r"]);
    }

    #[test]
    fn missing_part_is_named() {
        for (parts, missing) in [
            (&[][..], CERTIFICATE),
            (&[(CERTIFICATE, "c")], KEY),
            (&[(CERTIFICATE, ""), (KEY, "k")], CERTIFICATE),
        ] {
            let error = secret(parts).err().unwrap().to_string();
            let expected = format!("Secret istio-system/istio-ca-secret has no usable {missing}");
            assert_eq!(error, expected);
        }
        let mut secret = empty();
        secret.data.insert(CERTIFICATE.to_owned(), "?".to_owned());
        assert!(secret.files("a").is_err());
    }
}
