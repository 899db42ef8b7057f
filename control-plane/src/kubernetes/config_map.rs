//! ConfigMaps, as far as they are texts by name.

use std::collections::BTreeMap;

use serde::Deserialize;
use tulle_manifest::Metadata;

/// A ConfigMap.
#[derive(Deserialize)]
pub(super) struct ConfigMap {
    pub(super) metadata: Metadata,
    #[serde(default)]
    pub(super) data: BTreeMap<String, String>,
}
