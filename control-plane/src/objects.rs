//! What we know of the cluster: the objects, and the questions that translation and authorization ask about them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use crate::translate::entry_hosts;
use tulle_manifest::{
    AuthorizationPolicy, DestinationRule, EndpointSlice, GRPCRoute, Gateway, GatewayClass,
    HTTPRoute, Namespace, Node, Object, ObjectId, ObjectKey, PeerAuthentication, Pod,
    RateLimitPolicy, ReferenceGrant, RequestAuthentication, Service, ServiceEntry, Telemetry,
    VirtualService, WorkloadEntry,
};

/// Objects by name. Clones are cheap enough to look at from another task: the objects are shared.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    namespaces: BTreeMap<Arc<str>, Arc<Namespace>>,
    nodes: BTreeMap<Arc<str>, Arc<Node>>,
    pods: Table<Pod>,
    services: Table<Service>,
    services_by_address: BTreeMap<IpAddr, BTreeSet<ObjectKey>>,
    endpoint_slices: Table<EndpointSlice>,
    slices_by_service: BTreeMap<ObjectKey, BTreeSet<ObjectKey>>,
    service_entries: Table<ServiceEntry>,
    entries_by_host: BTreeMap<Arc<str>, BTreeSet<ObjectKey>>,
    workload_entries: Table<WorkloadEntry>,
    gateways: Table<Gateway>,
    gateway_classes: BTreeMap<Arc<str>, Arc<GatewayClass>>,
    authorization_policies: Table<AuthorizationPolicy>,
    peer_authentications: Table<PeerAuthentication>,
    http_routes: Table<HTTPRoute>,
    grpc_routes: Table<GRPCRoute>,
    reference_grants: Table<ReferenceGrant>,
    request_authentications: Table<RequestAuthentication>,
    destination_rules: Table<DestinationRule>,
    virtual_services: Table<VirtualService>,
    telemetries: Table<Telemetry>,
    rate_limit_policies: Table<RateLimitPolicy>,
    pods_by_node: BTreeMap<Arc<str>, BTreeSet<ObjectKey>>,
}

/// Objects of a namespaced kind.
pub type Table<T> = BTreeMap<ObjectKey, Arc<T>>;

impl Objects {
    /// Adds or replaces an object.
    pub fn upsert(&mut self, object: Object) {
        let key = object.id().key;
        match object {
            Object::Namespace(object) => {
                self.namespaces.insert(key.name, object);
            }
            Object::Node(object) => {
                self.nodes.insert(key.name, object);
            }
            Object::Pod(object) => {
                self.remove_pod(&key);
                let node = object.spec.node_name.as_str().into();
                self.pods_by_node
                    .entry(node)
                    .or_default()
                    .insert(key.clone());
                self.pods.insert(key, object);
            }
            Object::Service(object) => {
                self.remove_service(&key);
                for address in object.addresses() {
                    let services = self.services_by_address.entry(address).or_default();
                    services.insert(key.clone());
                }
                self.services.insert(key, object);
            }
            Object::EndpointSlice(object) => {
                self.remove_slice(&key);
                if let Some(service) = service_of(&object) {
                    let slices = self.slices_by_service.entry(service).or_default();
                    slices.insert(key.clone());
                }
                self.endpoint_slices.insert(key, object);
            }
            Object::ServiceEntry(object) => {
                self.remove_service_entry(&key);
                for host in entry_hosts(&object) {
                    let entries = self.entries_by_host.entry(host.into()).or_default();
                    entries.insert(key.clone());
                }
                self.service_entries.insert(key, object);
            }
            Object::WorkloadEntry(object) => {
                self.workload_entries.insert(key, object);
            }
            Object::Gateway(object) => {
                self.gateways.insert(key, object);
            }
            Object::GatewayClass(object) => {
                self.gateway_classes.insert(key.name, object);
            }
            Object::AuthorizationPolicy(object) => {
                self.authorization_policies.insert(key, object);
            }
            Object::PeerAuthentication(object) => {
                self.peer_authentications.insert(key, object);
            }
            Object::HTTPRoute(object) => {
                self.http_routes.insert(key, object);
            }
            Object::GRPCRoute(object) => {
                self.grpc_routes.insert(key, object);
            }
            Object::ReferenceGrant(object) => {
                self.reference_grants.insert(key, object);
            }
            Object::RequestAuthentication(object) => {
                self.request_authentications.insert(key, object);
            }
            Object::DestinationRule(object) => {
                self.destination_rules.insert(key, object);
            }
            Object::VirtualService(object) => {
                self.virtual_services.insert(key, object);
            }
            Object::Telemetry(object) => {
                self.telemetries.insert(key, object);
            }
            Object::RateLimitPolicy(object) => {
                self.rate_limit_policies.insert(key, object);
            }
            // Settings are not objects of the mesh. Of nodes, the source has put what is said into the pods that it is about.
            Object::ConfigMap(_) | Object::NodeStatus(_) => {}
        }
    }

    /// Removes an object.
    pub fn remove(&mut self, id: &ObjectId) {
        use tulle_manifest::Kind;
        match id.kind {
            Kind::Namespace => drop(self.namespaces.remove(&id.key.name)),
            Kind::Node => drop(self.nodes.remove(&id.key.name)),
            Kind::Pod => self.remove_pod(&id.key),
            Kind::Service => self.remove_service(&id.key),
            Kind::EndpointSlice => self.remove_slice(&id.key),
            Kind::ServiceEntry => self.remove_service_entry(&id.key),
            Kind::WorkloadEntry => drop(self.workload_entries.remove(&id.key)),
            Kind::Gateway => drop(self.gateways.remove(&id.key)),
            Kind::GatewayClass => drop(self.gateway_classes.remove(&id.key.name)),
            Kind::AuthorizationPolicy => drop(self.authorization_policies.remove(&id.key)),
            Kind::PeerAuthentication => drop(self.peer_authentications.remove(&id.key)),
            Kind::HTTPRoute => drop(self.http_routes.remove(&id.key)),
            Kind::GRPCRoute => drop(self.grpc_routes.remove(&id.key)),
            Kind::ReferenceGrant => drop(self.reference_grants.remove(&id.key)),
            Kind::RequestAuthentication => drop(self.request_authentications.remove(&id.key)),
            Kind::DestinationRule => drop(self.destination_rules.remove(&id.key)),
            Kind::VirtualService => drop(self.virtual_services.remove(&id.key)),
            Kind::Telemetry => drop(self.telemetries.remove(&id.key)),
            Kind::RateLimitPolicy => drop(self.rate_limit_policies.remove(&id.key)),
            Kind::ConfigMap | Kind::NodeStatus => {}
        }
    }

    fn remove_pod(&mut self, key: &ObjectKey) {
        let Some(pod) = self.pods.remove(key) else {
            return;
        };
        let node: Arc<str> = pod.spec.node_name.as_str().into();
        if let Some(pods) = self.pods_by_node.get_mut(&node) {
            pods.remove(key);
            if pods.is_empty() {
                self.pods_by_node.remove(&node);
            }
        }
    }

    fn remove_slice(&mut self, key: &ObjectKey) {
        let slice = self.endpoint_slices.remove(key);
        let Some(service) = slice.as_deref().and_then(service_of) else {
            return;
        };
        if let Some(slices) = self.slices_by_service.get_mut(&service) {
            slices.remove(key);
            if slices.is_empty() {
                self.slices_by_service.remove(&service);
            }
        }
    }

    fn remove_service(&mut self, key: &ObjectKey) {
        let Some(service) = self.services.remove(key) else {
            return;
        };
        for address in service.addresses() {
            if let Some(services) = self.services_by_address.get_mut(&address) {
                services.remove(key);
                if services.is_empty() {
                    self.services_by_address.remove(&address);
                }
            }
        }
    }

    fn remove_service_entry(&mut self, key: &ObjectKey) {
        let Some(entry) = self.service_entries.remove(key) else {
            return;
        };
        for host in entry_hosts(&entry) {
            if let Some(entries) = self.entries_by_host.get_mut(host) {
                entries.remove(key);
                if entries.is_empty() {
                    self.entries_by_host.remove(host);
                }
            }
        }
    }

    /// A namespace.
    pub fn namespace(&self, name: &str) -> Option<&Arc<Namespace>> {
        self.namespaces.get(name)
    }

    /// All namespaces.
    pub fn namespaces(&self) -> impl Iterator<Item = &Arc<Namespace>> {
        self.namespaces.values()
    }

    /// A node.
    pub fn node(&self, name: &str) -> Option<&Arc<Node>> {
        self.nodes.get(name)
    }

    /// All pods.
    pub fn pods(&self) -> &Table<Pod> {
        &self.pods
    }

    /// All services.
    pub fn services(&self) -> &Table<Service> {
        &self.services
    }

    /// All endpoint slices.
    pub fn endpoint_slices(&self) -> &Table<EndpointSlice> {
        &self.endpoint_slices
    }

    /// The slices of a service.
    pub fn slices_of(
        &self,
        service: &ObjectKey,
    ) -> impl Iterator<Item = &Arc<EndpointSlice>> + use<'_> {
        let keys = self.slices_by_service.get(service).into_iter().flatten();
        keys.filter_map(|key| self.endpoint_slices.get(key))
    }

    /// All service entries.
    pub fn service_entries(&self) -> &Table<ServiceEntry> {
        &self.service_entries
    }

    /// Whether an address is that of a Service of another namespace, and of none in this one.
    pub fn is_of_other_namespace(&self, namespace: &str, address: IpAddr) -> bool {
        let services = self.services_by_address.get(&address);
        services.is_some_and(|services| {
            let mut namespaces = services.iter().map(|key| &*key.namespace);
            namespaces.all(|of| of != namespace)
        })
    }

    /// The service entries that are for this host, in all namespaces.
    pub fn entries_of(
        &self,
        host: &str,
    ) -> impl Iterator<Item = (&ObjectKey, &Arc<ServiceEntry>)> + use<'_> {
        let keys = self.entries_by_host.get(host).into_iter().flatten();
        keys.filter_map(|key| self.service_entries.get_key_value(key))
    }

    /// All workload entries.
    pub fn workload_entries(&self) -> &Table<WorkloadEntry> {
        &self.workload_entries
    }

    /// All gateways.
    pub fn gateways(&self) -> &Table<Gateway> {
        &self.gateways
    }

    /// All classes of gateways.
    pub fn gateway_classes(&self) -> impl Iterator<Item = &Arc<GatewayClass>> {
        self.gateway_classes.values()
    }

    /// A class of gateways.
    pub fn gateway_class(&self, name: &str) -> Option<&Arc<GatewayClass>> {
        self.gateway_classes.get(name)
    }

    /// All authorization policies.
    pub fn authorization_policies(&self) -> &Table<AuthorizationPolicy> {
        &self.authorization_policies
    }

    /// All peer authentications.
    pub fn peer_authentications(&self) -> &Table<PeerAuthentication> {
        &self.peer_authentications
    }

    /// All HTTP routes.
    pub fn http_routes(&self) -> &Table<HTTPRoute> {
        &self.http_routes
    }

    /// All gRPC routes.
    pub fn grpc_routes(&self) -> &Table<GRPCRoute> {
        &self.grpc_routes
    }

    /// All reference grants.
    pub fn reference_grants(&self) -> &Table<ReferenceGrant> {
        &self.reference_grants
    }

    /// All request authentications.
    pub fn request_authentications(&self) -> &Table<RequestAuthentication> {
        &self.request_authentications
    }

    /// All destination rules.
    pub fn destination_rules(&self) -> &Table<DestinationRule> {
        &self.destination_rules
    }

    /// All virtual services.
    pub fn virtual_services(&self) -> &Table<VirtualService> {
        &self.virtual_services
    }

    /// All that say how many requests may pass.
    pub fn rate_limit_policies(&self) -> &Table<RateLimitPolicy> {
        &self.rate_limit_policies
    }

    /// All telemetries.
    pub fn telemetries(&self) -> &Table<Telemetry> {
        &self.telemetries
    }

    /// The pods on a node.
    pub fn pods_on(&self, node: &str) -> impl Iterator<Item = &Arc<Pod>> {
        let keys = self.pods_by_node.get(node).into_iter().flatten();
        keys.filter_map(|key| self.pods.get(key))
    }
}

/// The service that a slice belongs to.
pub fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.service()?;
    Some(ObjectKey::new(slice.metadata.namespace(), name))
}

/// The objects of one namespace.
pub fn in_namespace<'t, 'n, T>(
    table: &'t Table<T>,
    namespace: &'n str,
) -> impl Iterator<Item = (&'t ObjectKey, &'t Arc<T>)> + use<'t, 'n, T> {
    table
        .range(ObjectKey::new(namespace, "")..)
        .take_while(move |(key, _)| *key.namespace == *namespace)
}
