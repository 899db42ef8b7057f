//! What an agent leaves behind for the next one: a file per pod.
//!
//! ```text
//! <state>/<UID>.json    {"namespace": …, "name": …, "container": …, "netns": …, "cookie": …, "ips": …, "boot": …, "stage": …}
//! ```
//!
//! A file is written before the pod's network is answered for, and replaced as a whole: no later agent sees it half written.
//! It need not survive the kernel, since no network does: nothing waits for the disk. The cookie and the boot tell whether the
//! path still leads to the same namespace.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::enrollment::Options;

/// The folder of the files.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
    boot: String,
}

/// What is known of one pod. What a later version knows besides is no reason to forget it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its service account.
    pub service_account: String,
    /// The container whose network it is.
    pub container: String,
    /// Path of its network namespace.
    pub netns: PathBuf,
    /// The namespace's cookie.
    pub cookie: u64,
    /// The boot in which the cookie was given.
    pub boot: String,
    /// The pod's addresses.
    pub ips: Vec<IpAddr>,
    /// How it related to the mesh, or was about to.
    pub stage: SavedStage,
    /// How it is captured, if it is.
    #[serde(default)]
    pub options: Options,
}

/// How a pod related to the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SavedStage {
    /// Not in it.
    Outside,
    /// In it, or on its way in.
    Enrolled,
    /// On its way out.
    Leaving,
}

impl StateDir {
    /// Makes the folder if need be.
    ///
    /// # Errors
    /// When it cannot be made, or this boot has no name.
    pub fn open(path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        fs::create_dir_all(&path)?;
        let boot = fs::read_to_string(BOOT_ID)?.trim().to_owned();
        Ok(Self { path, boot })
    }

    /// The boot that we are in.
    pub fn boot(&self) -> &str {
        &self.boot
    }

    /// Writes a pod down.
    ///
    /// # Errors
    /// When it cannot be written; what was there before is still there then.
    pub fn save(&self, uid: &str, pod: &SavedPod) -> io::Result<()> {
        let unready = self.path.join(format!(".{uid}.new"));
        fs::write(&unready, serde_json::to_vec(pod)?)?;
        fs::rename(&unready, self.file(uid))
    }

    /// Forgets a pod.
    pub fn remove(&self, uid: &str) {
        match fs::remove_file(self.file(uid)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => warn!(uid, %error, "cannot forget a pod"),
        }
    }

    /// Everything that was left, by UID. What cannot be read is told and left alone.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn load(&self) -> io::Result<Vec<(String, SavedPod)>> {
        let mut pods = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            let Some(uid) = uid_of(&path) else {
                continue;
            };
            let text = fs::read(&path);
            // What a power cut may leave of one, whose pod has gone with it.
            if text.as_ref().is_ok_and(Vec::is_empty) {
                self.remove(uid);
                continue;
            }
            match text.and_then(|text| Ok(serde_json::from_slice(&text)?)) {
                Ok(pod) => pods.push((uid.to_owned(), pod)),
                Err(error) => {
                    warn!(path = %path.display(), %error, "cannot read what is left of a pod")
                }
            }
        }
        Ok(pods)
    }

    fn file(&self, uid: &str) -> PathBuf {
        self.path.join(format!("{uid}.json"))
    }
}

/// The UID that a file is named after; none for files that are not ours or not ready.
fn uid_of(path: &Path) -> Option<&str> {
    let uid = path.file_name()?.to_str()?.strip_suffix(".json")?;
    is_uid(uid).then_some(uid)
}

/// Whether a UID can be the name of a file.
pub fn is_uid(uid: &str) -> bool {
    (1..=128).contains(&uid.len())
        && !uid.starts_with('.')
        && uid
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> SavedPod {
        SavedPod {
            namespace: "shop".into(),
            name: name.into(),
            service_account: "web".into(),
            container: "c-1".into(),
            netns: "/run/netns/x".into(),
            cookie: 7,
            boot: "b".into(),
            ips: vec!["10.1.2.3".parse().unwrap()],
            stage: SavedStage::Enrolled,
            options: Options {
                exclude_outbound_ports: [5432].into(),
                ..Options::default()
            },
        }
    }

    #[test]
    fn pods_are_found_again_until_they_are_removed() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path().join("pods")).unwrap();
        assert_eq!(state.load().unwrap(), []);
        state.save("u-1", &pod("a")).unwrap();
        state.save("u-1", &pod("b")).unwrap();
        state.save("u-2", &pod("c")).unwrap();
        let mut found = StateDir::open(folder.path().join("pods"))
            .unwrap()
            .load()
            .unwrap();
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        assert_eq!(
            found,
            [("u-1".to_owned(), pod("b")), ("u-2".to_owned(), pod("c"))]
        );
        state.remove("u-1");
        state.remove("u-1");
        assert_eq!(state.load().unwrap(), [("u-2".to_owned(), pod("c"))]);
    }

    #[test]
    fn files_of_others_and_broken_ones_are_left_alone_and_empty_ones_removed() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        for (name, text) in [
            (".u-1.new", "{"),
            ("u-2.json", "{"),
            ("u-3.json", "{\"name\": 1}"),
            ("u-4.json", ""),
            ("notes.txt", "x"),
        ] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        assert_eq!(state.load().unwrap(), []);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4);
    }

    #[test]
    fn uids_that_are_paths_are_none() {
        for (uid, valid) in [
            ("00000000-0000-4000-8000-000000000001", true),
            ("mirror_1.2", true),
            ("", false),
            ("..", false),
            ("a/b", false),
        ] {
            assert_eq!(is_uid(uid), valid, "{uid}");
        }
    }
}
