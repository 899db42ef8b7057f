//! In and out: the steps by which a pod enters the mesh and leaves it.
//!
//! ```text
//! in:   write down, ztunnel listens, redirect, tell      (a pod in which nothing runs yet: listen and redirect at once)
//! out:  tell, write down, redirect nothing new, ztunnel takes nothing new … last connection ends … redirect nothing
//! ```

use std::{net::IpAddr, time::Duration};

use tokio::time::sleep;
use tracing::{info, warn};
use tulle_net::{
    Netns, addresses,
    redirect::{self, Drift},
};
use tulle_zds::AddError;

use super::{
    Agent, AgentError, blocking, descriptor, pod_info,
    sandbox::{Sandbox, Stage},
};
use crate::{
    enrollment::Options,
    node::{
        objects::KnownPod,
        state::SavedStage,
        status::{Problem, Redirection},
    },
};

/// Whether anything runs in a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Started {
    /// The runtime waits for us before it starts the pod's containers.
    NotYet,
    /// It has connections, perhaps.
    Before,
}

impl Agent {
    /// Takes a pod in. If that fails it is not in.
    pub(super) async fn enroll(
        &self,
        known: &KnownPod,
        sandbox: &mut Sandbox,
        netns: &Netns,
        options: &Options,
        started: Started,
    ) -> Result<(), AgentError> {
        let entered = self.enter(known, sandbox, netns, options, started).await;
        let problem = entered.as_ref().err().map(|error| Problem {
            reason: "NotEnrolled",
            message: error.to_string(),
        });
        let redirection = match &entered {
            Ok(()) => Redirection::Enabled,
            Err(_) => {
                let stage = match &sandbox.stage {
                    Stage::Outside => SavedStage::Outside,
                    Stage::Enrolled(_) => SavedStage::Enrolled,
                    Stage::Leaving(_) => SavedStage::Leaving,
                };
                // It was written down as if it would succeed.
                if let Err(error) = self.save(known, sandbox, stage) {
                    warn!(uid = known.uid, %error, "what is remembered of a pod is wrong");
                }
                Redirection::Pending
            }
        };
        self.tell(&known.uid, sandbox, Some(redirection), problem);
        entered
    }

    async fn enter(
        &self,
        known: &KnownPod,
        sandbox: &mut Sandbox,
        netns: &Netns,
        options: &Options,
        started: Started,
    ) -> Result<(), AgentError> {
        let Some(key) = sandbox.key.clone() else {
            return Err(AgentError::Unknown);
        };
        for ignored in &options.ignored {
            warn!(%key, "{ignored}");
        }
        if *self.zds.connected().borrow() == 0 {
            return Err(AddError::NotConnected.into());
        }
        sandbox.options = options.clone();
        // Before anything is done: whoever comes after us finishes it, or undoes it.
        self.save(known, sandbox, SavedStage::Enrolled)?;
        let info = pod_info(&key, &known.service_account);
        let fd = descriptor(netns, &sandbox.netns)?;
        let config = self.redirect(options);
        let listen = async {
            // Probes that nothing redirects yet pass either way.
            let added = self.zds.add(&known.uid, info, fd);
            let (added, ()) = tokio::join!(added, self.probes.allow(&known.uid, &sandbox.ips));
            Ok(added?)
        };
        let (to_apply, in_netns) = (config.clone(), netns.clone());
        let capture = blocking(move || match started {
            Started::NotYet => redirect::apply_to_new(&in_netns, &to_apply),
            Started::Before => redirect::apply(&in_netns, &to_apply),
        });
        let capture = async { Ok(capture.await??) };
        let (listening, captured) = match started {
            Started::NotYet => tokio::join!(listen, capture),
            Started::Before => match listen.await {
                Ok(()) => (Ok(()), capture.await),
                refused => (refused, Ok(())),
            },
        };
        let touched = started == Started::NotYet || listening.is_ok();
        if let (Err(_), Err(error)) = (&listening, &captured) {
            warn!(%key, %error, "not redirected either");
        }
        let entered: Result<(), AgentError> = listening.and(captured);
        if let Err(error) = entered {
            if touched {
                // Some of it may be there, and would lead to nobody.
                let (netns, released) = (netns.clone(), config.clone());
                let released = blocking(move || redirect::release(&netns, &released)).await;
                if let Err(error) = released.and_then(|released| Ok(released?)) {
                    warn!(%key, %error, "redirection is left half-way; tried again");
                }
                sandbox.stage = Stage::Leaving(config);
            }
            // One that refused would go on trying.
            self.zds.del(&known.uid);
            self.probes.forget(&known.uid).await;
            return Err(error);
        }
        sandbox.stage = Stage::Enrolled(config);
        self.metrics.event("enrolled");
        info!(%key, "pod is in the mesh");
        Ok(())
    }

    /// Redirects an enrolled pod in another way, as its annotations ask now.
    pub(super) async fn change(
        &self,
        known: &KnownPod,
        sandbox: &mut Sandbox,
        options: &Options,
    ) -> Result<(), AgentError> {
        let config = self.redirect(options);
        if sandbox.stage == Stage::Enrolled(config.clone()) {
            return Ok(());
        }
        sandbox.options = options.clone();
        self.save(known, sandbox, SavedStage::Enrolled)?;
        let netns = self.reopen(sandbox)?;
        let applied = config.clone();
        blocking(move || redirect::apply(&netns, &applied)).await??;
        let key = sandbox.key.as_ref().map(ToString::to_string);
        info!(key, "pod is redirected as its annotations ask now");
        self.metrics.event("changed");
        sandbox.stage = Stage::Enrolled(config);
        Ok(())
    }

    /// Lets probes reach the addresses that an enrolled pod was given later, and forgets those that it no longer has. Its object
    /// names them; the namespace has to hold them.
    pub(super) async fn readdress(
        &self,
        known: &KnownPod,
        sandbox: &mut Sandbox,
    ) -> Result<(), AgentError> {
        if known.ips.iter().all(|ip| sandbox.ips.contains(ip)) {
            return Ok(());
        }
        let netns = self.reopen(sandbox)?;
        let held = blocking(move || addresses(&netns)).await?;
        let held = held.map_err(|source| AgentError::Namespace {
            path: sandbox.netns.clone(),
            source,
        })?;
        let mut ips: Vec<IpAddr> = sandbox.ips.iter().chain(&known.ips).copied().collect();
        ips.retain(|ip| held.contains(ip));
        ips.sort_unstable();
        ips.dedup();
        if ips.iter().all(|ip| sandbox.ips.contains(ip)) {
            return Ok(());
        }
        let key = sandbox.key.as_ref().map(ToString::to_string);
        info!(key, ?ips, "pod has other addresses");
        self.probes.allow(&known.uid, &ips).await;
        let before = std::mem::replace(&mut sandbox.ips, ips);
        let saved = self.save(known, sandbox, SavedStage::Enrolled);
        if saved.is_err() {
            // So that it is tried again.
            sandbox.ips = before;
        }
        saved
    }

    /// Lets a pod out: nothing new is redirected, and what is open runs on.
    pub(super) async fn let_go(
        &self,
        known: &KnownPod,
        sandbox: &mut Sandbox,
    ) -> Result<(), AgentError> {
        let Stage::Enrolled(config) = sandbox.stage.clone() else {
            return Ok(());
        };
        // First of all others stop sending it tunnels.
        self.tell(&known.uid, sandbox, None, None);
        self.save(known, sandbox, SavedStage::Leaving)?;
        sleep(HEARD).await;
        let (netns, released) = (self.reopen(sandbox)?, config.clone());
        blocking(move || redirect::release(&netns, &released)).await??;
        self.zds.del(&known.uid);
        self.probes.forget(&known.uid).await;
        sandbox.stage = Stage::Leaving(config);
        self.metrics.event("left");
        Ok(())
    }

    /// Takes the rest of redirection away, once no connection needs it. Returns whether that is done.
    pub(super) async fn finish_leaving(
        &self,
        known: &KnownPod,
        sandbox: &mut Sandbox,
    ) -> Result<bool, AgentError> {
        let Stage::Leaving(config) = sandbox.stage.clone() else {
            return Ok(true);
        };
        let netns = self.reopen(sandbox)?;
        let removed = blocking(move || {
            // An earlier agent may have come no further than to write it down.
            match redirect::verify_released(&netns, &config) {
                Ok(()) | Err(Drift::TableMissing) => {}
                Err(_) => redirect::release(&netns, &config)?,
            }
            Ok::<_, AgentError>(redirect::remove_released(&netns, &config)?)
        });
        if !removed.await?? {
            return Ok(false);
        }
        self.save(known, sandbox, SavedStage::Outside)?;
        sandbox.stage = Stage::Outside;
        let key = sandbox.key.as_ref().map(ToString::to_string);
        info!(key, "nothing of the pod is redirected any more");
        Ok(true)
    }

    /// The namespace of a pod that runs.
    pub(super) fn reopen(&self, sandbox: &Sandbox) -> Result<Netns, AgentError> {
        let path = &sandbox.netns;
        let unusable = |source| AgentError::Namespace {
            path: path.clone(),
            source,
        };
        let netns = Netns::open(path).map_err(unusable)?;
        match netns.cookie().map_err(unusable)? == sandbox.cookie {
            true => Ok(netns),
            false => Err(AgentError::WrongNamespace {
                path: path.clone(),
                what: "no longer the one that the pod started with",
            }),
        }
    }
}

/// Until others have heard that a pod leaves, and send it no more tunnels.
const HEARD: Duration = Duration::from_millis(500);
