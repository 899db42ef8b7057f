//! Which plugins a runtime's sandboxes will call when they end.
//!
//! A runtime keeps a file per sandbox and network, with the configuration in base64 that it was made by; some use that
//! when it ends, instead of what is in force then.

use std::{fs, io, path::Path};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;

use super::file;

/// How many sandboxes name the plugin. One that cannot be understood may well.
///
/// # Errors
/// When the directory cannot be read. If it is not there, there are none.
pub(super) fn naming(cache: &Path, plugin: &str) -> io::Result<usize> {
    let entries = match fs::read_dir(cache.join("results")) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut naming = 0;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            continue;
        }
        let named = match file::read(&entry.path()) {
            Ok(text) => is_named(&text, plugin),
            // It ended meanwhile.
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        };
        naming += usize::from(named);
    }
    Ok(naming)
}

fn is_named(text: &[u8], plugin: &str) -> bool {
    #[derive(Deserialize)]
    struct Cached {
        config: Option<String>,
    }
    #[derive(Deserialize)]
    struct Network {
        #[serde(rename = "type")]
        kind: Option<String>,
        plugins: Option<Vec<Typed>>,
    }
    #[derive(Deserialize)]
    struct Typed {
        #[serde(rename = "type")]
        kind: Option<String>,
    }
    let Ok(cached) = serde_json::from_slice::<Cached>(text) else {
        return true;
    };
    // Old runtimes keep the result alone, and end a sandbox by the configuration in force.
    let Some(config) = cached.config else {
        return false;
    };
    let network = BASE64_STANDARD.decode(config).ok();
    let Some(network) = network.and_then(|text| serde_json::from_slice::<Network>(&text).ok())
    else {
        return true;
    };
    let listed = network.plugins.unwrap_or_default();
    let mut kinds = listed.into_iter().filter_map(|plugin| plugin.kind);
    network.kind.as_deref() == Some(plugin) || kinds.any(|kind| kind == plugin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_surely_does_not_name_the_plugin_does_not_count() {
        let cached = |config: &str| {
            let config = BASE64_STANDARD.encode(config);
            format!(r#"{{"kind": "cniCacheV1", "config": "{config}", "result": {{"n": 1}}}}"#)
        };
        for (text, named) in [
            (
                cached(r#"{"plugins": [{"type": "ptp"}, {"type": "tulle-cni"}]}"#),
                true,
            ),
            (cached(r#"{"type": "tulle-cni"}"#), true),
            (cached(r#"{"type": "ptp"}"#), false),
            (
                cached(r#"{"plugins": [{"type": "ptp", "args": "tulle-cni"}]}"#),
                false,
            ),
            (cached(""), true),
            (r#"{"config": "***"}"#.into(), true),
            (r#"{"cniVersion": "0.3.1", "ips": []}"#.into(), false),
            ("{".into(), true),
        ] {
            assert_eq!(is_named(text.as_bytes(), "tulle-cni"), named, "{text}");
        }
    }

    #[test]
    fn node_without_sandboxes_has_none() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(naming(folder.path(), "tulle-cni").unwrap(), 0);
        let results = folder.path().join("results");
        fs::create_dir_all(results.join("a-directory")).unwrap();
        fs::write(results.join("broken"), "{").unwrap();
        assert_eq!(naming(folder.path(), "tulle-cni").unwrap(), 1);
    }
}
