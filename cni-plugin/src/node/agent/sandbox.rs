//! The pods that have a network, each with a lock of its own, so that a slow one holds up no other.

use std::{collections::HashMap, net::IpAddr, path::PathBuf, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tulle_manifest::ObjectKey;
use tulle_net::redirect::RedirectConfig;

use crate::enrollment::Options;

/// A pod's network as the runtime told of it, and what was made of it.
#[derive(Default)]
pub(super) struct Sandbox {
    /// None while nothing is known of it.
    pub(super) key: Option<ObjectKey>,
    pub(super) container: String,
    pub(super) netns: PathBuf,
    /// Unlike an inode, never used again.
    pub(super) cookie: u64,
    pub(super) ips: Vec<IpAddr>,
    /// How it is captured while it is.
    pub(super) options: Options,
    pub(super) stage: Stage,
}

/// How a pod relates to the mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing of it is redirected.
    #[default]
    Outside,
    /// It is in the mesh, redirected like this.
    Enrolled(RedirectConfig),
    /// It has left, and connections through the mesh are still open. Nothing new is redirected.
    Leaving(RedirectConfig),
}

/// Somebody works on the pod.
pub(super) struct Busy;

/// A locked sandbox.
pub(super) type Locked = OwnedMutexGuard<Sandbox>;

/// All of them, by UID.
#[derive(Default)]
pub(super) struct Sandboxes {
    pods: Mutex<HashMap<String, Arc<AsyncMutex<Sandbox>>>>,
    /// Whose a namespace is: UIDs by cookie.
    claims: Mutex<HashMap<u64, String>>,
}

impl Sandboxes {
    /// A pod's place, for as long as it is used: others who want it wait.
    pub(super) async fn lock(&self, uid: &str) -> Locked {
        loop {
            let sandbox = Arc::clone(self.pods.lock().entry(uid.to_owned()).or_default());
            let locked = Arc::clone(&sandbox).lock_owned().await;
            // It may have been given up by whoever had it.
            let current = self.pods.lock().get(uid).cloned();
            if current.is_some_and(|current| Arc::ptr_eq(&current, &sandbox)) {
                return locked;
            }
        }
    }

    /// A pod's place, if it has one.
    pub(super) async fn lock_known(&self, uid: &str) -> Option<Locked> {
        let sandbox = self.pods.lock().get(uid).cloned()?;
        let locked = sandbox.lock_owned().await;
        locked.key.is_some().then_some(locked)
    }

    /// The same, unless somebody else has it just now.
    pub(super) fn try_lock_known(&self, uid: &str) -> Result<Option<Locked>, Busy> {
        let Some(sandbox) = self.pods.lock().get(uid).cloned() else {
            return Ok(None);
        };
        let locked = sandbox.try_lock_owned().map_err(|_| Busy)?;
        Ok(locked.key.is_some().then_some(locked))
    }

    /// Whether a pod has a place.
    pub(super) fn has(&self, uid: &str) -> bool {
        self.pods.lock().contains_key(uid)
    }

    /// The UIDs of all.
    pub(super) fn uids(&self) -> Vec<String> {
        self.pods.lock().keys().cloned().collect()
    }

    /// Enters a sandbox that an earlier agent left.
    pub(super) fn insert(&self, uid: String, sandbox: Sandbox) {
        self.claims.lock().insert(sandbox.cookie, uid.clone());
        let sandbox = Arc::new(AsyncMutex::new(sandbox));
        self.pods.lock().insert(uid, sandbox);
    }

    /// Gives a place up.
    pub(super) fn remove(&self, uid: &str, mut sandbox: Locked) {
        self.release(uid, sandbox.cookie);
        *sandbox = Sandbox::default();
        self.pods.lock().remove(uid);
    }

    /// Makes a namespace a pod's. Returns whether it is not another's.
    pub(super) fn claim(&self, uid: &str, cookie: u64) -> bool {
        let mut claims = self.claims.lock();
        claims.entry(cookie).or_insert_with(|| uid.to_owned()) == uid
    }

    /// Gives a namespace up, if it is the pod's.
    pub(super) fn release(&self, uid: &str, cookie: u64) {
        let mut claims = self.claims.lock();
        if claims.get(&cookie).is_some_and(|owner| owner == uid) {
            claims.remove(&cookie);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_belongs_to_one_pod() {
        let sandboxes = Sandboxes::default();
        assert!(sandboxes.claim("a", 7));
        assert!(sandboxes.claim("a", 7), "it is its own");
        assert!(!sandboxes.claim("b", 7));
        sandboxes.release("b", 7);
        assert!(!sandboxes.claim("b", 7), "it was not given up by its owner");
        sandboxes.release("a", 7);
        assert!(sandboxes.claim("b", 7));
    }

    #[tokio::test]
    async fn a_place_that_was_given_up_is_made_anew() {
        let sandboxes = Sandboxes::default();
        let mut first = sandboxes.lock("a").await;
        first.container = "c-1".to_owned();
        assert!(sandboxes.has("a"));
        let waits = sandboxes.lock("a");
        sandboxes.remove("a", first);
        let second = waits.await;
        assert_eq!(second.container, "");
        drop(second);
        assert!(sandboxes.has("a"));
        assert!(
            sandboxes.lock_known("a").await.is_none(),
            "nobody told of it"
        );
    }
}
