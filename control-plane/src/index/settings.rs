//! Settings of the mesh that are read from the cluster, and what waypoints are told of them.

use std::{collections::BTreeMap, sync::Arc};

use tulle_manifest::{ConfigMap, MeshConfig, Object, ObjectId};
use tulle_model::authorizer::Authorizer;
use tulle_xds::{Configuration, ConfigurationName};

use super::Index;
use crate::authorizers::authorizers;

/// What the settings say, and what was made of that.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    config: Arc<MeshConfig>,
    authorizers: BTreeMap<Arc<str>, Authorizer>,
}

impl Settings {
    /// The same, of which nothing was sent yet.
    pub(super) fn unsent(&self) -> Self {
        Self {
            config: Arc::clone(&self.config),
            authorizers: BTreeMap::new(),
        }
    }
}

impl Index {
    /// The settings as they were last understood.
    pub fn mesh_config(&self) -> &MeshConfig {
        &self.settings.config
    }

    /// Whether somebody of this name can be asked about requests.
    pub fn can_be_asked(&self, authorizer: &str) -> bool {
        self.settings.authorizers.contains_key(authorizer)
    }

    /// Takes the settings if that is what an object is. What cannot be understood changes nothing.
    pub(super) fn set(&mut self, id: &ObjectId, object: Option<&Object>) {
        if !self.is_root(&id.key.namespace) || *id.key.name != *ConfigMap::MESH {
            return;
        }
        let config = match object {
            Some(Object::ConfigMap(map)) => map.mesh_config().ok(),
            Some(_) => return,
            None => Some(MeshConfig::default()),
        };
        if let Some(config) = config {
            self.settings.config = Arc::new(config);
        }
    }

    /// Who may be asked, as far as that has changed: the settings may have, or the services that they name.
    pub(super) fn asked(&mut self) -> Vec<(String, Option<Configuration>)> {
        let now = authorizers(self);
        let before = std::mem::replace(&mut self.settings.authorizers, now.clone());
        let gone = before.keys().filter(|name| !now.contains_key(*name));
        let gone = gone.map(|name| {
            let name = ConfigurationName::Authorizer(Arc::clone(name));
            (name.to_string(), None)
        });
        let new = now
            .iter()
            .filter(|(name, one)| before.get(*name) != Some(one));
        let new = new.map(|(_, one)| {
            let made = Configuration::Authorizer(Box::new(one.clone()));
            (made.name().to_string(), Some(made))
        });
        gone.chain(new).collect()
    }
}
