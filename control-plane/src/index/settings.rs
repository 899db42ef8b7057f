//! Settings of the mesh that are read from the cluster, and what waypoints are told of them.

use std::{collections::BTreeMap, sync::Arc};

use tulle_manifest::{ConfigMap, Kind, MeshConfig, Object, ObjectId, Telemetry as Written};
use tulle_model::{
    authorizer::Authorizer,
    telemetry::{Telemetry, TelemetryKey},
};
use tulle_xds::{Configuration, ConfigurationName};

use super::Index;
use crate::{authorizers::authorizers, telemetry};

/// What the settings say, and what was made of that.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    config: Arc<MeshConfig>,
    authorizers: BTreeMap<Arc<str>, Authorizer>,
    telemetries: BTreeMap<TelemetryKey, Telemetry>,
}

impl Settings {
    /// The same, of which nothing was sent yet.
    pub(super) fn unsent(&self) -> Self {
        Self {
            config: Arc::clone(&self.config),
            authorizers: BTreeMap::new(),
            telemetries: BTreeMap::new(),
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

    /// Who may be asked, and who is told what, as far as that has changed: the settings may have, or the services that they name.
    pub(super) fn asked_and_told(&mut self) -> Vec<(String, Option<Configuration>)> {
        let asked = authorizers(self);
        let before = std::mem::replace(&mut self.settings.authorizers, asked.clone());
        let mut changed = changed(before, asked, ConfigurationName::Authorizer, |one| {
            Configuration::Authorizer(Box::new(one))
        });
        let told = telemetry::told(self);
        let before = std::mem::replace(&mut self.settings.telemetries, told.clone());
        changed.extend(self::changed(
            before,
            told,
            ConfigurationName::Telemetry,
            |one| Configuration::Telemetry(Box::new(one)),
        ));
        changed
    }

    /// Whether nothing is so wrong with a Telemetry that it is left out.
    pub(crate) fn has_no_faults(&self, telemetry: &Written) -> bool {
        self.is_in_order(Kind::Telemetry, &telemetry.metadata.key())
    }
}

/// What is gone, and what is new or other than before.
fn changed<K: Ord + Clone, V: PartialEq>(
    before: BTreeMap<K, V>,
    now: BTreeMap<K, V>,
    name: impl Fn(K) -> ConfigurationName,
    made: impl Fn(V) -> Configuration,
) -> Vec<(String, Option<Configuration>)> {
    let gone = before.keys().filter(|key| !now.contains_key(*key));
    let mut all: Vec<_> = gone
        .map(|key| (name(key.clone()).to_string(), None))
        .collect();
    let new = now
        .into_iter()
        .filter(|(key, one)| before.get(key) != Some(one));
    all.extend(new.map(|(key, one)| (name(key).to_string(), Some(made(one)))));
    all
}
