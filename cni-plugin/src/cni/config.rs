//! What the runtime writes to standard input.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{CniError, Code, Version};

/// Our entry of the network's list of plugins, with what the runtime adds to it.
///
/// Names are those of the ambient contract, so that an entry of its plugin works here.
#[derive(Clone, Debug)]
pub struct Config {
    /// `cniVersion`. Default: the newest.
    pub version: Version,
    /// `prevResult`: what the plugin before us made, as it came.
    pub previous: Option<Box<RawValue>>,
    /// `cni.dev/valid-attachments`: on GC, the containers that are left.
    pub attachments: Option<Vec<Attachment>>,
    /// `cni_agent_run_dir`: where the agent's socket is. Default `/var/run/istio-cni`.
    pub run_dir: PathBuf,
    /// `exclude_namespaces`: whose pods are never in the mesh. Default `kube-system`.
    pub exclude_namespaces: Vec<String>,
    /// `pod_namespace`: where the mesh's own pods are. Default `istio-system`.
    pub mesh_namespace: String,
    /// `timeout_seconds`: how long the agent may take for ADD and CHECK, 1 to 200. Default 30.
    pub timeout: Duration,
}

/// A container that is left, and its interface.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
pub struct Attachment {
    /// The container.
    #[serde(rename = "containerID")]
    pub container: String,
    /// The interface.
    #[serde(rename = "ifname")]
    pub interface: String,
}

impl Config {
    /// Where the agent listens.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join(SOCKET)
    }

    /// Reads a configuration.
    ///
    /// # Errors
    /// [`Code::Decode`] if it is no JSON object, [`Code::IncompatibleVersion`] for a version that is not ours, else
    /// [`Code::InvalidConfig`] naming the key: one that we do not know is an error, since it could have been meant to
    /// keep a pod in the mesh.
    pub fn parse(input: &[u8]) -> Result<Self, CniError> {
        let fields: BTreeMap<String, Box<RawValue>> =
            serde_json::from_slice(input).map_err(|error| {
                CniError::new(Code::Decode, "the network configuration is no JSON object")
                    .with_details(error.to_string())
            })?;
        let mut fields = Fields(fields);
        let version = match fields.take::<String>("cniVersion")? {
            None => Version::NEWEST,
            Some(text) => text
                .parse()
                .map_err(|error: super::version::UnknownVersion| {
                    CniError::new(Code::IncompatibleVersion, error.to_string())
                })?,
        };
        let seconds = fields.take("timeout_seconds")?.unwrap_or(DEFAULT_TIMEOUT);
        if !(1..=MAX_TIMEOUT).contains(&seconds) {
            let message = format!("timeout_seconds is {seconds}: use 1 to {MAX_TIMEOUT}");
            return Err(CniError::new(Code::InvalidConfig, message));
        }
        let config = Self {
            version,
            previous: fields
                .0
                .remove("prevResult")
                .filter(|raw| raw.get() != "null"),
            attachments: fields.take("cni.dev/valid-attachments")?,
            run_dir: fields
                .take("cni_agent_run_dir")?
                .unwrap_or_else(|| DEFAULT_RUN_DIR.into()),
            exclude_namespaces: fields
                .take("exclude_namespaces")?
                .unwrap_or_else(|| vec![DEFAULT_EXCLUDED.to_owned()]),
            mesh_namespace: fields
                .take("pod_namespace")?
                .unwrap_or_else(|| DEFAULT_MESH_NAMESPACE.to_owned()),
            timeout: Duration::from_secs(seconds),
        };
        fields.none_left()?;
        Ok(config)
    }
}

/// The keys of the object that nobody has taken yet.
struct Fields(BTreeMap<String, Box<RawValue>>);

impl Fields {
    fn take<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>, CniError> {
        let Some(raw) = self.0.remove(key) else {
            return Ok(None);
        };
        serde_json::from_str(raw.get()).map_err(|error| {
            CniError::new(Code::InvalidConfig, format!("{key} is invalid"))
                .with_details(error.to_string())
        })
    }

    fn none_left(self) -> Result<(), CniError> {
        let unknown = |key: &String| !key.contains('/') && !OF_OTHERS.contains(&key.as_str());
        match self.0.into_keys().find(unknown) {
            None => Ok(()),
            Some(key) => {
                let message = format!("unknown key {key:?} in the plugin's configuration");
                Err(CniError::new(Code::InvalidConfig, message))
            }
        }
    }
}

/// Keys that the specification gives a meaning, and those of the ambient contract's plugin that mean nothing here: what
/// they decide is the agent's to know.
const OF_OTHERS: [&str; 13] = [
    "args",
    "capabilities",
    "dns",
    "ipMasq",
    "ipam",
    "name",
    "runtimeConfig",
    "type",
    "plugin_log_level",
    "ambient_enabled",
    "enablement_selectors",
    "native_nftables",
    "enable_ambient_detection_retry",
];

const SOCKET: &str = "pluginevent.sock";
const DEFAULT_RUN_DIR: &str = "/var/run/istio-cni";
const DEFAULT_EXCLUDED: &str = "kube-system";
const DEFAULT_MESH_NAMESPACE: &str = "istio-system";
const DEFAULT_TIMEOUT: u64 = 30;
/// Below the four minutes that the kubelet allows.
const MAX_TIMEOUT: u64 = 200;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn failure(input: &str) -> CniError {
        Config::parse(input.as_bytes()).unwrap_err()
    }

    #[test]
    fn entry_with_everything_is_read() {
        let config = Config::parse(
            br#"{
                "cniVersion": "0.4.0", "name": "pods", "type": "tulle-cni",
                "cni_agent_run_dir": "/run/mesh", "exclude_namespaces": ["a", "b"],
                "pod_namespace": "mesh", "timeout_seconds": 7,
                "plugin_log_level": "info", "ambient_enabled": true, "enable_ambient_detection_retry": true, "runtimeConfig": {"x": 1},
                "cni.dev/valid-attachments": [{"containerID": "c1", "ifname": "eth0"}],
                "prevResult": {"cniVersion": "0.4.0", "n": 9007199254740993}
            }"#,
        )
        .unwrap();
        assert_eq!(config.version, Version::V0_4_0);
        assert_eq!(config.socket(), PathBuf::from("/run/mesh/pluginevent.sock"));
        assert_eq!(config.exclude_namespaces, ["a", "b"]);
        assert_eq!(config.mesh_namespace, "mesh");
        assert_eq!(config.timeout, Duration::from_secs(7));
        let attachment = Attachment {
            container: "c1".into(),
            interface: "eth0".into(),
        };
        assert_eq!(config.attachments, Some(vec![attachment]));
        let previous = config.previous.unwrap();
        assert_eq!(
            previous.get(),
            r#"{"cniVersion": "0.4.0", "n": 9007199254740993}"#
        );
    }

    #[test]
    fn everything_has_a_default() {
        let config = Config::parse(b"{}").unwrap();
        assert_eq!(config.version, Version::NEWEST);
        assert_eq!(
            config.socket(),
            PathBuf::from("/var/run/istio-cni/pluginevent.sock")
        );
        assert_eq!(config.exclude_namespaces, ["kube-system"]);
        assert_eq!(config.mesh_namespace, "istio-system");
        assert_eq!(config.timeout, Duration::from_secs(30));
        assert!(config.previous.is_none());
        let empty = Config::parse(br#"{"prevResult": null}"#).unwrap();
        assert!(empty.previous.is_none());
    }

    #[test]
    fn mistakes_are_named() {
        for (input, code, message) in [
            (
                "[]",
                Code::Decode,
                "the network configuration is no JSON object",
            ),
            (
                r#"{"cniVersion": "9.9.9"}"#,
                Code::IncompatibleVersion,
                "CNI version \"9.9.9\" is none of 0.3.0, 0.3.1, 0.4.0, 1.0.0 and 1.1.0",
            ),
            (
                r#"{"cniVersion": 1}"#,
                Code::InvalidConfig,
                "cniVersion is invalid",
            ),
            (
                r#"{"exclude_namespace": ["a"]}"#,
                Code::InvalidConfig,
                "unknown key \"exclude_namespace\" in the plugin's configuration",
            ),
            (
                r#"{"exclude_namespaces": "a"}"#,
                Code::InvalidConfig,
                "exclude_namespaces is invalid",
            ),
            (
                r#"{"timeout_seconds": 0}"#,
                Code::InvalidConfig,
                "timeout_seconds is 0: use 1 to 200",
            ),
        ] {
            let error = failure(input);
            assert_eq!((error.code, error.message.as_str()), (code, message));
        }
    }

    proptest! {
        #[test]
        fn any_input_is_read(input in any::<Vec<u8>>()) {
            let _ = Config::parse(&input);
        }
    }
}
