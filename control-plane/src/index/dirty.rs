//! What a change of an object may change.

use std::collections::BTreeSet;

use super::{is_workload_level, network_label, network_of};
use crate::{
    mesh::Mesh,
    objects::{Objects, in_namespace},
    translate::{self, selects},
};
use tulle_manifest::{
    EndpointSlice, Kind, Labels, Metadata, Object, ObjectId, ObjectKey, PeerAuthentication,
};

/// Objects whose resources have to be computed again.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) pods: BTreeSet<ObjectKey>,
    pub(super) services: BTreeSet<ObjectKey>,
    pub(super) slices: BTreeSet<ObjectKey>,
    /// Names of workloads that may be of no slice any more.
    pub(super) endpoints: BTreeSet<String>,
    pub(super) authorization_policies: BTreeSet<ObjectKey>,
    pub(super) peer_authentications: BTreeSet<ObjectKey>,
    pub(super) static_strict: bool,
}

impl Dirty {
    pub(super) fn everything(objects: &Objects) -> Self {
        Self {
            pods: objects.pods().keys().cloned().collect(),
            services: objects.services().keys().cloned().collect(),
            slices: objects.endpoint_slices().keys().cloned().collect(),
            endpoints: BTreeSet::new(),
            authorization_policies: objects.authorization_policies().keys().cloned().collect(),
            peer_authentications: objects.peer_authentications().keys().cloned().collect(),
            static_strict: true,
        }
    }

    /// Adds what depends on an object, in the state before its change and after it.
    pub(super) fn add(
        &mut self,
        mesh: &Mesh,
        objects: &Objects,
        id: &ObjectId,
        new: Option<&Object>,
    ) {
        let key = &id.key;
        match id.kind {
            Kind::Namespace => {
                let is_root = *key.name == *mesh.root_namespace;
                if is_root && network_label(objects, mesh) != network_of(new) {
                    self.pods.extend(objects.pods().keys().cloned());
                    self.services.extend(objects.services().keys().cloned());
                    let slices = objects.endpoint_slices().keys();
                    self.slices.extend(slices.cloned());
                } else {
                    let services = in_namespace(objects.services(), &key.name);
                    self.services.extend(services.map(|(key, _)| key.clone()));
                    // Its labels may bind them to a waypoint.
                    let pods = in_namespace(objects.pods(), &key.name);
                    self.pods.extend(pods.map(|(key, _)| key.clone()));
                }
            }
            Kind::Node => {
                let pods = objects.pods_on(&key.name);
                self.pods.extend(pods.map(|pod| pod.metadata.key()));
            }
            Kind::Pod => {
                self.pods.insert(key.clone());
            }
            Kind::Service => self.service(objects, key, new),
            Kind::EndpointSlice => self.slice(mesh, objects, key, new),
            Kind::Gateway => self.bound(objects, |waypoint| waypoint == key),
            Kind::GatewayClass => {
                let is_of_class = |waypoint: &ObjectKey| {
                    let gateway = objects.gateways().get(waypoint);
                    gateway.is_some_and(|gateway| *gateway.spec.gateway_class_name == *key.name)
                };
                self.bound(objects, is_of_class);
            }
            Kind::AuthorizationPolicy => self.authorization(mesh, objects, key, new),
            Kind::PeerAuthentication => self.peer_authentication(mesh, objects, key, new),
            Kind::NodeStatus => {}
        }
    }

    fn slice(&mut self, mesh: &Mesh, objects: &Objects, key: &ObjectKey, new: Option<&Object>) {
        self.slices.insert(key.clone());
        let old = objects.endpoint_slices().get(key).map(AsRef::as_ref);
        let new = match new {
            Some(Object::EndpointSlice(new)) => Some(new.as_ref()),
            Some(_) | None => None,
        };
        if let Some(old) = old {
            let addresses = translate::endpoint_addresses(old);
            let uids = addresses.map(|(ip, _)| translate::endpoint_uid(mesh, old, ip));
            self.endpoints.extend(uids);
        }
        for slice in [old, new].into_iter().flatten() {
            self.pods.extend(pods_of(slice));
        }
    }

    fn service(&mut self, objects: &Objects, key: &ObjectKey, new: Option<&Object>) {
        self.services.insert(key.clone());
        for slice in objects.slices_of(key) {
            self.slices.insert(slice.metadata.key());
            self.pods.extend(pods_of(slice));
        }
        let old = objects.services().get(key).map(|old| &old.spec.selector);
        let new = match new {
            Some(Object::Service(new)) => Some(&new.spec.selector),
            Some(_) | None => None,
        };
        // A service without a selector selects nothing.
        for selector in [old, new].into_iter().flatten().filter(|s| !s.is_empty()) {
            self.selected(objects, Some(&key.namespace), selector);
        }
    }

    /// What asks for one of these waypoints.
    fn bound(&mut self, objects: &Objects, is_it: impl Fn(&ObjectKey) -> bool) {
        let asks = |metadata: &Metadata| {
            let namespace = objects.namespace(metadata.namespace());
            let asked = translate::asked_waypoint(metadata, namespace.map(AsRef::as_ref));
            let mut asked = asked;
            asked.any(|asked| is_it(&asked))
        };
        let pods = objects.pods().iter().filter(|(_, pod)| asks(&pod.metadata));
        self.pods.extend(pods.map(|(key, _)| key.clone()));
        let services = objects.services().iter();
        let services = services.filter(|(_, service)| asks(&service.metadata));
        self.services.extend(services.map(|(key, _)| key.clone()));
    }

    fn authorization(
        &mut self,
        mesh: &Mesh,
        objects: &Objects,
        key: &ObjectKey,
        new: Option<&Object>,
    ) {
        self.authorization_policies.insert(key.clone());
        let selector = |policy: &tulle_manifest::AuthorizationPolicy| {
            policy.spec.selector.match_labels.clone()
        };
        let old = objects.authorization_policies().get(key);
        let old = old.map(|old| selector(old));
        let new = match new {
            Some(Object::AuthorizationPolicy(new)) => Some(selector(new)),
            Some(_) | None => None,
        };
        let namespace = (*key.namespace != *mesh.root_namespace).then_some(&*key.namespace);
        // One without a selector is found by its scope, not by reference.
        for selector in [old, new].into_iter().flatten().filter(|s| !s.is_empty()) {
            self.selected(objects, namespace, &selector);
        }
    }

    fn peer_authentication(
        &mut self,
        mesh: &Mesh,
        objects: &Objects,
        key: &ObjectKey,
        new: Option<&Object>,
    ) {
        self.peer_authentications.insert(key.clone());
        self.static_strict = true;
        let old = objects.peer_authentications().get(key).map(AsRef::as_ref);
        let new = match new {
            Some(Object::PeerAuthentication(new)) => Some(new.as_ref()),
            Some(_) | None => None,
        };
        for policy in [old, new].into_iter().flatten() {
            if is_workload_level(mesh, policy) {
                let selector = &policy.spec.selector.match_labels;
                self.selected(objects, Some(&key.namespace), selector);
            } else {
                self.level(mesh, objects, policy);
            }
        }
    }

    /// What a PeerAuthentication without a selector is above of.
    fn level(&mut self, mesh: &Mesh, objects: &Objects, policy: &PeerAuthentication) {
        let namespace = policy.metadata.namespace();
        let pods = &mut self.pods;
        let derived = &mut self.peer_authentications;
        if namespace == mesh.root_namespace {
            pods.extend(objects.pods().keys().cloned());
            derived.extend(objects.peer_authentications().keys().cloned());
        } else {
            let keys = in_namespace(objects.pods(), namespace);
            pods.extend(keys.map(|(key, _)| key.clone()));
            let keys = in_namespace(objects.peer_authentications(), namespace);
            derived.extend(keys.map(|(key, _)| key.clone()));
        }
    }

    /// Pods with these labels, in a namespace or in all.
    fn selected(&mut self, objects: &Objects, namespace: Option<&str>, selector: &Labels) {
        let matching = |labels: &Labels| selects(selector, labels);
        match namespace {
            Some(namespace) => {
                let pods = in_namespace(objects.pods(), namespace);
                let pods = pods.filter(|(_, pod)| matching(&pod.metadata.labels));
                self.pods.extend(pods.map(|(key, _)| key.clone()));
            }
            None => {
                let pods = objects.pods().iter();
                let pods = pods.filter(|(_, pod)| matching(&pod.metadata.labels));
                self.pods.extend(pods.map(|(key, _)| key.clone()));
            }
        }
    }
}

/// The pods that a slice lists.
fn pods_of(slice: &EndpointSlice) -> impl Iterator<Item = ObjectKey> {
    let pods = slice.endpoints.iter().filter_map(|endpoint| endpoint.pod());
    pods.map(|pod| ObjectKey::new(pod.namespace.as_str(), pod.name.as_str()))
}
