//! The parts of a ProxyConfig that apply here.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::variables::{ConfigError, Variables};

/// Other keys are for other proxies, and are ignored.
#[derive(Debug, Default, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "the names are those of a ProxyConfig")]
pub struct ProxyConfig {
    pub discovery_address: Option<String>,
    pub proxy_admin_port: Option<u16>,
    pub stats_port: Option<u16>,
    pub concurrency: Option<u16>,
    pub proxy_metadata: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct MeshConfig {
    default_config: ProxyConfig,
}

impl ProxyConfig {
    /// From the mesh configuration file, overridden by `PROXY_CONFIG`.
    ///
    /// # Errors
    /// If one of them does not parse.
    pub fn read(mesh_file: Option<&str>, variables: &Variables<'_>) -> Result<Self, ConfigError> {
        let mesh: MeshConfig = document("mesh configuration file", mesh_file)?;
        let own = variables.text("PROXY_CONFIG");
        let own: Self = document("PROXY_CONFIG", own.as_deref())?;
        Ok(mesh.default_config.overridden_by(own))
    }

    fn overridden_by(mut self, other: Self) -> Self {
        self.proxy_metadata.extend(other.proxy_metadata);
        Self {
            discovery_address: other.discovery_address.or(self.discovery_address),
            proxy_admin_port: other.proxy_admin_port.or(self.proxy_admin_port),
            stats_port: other.stats_port.or(self.stats_port),
            concurrency: other.concurrency.or(self.concurrency),
            proxy_metadata: self.proxy_metadata,
        }
    }
}

fn document<T>(from: &'static str, text: Option<&str>) -> Result<T, ConfigError>
where
    T: Default + for<'de> Deserialize<'de>,
{
    let Some(text) = text.filter(|text| !text.trim().is_empty()) else {
        return Ok(T::default());
    };
    serde_saphyr::from_str(text).map_err(|error| ConfigError::Document {
        from,
        error: error.to_string(),
    })
}
