//! From one agent to the next: what is written down of pods, and what is made of it.

use std::{io, sync::Arc};

use tracing::{info, warn};
use tulle_manifest::ObjectKey;
use tulle_net::{Netns, redirect::RedirectConfig};

use super::{
    Agent, AgentError, descriptor, pod_info,
    sandbox::{Sandbox, Stage},
};
use crate::{
    enrollment::Options,
    node::{
        objects::KnownPod,
        state::{SavedPod, SavedStage},
        status::Redirection,
    },
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
            let stage = match saved.stage {
                SavedStage::Outside => Stage::Outside,
                SavedStage::Leaving => Stage::Leaving(self.config.redirect.clone()),
                SavedStage::Enrolled => match self.resume(&uid, &key, &saved, &netns) {
                    Ok(config) => {
                        self.tell_of(&uid, &key, Some(Redirection::Enabled), None);
                        self.probes.note(&uid, &saved.ips);
                        Stage::Enrolled(config)
                    }
                    Err(error) => {
                        warn!(%key, %error, "pod is not as it was left");
                        Stage::Outside
                    }
                },
            };
            let sandbox = Sandbox {
                key: Some(key),
                container: saved.container,
                netns: saved.netns,
                cookie: saved.cookie,
                ips: saved.ips,
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

    /// Tells ztunnel of a pod that was enrolled. Returns how it is redirected.
    fn resume(
        &self,
        uid: &str,
        key: &ObjectKey,
        saved: &SavedPod,
        netns: &Netns,
    ) -> Result<RedirectConfig, AgentError> {
        let known = self.objects.borrow().pod(key).cloned();
        let options = known.map(|known| Options::read(&known.facts.annotations));
        let fd = descriptor(netns, &saved.netns)?;
        let info = pod_info(key, &saved.service_account);
        self.zds.enroll(uid, info, Some(Arc::new(fd)))?;
        Ok(self.redirect(&options.unwrap_or_default()))
    }
}
