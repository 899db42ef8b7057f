//! What a caller may have: decisions over the objects, from what its token proves and never from what it claims.

use std::sync::Arc;

use tulle_model::{InvalidSpiffeId, SpiffeId};

use crate::{
    mesh::Mesh,
    objects::Objects,
    token::{Caller, InvalidToken},
    translate::{gateway_of, is_waypoint, terminates_hbone},
};
use tulle_manifest::{Labels, Pod};

/// Why a caller is refused. Written to the log, never to the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The token is missing or invalid.
    #[error("no valid token: {0}")]
    Token(#[from] InvalidToken),
    /// The caller says that it belongs to another cluster than ours, whose tokens we cannot have reviewed.
    #[error("the caller is of another cluster")]
    OtherCluster,
    /// The service account is not one that node proxies run as.
    #[error("service account is not trusted to act for others")]
    NotTrusted,
    /// The caller is no node proxy, and no pod of a waypoint either.
    #[error("the caller is neither a node proxy nor a waypoint")]
    NoProxy,
    /// There is no such pod.
    #[error("the caller's pod does not exist")]
    NoPod,
    /// There is a pod of that name, but another one, or one that has ended.
    #[error("the caller's pod is another one by now")]
    OtherPod,
    /// The caller's pod runs as another service account.
    #[error("the caller's pod runs as another service account")]
    OtherAccount,
    /// The caller's pod is on no node, or on another one than token or metadata say.
    #[error("the caller's node is not the one of its pod")]
    OtherNode,
    /// The requested identity is not one.
    #[error("the requested identity is not one: {0}")]
    Identity(#[from] InvalidSpiffeId),
    /// The requested identity is of another trust domain.
    #[error("the requested identity is of another trust domain")]
    OtherTrustDomain,
    /// No workload with the requested identity runs on the caller's node.
    #[error("no workload of the mesh on the caller's node has the requested identity")]
    NotOnNode,
    /// The caller asks for its own certificate, and is not selected for the mesh.
    #[error("the caller's pod is not in the mesh")]
    NotInMesh,
}

impl Refusal {
    /// A short name, for a metric.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Token(InvalidToken::Unanswered) => "no_review",
            Self::Token(_) => "token",
            Self::OtherCluster => "other_cluster",
            Self::NotTrusted => "not_trusted",
            Self::NoProxy => "no_proxy",
            Self::NoPod => "no_pod",
            Self::OtherPod => "other_pod",
            Self::OtherAccount => "other_account",
            Self::OtherNode => "other_node",
            Self::Identity(_) => "identity",
            Self::OtherTrustDomain => "other_trust_domain",
            Self::NotOnNode => "not_on_node",
            Self::NotInMesh => "not_in_mesh",
        }
    }
}

/// On whose account a certificate is given: what a pod asks for is no reason to keep its node waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// Of the proxy of this node.
    Node(String),
    /// Of the pod of this UID.
    Pod(String),
}

/// The node of a caller that is a node proxy.
///
/// # Errors
/// [`Refusal`] unless its service account is trusted and its pod runs right now, as that account.
pub fn node_proxy<'a>(
    mesh: &Mesh,
    objects: &'a Objects,
    caller: &Caller,
) -> Result<&'a str, Refusal> {
    if !mesh.trusted_node_accounts.contains(&caller.account) {
        return Err(Refusal::NotTrusted);
    }
    let node = live_pod(objects, caller)?.spec.node_name.as_str();
    if node.is_empty() {
        return Err(Refusal::OtherNode);
    }
    Ok(node)
}

/// The node of a caller that may follow the mesh: a node proxy, or a waypoint.
///
/// A pod is one if its labels say of which Gateway, and that Gateway is a waypoint of ours. Whoever may make such a Gateway in a
/// namespace has its pod, and whoever may make pods there can make one that looks like it.
///
/// # Errors
/// [`Refusal`] unless its pod runs right now, as its service account.
pub fn follower<'a>(
    mesh: &Mesh,
    objects: &'a Objects,
    caller: &Caller,
) -> Result<&'a str, Refusal> {
    if mesh.trusted_node_accounts.contains(&caller.account) {
        return node_proxy(mesh, objects, caller);
    }
    let pod = live_pod(objects, caller)?;
    let gateway = gateway_of(&pod.metadata).and_then(|key| objects.gateways().get(&key));
    let is_waypoint = gateway.is_some_and(|gateway| {
        let class = objects.gateway_class(&gateway.spec.gateway_class_name);
        pod.metadata.labels.contains_key(GATEWAY) && is_waypoint(gateway, class.map(Arc::as_ref))
    });
    if !is_waypoint {
        return Err(Refusal::NoProxy);
    }
    Ok(&pod.spec.node_name)
}

/// The identity that a caller gets a certificate for, and on whose account that is: its node's, or its pod's alone.
///
/// Without a request, or with one for just that, it is the caller's own, if it is in the mesh. A node proxy may request that of any
/// workload on its node.
///
/// # Errors
/// [`Refusal`] when the caller is not entitled to it.
pub fn certificate(
    mesh: &Mesh,
    objects: &Objects,
    caller: &Caller,
    requested: Option<&str>,
) -> Result<(SpiffeId, Account), Refusal> {
    let account = &caller.account;
    let own = SpiffeId::new(mesh.trust_domain.clone(), &account.namespace, &account.name)?;
    let is_node_proxy = mesh.trusted_node_accounts.contains(account);
    let for_others = |requested: &&str| is_node_proxy || *requested != own.as_str();
    let Some(requested) = requested.filter(for_others) else {
        let pod = live_pod(objects, caller)?;
        if !is_in_mesh(mesh, objects, pod) {
            return Err(Refusal::NotInMesh);
        }
        return Ok((own, Account::Pod(pod.metadata.uid.clone())));
    };
    let node = node_proxy(mesh, objects, caller)?;
    let requested: SpiffeId = requested.parse()?;
    if *requested.trust_domain() != mesh.trust_domain {
        return Err(Refusal::OtherTrustDomain);
    }
    let entitles = |pod: &Pod| {
        !pod.status.phase.is_terminal()
            && pod.metadata.namespace() == requested.namespace()
            && pod.spec.service_account() == requested.service_account()
            && is_in_mesh(mesh, objects, pod)
    };
    if !objects.pods_on(node).any(|pod| entitles(pod)) {
        return Err(Refusal::NotOnNode);
    }
    Ok((requested, Account::Node(node.to_owned())))
}

/// The pod that a caller's token is bound to, if it still runs.
fn live_pod<'a>(objects: &'a Objects, caller: &Caller) -> Result<&'a Pod, Refusal> {
    let key = tulle_manifest::ObjectKey::new(caller.account.namespace.clone(), &*caller.pod);
    let pod = objects.pods().get(&key).ok_or(Refusal::NoPod)?;
    if pod.metadata.uid != caller.pod_uid || pod.status.phase.is_terminal() {
        return Err(Refusal::OtherPod);
    }
    if pod.spec.service_account() != &*caller.account.name {
        return Err(Refusal::OtherAccount);
    }
    let node = caller.node.as_deref();
    if node.is_some_and(|node| node != pod.spec.node_name) {
        return Err(Refusal::OtherNode);
    }
    Ok(pod)
}

/// Whether a pod is selected for the mesh, or is a gateway of it.
///
/// By label, not by the annotation that says that its traffic is redirected: the certificate is needed before that.
fn is_in_mesh(mesh: &Mesh, objects: &Objects, pod: &Pod) -> bool {
    let labels = &pod.metadata.labels;
    if labels.contains_key(GATEWAY) || terminates_hbone(labels) {
        return true;
    }
    // Such a pod has no network namespace of its own to redirect.
    if pod.spec.host_network {
        return false;
    }
    let namespace = objects.namespace(pod.metadata.namespace());
    let nothing = Labels::new();
    let namespace = namespace.map_or(&nothing, |namespace| &namespace.metadata.labels);
    mesh.enablement.selects(labels, namespace)
}

/// On pods that the controller of a Gateway made.
const GATEWAY: &str = "gateway.istio.io/managed";

#[cfg(test)]
mod tests;
