//! Where there is no API server, what is told of pods goes into a manifest of the node: `nodestatus.<node>.yaml`.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use tokio::{sync::watch, task::spawn_blocking, time::sleep};
use tracing::warn;
use tulle_manifest::{NodeStatus, PodRedirection};

use super::status::{Redirection, Statuses};

/// The manifest of one node.
#[derive(Clone, Debug)]
pub struct StatusFile {
    folder: PathBuf,
    node: String,
}

impl StatusFile {
    /// In `folder`, of `node`.
    pub fn new(folder: impl Into<PathBuf>, node: impl Into<String>) -> Self {
        Self {
            folder: folder.into(),
            node: node.into(),
        }
    }

    /// Keeps the file up to date for as long as it is polled; what fails is tried again every second.
    pub async fn follow(self, mut statuses: watch::Receiver<Statuses>) {
        let mut told = false;
        loop {
            let text = self.text(&statuses.borrow_and_update());
            let file = self.clone();
            let written = spawn_blocking(move || file.write(&text)).await;
            let failed = match written {
                Ok(written) => written.err(),
                Err(_) => return,
            };
            if let Some(error) = &failed
                && !told
            {
                let folder = self.folder.display();
                warn!(%folder, %error, "cannot tell which pods are in the mesh; others send them plaintext");
            }
            told = failed.is_some();
            tokio::select! {
                changed = statuses.changed() => if changed.is_err() { return },
                () = sleep(RETRY), if failed.is_some() => {}
            }
        }
    }

    fn text(&self, statuses: &Statuses) -> String {
        let told = statuses.iter().map(|(uid, status)| PodRedirection {
            namespace: status.key.namespace.to_string(),
            name: status.key.name.to_string(),
            uid: uid.clone(),
            redirection: status
                .redirection
                .map_or("", Redirection::as_str)
                .to_owned(),
            problem: status
                .problem
                .as_ref()
                .map(|problem| problem.message.clone()),
        });
        let mut pods: Vec<_> = told.collect();
        pods.sort();
        NodeStatus::to_yaml(&self.node, &pods)
    }

    /// Replaces the file as a whole, unless it says the same.
    fn write(&self, text: &str) -> io::Result<()> {
        let path = self.folder.join(format!("nodestatus.{}.yaml", self.node));
        if fs::read(&path).is_ok_and(|old| old == text.as_bytes()) {
            return Ok(());
        }
        // Readers of manifests skip names that start with a dot.
        let unready = self.folder.join(format!(".nodestatus.{}.new", self.node));
        let mut file = File::create(&unready)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&unready, &path)
    }
}

const RETRY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use tulle_manifest::{Object, ObjectKey, source::Document};

    use super::*;
    use crate::node::status::{Problem, Status};

    #[test]
    fn what_is_told_can_be_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = StatusFile::new(folder.path(), "node1");
        let status = |name: &str, redirection, problem: Option<&str>| Status {
            key: ObjectKey::new("shop", name),
            redirection,
            problem: problem.map(|message| Problem {
                reason: "NotCapturable",
                message: message.to_owned(),
            }),
        };
        let statuses = Statuses::from([
            (
                "u-1".to_owned(),
                status("true", Some(Redirection::Enabled), None),
            ),
            (
                "u-2".to_owned(),
                status("web", None, Some("not capturable: hostNetwork")),
            ),
        ]);
        file.write(&file.text(&statuses)).unwrap();
        let text = fs::read_to_string(folder.path().join("nodestatus.node1.yaml")).unwrap();
        let objects = Document::parse(&text).unwrap().objects;
        let [Object::NodeStatus(read)] = &objects[..] else {
            panic!("{objects:?}");
        };
        assert_eq!(read.metadata.name, "node1");
        let pods: Vec<_> = read
            .pods
            .iter()
            .map(|pod| {
                (
                    pod.uid.as_str(),
                    pod.name.as_str(),
                    pod.redirection.as_str(),
                    pod.problem.as_deref(),
                )
            })
            .collect();
        let expected = [
            ("u-1", "true", "enabled", None),
            ("u-2", "web", "", Some("not capturable: hostNetwork")),
        ];
        assert_eq!(pods, expected);
    }
}
