//! From one agent to the next: what is written down of pods, and what is made of it.

use std::{io, sync::Arc};

use tracing::{info, warn};
use tulle_manifest::ObjectKey;
use tulle_net::{
    Netns,
    redirect::{self, Drift},
};

use super::{
    Agent, AgentError, descriptor, pod_info,
    sandbox::{Sandbox, Stage},
};
use crate::node::{
    objects::KnownPod,
    state::{SavedPod, SavedStage},
    status::Redirection,
};

impl Agent {
    /// Takes over what an earlier agent left: pods that are still there go on as they were.
    ///
    /// It waits for nothing, so that ztunnel, which takes what it is told first for everything there is, hears of all of
    /// them at once. [`Agent::follow`] does the rest.
    ///
    /// # Errors
    /// When what was left cannot be read at all.
    pub fn take_over(&self) -> io::Result<()> {
        for (uid, saved) in self.state.load()? {
            let key = ObjectKey::new(saved.namespace.as_str(), saved.name.as_str());
            let netns = match self.still_there(&saved) {
                Ok(netns) => netns,
                Err(gone) => {
                    info!(%key, %gone, "pod went while no agent ran");
                    self.state.remove(&uid);
                    continue;
                }
            };
            let stage = self.resume(&uid, &key, &saved, &netns);
            let sandbox = Sandbox {
                key: Some(key),
                container: saved.container,
                netns: saved.netns,
                cookie: saved.cookie,
                ips: saved.ips,
                options: saved.options,
                stage,
            };
            self.sandboxes.insert(uid, sandbox);
        }
        Ok(())
    }

    /// Writes a pod down for the next agent.
    pub(super) fn save(
        &self,
        known: &KnownPod,
        sandbox: &Sandbox,
        stage: SavedStage,
    ) -> Result<(), AgentError> {
        let key = sandbox.key.as_ref().ok_or(AgentError::Unknown)?;
        let saved = SavedPod {
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            service_account: known.service_account.clone(),
            container: sandbox.container.clone(),
            netns: sandbox.netns.clone(),
            cookie: sandbox.cookie,
            boot: self.state.boot().to_owned(),
            ips: sandbox.ips.clone(),
            stage,
            options: sandbox.options.clone(),
        };
        self.state
            .save(&known.uid, &saved)
            .map_err(AgentError::State)
    }

    /// The namespace of a pod that was left, if it is still the same.
    fn still_there(&self, saved: &SavedPod) -> io::Result<Netns> {
        if saved.boot != self.state.boot() {
            return Err(io::Error::other("the node was restarted"));
        }
        let netns = Netns::open(&saved.netns)?;
        match netns.cookie()? == saved.cookie {
            true => Ok(netns),
            false => Err(io::Error::other("another namespace is in its place")),
        }
    }

    /// What a pod is now, by what was written down and what is there.
    ///
    /// Only what is redirected needs somebody who listens. One that was written down, and no more, is begun with anew; one
    /// that was to be released, and is not, is still in the mesh.
    fn resume(&self, uid: &str, key: &ObjectKey, saved: &SavedPod, netns: &Netns) -> Stage {
        let config = self.redirect(&saved.options);
        let untouched = |found: Result<(), Drift>| matches!(found, Err(Drift::TableMissing));
        let is_in = match saved.stage {
            SavedStage::Outside => false,
            SavedStage::Enrolled => !untouched(redirect::verify(netns, &config)),
            SavedStage::Leaving => match redirect::verify_released(netns, &config) {
                Ok(()) | Err(Drift::TableMissing) => return Stage::Leaving(config),
                Err(_) => true,
            },
        };
        if !is_in {
            return Stage::Outside;
        }
        let info = pod_info(key, &saved.service_account);
        let told = descriptor(netns, &saved.netns).and_then(|fd| {
            let told = self.zds.enroll(uid, info, Some(Arc::new(fd)));
            told.map_err(AgentError::from)
        });
        if let Err(error) = told {
            warn!(%key, %error, "pod is not as it was left");
            return Stage::Leaving(config);
        }
        self.tell_of(uid, key, Some(Redirection::Enabled), None);
        self.probes.note(uid, &saved.ips);
        Stage::Enrolled(config)
    }
}
