//! The key of the certificate authority in a Secret, made by whichever replica comes first.
//!
//! Spec: `control-plane.md` §5.4.

use std::{collections::BTreeMap, time::SystemTime};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use tracing::info;
use tulle_identity::ca::{LoadError, PemFiles, SigningCa};
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
    /// A part is not there, or not text.
    #[error("Secret {namespace}/{NAME} has no usable {part}")]
    Part {
        /// Where it is.
        namespace: String,
        /// The key in its data.
        part: &'static str,
    },
    /// What it holds is no certificate authority.
    #[error("Secret {namespace}/{NAME}")]
    Load {
        /// Where it is.
        namespace: String,
        /// What is wrong with it.
        source: LoadError,
    },
}

/// Reads the authority from the Secret `istio-ca-secret` of a namespace; makes both if there is none. An API server that does
/// not answer is waited for.
///
/// # Errors
/// [`SecretError`].
pub async fn load_or_generate(
    client: &Client,
    namespace: &str,
    trust_domain: &TrustDomain,
    now: SystemTime,
) -> Result<SigningCa, SecretError> {
    let unusable = |source| SecretError::Load {
        namespace: namespace.to_owned(),
        source,
    };
    let mut outage = Outage::of("the key of the certificate authority");
    let files = loop {
        let error = match read(client, namespace).await {
            Ok(Some(secret)) => break secret.into_files(namespace)?,
            Ok(None) => {
                let files = PemFiles::generate(trust_domain, now).map_err(unusable)?;
                match create(client, namespace, &files).await {
                    Ok(()) => {
                        info!(namespace, name = NAME, "certificate authority made");
                        break files;
                    }
                    // Another replica was faster.
                    Err(error) if error.code() == Some(StatusCode::CONFLICT) => continue,
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        if !error.is_outage() {
            return Err(SecretError::Refused {
                namespace: namespace.to_owned(),
                source: error,
            });
        }
        outage.failed(&error).await;
    };
    SigningCa::from_pem(&files, now).map_err(unusable)
}

async fn read(client: &Client, namespace: &str) -> Result<Option<Secret>, CallError> {
    let path = format!("/api/v1/namespaces/{namespace}/secrets/{NAME}");
    match client.get(&path).await {
        Ok(secret) => Ok(Some(secret)),
        Err(error) if error.code() == Some(StatusCode::NOT_FOUND) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn create(client: &Client, namespace: &str, files: &PemFiles) -> Result<(), CallError> {
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": NAME, "namespace": namespace},
        "type": "istio.io/ca-root",
        "data": {
            CERTIFICATE: BASE64_STANDARD.encode(&files.certificate),
            KEY: BASE64_STANDARD.encode(&files.key),
            CHAIN: "",
            ROOTS: "",
        },
    });
    let path = format!("/api/v1/namespaces/{namespace}/secrets");
    let body = secret.to_string().into_bytes();
    client.call(Method::POST, &path, JSON, body).await.map(drop)
}

#[derive(Deserialize)]
struct Secret {
    #[serde(default)]
    data: BTreeMap<String, String>,
}

impl Secret {
    fn into_files(self, namespace: &str) -> Result<PemFiles, SecretError> {
        let part = |part: &'static str| {
            let encoded = self.data.get(part).map_or("", String::as_str);
            let decoded = BASE64_STANDARD.decode(encoded).ok();
            let text = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
            text.ok_or_else(|| SecretError::Part {
                namespace: namespace.to_owned(),
                part,
            })
        };
        let missing = |part| SecretError::Part {
            namespace: namespace.to_owned(),
            part,
        };
        let (certificate, key) = (part(CERTIFICATE)?, part(KEY)?);
        if certificate.is_empty() {
            return Err(missing(CERTIFICATE));
        }
        if key.is_empty() {
            return Err(missing(KEY));
        }
        // Of a self-signed root, the other parts may be empty.
        let or_root = |text: String| match text.is_empty() {
            true => certificate.clone(),
            false => text,
        };
        Ok(PemFiles {
            chain: or_root(part(CHAIN)?),
            roots: or_root(part(ROOTS)?),
            key,
            certificate,
        })
    }
}

const NAME: &str = "istio-ca-secret";
const CERTIFICATE: &str = "ca-cert.pem";
const KEY: &str = "ca-key.pem";
const CHAIN: &str = "cert-chain.pem";
const ROOTS: &str = "root-cert.pem";

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(parts: &[(&str, &str)]) -> Result<PemFiles, SecretError> {
        let data = parts
            .iter()
            .map(|(name, text)| ((*name).to_owned(), BASE64_STANDARD.encode(text)));
        let data = data.collect();
        Secret { data }.into_files("istio-system")
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
        let data = [(CERTIFICATE.to_owned(), "?".to_owned())].into();
        assert!(Secret { data }.into_files("a").is_err());
    }
}
