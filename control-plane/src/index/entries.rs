//! Services that are no Services of Kubernetes, and workloads that are no pods.
//!
//! Several objects may be for one host. In a namespace the Service of Kubernetes of that name counts, or else the oldest entry;
//! what the others list or select is no endpoint of it. Over all namespaces one of those that count is canonical.

use std::collections::BTreeMap;

use tulle_manifest::{
    Kind, Labels, Metadata, ObjectId, ObjectKey, Service, ServiceEntry, WorkloadEntry,
};
use tulle_model::{Health, PortMapping, ServiceKey, Vip, Workload};
use tulle_xds::Address;

use super::{Index, age, service_host};
use crate::{
    objects::in_namespace,
    translate::{
        self, ListedEndpoint, Machine, MachineSurroundings, Traffic, Untranslatable, selects,
    },
};

impl Index {
    /// The service of a host, by its name; `None` if it is a Service of Kubernetes that has the name.
    pub(super) fn host(
        &self,
        key: &ServiceKey,
        network: &str,
    ) -> Option<(String, Option<Address>)> {
        if self
            .service_of_host(&key.namespace, &key.hostname)
            .is_some()
        {
            return None;
        }
        let owner = self.owner(&key.namespace, &key.hostname);
        let resource = owner.map(|entry| {
            let namespace = self.objects.namespace(&key.namespace).map(AsRef::as_ref);
            let binding = self.binding(&entry.metadata, Traffic::Service, network);
            let canonical = self.is_canonical(entry, &key.hostname);
            let mut service = translate::entry_service(
                entry,
                &key.hostname,
                namespace,
                network,
                binding,
                canonical,
            );
            // Who calls a Service of Kubernetes reaches that, whatever others write in namespaces of theirs.
            service.vips.retain(|vip| match vip {
                Vip::Host(vip) => {
                    let objects = &self.objects;
                    !objects.is_of_other_namespace(&key.namespace, vip.address)
                }
                Vip::Range { .. } => true,
            });
            service
        });
        Some((key.to_string(), resource.map(Address::from)))
    }

    /// The workloads of endpoints that an entry lists, or leaves to DNS.
    pub(super) fn listed(
        &mut self,
        key: &ObjectKey,
        network: &str,
    ) -> Vec<(String, Option<Address>)> {
        let id = ObjectId {
            kind: Kind::ServiceEntry,
            key: key.clone(),
        };
        let entry = self.objects.service_entries().get(key).cloned();
        let binding = entry.as_ref().map(|entry| {
            let binding = self.binding(&entry.metadata, Traffic::Service, network);
            binding.report
        });
        self.reports.waypoint(id.clone(), binding.flatten());
        let Some(entry) = entry else {
            self.reports.left_out(&id, None);
            return Vec::new();
        };
        let hosts = self.hosts_of(&entry);
        let mut workloads = Vec::new();
        let mut left_out = self.misclaims(&entry);
        for endpoint in translate::entry_endpoints(&entry) {
            let uid = translate::entry_endpoint_uid(&self.mesh, &entry, &endpoint.spec.address);
            match self.endpoint_of(&entry, &endpoint, &uid, &hosts, network) {
                Ok(workload) => workloads.push((uid, workload.map(Address::from))),
                Err(why) => left_out = Some(why),
            }
        }
        self.reports.left_out(&id, left_out);
        workloads
    }

    /// Why an entry does not have all the addresses that it claims.
    fn misclaims(&self, entry: &ServiceEntry) -> Option<Untranslatable> {
        let namespace = entry.metadata.namespace();
        let mut claimed = translate::claimed_addresses(entry);
        if claimed.any(|address| self.objects.is_of_other_namespace(namespace, address)) {
            return Some(Untranslatable::Foreign);
        }
        translate::claims_nonsense(entry).then_some(Untranslatable::Claim)
    }

    fn endpoint_of(
        &self,
        entry: &ServiceEntry,
        endpoint: &ListedEndpoint,
        uid: &str,
        hosts: &[&str],
        network: &str,
    ) -> Result<Option<Workload>, Untranslatable> {
        let ListedEndpoint { spec, host } = endpoint;
        let served = hosts
            .iter()
            .filter(|served| host.as_deref().is_none_or(|host| host == **served));
        let mappings = translate::entry_mappings(entry, spec);
        let services: BTreeMap<ServiceKey, Vec<PortMapping>> = served
            .map(|host| (translate::entry_key(entry, host), mappings.clone()))
            .collect();
        if services.is_empty() {
            return Ok(None);
        }
        let (metadata, namespace) = (&entry.metadata, entry.metadata.namespace());
        let own = translate::endpoint_metadata(entry, &spec.labels);
        let machine = Machine {
            health: Health::Healthy,
            uid,
            name: &metadata.name,
            namespace,
            spec,
            labels: &metadata.labels,
            annotations: &metadata.annotations,
        };
        let around = MachineSurroundings {
            network,
            services,
            waypoint: self.binding(&own, Traffic::Workload, network).waypoint,
            policies: self.policies(namespace, &metadata.labels),
        };
        translate::machine(&self.mesh, machine, around).map(Some)
    }

    /// The workload of a workload entry.
    pub(super) fn machine(&mut self, key: &ObjectKey, network: &str) -> (String, Option<Address>) {
        let uid = translate::workload_entry_uid(&self.mesh, &key.namespace, &key.name);
        let id = ObjectId {
            kind: Kind::WorkloadEntry,
            key: key.clone(),
        };
        let Some(entry) = self.objects.workload_entries().get(key).cloned() else {
            self.reports.waypoint(id.clone(), None);
            self.reports.left_out(&id, None);
            return (uid, None);
        };
        let metadata = entry.described();
        let labels = &metadata.labels;
        let binding = self.binding(&metadata, Traffic::Workload, network);
        let around = MachineSurroundings {
            network,
            services: self.services_of(&entry, labels),
            waypoint: binding.waypoint,
            policies: self.policies(&key.namespace, labels),
        };
        let machine = translate::machine_of(&entry, &uid, labels);
        let workload = translate::machine(&self.mesh, machine, around);
        self.reports.waypoint(id.clone(), binding.report);
        self.reports.left_out(&id, workload.as_ref().err().copied());
        (uid, workload.ok().map(Address::from))
    }

    /// The services that a workload entry is an endpoint of.
    fn services_of(
        &self,
        entry: &WorkloadEntry,
        labels: &Labels,
    ) -> BTreeMap<ServiceKey, Vec<PortMapping>> {
        let namespace = entry.metadata.namespace();
        let services = in_namespace(self.objects.services(), namespace);
        let services = services.map(|(_, service)| service.as_ref());
        let selecting = services.filter(|service| {
            let selector = &service.spec.selector;
            let is_service = service.spec.service_type != "ExternalName";
            is_service && !selector.is_empty() && selects(selector, labels)
        });
        let of_kubernetes = selecting.map(|service| {
            let mappings = translate::service_mappings(service, &entry.spec);
            (translate::service_key(&self.mesh, service), mappings)
        });
        let of_entries = self.selecting(namespace, labels).flat_map(|found| {
            let mappings = translate::entry_mappings(found, &entry.spec);
            let hosts = self.hosts_of(found).into_iter();
            hosts.map(move |host| (translate::entry_key(found, host), mappings.clone()))
        });
        of_kubernetes.chain(of_entries).collect()
    }

    /// The service entries of a namespace that select what has these labels.
    pub(super) fn selecting<'a>(
        &'a self,
        namespace: &'a str,
        labels: &'a Labels,
    ) -> impl Iterator<Item = &'a ServiceEntry> {
        let entries = in_namespace(self.objects.service_entries(), namespace);
        let entries = entries.map(|(_, entry)| entry.as_ref());
        entries.filter(move |entry| {
            let selector = entry.selector();
            selector.is_some_and(|selector| selects(selector, labels))
        })
    }

    /// The hosts of an entry that no other object of its namespace has before it.
    pub(super) fn hosts_of<'a>(&self, entry: &'a ServiceEntry) -> Vec<&'a str> {
        let (namespace, name) = (entry.metadata.namespace(), &entry.metadata.name);
        let hosts = translate::entry_hosts(entry);
        let own = hosts.filter(|host| {
            let owner = self.owner(namespace, host);
            owner.is_some_and(|owner| owner.metadata.name == *name)
        });
        own.collect()
    }

    /// The object that a service is made of.
    pub fn object_of(&self, key: &ServiceKey) -> Option<ObjectId> {
        let (kind, metadata) = self.written_as(key)?;
        Some(ObjectId {
            kind,
            key: metadata.key(),
        })
    }

    /// The labels of a service.
    pub fn labels_of(&self, key: &ServiceKey) -> Option<&Labels> {
        Some(&self.written_as(key)?.1.labels)
    }

    fn written_as(&self, key: &ServiceKey) -> Option<(Kind, &Metadata)> {
        if let Some(service) = self.service_of_host(&key.namespace, &key.hostname) {
            return Some((Kind::Service, &service.metadata));
        }
        let entry = self.owner(&key.namespace, &key.hostname)?;
        Some((Kind::ServiceEntry, &entry.metadata))
    }

    /// The services that an entry is for.
    pub(super) fn keys_of(&self, entry: &ServiceEntry) -> Vec<ServiceKey> {
        let hosts = self.hosts_of(entry).into_iter();
        hosts
            .map(|host| translate::entry_key(entry, host))
            .collect()
    }

    /// The entry that is for a host in a namespace.
    fn owner(&self, namespace: &str, host: &str) -> Option<&ServiceEntry> {
        if self.service_of_host(namespace, host).is_some() {
            return None;
        }
        let entries = self.objects.entries_of(host);
        let of_namespace = entries.filter(|(key, _)| *key.namespace == *namespace);
        let oldest = of_namespace.min_by_key(|(_, entry)| age(&entry.metadata));
        oldest.map(|(_, entry)| entry.as_ref())
    }

    /// Whether of all that are for a host this is the one that has it outside its namespace too.
    fn is_canonical(&self, entry: &ServiceEntry, host: &str) -> bool {
        let of_kubernetes = self.namespace_of_host(host);
        if of_kubernetes.is_some_and(|namespace| self.service_of_host(namespace, host).is_some()) {
            return false;
        }
        let entries = self.objects.entries_of(host);
        let oldest = entries.min_by_key(|(_, entry)| age(&entry.metadata));
        oldest.is_some_and(|(key, _)| *key == entry.metadata.key())
    }

    /// The Service of Kubernetes that has this name, in whatever namespace.
    pub fn service_named(&self, host: &str) -> Option<ObjectKey> {
        let namespace = self.namespace_of_host(host)?;
        let service = self.service_of_host(namespace, host)?;
        Some(service.metadata.key())
    }

    /// The key that a Service of Kubernetes with this name has or would have.
    pub(crate) fn key_of_host(&self, host: &str) -> Option<ObjectKey> {
        let namespace = self.namespace_of_host(host)?;
        let (name, _) = host.split_once('.')?;
        Some(ObjectKey::new(namespace, name))
    }

    /// A host as it is named everywhere: one without dots is a service of the namespace that it is named in.
    pub fn full_name(&self, namespace: &str, host: &str) -> String {
        match host.contains(['.', '*']) {
            true => host.to_owned(),
            false => service_host(&self.mesh, &ObjectKey::new(namespace, host)),
        }
    }

    /// The Service of Kubernetes that has this name.
    fn service_of_host(&self, namespace: &str, host: &str) -> Option<&Service> {
        let of = self.namespace_of_host(host)?;
        let (name, _) = host.split_once('.').filter(|_| of == namespace)?;
        let service = self.objects.services().get(&ObjectKey::new(of, name))?;
        (service.spec.service_type != "ExternalName").then_some(service.as_ref())
    }

    /// The namespace in a name that Services of Kubernetes have.
    pub(crate) fn namespace_of_host<'a>(&self, host: &'a str) -> Option<&'a str> {
        let short = host.strip_suffix(self.mesh.cluster_domain.as_str())?;
        let (_, namespace) = short.strip_suffix(".svc.")?.split_once('.')?;
        (!namespace.contains('.')).then_some(namespace)
    }
}
