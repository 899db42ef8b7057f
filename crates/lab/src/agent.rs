//! A node agent reduced to what enrolls a pod: the right steps in the right order, on request.
//!
//! It stands where the real agent will: [`NodeAgent::enroll`] and [`NodeAgent::unenroll`] are all that the mesh asks
//! of it. Deciding which pods are enrolled, and writing it down, is the mesh's part.

use std::path::Path;

use anyhow::{Context, Result};
use tulle_net::redirect::{self, RedirectConfig};
use tulle_zds::{PodInfo, ServerConfig, ZdsServer};

use crate::{address::Families, pod::Pod};

/// The agent of one node.
#[derive(Debug)]
pub(crate) struct NodeAgent {
    zds: ZdsServer,
    redirect: RedirectConfig,
}

impl NodeAgent {
    /// Waits at `socket` for the node's ztunnel.
    pub(crate) fn start(socket: &Path, families: Families) -> Result<Self> {
        let zds = ZdsServer::bind(socket, ServerConfig::default())
            .with_context(|| format!("cannot listen at {}", socket.display()))?;
        let redirect = RedirectConfig {
            ipv6: families.v6(),
            ..RedirectConfig::default()
        };
        Ok(Self { zds, redirect })
    }

    /// Takes a pod into the mesh: first ztunnel listens, then traffic is sent to it.
    pub(crate) async fn enroll(&self, pod: &Pod) -> Result<()> {
        let info = PodInfo {
            name: pod.name().into(),
            namespace: pod.namespace().into(),
            service_account: pod.service_account().into(),
        };
        let netns = pod.netns().fd().try_clone_to_owned()?;
        self.zds.add(pod.uid(), info, netns).await?;
        redirect::apply(pod.netns(), &self.redirect)?;
        Ok(())
    }

    /// Lets a pod out of the mesh: first ztunnel ends its connections there, so that nothing of them is sent past it, then
    /// the pod's traffic flows by itself. What is opened in between is lost and sent again, or refused.
    pub(crate) fn unenroll(&self, pod: &Pod) -> Result<()> {
        self.forget(pod);
        redirect::remove(pod.netns())?;
        Ok(())
    }

    /// Tells ztunnel that a pod is gone, whose namespace need not be cleaned up.
    pub(crate) fn forget(&self, pod: &Pod) {
        self.zds.del(pod.uid());
    }
}
