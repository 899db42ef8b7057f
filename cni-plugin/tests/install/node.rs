//! A node's directories, and what a primary writes there.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::json;
use tempfile::TempDir;
use tulle_cni_plugin::node::install::{
    Entry, InstallConfig, Installer, Mode, Pass, UninstallConfig,
};

pub(crate) const ENTRY: &str = r#"{"type":"tulle-cni","cni_agent_run_dir":"/run/mesh","exclude_namespaces":["kube-system"],"pod_namespace":"mesh"}"#;
pub(crate) const PRIMARY: &str = r#"{
  "name": "pods",
  "cniVersion": "1.0.0",
  "zone": 12345678901234567890, "weight": 1.0,
  "plugins": [
    {"type": "ptp", "mtu": 1.50e3},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ],
  "disableCheck": false
}
"#;
pub(crate) const SINGLE: &str = r#"{"type": "bridge", "name": "pods", "cniVersion": "0.3.1", "zone": 12345678901234567890, "weight": 1.0}
"#;

/// A node's directories.
pub(crate) struct Node {
    dir: TempDir,
}

impl Node {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().unwrap();
        for name in ["bin", "conf", "image"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let node = Self { dir };
        fs::write(node.path("image/tulle-cni"), "plugin").unwrap();
        node
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Names in a directory, sorted; hidden ones too.
    pub(crate) fn names(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(directory)).unwrap();
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        let mut names: Vec<_> = entries
            .map(|entry| name(entry).into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Those that a runtime looks at.
    pub(crate) fn configurations(&self) -> Vec<String> {
        let mut names = self.names("conf");
        names.retain(|name| is_configuration(Path::new(name)));
        names
    }

    pub(crate) fn config(&self) -> InstallConfig {
        InstallConfig {
            plugin: self.path("image/tulle-cni"),
            bin_dir: self.path("bin"),
            conf_dir: self.path("conf"),
            primary: None,
            mode: Mode::Chained,
            entry: Entry {
                run_dir: "/run/mesh".into(),
                exclude_namespaces: vec!["kube-system".into()],
                mesh_namespace: "mesh".into(),
            },
            check: Duration::from_secs(3600),
        }
    }

    pub(crate) fn uninstall_config(&self) -> UninstallConfig {
        UninstallConfig {
            bin_dir: self.path("bin"),
            conf_dir: self.path("conf"),
            cache_dir: self.path("cache"),
        }
    }

    /// Remembers a sandbox as a runtime does, with the configuration in force.
    pub(crate) fn add_sandbox(&self, name: &str, configuration: &str) {
        let config = BASE64_STANDARD.encode(self.read(configuration));
        let cached = json!({"kind": "cniCacheV1", "containerId": name, "config": config});
        fs::create_dir_all(self.path("cache/results")).unwrap();
        self.write(&format!("cache/results/{name}"), &cached.to_string());
    }

    pub(crate) fn installer(&self) -> Installer {
        Installer::new(self.config())
    }
}

pub(crate) fn is_configuration(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("conf" | "conflist" | "json"))
}

/// The primary's list with our entry.
pub(crate) fn chained(text: &str) -> String {
    text.replace("true}}\n", &format!("true}}}},\n    {ENTRY}\n"))
}

pub(crate) fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

pub(crate) fn in_place(pass: Pass) -> PathBuf {
    pass.standing.unwrap()
}

/// The primary's configuration of the `n`th time; they are equally long.
pub(crate) fn version(n: u64) -> String {
    PRIMARY.replace(
        "12345678901234567890",
        &(10_000_000_000_000_000_000 + n).to_string(),
    )
}
