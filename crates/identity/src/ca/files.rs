//! The CA's key and certificates as files.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tulle_model::TrustDomain;

use super::{BACKDATED, IssueError, template};
use crate::{InvalidRoots, Roots, roots::to_pem};

/// The four parts of a CA, PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct PemFiles {
    /// `ca-cert.pem`: the certificate that signs.
    pub certificate: String,
    /// `ca-key.pem`: its key, PKCS #8, PKCS #1 or SEC 1.
    pub key: String,
    /// `cert-chain.pem`: from the signer up; may include signer and roots.
    pub chain: String,
    /// `root-cert.pem`: what to trust.
    pub roots: String,
}

impl PemFiles {
    /// Reads the four files of `directory`; where none of them is, those of a Secret of type `kubernetes.io/tls` with
    /// `ca.crt`, as certificate managers write it.
    ///
    /// # Errors
    /// [`LoadError::Missing`] names the first one that is not there.
    pub fn read(directory: &Path) -> Result<Self, LoadError> {
        let read = |name: &str| {
            let path = directory.join(name);
            fs::read_to_string(&path).map_err(|source| match source.kind() {
                io::ErrorKind::NotFound => LoadError::Missing { path },
                _ => LoadError::File { path, source },
            })
        };
        if !Self::any_in(directory) && directory.join(TLS_CERTIFICATE).exists() {
            let chain = read(TLS_CERTIFICATE)?;
            return Ok(Self {
                // The first of a chain is the signer's.
                certificate: chain.clone(),
                chain,
                key: read(TLS_KEY)?,
                roots: read(TLS_ROOTS)?,
            });
        }
        Ok(Self {
            certificate: read(CERTIFICATE)?,
            key: read(KEY)?,
            chain: read(CHAIN)?,
            roots: read(ROOTS)?,
        })
    }

    /// Reads the files of `directory`; if there are none, makes a new root and writes them, the key readable by its owner
    /// only.
    ///
    /// # Errors
    /// [`LoadError`] when files are missing, or cannot be written.
    pub fn read_or_generate(
        directory: &Path,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, LoadError> {
        if Self::any_in(directory) {
            return Self::read(directory);
        }
        let files = Self::generate(trust_domain, now)?;
        files.write(directory)?;
        Ok(files)
    }

    /// Whether there is any such file in `directory`. Other names do not count: a volume has some of its own.
    pub fn are_in(directory: &Path) -> bool {
        Self::any_in(directory) || directory.join(TLS_CERTIFICATE).exists()
    }

    fn any_in(directory: &Path) -> bool {
        [CERTIFICATE, KEY, CHAIN, ROOTS]
            .iter()
            .any(|name| directory.join(name).exists())
    }

    /// Makes a key and a self-signed root; see [`SigningCa::generate`](super::SigningCa::generate).
    ///
    /// # Errors
    /// [`LoadError::Generate`].
    pub fn generate(trust_domain: &TrustDomain, now: SystemTime) -> Result<Self, LoadError> {
        let validity = template::Validity {
            not_before: now.checked_sub(BACKDATED).unwrap_or(now),
            not_after: now + ROOT_VALIDITY,
        };
        let make = || {
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let root = template::root(trust_domain, validity)?.self_signed(&key)?;
            Ok((key.serialize_pem(), root.pem()))
        };
        let (key, root) = make().map_err(LoadError::Generate)?;
        Ok(Self {
            certificate: root.clone(),
            key,
            chain: root.clone(),
            roots: root,
        })
    }

    /// Writes the four files. Fails rather than overwrite a key.
    fn write(&self, directory: &Path) -> Result<(), LoadError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| LoadError::File { path, source }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(failed(directory))?;
        for (name, text, mode) in [
            (KEY, &self.key, 0o600),
            (CERTIFICATE, &self.certificate, 0o644),
            (CHAIN, &self.chain, 0o644),
            (ROOTS, &self.roots, 0o644),
        ] {
            let path = directory.join(name);
            write_new(&path, text, mode).map_err(failed(&path))?;
        }
        Ok(())
    }

    /// Takes a certificate out of the roots, however it is written there.
    ///
    /// # Errors
    /// [`LoadError`] when it is none, or the roots are not.
    pub fn retire(&mut self, certificate: &str) -> Result<(), LoadError> {
        let retired = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|_| LoadError::Certificate)?;
        let roots = Roots::from_pem(self.roots.as_bytes())?;
        let left = roots.certificates().iter().filter(|root| **root != retired);
        self.roots = left.map(to_pem).collect();
        Ok(())
    }

    /// The certificates between a leaf and the roots, signer first.
    pub(super) fn intermediates(
        &self,
        signer: &CertificateDer<'static>,
        roots: &Roots,
    ) -> Result<Vec<CertificateDer<'static>>, LoadError> {
        let mut all = vec![signer.clone()];
        for der in CertificateDer::pem_slice_iter(self.chain.as_bytes()) {
            let der = der.map_err(|_| LoadError::CertificateChain)?;
            if !all.contains(&der) {
                all.push(der);
            }
        }
        all.retain(|der| !roots.certificates().contains(der));
        Ok(all)
    }
}

/// Why there is no certificate authority.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file of the set is not there.
    #[error("incomplete set of CA files: {} is missing", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("CA file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// `ca-cert.pem` holds no certificate that can be used.
    #[error("{CERTIFICATE} holds no usable certificate")]
    Certificate,
    /// `ca-key.pem` holds no private key that can be used.
    #[error("{KEY} holds no usable private key")]
    Key,
    /// `cert-chain.pem` is not a list of certificates.
    #[error("{CHAIN} is not a list of certificates")]
    CertificateChain,
    /// `root-cert.pem` holds no root.
    #[error("{ROOTS} holds no trust root")]
    Roots(#[source] InvalidRoots),
    /// A new root could not be made.
    #[error("cannot make a root certificate")]
    Generate(#[source] rcgen::Error),
    /// No trial certificate could be issued: the signer has expired, or its key cannot sign.
    #[error("cannot issue a certificate")]
    Trial(#[source] IssueError),
    /// Certificates that this key signs do not verify against the roots.
    #[error("key, certificate, chain and roots do not belong together")]
    Chain(#[source] webpki::Error),
}

fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

const CERTIFICATE: &str = "ca-cert.pem";
const KEY: &str = "ca-key.pem";
const CHAIN: &str = "cert-chain.pem";
const ROOTS: &str = "root-cert.pem";
const TLS_CERTIFICATE: &str = "tls.crt";
const TLS_KEY: &str = "tls.key";
const TLS_ROOTS: &str = "ca.crt";
const ROOT_VALIDITY: Duration = Duration::from_secs(3650 * 24 * 3600);
