//! Which pod the plugin speaks of: its object, and whether the namespace can be its.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use tokio::time::{sleep, timeout};
use tulle_manifest::ObjectKey;
use tulle_net::{Netns, addresses};

use super::{Agent, AgentError};
use crate::{
    agent::Pod,
    node::{
        objects::{KnownPod, Objects},
        state::is_uid,
    },
};

impl Agent {
    /// The pod's object, once it is there.
    pub(super) async fn known(&self, key: &ObjectKey, uid: &str) -> Result<KnownPod, AgentError> {
        // Without its namespace's labels nothing can be decided. Where manifests are, one that has none has no labels.
        let decidable = |objects: &Objects| {
            let has_namespace = || objects.has_namespace(&key.namespace);
            objects.is_complete() && (self.lookup.is_none() || has_namespace())
        };
        let of_this_pod = |objects: &Objects| {
            let known = objects.pod(key).filter(|_| decidable(objects))?;
            let same = uid.is_empty() || known.uid == uid;
            (same && is_uid(&known.uid)).then(|| known.clone())
        };
        let mut objects = self.objects.clone();
        let arrival = async {
            let arrived = objects.wait_for(|objects| of_this_pod(objects).is_some());
            match arrived.await {
                Ok(objects) => of_this_pod(&objects).ok_or(AgentError::Unknown),
                Err(_) => Err(AgentError::Ending),
            }
        };
        // What is watched may come late.
        let asked = async {
            let lookup = self.lookup.as_ref();
            sleep(ASK_AFTER).await;
            let found = match lookup {
                Some(lookup) => lookup.fetch(key).await,
                None => None,
            };
            let mut objects = self.objects.clone();
            match found.filter(|known| uid.is_empty() || known.uid == uid) {
                Some(known) if is_uid(&known.uid) => match objects.wait_for(decidable).await {
                    Ok(_) => Ok(known),
                    Err(_) => Err(AgentError::Ending),
                },
                Some(_) | None => std::future::pending().await,
            }
        };
        let known = async {
            tokio::select! {
                known = arrival => known,
                known = asked => known,
            }
        };
        let known = timeout(self.config.object_wait, known).await;
        known.unwrap_or(Err(AgentError::Unknown))
    }

    /// The pod with the path that leads to its namespace from where the agent is.
    pub(super) fn seen_from_here(&self, pod: &Pod) -> Pod {
        let mut pod = pod.clone();
        if let Ok(process) = pod.netns.strip_prefix("/proc") {
            pod.netns = self.config.proc.join(process);
        }
        pod
    }

    /// The namespace, if it can be this pod's: not the node's, and with the addresses that the pod was given.
    pub(super) fn open(&self, pod: &Pod) -> Result<Netns, AgentError> {
        let unusable = |source| AgentError::Namespace {
            path: pod.netns.clone(),
            source,
        };
        let netns = Netns::open(&pod.netns).map_err(unusable)?;
        if netns.id() == self.own {
            return Err(wrong(pod, "the node's own"));
        }
        let held: HashSet<IpAddr> = addresses(&netns).map_err(unusable)?.into_iter().collect();
        let given = pod.ips.iter().map(|ip| ip.address.ip.parse());
        if !given
            .into_iter()
            .all(|ip| ip.is_ok_and(|ip| held.contains(&ip)))
        {
            return Err(wrong(pod, "without the addresses that the pod was given"));
        }
        Ok(netns)
    }

    /// Makes a namespace this pod's, unless it is another's. Returns its cookie.
    pub(super) fn claim(&self, uid: &str, netns: &Netns, pod: &Pod) -> Result<u64, AgentError> {
        let cookie = netns.cookie().map_err(|source| AgentError::Namespace {
            path: pod.netns.clone(),
            source,
        })?;
        match self.sandboxes.claim(uid, cookie) {
            true => Ok(cookie),
            false => Err(wrong(pod, "another pod's")),
        }
    }
}

fn wrong(pod: &Pod, what: &'static str) -> AgentError {
    AgentError::WrongNamespace {
        path: pod.netns.clone(),
        what,
    }
}

/// Until a pod that is not known yet is asked for.
const ASK_AFTER: Duration = Duration::from_millis(200);
