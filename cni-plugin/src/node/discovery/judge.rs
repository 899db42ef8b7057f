//! Which of the namespaces that were named for a pod is the pod's.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
};

use tulle_net::{Netns, NetnsId, addresses};

use super::{Claim, Found, NotFound, Refusal, Source, Wanted, proc};

/// Everything that was said, and what a namespace must not be.
pub(super) struct Judge<'a> {
    claims: &'a [Claim],
    node: &'a [NetnsId],
    names: &'a Path,
}

impl<'a> Judge<'a> {
    /// `claims` are in the order of their sources; `node` are the namespaces that are no pod's.
    pub(super) fn new(claims: &'a [Claim], node: &'a [NetnsId], names: &'a Path) -> Self {
        Self {
            claims,
            node,
            names,
        }
    }

    /// The namespaces of these pods, in their order. A namespace that is found for two of them is neither's.
    pub(super) fn all(&self, pods: &[Wanted]) -> Vec<Result<Found, NotFound>> {
        let names = bound(self.names);
        let mut judged: Vec<_> = pods.iter().map(|pod| self.one(pod, &names)).collect();
        let mut owners: HashMap<u64, Vec<&str>> = HashMap::new();
        for (pod, found) in pods.iter().zip(&judged) {
            if let Ok(found) = found {
                owners.entry(found.cookie).or_default().push(&pod.uid);
            }
        }
        for (pod, judged) in pods.iter().zip(&mut judged) {
            let Ok(found) = judged else { continue };
            let others = owners.get(&found.cookie).into_iter().flatten();
            if let Some(other) = others.into_iter().find(|uid| **uid != pod.uid) {
                *judged = Err(NotFound::Shared {
                    path: found.path.clone(),
                    other: (*other).to_owned(),
                });
            }
        }
        judged
    }

    fn one(&self, pod: &Wanted, names: &HashMap<NetnsId, PathBuf>) -> Result<Found, NotFound> {
        if !pod.has_address() {
            return Err(NotFound::NoAddress);
        }
        let mut found: Option<Found> = None;
        let mut refused = None;
        for claim in self.claims.iter().filter(|claim| pod.is(&claim.whose)) {
            let (netns, cookie) = match self.examine(claim, pod) {
                Ok(examined) => examined,
                Err(why) => {
                    refused.get_or_insert((claim.path.clone(), why));
                    continue;
                }
            };
            match &mut found {
                None => {
                    found = Some(Found {
                        path: lasting(claim, &netns, names),
                        netns,
                        cookie,
                        container: claim.container.clone(),
                        source: claim.source,
                    });
                }
                Some(found) if found.cookie == cookie => {
                    // A later source has asked the living, and knows better which sandbox it is now.
                    found.container = claim.container.clone().or(found.container.take());
                }
                Some(found) => {
                    return Err(NotFound::Ambiguous {
                        first: found.path.clone(),
                        second: claim.path.clone(),
                    });
                }
            }
        }
        match (found, refused) {
            (Some(found), _) => Ok(found),
            (None, Some((path, why))) => Err(NotFound::Refused { path, why }),
            (None, None) => Err(NotFound::Unknown),
        }
    }

    fn examine(&self, claim: &Claim, pod: &Wanted) -> Result<(Netns, u64), Refusal> {
        // To open anything else may take forever, or do something.
        if !fs::metadata(&claim.path)?.is_file() {
            return Err(io::Error::other("not a file").into());
        }
        let netns = Netns::open(&claim.path)?;
        if claim.id.is_some_and(|id| id != netns.id()) {
            return Err(Refusal::Replaced);
        }
        if self.node.contains(&netns.id()) {
            return Err(Refusal::Node);
        }
        let held = addresses(&netns)?;
        if !pod.telling().any(|ip| held.contains(ip)) {
            return Err(Refusal::WithoutAddress);
        }
        let cookie = netns.cookie()?;
        Ok((netns, cookie))
    }
}

/// The path that leads to the namespace for as long as possible.
fn lasting(claim: &Claim, netns: &Netns, names: &HashMap<NetnsId, PathBuf>) -> PathBuf {
    let named = match claim.source {
        Source::Proc => names.get(&netns.id()).cloned(),
        Source::Cache | Source::Nri => None,
    };
    named.unwrap_or_else(|| claim.path.clone())
}

/// The namespaces that have a name in `directory`. Other files there do no harm: no namespace has their device and inode.
fn bound(directory: &Path) -> HashMap<NetnsId, PathBuf> {
    // Whatever cannot be read leaves the paths of processes, which do for a while.
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| {
        let path = entry.path();
        Some((proc::netns_id(&path).ok()?, path))
    });
    named.collect()
}
