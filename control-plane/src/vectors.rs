//! The acceptance vectors of the control plane, from objects as people write them to what node proxies are sent.
//!
//! Two more are elsewhere: who reconnects is sent what has changed (`tulle-xds`, `reconnect_sends_only_what_changed_while_away`),
//! and no node gets an identity that runs on another (`access`). The one about routes is for waypoints.
//!
//! Spec: `control-plane.md` §13.

use std::{collections::BTreeMap, sync::Arc};

use tulle_manifest::{ObjectId, source::Change};
use tulle_model::{Authorization, Health, Service, TunnelProtocol, Workload, WorkloadType};
use tulle_xds::Address;

use crate::{index::Index, mesh::Mesh, testing, translate::Unbound};

/// What is sent, by name.
struct Sent {
    addresses: BTreeMap<String, Address>,
    policies: BTreeMap<String, Authorization>,
    index: Index,
}

impl Sent {
    fn of(yaml: &str) -> Self {
        let mut index = Index::new(Arc::new(Mesh::default()));
        let objects = testing::objects(yaml).into_iter();
        let sent = index.apply(objects.map(Change::Upsert).collect());
        let there = |(name, resource): (String, Option<_>)| Some((name, resource?));
        let policies = sent.policies.into_iter();
        Self {
            addresses: sent.addresses.into_iter().filter_map(there).collect(),
            policies: policies
                .filter_map(|(name, policy)| Some((name, policy?)))
                .collect(),
            index,
        }
    }

    fn workload(&self, name: &str) -> &Workload {
        match &self.addresses[&format!("Kubernetes//Pod/{name}")] {
            Address::Workload(workload) => workload,
            Address::Service(service) => panic!("{service:?}"),
        }
    }

    fn service(&self, name: &str) -> &Service {
        match &self.addresses[name] {
            Address::Service(service) => service,
            Address::Workload(workload) => panic!("{workload:?}"),
        }
    }

    /// What was said about the wish of an object for a waypoint.
    fn refused(&self, kind: &str, name: &str) -> Option<Option<Unbound>> {
        let mut waypoints = self.index.reports().waypoints();
        let is_it = |id: &ObjectId| id.kind.as_str() == kind && id.key.to_string() == name;
        let found = waypoints.find(|(id, _)| is_it(id));
        found.map(|(_, report)| report.refused)
    }
}

const POD: &str = "apiVersion: v1
kind: Pod
metadata:
  name: p
  namespace: a
  generateName: web-5d9-
  labels: {pod-template-hash: 5d9}
  annotations: {ambient.istio.io/redirection: enabled}
  ownerReferences: [{kind: ReplicaSet, name: web-5d9, controller: true}]
status: {podIP: 10.0.0.1, conditions: [{type: Ready, status: 'True'}]}
";

#[test]
fn a_pod_that_is_redirected() {
    let sent = Sent::of(POD);
    let workload = sent.workload("a/p");
    assert_eq!(workload.uid.as_str(), "Kubernetes//Pod/a/p");
    assert_eq!(workload.tunnel_protocol, TunnelProtocol::Hbone);
    assert!(!workload.native_tunnel);
    assert_eq!(&*workload.workload_name, "web");
    assert_eq!(workload.workload_type, WorkloadType::Pod);
    assert_eq!(workload.health, Health::Healthy);
}

#[test]
fn a_pod_whose_redirection_is_pending() {
    let sent = Sent::of(&POD.replace("redirection: enabled", "redirection: pending"));
    assert_eq!(sent.workload("a/p").tunnel_protocol, TunnelProtocol::None);
}

#[test]
fn a_named_port_is_that_of_each_pod() {
    let pod = |name: &str, ports: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: a, labels: {{app: web}}}}\n\
             spec: {{containers: [{{ports: [{ports}]}}]}}\nstatus: {{podIP: 10.0.0.9}}\n---\n"
        )
    };
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: a}\n\
        spec: {selector: {app: web}, ports: [{port: 80, targetPort: web}]}\n";
    let pods = [
        pod("a", "{name: web, containerPort: 8080}"),
        pod("b", "{name: web, containerPort: 9090}"),
        pod("c", ""),
    ];
    let sent = Sent::of(&format!("{}{service}", pods.concat()));
    assert_eq!(
        sent.service("a/web.a.svc.cluster.local").ports[0].target_port,
        0
    );
    for (name, expected) in [("a/a", vec![8080]), ("a/b", vec![9090]), ("a/c", vec![])] {
        let ports = sent.workload(name).services.values().flatten();
        let ports: Vec<u16> = ports.map(|mapping| mapping.target_port).collect();
        assert_eq!(ports, expected, "{name}");
    }
}

const WAYPOINT: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: w1, namespace: a}
spec: {gatewayClassName: istio-waypoint, listeners: [{port: 15008, protocol: HBONE}]}
status: {addresses: [{value: 10.9.9.9}]}
---
apiVersion: v1
kind: Namespace
metadata: {name: a, labels: {istio.io/use-waypoint: w1}}
---
apiVersion: v1
kind: Service
metadata: {name: s, namespace: a}
spec: {clusterIP: 10.1.0.1, ports: [{port: 80}]}
---
";

#[test]
fn a_namespace_asks_for_a_waypoint_of_services() {
    let sent = Sent::of(&format!("{WAYPOINT}{POD}"));
    assert!(sent.service("a/s.a.svc.cluster.local").waypoint.is_some());
    assert!(sent.workload("a/p").waypoint.is_none());
    assert_eq!(sent.refused("Pod", "a/p"), None, "and nothing is said");
}

#[test]
fn a_missing_waypoint_of_the_service_is_not_made_up_for_by_the_namespace() {
    let asking = WAYPOINT.replace(
        "{name: s, namespace: a}",
        "{name: s, namespace: a, labels: {istio.io/use-waypoint: w2}}",
    );
    let sent = Sent::of(&asking);
    assert!(sent.service("a/s.a.svc.cluster.local").waypoint.is_none());
    let refused = sent.refused("Service", "a/s").unwrap().unwrap();
    assert_eq!(refused.reason(), "WaypointIsNotReady");
}

fn policy(spec: &str) -> Sent {
    Sent::of(&format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
         metadata: {{name: p, namespace: a}}\nspec: {{{spec}}}\n"
    ))
}

#[test]
fn what_only_paths_would_allow_is_refused() {
    let sent = policy("action: ALLOW, rules: [{to: [{operation: {paths: [/x]}}]}]");
    assert!(sent.policies["a/p"].rules.is_empty());
}

/// Elsewhere the second clause stays, empty, and the rule never applies: a policy that refuses nothing. Here it refuses more.
#[test]
fn what_methods_would_refuse_is_refused_whatever_the_method() {
    let from = "from: [{source: {principals: [cluster.local/ns/b/sa/c]}}]";
    let both = policy(&format!(
        "action: DENY, rules: [{{{from}, to: [{{operation: {{methods: [GET]}}}}]}}]"
    ));
    let alone = policy(&format!("action: DENY, rules: [{{{from}}}]"));
    assert_eq!(both.policies, alone.policies);
    assert_eq!(both.policies["a/p"].rules[0].clauses.len(), 1);
}

#[test]
fn a_permissive_port_under_a_strict_mesh() {
    let peers = "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: mesh, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: own, namespace: a}
spec: {selector: {matchLabels: {pod-template-hash: 5d9}}, portLevelMtls: {8080: {mode: PERMISSIVE}}}
---
";
    let sent = Sent::of(&format!("{peers}{POD}"));
    let policies = sent.workload("a/p").authorization_policies.iter();
    let policies: Vec<String> = policies.map(ToString::to_string).collect();
    assert_eq!(policies, ["a/converted_peer_authentication_own"]);
    assert!(sent.policies.contains_key(&policies[0]));
}

#[test]
fn a_headless_service_is_listed_by_its_pods() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: h, namespace: a}\n\
        spec: {clusterIP: None, selector: {pod-template-hash: 5d9}, ports: [{port: 80}]}\n";
    let sent = Sent::of(&format!("{POD}---\n{service}"));
    assert!(sent.service("a/h.a.svc.cluster.local").vips.is_empty());
    let services = sent.workload("a/p").services.keys();
    let services: Vec<String> = services.map(ToString::to_string).collect();
    assert_eq!(services, ["a/h.a.svc.cluster.local"]);
}
