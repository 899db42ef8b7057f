//! Where objects, tokens and the authority's key come from: a directory, or the Kubernetes API.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use parking_lot::Mutex;
use tracing::info;
use tulle_identity::ca::SigningCa;
use tulle_kubernetes::Client;
use tulle_manifest::source::{
    Change,
    directory::{Directory, DirectoryConfig, Problems},
};

use crate::{
    app::{Config, RunError},
    callers::Tokens,
    files,
    kubernetes::{reviews::Reviews, secret, source},
    token::TokenKey,
};

/// Which of them.
#[derive(Clone, Debug)]
pub enum SourceConfig {
    /// Manifests, with nothing else installed.
    Directory {
        /// The manifests.
        manifests: DirectoryConfig,
        /// Where the CA, the token key and the roots for clients are kept.
        state: PathBuf,
    },
    /// The API server that the environment names.
    Kubernetes,
}

/// Objects as they change.
pub(crate) enum Source {
    Directory(Box<Directory>),
    Kubernetes(source::Source),
}

/// All that there is at first.
pub(crate) struct Opened {
    pub(crate) source: Source,
    pub(crate) objects: Vec<Change>,
    pub(crate) tokens: Tokens,
    pub(crate) ca: SigningCa,
    pub(crate) problems: Arc<Mutex<Problems>>,
    /// Where things are to be written.
    pub(crate) writes_to: Option<Client>,
}

impl Opened {
    /// Reads everything.
    ///
    /// # Errors
    /// [`RunError`] names what cannot be used.
    pub(crate) async fn new(config: &Config, now: SystemTime) -> Result<Self, RunError> {
        match &config.source {
            SourceConfig::Directory { manifests, state } => {
                Self::directory(config, manifests, state, now).await
            }
            SourceConfig::Kubernetes => Self::kubernetes(config, now).await,
        }
    }

    async fn directory(
        config: &Config,
        manifests: &DirectoryConfig,
        state: &std::path::Path,
        now: SystemTime,
    ) -> Result<Self, RunError> {
        let ca = match &config.ca {
            Some(directory) => SigningCa::load(directory, now)?,
            None => SigningCa::load_or_generate(state.join("ca"), &config.mesh.trust_domain, now)?,
        };
        let roots = state.join("root-cert.pem");
        files::replace_public(&roots, ca.roots_pem()).map_err(|source| RunError::Io {
            what: format!("cannot write {}", roots.display()),
            source,
        })?;
        let tokens = Tokens::Own(TokenKey::load_or_generate(state)?);
        let (directory, objects) = Directory::open(manifests.clone()).await?;
        Ok(Self {
            problems: directory.problems(),
            source: Source::Directory(Box::new(directory)),
            objects,
            tokens,
            ca,
            writes_to: None,
        })
    }

    async fn kubernetes(config: &Config, now: SystemTime) -> Result<Self, RunError> {
        let client = Client::infer().await?;
        let mesh = &config.mesh;
        let ca = match &config.ca {
            Some(directory) => SigningCa::load(directory, now)?,
            None => {
                info!("reading the key of the certificate authority");
                let made = secret::load_or_generate(
                    &client,
                    &mesh.root_namespace,
                    &mesh.trust_domain,
                    now,
                );
                made.await?
            }
        };
        let (source, objects) = source::Source::open(&client).await;
        Ok(Self {
            source: Source::Kubernetes(source),
            objects,
            tokens: Tokens::Reviewed(Reviews::new(client.clone())),
            writes_to: Some(client),
            ca,
            problems: Arc::default(),
        })
    }
}

impl Source {
    /// Waits for the next changes.
    pub(crate) async fn next(&mut self) -> Vec<Change> {
        match self {
            Self::Directory(directory) => directory.next().await,
            Self::Kubernetes(source) => source.next().await,
        }
    }
}
