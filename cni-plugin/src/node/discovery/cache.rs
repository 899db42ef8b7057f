//! The results that CNI's library keeps: a file per network, container and interface.
//!
//! ```text
//! <cache>/results/<network>-<container>-<interface>
//!     {"kind": "cniCacheV1", "containerId": …, "ifName": …, "netns": …, "cniArgs": [["K8S_POD_UID", …], …], "result": …, …}
//! ```
//!
//! Libraries before 1.3 write no `netns`; there it is the `sandbox` that the result gives for the interface.
//!
//! A file is written in place, so it may be seen half written, and stays where DEL never came. Others than the library may
//! have left files there.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::Deserialize;
use serde_json::Value;
use tracing::{debug, warn};

use super::{Claim, Source, Whose, read_bounded};

/// What the files claim, newest last, so that of two sandboxes of a pod the later one is heard last.
///
/// A file that cannot be understood is left out.
///
/// # Errors
/// When the directory cannot be read.
pub(super) fn claims(results: &Path) -> io::Result<Vec<Claim>> {
    let mut claims: Vec<(SystemTime, Claim)> = Vec::new();
    for (count, entry) in fs::read_dir(results)?.enumerate() {
        if count == MOST_FILES {
            warn!(path = %results.display(), most = MOST_FILES, "more results than are read; some pods may not be found");
            break;
        }
        let entry = entry?;
        let path = entry.path();
        match entry.metadata() {
            // A pipe would keep us waiting.
            Ok(meta) if meta.is_file() => match read(&path) {
                Ok(Some(claim)) => {
                    let written = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    claims.push((written, claim));
                }
                Ok(None) => {}
                Err(error) => debug!(path = %path.display(), %error, "not a result of CNI"),
            },
            Ok(_) => {}
            Err(error) => debug!(path = %path.display(), %error, "not a result of CNI"),
        }
    }
    claims.sort_by_key(|(written, _)| *written);
    Ok(claims.into_iter().map(|(_, claim)| claim).collect())
}

/// `None` for a container that is no pod's, or has no namespace of its own.
fn read(path: &Path) -> io::Result<Option<Claim>> {
    let content = read_bounded(path, LONGEST)?;
    let result: CachedResult = serde_json::from_slice(&content)?;
    if result.kind != KIND {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "of another kind",
        ));
    }
    let Some(whose) = result.whose() else {
        return Ok(None);
    };
    let path = PathBuf::from(result.netns());
    if !path.is_absolute() || result.container_id.is_empty() {
        return Ok(None);
    }
    Ok(Some(Claim {
        whose,
        path,
        id: None,
        container: Some(result.container_id),
        source: Source::Cache,
    }))
}

/// What we need of a file.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CachedResult {
    kind: String,
    container_id: String,
    #[serde(default)]
    if_name: String,
    #[serde(default)]
    netns: String,
    #[serde(default)]
    cni_args: Option<Vec<(String, String)>>,
    /// What the plugins printed, of any version.
    #[serde(default)]
    result: Value,
}

impl CachedResult {
    fn netns(&self) -> &str {
        if !self.netns.is_empty() {
            return &self.netns;
        }
        let interfaces = self.result.get("interfaces").and_then(Value::as_array);
        let mut sandboxes = interfaces.into_iter().flatten().filter_map(|interface| {
            let name = interface.get("name")?.as_str()?;
            let sandbox = interface.get("sandbox")?.as_str()?;
            (name == self.if_name && !sandbox.is_empty()).then_some(sandbox)
        });
        sandboxes.next().unwrap_or_default()
    }

    fn whose(&self) -> Option<Whose> {
        let arg = |key: &str| {
            let pairs = self.cni_args.iter().flatten();
            let value = pairs.into_iter().find(|(name, _)| name == key);
            value
                .map(|(_, value)| value.clone())
                .filter(|value| !value.is_empty())
        };
        if let Some(uid) = arg("K8S_POD_UID") {
            return Some(Whose::Uid(uid));
        }
        Some(Whose::Named {
            namespace: arg("K8S_POD_NAMESPACE")?,
            name: arg("K8S_POD_NAME")?,
        })
    }
}

const KIND: &str = "cniCacheV1";
/// In bytes. The configuration of the network is part of it; a list of plugins takes a few kilobytes.
const LONGEST: u64 = 1 << 20;
/// A few per pod, and what was left of pods that are gone.
const MOST_FILES: usize = 50_000;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn result(args: Value) -> Value {
        json!({
            "kind": "cniCacheV1", "containerId": "c-1", "config": "e30=", "ifName": "eth0", "networkName": "pods",
            "netns": "/run/netns/cni-1", "cniArgs": args, "capabilityArgs": {}, "result": {"ips": []},
        })
    }

    fn claim(whose: Whose) -> Claim {
        Claim {
            whose,
            path: "/run/netns/cni-1".into(),
            id: None,
            container: Some("c-1".into()),
            source: Source::Cache,
        }
    }

    #[test]
    fn pods_are_known_by_uid_or_else_by_name() {
        let names = [["K8S_POD_NAMESPACE", "shop"], ["K8S_POD_NAME", "web-0"]];
        let named = Whose::Named {
            namespace: "shop".into(),
            name: "web-0".into(),
        };
        let [namespace, name] = names;
        for (args, expected) in [
            (
                json!([namespace, name, ["K8S_POD_UID", "u-1"]]),
                Some(Whose::Uid("u-1".into())),
            ),
            (
                json!([["IgnoreUnknown", "1"], namespace, name]),
                Some(named.clone()),
            ),
            (json!([namespace, name, ["K8S_POD_UID", ""]]), Some(named)),
            (json!([name]), None),
            (json!([]), None),
            (Value::Null, None),
        ] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(
                folder.path().join("pods-c-1-eth0"),
                result(args.clone()).to_string(),
            )
            .unwrap();
            let expected: Vec<Claim> = expected.map(claim).into_iter().collect();
            assert_eq!(claims(folder.path()).unwrap(), expected, "{args}");
        }
    }

    #[test]
    fn foreign_and_broken_files_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let good = result(json!([["K8S_POD_UID", "u-1"]]));
        let with = |key: &str, value: Value| {
            let mut changed = good.clone();
            changed[key] = value;
            changed.to_string()
        };
        let huge = format!("{good}{}", " ".repeat(1 << 20));
        for (name, text) in [
            ("half", good.to_string()[..40].to_owned()),
            ("empty", String::new()),
            ("foreign", "10.1.2.3".to_owned()),
            ("kind", with("kind", json!("cniCacheV9"))),
            ("no-netns", with("netns", json!(""))),
            ("relative", with("netns", json!("netns/cni-1"))),
            ("no-container", with("containerId", json!(""))),
            (
                "three",
                with("cniArgs", json!([["K8S_POD_UID", "u-1", "x"]])),
            ),
            ("huge", huge),
        ] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        fs::create_dir(folder.path().join("directory")).unwrap();
        nix::unistd::mkfifo(&folder.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(claims(folder.path()).unwrap(), []);
        fs::write(folder.path().join("good"), good.to_string()).unwrap();
        assert_eq!(
            claims(folder.path()).unwrap(),
            [claim(Whose::Uid("u-1".into()))]
        );
    }

    #[test]
    fn where_older_libraries_are_the_result_tells() {
        let mut old = result(json!([["K8S_POD_UID", "u-1"]]));
        old.as_object_mut().unwrap().remove("netns");
        let interfaces = |sandbox: &str| {
            json!([{"name": "veth1", "mac": "1"}, {"name": "eth1", "sandbox": "/run/netns/other"},
                {"name": "eth0", "mac": "2", "sandbox": sandbox}])
        };
        for (printed, found) in [
            (
                json!({"interfaces": interfaces("/run/netns/cni-1")}),
                Some(claim(Whose::Uid("u-1".into()))),
            ),
            (json!({"interfaces": interfaces("")}), None),
            (
                json!({"interfaces": [null, {"sandbox": "/run/netns/cni-1"}]}),
                None,
            ),
            (json!({"ip4": {}}), None),
            (Value::Null, None),
        ] {
            let folder = tempfile::tempdir().unwrap();
            old["result"] = printed;
            fs::write(folder.path().join("pods-c-1-eth0"), old.to_string()).unwrap();
            let found: Vec<Claim> = found.into_iter().collect();
            assert_eq!(claims(folder.path()).unwrap(), found, "{old}");
        }
    }

    #[test]
    fn of_two_sandboxes_the_later_one_comes_last() {
        let folder = tempfile::tempdir().unwrap();
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        for (container, after) in [("c-3", 3), ("c-1", 1), ("c-2", 2)] {
            let mut result = result(json!([["K8S_POD_UID", "u-1"]]));
            result["containerId"] = json!(container);
            let path = folder.path().join(format!("pods-{container}-eth0"));
            fs::write(&path, result.to_string()).unwrap();
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(start + Duration::from_secs(after))
                .unwrap();
        }
        let claims = claims(folder.path()).unwrap().into_iter();
        let containers: Vec<_> = claims.filter_map(|claim| claim.container).collect();
        assert_eq!(containers, ["c-1", "c-2", "c-3"]);
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let error = claims(&folder.path().join("results")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
