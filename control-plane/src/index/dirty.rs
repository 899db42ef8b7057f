//! What a change of an object may change.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use tulle_model::ServiceKey;

use super::{is_workload_level, network_label, network_of, service_host};
use crate::{
    mesh::Mesh,
    objects::{Objects, Table, in_namespace},
    routes, traffic,
    translate::{self, selects},
};
use tulle_manifest::{
    DestinationRule, EndpointSlice, Kind, Labels, Metadata, Object, ObjectId, ObjectKey,
    PeerAuthentication, Service, ServiceEntry,
};

/// Objects whose resources have to be computed again.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) pods: BTreeSet<ObjectKey>,
    pub(super) services: BTreeSet<ObjectKey>,
    pub(super) slices: BTreeSet<ObjectKey>,
    /// Names of services that service entries may be for.
    pub(super) hosts: BTreeSet<ServiceKey>,
    /// Those whose endpoints have to be computed again.
    pub(super) service_entries: BTreeSet<ObjectKey>,
    pub(super) workload_entries: BTreeSet<ObjectKey>,
    /// Names of workloads that may be of no slice or service entry any more.
    pub(super) endpoints: BTreeSet<String>,
    pub(super) authorization_policies: BTreeSet<ObjectKey>,
    pub(super) request_authentications: BTreeSet<ObjectKey>,
    pub(super) peer_authentications: BTreeSet<ObjectKey>,
    pub(super) rate_limit_policies: BTreeSet<ObjectKey>,
    pub(super) static_strict: bool,
    /// Those whose routes have changed.
    pub(super) routed: BTreeSet<ObjectId>,
    /// Namespaces that let others name what is theirs, or do no longer.
    pub(super) granting: BTreeSet<String>,
}

impl Dirty {
    pub(super) fn everything(objects: &Objects) -> Self {
        Self {
            pods: objects.pods().keys().cloned().collect(),
            services: objects.services().keys().cloned().collect(),
            slices: objects.endpoint_slices().keys().cloned().collect(),
            hosts: objects
                .service_entries()
                .values()
                .flat_map(|entry| keys_of(entry))
                .collect(),
            service_entries: objects.service_entries().keys().cloned().collect(),
            workload_entries: objects.workload_entries().keys().cloned().collect(),
            endpoints: BTreeSet::new(),
            authorization_policies: objects.authorization_policies().keys().cloned().collect(),
            request_authentications: objects.request_authentications().keys().cloned().collect(),
            peer_authentications: objects.peer_authentications().keys().cloned().collect(),
            rate_limit_policies: objects.rate_limit_policies().keys().cloned().collect(),
            static_strict: true,
            routed: BTreeSet::new(),
            granting: BTreeSet::new(),
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
                    self.entries(objects.service_entries().iter());
                    let machines = objects.workload_entries().keys();
                    self.workload_entries.extend(machines.cloned());
                } else {
                    let services = in_namespace(objects.services(), &key.name);
                    self.services.extend(services.map(|(key, _)| key.clone()));
                    // Its labels may bind them to a waypoint.
                    let pods = in_namespace(objects.pods(), &key.name);
                    self.pods.extend(pods.map(|(key, _)| key.clone()));
                    self.entries(in_namespace(objects.service_entries(), &key.name));
                    let machines = in_namespace(objects.workload_entries(), &key.name);
                    let machines = machines.map(|(key, _)| key.clone());
                    self.workload_entries.extend(machines);
                }
            }
            Kind::Node => {
                let pods = objects.pods_on(&key.name);
                self.pods.extend(pods.map(|pod| pod.metadata.key()));
            }
            Kind::Pod => {
                self.pods.insert(key.clone());
            }
            Kind::Service => self.service(mesh, objects, key, new),
            Kind::EndpointSlice => self.slice(mesh, objects, key, new),
            Kind::ServiceEntry => self.service_entry(mesh, objects, key, new),
            Kind::WorkloadEntry => {
                self.workload_entries.insert(key.clone());
            }
            Kind::Gateway => self.bound(objects, |waypoint| waypoint == key),
            Kind::GatewayClass => {
                let is_of_class = |waypoint: &ObjectKey| {
                    let gateway = objects.gateways().get(waypoint);
                    gateway.is_some_and(|gateway| *gateway.spec.gateway_class_name == *key.name)
                };
                self.bound(objects, is_of_class);
            }
            Kind::AuthorizationPolicy => self.authorization(mesh, objects, key, new),
            Kind::RequestAuthentication => {
                self.request_authentications.insert(key.clone());
            }
            Kind::RateLimitPolicy => {
                self.rate_limit_policies.insert(key.clone());
            }
            Kind::PeerAuthentication => self.peer_authentication(mesh, objects, key, new),
            Kind::HTTPRoute => {
                let old = objects.http_routes().get(key).map(AsRef::as_ref);
                let new = match new {
                    Some(Object::HTTPRoute(new)) => Some(new.as_ref()),
                    Some(_) | None => None,
                };
                for route in [old, new].into_iter().flatten() {
                    let parents = routes::parents(&route.metadata, &route.spec.parent_refs);
                    self.routed.extend(parents);
                }
            }
            Kind::GRPCRoute => {
                let old = objects.grpc_routes().get(key).map(AsRef::as_ref);
                let new = match new {
                    Some(Object::GRPCRoute(new)) => Some(new.as_ref()),
                    Some(_) | None => None,
                };
                for route in [old, new].into_iter().flatten() {
                    let parents = routes::parents(&route.metadata, &route.spec.parent_refs);
                    self.routed.extend(parents);
                }
            }
            Kind::ReferenceGrant => {
                self.granting.insert(key.namespace.to_string());
            }
            Kind::VirtualService => {
                let old = objects.virtual_services().get(key).map(AsRef::as_ref);
                let new = match new {
                    Some(Object::VirtualService(new)) => Some(new.as_ref()),
                    Some(_) | None => None,
                };
                for service in [old, new].into_iter().flatten() {
                    self.hosts_named(mesh, objects, key, &service.spec.hosts);
                }
            }
            Kind::DestinationRule => {
                let old = objects.destination_rules().get(key).map(AsRef::as_ref);
                let new = match new {
                    Some(Object::DestinationRule(new)) => Some(new.as_ref()),
                    Some(_) | None => None,
                };
                for rule in [old, new].into_iter().flatten() {
                    self.destination_rule(mesh, objects, rule);
                }
            }
            // Nothing is looked up by settings, and no resource is made of the others yet.
            Kind::ConfigMap | Kind::Telemetry | Kind::NodeStatus => {}
        }
    }

    /// What a rule for a host is about, and if it tells endpoints apart, those too.
    fn destination_rule(&mut self, mesh: &Mesh, objects: &Objects, rule: &DestinationRule) {
        let host = full_name(mesh, rule.metadata.namespace(), &rule.spec.host);
        let services = objects.services().keys();
        let services = services.filter(|key| traffic::is_about(&host, &service_host(mesh, key)));
        let entries = objects.service_entries().iter();
        let entries = entries.filter(|(_, entry)| {
            let mut hosts = translate::entry_hosts(entry);
            hosts.any(|of| traffic::is_about(&host, of))
        });
        let (services, entries): (Vec<_>, Vec<_>) = (services.collect(), entries.collect());
        for (kind, key) in services
            .iter()
            .map(|key| (Kind::Service, *key))
            .chain(entries.iter().map(|(key, _)| (Kind::ServiceEntry, *key)))
        {
            let key = key.clone();
            self.routed.insert(ObjectId { kind, key });
        }
        // It may stand before others that tell endpoints apart, or have done so.
        let mut rules = objects.destination_rules().values();
        let any = rules.any(|rule| !rule.spec.subsets.is_empty());
        if rule.spec.subsets.is_empty() && !any {
            return;
        }
        for key in services {
            self.endpoints_of_service(objects, key);
        }
        for (key, entry) in entries {
            self.service_entries.insert(key.clone());
            self.endpoints_of(mesh, objects, entry);
        }
    }

    /// What is an endpoint of entries for a host.
    pub(super) fn endpoints_of_host(&mut self, mesh: &Mesh, objects: &Objects, host: &str) {
        for (key, entry) in objects.entries_of(host) {
            self.service_entries.insert(key.clone());
            self.endpoints_of(mesh, objects, entry);
        }
    }

    /// What is an endpoint of a service.
    pub(super) fn endpoints_of_service(&mut self, objects: &Objects, key: &ObjectKey) {
        for slice in objects.slices_of(key) {
            self.pods.extend(pods_of(slice));
        }
        let service = objects.services().get(key);
        let selector = service.map(|service| &service.spec.selector);
        if let Some(selector) = selector.filter(|selector| !selector.is_empty()) {
            self.selected(objects, Some(&key.namespace), selector);
        }
    }

    /// Services and entries that have one of these hosts now. One that comes later is computed then.
    fn hosts_named(&mut self, mesh: &Mesh, objects: &Objects, by: &ObjectKey, hosts: &[String]) {
        for host in hosts {
            let host = full_name(mesh, &by.namespace, host);
            let domain = format!(".svc.{}", mesh.cluster_domain);
            let of_kubernetes = host
                .strip_suffix(&domain)
                .and_then(|name| name.split_once('.'));
            if let Some((name, namespace)) = of_kubernetes {
                self.routed.insert(ObjectId {
                    kind: Kind::Service,
                    key: ObjectKey::new(namespace, name),
                });
            }
            let entries = objects.entries_of(&host).map(|(key, _)| ObjectId {
                kind: Kind::ServiceEntry,
                key: key.clone(),
            });
            self.routed.extend(entries);
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

    fn service_entry(
        &mut self,
        mesh: &Mesh,
        objects: &Objects,
        key: &ObjectKey,
        new: Option<&Object>,
    ) {
        let old = objects.service_entries().get(key).map(AsRef::as_ref);
        let new = match new {
            Some(Object::ServiceEntry(new)) => Some(new.as_ref()),
            Some(_) | None => None,
        };
        self.service_entries.insert(key.clone());
        for entry in [old, new].into_iter().flatten() {
            self.endpoints_of(mesh, objects, entry);
            self.hosts.extend(keys_of(entry));
            for host in translate::entry_hosts(entry) {
                self.rivals(mesh, objects, &key.namespace, host);
            }
        }
    }

    /// What has a host too may have it no longer, or again.
    fn rivals(&mut self, mesh: &Mesh, objects: &Objects, namespace: &str, host: &str) {
        for (key, entry) in objects.entries_of(host) {
            self.hosts.insert(translate::entry_key(entry, host));
            if *key.namespace == *namespace {
                self.service_entries.insert(key.clone());
                self.endpoints_of(mesh, objects, entry);
            }
        }
    }

    /// What an entry lists, or selects.
    fn endpoints_of(&mut self, mesh: &Mesh, objects: &Objects, entry: &ServiceEntry) {
        let listed = translate::entry_endpoints(entry).into_iter();
        let uids = listed
            .map(|endpoint| translate::entry_endpoint_uid(mesh, entry, &endpoint.spec.address));
        self.endpoints.extend(uids);
        if let Some(selector) = entry.selector() {
            self.selected(objects, Some(entry.metadata.namespace()), selector);
        }
    }

    /// All that is made of these entries.
    fn entries<'a>(
        &mut self,
        entries: impl Iterator<Item = (&'a ObjectKey, &'a Arc<ServiceEntry>)>,
    ) {
        for (key, entry) in entries {
            self.hosts.extend(keys_of(entry));
            self.service_entries.insert(key.clone());
        }
    }

    fn service(&mut self, mesh: &Mesh, objects: &Objects, key: &ObjectKey, new: Option<&Object>) {
        self.services.insert(key.clone());
        let host = service_host(mesh, key);
        self.rivals(mesh, objects, &key.namespace, &host);
        for slice in objects.slices_of(key) {
            self.slices.insert(slice.metadata.key());
            self.pods.extend(pods_of(slice));
        }
        let old = objects.services().get(key).map(AsRef::as_ref);
        let new = match new {
            Some(Object::Service(new)) => Some(new.as_ref()),
            Some(_) | None => None,
        };
        self.claims(objects, old, new);
        let [old, new] = [old, new].map(|service| service.map(|service| &service.spec.selector));
        // A service without a selector selects nothing.
        for selector in [old, new].into_iter().flatten().filter(|s| !s.is_empty()) {
            self.selected(objects, Some(&key.namespace), selector);
        }
    }

    /// Entries that claim an address which a service has got, or has no longer.
    fn claims(&mut self, objects: &Objects, old: Option<&Service>, new: Option<&Service>) {
        let [old, new] = [old, new].map(|service| service.map(Service::addresses));
        let [old, new] = [old, new].map(Option::unwrap_or_default);
        if old == new {
            return;
        }
        let is_one = |claimed: IpAddr| old.contains(&claimed) || new.contains(&claimed);
        let entries = objects.service_entries().iter();
        self.entries(entries.filter(|(_, entry)| translate::claimed_addresses(entry).any(is_one)));
    }

    /// What asks for one of these waypoints, or is an instance of it.
    fn bound(&mut self, objects: &Objects, is_it: impl Fn(&ObjectKey) -> bool) {
        let asks = |metadata: &Metadata| {
            let namespace = objects.namespace(metadata.namespace());
            let asked = translate::asked_waypoint(metadata, namespace.map(AsRef::as_ref));
            let mut asked = asked;
            asked.any(|asked| is_it(&asked))
        };
        let is_instance = |pod: &Metadata| translate::gateway_of(pod).is_some_and(|of| is_it(&of));
        let pods = objects.pods().iter();
        let pods = pods.filter(|(_, pod)| asks(&pod.metadata) || is_instance(&pod.metadata));
        self.pods.extend(pods.map(|(key, _)| key.clone()));
        let services = objects.services().iter();
        let services = services.filter(|(_, service)| asks(&service.metadata));
        self.services.extend(services.map(|(key, _)| key.clone()));
        let of_endpoints = |entry: &ServiceEntry| {
            let mut endpoints = translate::entry_endpoints(entry).into_iter();
            endpoints.any(|endpoint| {
                let labels = &endpoint.spec.labels;
                asks(&translate::endpoint_metadata(entry, labels))
            })
        };
        let entries = objects.service_entries().iter();
        self.entries(entries.filter(|(_, entry)| asks(&entry.metadata) || of_endpoints(entry)));
        let machines = objects.workload_entries().iter();
        let machines = machines.filter(|(_, entry)| asks(&entry.described()));
        self.workload_entries
            .extend(machines.map(|(key, _)| key.clone()));
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
        let (entries, machines) = (objects.service_entries(), objects.workload_entries());
        if namespace == mesh.root_namespace {
            self.service_entries.extend(entries.keys().cloned());
            self.workload_entries.extend(machines.keys().cloned());
            pods.extend(objects.pods().keys().cloned());
            derived.extend(objects.peer_authentications().keys().cloned());
        } else {
            let keys = in_namespace(entries, namespace).map(|(key, _)| key.clone());
            self.service_entries.extend(keys);
            let keys = in_namespace(machines, namespace).map(|(key, _)| key.clone());
            self.workload_entries.extend(keys);
            let keys = in_namespace(objects.pods(), namespace);
            pods.extend(keys.map(|(key, _)| key.clone()));
            let keys = in_namespace(objects.peer_authentications(), namespace);
            derived.extend(keys.map(|(key, _)| key.clone()));
        }
    }

    /// Pods and entries with these labels, in a namespace or in all.
    fn selected(&mut self, objects: &Objects, namespace: Option<&str>, selector: &Labels) {
        let pods = within(objects.pods(), namespace);
        let pods = pods.filter(|(_, pod)| selects(selector, &pod.metadata.labels));
        self.pods.extend(pods.map(|(key, _)| key.clone()));
        let entries = within(objects.service_entries(), namespace);
        let entries = entries.filter(|(_, entry)| selects(selector, &entry.metadata.labels));
        self.service_entries
            .extend(entries.map(|(key, _)| key.clone()));
        let machines = within(objects.workload_entries(), namespace);
        let machines = machines.filter(|(_, machine)| selects(selector, &machine.labels()));
        self.workload_entries
            .extend(machines.map(|(key, _)| key.clone()));
    }
}

/// A host as it is named everywhere.
fn full_name(mesh: &Mesh, namespace: &str, host: &str) -> String {
    match host.contains(['.', '*']) {
        true => host.to_owned(),
        false => service_host(mesh, &ObjectKey::new(namespace, host)),
    }
}

/// The objects of a namespace, or of all.
fn within<'a, T>(
    table: &'a Table<T>,
    namespace: Option<&'a str>,
) -> Box<dyn Iterator<Item = (&'a ObjectKey, &'a Arc<T>)> + 'a> {
    match namespace {
        Some(namespace) => Box::new(in_namespace(table, namespace)),
        None => Box::new(table.iter()),
    }
}

/// The names of the services of an entry.
fn keys_of(entry: &ServiceEntry) -> impl Iterator<Item = ServiceKey> {
    translate::entry_hosts(entry).map(|host| translate::entry_key(entry, host))
}

/// The pods that a slice lists.
fn pods_of(slice: &EndpointSlice) -> impl Iterator<Item = ObjectKey> {
    let pods = slice.endpoints.iter().filter_map(|endpoint| endpoint.pod());
    pods.map(|pod| ObjectKey::new(pod.namespace.as_str(), pod.name.as_str()))
}
