//! Keeps the resources in step with the objects: a change recomputes what depends on it, and nothing else.
//!
//! ```text
//! Namespace           -> services in it (root namespace: everything, if the network changed)
//! Node                -> workloads on it
//! Pod                 -> its workload
//! Service             -> its service; workloads that it selects, or did; those of its slices
//! EndpointSlice       -> its workloads, and those that it had; pods that it lists, or did
//! ServiceEntry        -> services of its hosts, and of others that have them too; its workloads; what it selects, or did
//! WorkloadEntry       -> its workload
//! Gateway, its class  -> services and workloads that ask for it
//! AuthorizationPolicy -> its policy; workloads that it selects, or did
//! PeerAuthentication  -> its derived policy; the static policy; workloads that it selects, or did
//!   without selector  -> derived policies and workloads of the namespace, or of all
//! ```
//!
//! HTTPRoute and the like -> routes of the services that it names, or did
//! Service, ReferenceGrant -> those of services whose routes name it
//! DestinationRule         -> how traffic to the services of its host is led; the subsets of their endpoints
//! ConfigMap of the mesh   -> who is asked about requests, and told of them
//! Telemetry               -> what is told of requests
//! RateLimitPolicy         -> how many requests to its targets may pass
//! Service, ServiceEntry   -> those of policies that may have it asked
//!
//! What is wrong with an object is found once, when it changes (see [`validate`]).
//!
//! Resources are not kept here: the store knows what it serves, and tells what a recomputed one changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tulle_model::{
    ApplicationTunnel, Authorization, GatewayAddress, PolicyKey, ServiceKey, Workload,
};
use tulle_xds::{Address, ConfigurationName, store::Transaction};

use crate::{
    mesh::Mesh,
    objects::{Objects, in_namespace, service_of},
    translate::{
        self, Binding, Gateways, Modes, PortMap, Surroundings, Traffic, Untranslatable,
        WorkloadLevel, selects,
    },
    validate,
};
use tulle_manifest::{
    EndpointSlice, Gateway, GatewayClass, Kind, Labels, Metadata, MutualTlsMode, Object, ObjectId,
    ObjectKey, PeerAuthentication, Pod, Service, source::Change,
};

mod configured;
mod dirty;
mod entries;
mod reports;
mod routes;
mod settings;

use dirty::Dirty;
pub use reports::Reports;
use routes::{DirtyRoutes, Touched};
use settings::Settings;

/// The objects and how to translate them.
#[derive(Debug)]
pub struct Index {
    mesh: Arc<Mesh>,
    objects: Objects,
    reports: Reports,
    /// The policies that each object was sent to waypoints as.
    targeted: BTreeMap<ObjectId, BTreeSet<PolicyKey>>,
    /// The configurations that each policy was sent as.
    configured: BTreeMap<ObjectId, BTreeSet<ConfigurationName>>,
    /// The workloads that are in subsets, by UID.
    members: BTreeSet<String>,
    settings: Settings,
}

impl Index {
    /// An index without objects.
    pub fn new(mesh: Arc<Mesh>) -> Self {
        Self {
            mesh,
            objects: Objects::default(),
            reports: Reports::default(),
            targeted: BTreeMap::new(),
            configured: BTreeMap::new(),
            members: BTreeSet::new(),
            settings: Settings::default(),
        }
    }

    /// The objects.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Settings of the mesh.
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// What became of each policy and pod that could not be translated as written.
    pub fn reports(&self) -> &Reports {
        &self.reports
    }

    /// Takes changes and returns what they change, in one transaction.
    pub fn apply(&mut self, changes: Vec<Change>) -> Transaction {
        let mut dirty = Dirty::default();
        for change in changes {
            let (id, object) = match change {
                Change::Upsert(object) => (object.id(), Some(object)),
                Change::Remove(id) => (id, None),
            };
            // Before and after: what a selector no longer selects depends on it one last time.
            dirty.add(&self.mesh, &self.objects, &id, object.as_ref());
            let problems = object.as_ref().and_then(validate::problems);
            self.reports.problems(&id, problems.unwrap_or_default());
            if id.kind == Kind::ConfigMap {
                self.set(&id, object.as_ref());
            }
            match object {
                Some(object) => self.objects.upsert(object),
                None => self.objects.remove(&id),
            }
        }
        self.recompute(dirty)
    }

    /// Everything, from scratch.
    pub fn everything(&self) -> Transaction {
        let mut fresh = Self::new(Arc::clone(&self.mesh));
        fresh.objects = self.objects.clone();
        fresh.reports = self.reports.clone();
        fresh.settings = self.settings.unsent();
        fresh.recompute(Dirty::everything(&self.objects))
    }

    fn recompute(&mut self, mut dirty: Dirty) -> Transaction {
        let mut transaction = Transaction::default();
        self.with_subsets(&mut dirty);
        self.with_limits(&mut dirty);
        for key in &dirty.authorization_policies {
            let policy = self.authorization(key);
            transaction.policies.push((key.to_string(), policy));
            self.for_waypoints(Kind::AuthorizationPolicy, key, &mut transaction);
        }
        for key in &dirty.request_authentications {
            self.for_waypoints(Kind::RequestAuthentication, key, &mut transaction);
            self.tokens(key, &mut transaction);
        }
        for key in &dirty.rate_limit_policies {
            self.limits(key, &mut transaction);
        }
        for key in &dirty.peer_authentications {
            let policy = self.derived(key);
            transaction.policies.push((derived_name(key), policy));
        }
        if dirty.static_strict {
            let sent = !self.objects.peer_authentications().is_empty();
            let policy = translate::static_strict(&self.mesh);
            let name = policy.key.to_string();
            transaction.policies.push((name, sent.then_some(policy)));
        }
        let network = self.network().to_owned();
        let dirty_routes = DirtyRoutes {
            services: dirty.services.clone(),
            hosts: dirty.hosts.clone(),
            routed: dirty.routed,
            granting: dirty.granting,
        };
        for key in &dirty.services {
            transaction.addresses.push(self.service(key, &network));
        }
        let hosts = dirty.hosts.iter();
        let hosts = hosts.filter_map(|key| self.host(key, &network));
        transaction.addresses.extend(hosts);
        for key in &dirty.pods {
            transaction.addresses.push(self.workload(key, &network));
        }
        // First all that may be gone, so that those that are not have the last word.
        let mut endpoints: BTreeMap<String, Option<Address>> =
            dirty.endpoints.into_iter().map(|uid| (uid, None)).collect();
        for key in &dirty.slices {
            endpoints.extend(self.endpoints(key, &network));
        }
        for key in &dirty.service_entries {
            endpoints.extend(self.listed(key, &network));
        }
        for key in &dirty.workload_entries {
            transaction.addresses.push(self.machine(key, &network));
        }
        transaction.addresses.extend(endpoints);
        let touched = Touched {
            pods: dirty.pods,
            service_entries: dirty.service_entries,
            workload_entries: dirty.workload_entries,
        };
        let routes = self.routes(dirty_routes);
        transaction.configurations.extend(routes);
        let memberships = self.memberships(&touched, &transaction.addresses);
        transaction.configurations.extend(memberships);
        transaction.configurations.extend(self.asked_and_told());
        transaction
    }

    /// Where endpoints are told apart, a service that has another waypoint may be told apart by other rules.
    fn with_subsets(&self, dirty: &mut Dirty) {
        let mut rules = self.objects.destination_rules().values();
        if !rules.any(|rule| !rule.spec.subsets.is_empty()) {
            return;
        }
        for key in dirty.services.clone() {
            dirty.endpoints_of_service(&self.objects, &key);
        }
        for key in dirty.hosts.clone() {
            dirty.endpoints_of_host(&self.mesh, &self.objects, &key.hostname);
        }
    }

    /// The network of the cluster: a label of the root namespace.
    fn network(&self) -> &str {
        network_label(&self.objects, &self.mesh)
    }

    fn authorization(&mut self, key: &ObjectKey) -> Option<Authorization> {
        let id = ObjectId {
            kind: Kind::AuthorizationPolicy,
            key: key.clone(),
        };
        let Some(policy) = self.objects.authorization_policies().get(key) else {
            self.reports.forget_policy(&id);
            return None;
        };
        let (sent, report) = translate::authorization(&self.mesh, policy);
        self.reports.policy(id, report);
        sent
    }

    /// What waypoints are sent of a policy, and no longer.
    fn for_waypoints(&mut self, kind: Kind, key: &ObjectKey, transaction: &mut Transaction) {
        let sent = match kind {
            Kind::RequestAuthentication => {
                let policy = self.objects.request_authentications().get(key);
                let policy = policy.filter(|_| !self.is_in_order(kind, key));
                policy.map(|policy| translate::unchecked_tokens(&self.mesh, policy))
            }
            _ => {
                let policy = self.objects.authorization_policies().get(key);
                policy.map(|policy| translate::targeted(&self.mesh, policy).0)
            }
        };
        let sent = sent.unwrap_or_default();
        let id = ObjectId {
            kind,
            key: key.clone(),
        };
        let keys: BTreeSet<PolicyKey> = sent.iter().map(|policy| policy.key.clone()).collect();
        let before = match keys.is_empty() {
            true => self.targeted.remove(&id),
            false => self.targeted.insert(id, keys.clone()),
        };
        let gone = before
            .into_iter()
            .flatten()
            .filter(|key| !keys.contains(key));
        let gone = gone.map(|key| (key.to_string(), None));
        transaction.policies.extend(gone);
        let sent = sent
            .into_iter()
            .map(|policy| (policy.key.to_string(), Some(policy)));
        transaction.policies.extend(sent);
    }

    /// Whether nothing is so wrong with an object that it is left out.
    fn is_in_order(&self, kind: Kind, key: &ObjectKey) -> bool {
        let id = ObjectId {
            kind,
            key: key.clone(),
        };
        let mut problems = self.reports.problems_of(&id).iter();
        !problems.any(|problem| problem.fault.refuses())
    }

    fn derived(&mut self, key: &ObjectKey) -> Option<Authorization> {
        let id = ObjectId {
            kind: Kind::PeerAuthentication,
            key: key.clone(),
        };
        let Some(policy) = self.objects.peer_authentications().get(key) else {
            self.reports.forget_policy(&id);
            return None;
        };
        let report = translate::peer_authentication_report(&self.mesh, policy);
        self.reports.policy(id, report);
        if !is_workload_level(&self.mesh, policy) {
            return None;
        }
        let ports = self.port_map(&key.namespace, Some(policy));
        translate::derived_policy(key, &ports)
    }

    fn service(&mut self, key: &ObjectKey, network: &str) -> (String, Option<Address>) {
        let namespace = self.objects.namespace(&key.namespace).map(Arc::as_ref);
        let service = self.objects.services().get(key);
        let binding =
            service.map(|service| self.binding(&service.metadata, Traffic::Service, network));
        let report = binding.as_ref().and_then(|binding| binding.report.clone());
        let resource = service.zip(binding).and_then(|(service, binding)| {
            translate::service(&self.mesh, service, namespace, network, binding)
        });
        let id = ObjectId {
            kind: Kind::Service,
            key: key.clone(),
        };
        self.reports.waypoint(id, report);
        match resource {
            Some(resource) => (resource.key.to_string(), Some(resource.into())),
            // An entry may have that name.
            None => {
                let key = ServiceKey::new(key.namespace.clone(), service_host(&self.mesh, key));
                let of_entry = self.host(&key, network);
                of_entry.unwrap_or_else(|| (key.to_string(), None))
            }
        }
    }

    fn workload(&mut self, key: &ObjectKey, network: &str) -> (String, Option<Address>) {
        let uid = translate::workload_uid(&self.mesh, &key.namespace, &key.name);
        let pod = self.objects.pods().get(key);
        let binding = pod.map(|pod| self.binding(&pod.metadata, Traffic::Workload, network));
        let binding = binding.unwrap_or_default();
        let workload = match pod {
            Some(pod) => self.translate_pod(pod, network, binding.waypoint),
            None => Ok(None),
        };
        let id = ObjectId {
            kind: Kind::Pod,
            key: key.clone(),
        };
        self.reports.waypoint(id.clone(), binding.report);
        self.reports.left_out(&id, workload.as_ref().err().copied());
        (uid, workload.ok().flatten().map(Address::from))
    }

    /// What a pod is, as it is served; `None` if there is no such pod, or nothing of it is served.
    ///
    /// # Errors
    /// Why nothing of it can be.
    pub fn workload_of(&self, key: &ObjectKey) -> Result<Option<Workload>, Untranslatable> {
        let network = self.network();
        let Some(pod) = self.objects.pods().get(key) else {
            return Ok(None);
        };
        let binding = self.binding(&pod.metadata, Traffic::Workload, network);
        self.translate_pod(pod, network, binding.waypoint)
    }

    /// The workloads of a slice.
    fn endpoints(&self, key: &ObjectKey, network: &str) -> Vec<(String, Option<Address>)> {
        let Some(slice) = self.objects.endpoint_slices().get(key) else {
            return Vec::new();
        };
        let service = service_of(slice);
        // Without the label nobody knows whose they are.
        if service.is_none() {
            return Vec::new();
        }
        let service = service.and_then(|key| self.objects.services().get(&key));
        let service = service.map(AsRef::as_ref);
        let addresses = translate::endpoint_addresses(slice);
        let workloads = addresses.map(|at| {
            let uid = translate::endpoint_uid(&self.mesh, slice, at.0);
            let workload = translate::endpoint(&self.mesh, slice, at, service, network);
            // Its namespace is one of the API server's, whose names can be part of anything.
            (uid, workload.ok().map(Address::from))
        });
        workloads.collect()
    }

    /// Whether a Gateway is a waypoint.
    pub fn is_waypoint(&self, gateway: &Gateway) -> bool {
        let class = self.objects.gateway_class(&gateway.spec.gateway_class_name);
        translate::is_waypoint(gateway, class.map(Arc::as_ref))
    }

    /// Whether what is in a namespace holds for all.
    pub fn is_root(&self, namespace: &str) -> bool {
        namespace == self.mesh.root_namespace
    }

    /// What serves an object, if that is a waypoint.
    fn binding(&self, metadata: &Metadata, traffic: Traffic, network: &str) -> Binding {
        let namespace = self.objects.namespace(metadata.namespace());
        let gateways = Known {
            objects: &self.objects,
            network,
        };
        translate::binding(metadata, namespace.map(Arc::as_ref), traffic, &gateways)
    }

    fn application_tunnel(&self, pod: &Metadata) -> Option<ApplicationTunnel> {
        let gateway = self.objects.gateways().get(&translate::gateway_of(pod)?)?;
        let class = self.objects.gateway_class(&gateway.spec.gateway_class_name);
        translate::inbound_binding(gateway, class.map(Arc::as_ref))
    }

    fn translate_pod(
        &self,
        pod: &Pod,
        network: &str,
        waypoint: Option<GatewayAddress>,
    ) -> Result<Option<Workload>, Untranslatable> {
        let namespace = pod.metadata.namespace();
        let labels = &pod.metadata.labels;
        let services = in_namespace(self.objects.services(), namespace)
            .map(|(_, service)| service.as_ref())
            .filter_map(|service| {
                let selector = &service.spec.selector;
                match selector.is_empty() {
                    true => Some((service, Some(self.listing(service, pod)?))),
                    false => selects(selector, labels).then_some((service, None)),
                }
            });
        let around = Surroundings {
            network,
            node: self.objects.node(&pod.spec.node_name).map(Arc::as_ref),
            services: services.collect(),
            entries: self
                .selecting(namespace, labels)
                .map(|entry| (entry, self.hosts_of(entry)))
                .collect(),
            waypoint,
            application_tunnel: self.application_tunnel(&pod.metadata),
            policies: self.policies(namespace, labels),
        };
        translate::workload(&self.mesh, pod, &around)
    }

    /// The slice of the service, which selects nothing by itself, that lists the pod.
    fn listing(&self, service: &Service, pod: &Pod) -> Option<&EndpointSlice> {
        let (namespace, metadata) = (pod.metadata.namespace(), &pod.metadata);
        let mut slices = self.objects.slices_of(&service.metadata.key());
        let slice = slices.find(|slice| {
            let mut listed = slice.endpoints.iter().filter_map(|endpoint| endpoint.pod());
            listed.any(|target| {
                target.name == metadata.name
                    && target.namespace == namespace
                    && (target.uid.is_empty() || target.uid == metadata.uid)
            })
        });
        slice.map(AsRef::as_ref)
    }

    /// The policies that apply to a pod by selector: those written so, sorted, then the one of its PeerAuthentications.
    fn policies(&self, namespace: &str, labels: &Labels) -> Vec<PolicyKey> {
        let root = self.mesh.root_namespace.as_str();
        let mut namespaces = BTreeSet::from([namespace, root]).into_iter();
        let from = namespaces
            .by_ref()
            .flat_map(|name| in_namespace(self.objects.authorization_policies(), name));
        let mut policies: Vec<PolicyKey> = from
            .filter(|(_, policy)| {
                let selector = &policy.spec.selector.match_labels;
                !selector.is_empty()
                    && selects(selector, labels)
                    && translate::is_sent(&self.mesh, policy)
            })
            .map(|(key, _)| PolicyKey::new(key.namespace.clone(), key.name.clone()))
            .collect();
        policies.sort();
        let selecting = self.oldest(namespace, |policy| {
            is_workload_level(&self.mesh, policy)
                && selects(&policy.spec.selector.match_labels, labels)
        });
        let ports = self.port_map(namespace, selecting);
        let key = selecting.map(|policy| policy.metadata.key());
        policies.extend(ports.reference(&self.mesh, key.as_ref()));
        policies
    }

    /// What the PeerAuthentications of all levels require of a workload to which `selecting` applies.
    fn port_map(&self, namespace: &str, selecting: Option<&PeerAuthentication>) -> PortMap {
        let level = |namespace: &str| -> Option<MutualTlsMode> {
            let policy = self.oldest(namespace, |policy| {
                policy.spec.selector.match_labels.is_empty()
            });
            policy.map(|policy| Modes::of(policy).mode)
        };
        let root = self.mesh.root_namespace.as_str();
        let of_namespace = if namespace == root {
            None
        } else {
            level(namespace)
        };
        let modes = selecting.map(Modes::of);
        let of_workload = modes.as_ref().map(|modes| WorkloadLevel {
            mode: modes.mode,
            ports: &modes.ports,
        });
        translate::effective(level(root), of_namespace, of_workload)
    }

    /// The oldest of these policies, by name when they are of the same age or say nothing about it.
    fn oldest(
        &self,
        namespace: &str,
        among: impl Fn(&PeerAuthentication) -> bool,
    ) -> Option<&PeerAuthentication> {
        in_namespace(self.objects.peer_authentications(), namespace)
            .map(|(_, policy)| policy.as_ref())
            .filter(|policy| among(policy))
            .min_by_key(|policy| age(&policy.metadata))
    }
}

/// Gateways as they are known.
struct Known<'a> {
    objects: &'a Objects,
    network: &'a str,
}

impl Gateways for Known<'_> {
    fn gateway(&self, key: &ObjectKey) -> Option<&Gateway> {
        self.objects.gateways().get(key).map(AsRef::as_ref)
    }

    fn class(&self, name: &str) -> Option<&GatewayClass> {
        self.objects.gateway_class(name).map(AsRef::as_ref)
    }

    fn network(&self) -> &str {
        self.network
    }
}

/// Orders objects: the oldest first, then those that say nothing about it, by name.
pub(crate) fn age(metadata: &Metadata) -> impl Ord + use<> {
    let created = metadata.creation_timestamp;
    (created.is_none(), created, metadata.key())
}

/// Whether a PeerAuthentication is for selected workloads. In the root namespace none is.
fn is_workload_level(mesh: &Mesh, policy: &PeerAuthentication) -> bool {
    !policy.spec.selector.match_labels.is_empty()
        && policy.metadata.namespace() != mesh.root_namespace
}

/// The name in DNS of a Service of Kubernetes.
fn service_host(mesh: &Mesh, key: &ObjectKey) -> String {
    let ObjectKey { namespace, name } = key;
    let domain = &mesh.cluster_domain;
    format!("{name}.{namespace}.svc.{domain}")
}

fn derived_name(key: &ObjectKey) -> String {
    let ObjectKey { namespace, name } = key;
    format!("{namespace}/converted_peer_authentication_{name}")
}

fn network_label<'a>(objects: &'a Objects, mesh: &Mesh) -> &'a str {
    let root = objects.namespace(&mesh.root_namespace);
    let label = root.and_then(|root| root.metadata.labels.get(NETWORK));
    label.map_or("", String::as_str)
}

fn network_of(object: Option<&Object>) -> &str {
    let label = match object {
        Some(Object::Namespace(namespace)) => namespace.metadata.labels.get(NETWORK),
        Some(_) | None => None,
    };
    label.map_or("", String::as_str)
}

/// Label of the root namespace.
const NETWORK: &str = "topology.istio.io/network";

#[cfg(test)]
mod tests;
