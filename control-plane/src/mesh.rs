//! What holds for the whole mesh and is not in any object.

use tulle_model::TrustDomain;

use tulle_manifest::{Enablement, ObjectKey};

/// Settings of the mesh.
#[derive(Clone, Debug)]
pub struct Mesh {
    /// Trust domain of every identity.
    pub trust_domain: TrustDomain,
    /// Other trust domains that a principal of this one stands for too.
    pub trust_domain_aliases: Vec<TrustDomain>,
    /// Cluster the objects belong to; part of every workload's key.
    pub cluster_id: String,
    /// DNS domain of the cluster.
    pub cluster_domain: String,
    /// Namespace whose policies hold for all namespaces.
    pub root_namespace: String,
    /// Send policies that are only to be evaluated, not enforced. Old node proxies enforce them all the same.
    pub dry_run_policies: bool,
    /// Service accounts that node proxies run as.
    pub trusted_node_accounts: Vec<ObjectKey>,
    /// Which pods are in the mesh: what node agents go by.
    pub enablement: Enablement,
}

impl Default for Mesh {
    fn default() -> Self {
        Self {
            trust_domain: TrustDomain::default(),
            trust_domain_aliases: Vec::new(),
            cluster_id: "Kubernetes".to_owned(),
            cluster_domain: "cluster.local".to_owned(),
            root_namespace: "istio-system".to_owned(),
            dry_run_policies: false,
            trusted_node_accounts: vec![ObjectKey::new("istio-system", "ztunnel")],
            enablement: Enablement::default(),
        }
    }
}
