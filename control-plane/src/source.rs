//! Where objects, tokens and the authority's key come from: a directory, or the Kubernetes API.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use parking_lot::{Mutex, RwLock};
use tracing::{info, warn};
use tulle_identity::ca::PemFiles;
use tulle_kubernetes::Client;
use tulle_manifest::source::{
    Change,
    directory::{Directory, DirectoryConfig, Problems},
};
use tulle_xds::store::{StoreWriter, Version};

use crate::{
    app::{Config, RunError},
    callers::Tokens,
    index::Index,
    kubernetes::{reviews::Reviews, secret, source},
    statuses::with_addresses,
    succession::Keeper,
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
    /// The authority, and where it is kept.
    pub(crate) ca: (Keeper, PemFiles),
    /// A file for what clients are to trust.
    pub(crate) roots: Option<PathBuf>,
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
        state: &Path,
        now: SystemTime,
    ) -> Result<Self, RunError> {
        let ca = match &config.ca {
            Some(directory) => in_directory(directory)?,
            None => {
                let directory = state.join("ca");
                let files = PemFiles::read_or_generate(&directory, &config.mesh.trust_domain, now)?;
                (Keeper::Directory(directory), files)
            }
        };
        let tokens = Tokens::Own(TokenKey::load_or_generate(state)?);
        let (directory, objects) = Directory::open(manifests.clone()).await?;
        Ok(Self {
            problems: directory.problems(),
            source: Source::Directory(Box::new(directory)),
            objects,
            tokens,
            ca,
            roots: Some(state.join("root-cert.pem")),
            writes_to: None,
        })
    }

    async fn kubernetes(config: &Config, now: SystemTime) -> Result<Self, RunError> {
        let client = Client::infer().await?;
        let mesh = &config.mesh;
        let usual = config.usual_ca.as_deref();
        let usual = usual.filter(|directory| PemFiles::are_in(directory));
        let ca = match (&config.ca, usual) {
            (Some(directory), _) => in_directory(directory)?,
            (None, Some(directory)) if !secret::exists(&client, &mesh.root_namespace).await? => {
                in_directory(directory)?
            }
            (None, usual) => {
                if let Some(directory) = usual {
                    warn!(
                        directory = %directory.display(),
                        "this certificate authority is not used: the cluster has one in Secret istio-ca-secret, which everybody trusts"
                    );
                }
                info!("reading the key of the certificate authority");
                let namespace = mesh.root_namespace.clone();
                let files =
                    secret::read_or_generate(&client, &namespace, &mesh.trust_domain, now).await?;
                let client = client.clone();
                (Keeper::Secret { client, namespace }, files)
            }
        };
        let (source, objects) = source::Source::open(&client, &mesh.root_namespace).await;
        Ok(Self {
            source: Source::Kubernetes(source),
            objects,
            tokens: Tokens::Reviewed(Reviews::new(client.clone())),
            writes_to: Some(client),
            ca,
            roots: None,
            problems: Arc::default(),
        })
    }
}

/// One made elsewhere.
fn in_directory(directory: &Path) -> Result<(Keeper, PemFiles), RunError> {
    let files = PemFiles::read(directory)?;
    Ok((Keeper::Directory(directory.to_owned()), files))
}

impl Source {
    /// Waits for the next changes.
    pub(crate) async fn next(&mut self) -> Vec<Change> {
        match self {
            Self::Directory(directory) => directory.next().await,
            Self::Kubernetes(source) => source.next().await,
        }
    }

    /// Has the changes translated and told to all clients.
    pub(crate) fn commit(
        &self,
        changes: Vec<Change>,
        index: &RwLock<Index>,
        writer: &mut StoreWriter,
    ) -> Version {
        let transaction = match self {
            Self::Kubernetes(_) => index.write().apply(changes),
            // What is written to Kubernetes comes back as a change; to a directory nothing is written.
            Self::Directory(_) => with_addresses(&mut index.write(), changes),
        };
        writer.commit(transaction)
    }
}
