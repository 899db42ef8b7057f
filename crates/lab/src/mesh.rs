//! A mesh in the lab: the real control plane and node proxies, and a node agent on each node.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::{
    agent::NodeAgent,
    binaries::Binaries,
    cluster::Cluster,
    control_plane::{ControlPlane, ObjectSource},
    lab::Lab,
    manifest::{Manifests, ObjectId},
    object::{self, SYSTEM_NAMESPACE, ZtunnelPod},
    pod::{Pod, PodSpec},
    service::ServiceSpec,
    waypoint::Waypoint,
    ztunnel::Ztunnel,
};

mod node;
mod settle;
mod successor;
mod waypoint;

use node::MeshNode;

/// How a mesh is run.
#[derive(Clone, Debug)]
pub struct MeshConfig {
    /// Where our programs are.
    pub binaries: Binaries,
    /// How long certificates are valid. Default: as long as the control plane likes.
    pub certificate_lifetime: Option<Duration>,
    /// How long each step of a rotation of the root lasts; then no certificate lives longer than `certificate_lifetime`. Default: as
    /// long as the control plane likes.
    pub root_overlap: Option<Duration>,
    /// Further environment variables of every ztunnel, which win over ours.
    pub ztunnel_env: Vec<(String, String)>,
    /// Further environment variables of every waypoint.
    pub waypoint_env: Vec<(String, String)>,
    /// The log filter of all processes. Default `info`.
    pub log_filter: String,
    /// Whether objects are in a Kubernetes API server, not in a folder of manifests. Default: no.
    pub kubernetes: bool,
}

impl MeshConfig {
    /// Uses the programs of our own build.
    ///
    /// # Errors
    /// When the running program's path is not known.
    pub fn new() -> Result<Self> {
        Ok(Self {
            binaries: Binaries::find()?,
            certificate_lifetime: None,
            root_overlap: None,
            ztunnel_env: Vec::new(),
            waypoint_env: Vec::new(),
            log_filter: "info".into(),
            kubernetes: false,
        })
    }
}

/// A lab with a mesh in it.
///
/// What the lab has is written to manifests, which the control plane reads; labels decide which pods are in the mesh,
/// as in a cluster. Calls that change anything return once the nodes act on it, so that what follows can rely on it.
#[derive(Debug)]
pub struct Mesh {
    lab: Lab,
    config: MeshConfig,
    manifests: Manifests,
    cluster: Option<Arc<Cluster>>,
    control_plane: ControlPlane,
    nodes: BTreeMap<String, MeshNode>,
    waypoints: BTreeMap<String, Waypoint>,
    /// The full names of the pods in the mesh.
    enrolled: BTreeSet<String>,
}

impl Mesh {
    /// Starts a control plane, and a ztunnel and an agent on each node of `lab`. Pods may be in the lab already.
    ///
    /// # Errors
    /// When a program is missing, ends early or is not ready in time; the message has its last log lines.
    pub async fn start(mut lab: Lab, config: MeshConfig) -> Result<Self> {
        let folder = lab.dir().join("manifests");
        let cluster = match config.kubernetes {
            true => {
                let (node, dir) = (lab.control(), lab.dir().join("cluster"));
                Some(Arc::new(Cluster::start(node, dir, &lab.logs()).await?))
            }
            false => None,
        };
        let mut manifests = match &cluster {
            Some(cluster) => Manifests::in_cluster(Arc::clone(cluster), folder),
            None => Manifests::create(folder)?,
        };
        describe(&mut lab, &mut manifests)?;
        if let Some(cluster) = &cluster {
            cluster.prepare().await?;
        }
        let objects = match &cluster {
            Some(cluster) => ObjectSource::Cluster(Arc::clone(cluster)),
            None => ObjectSource::Folder(manifests.folder().to_owned()),
        };
        let control_plane = ControlPlane::start(&lab, &config, objects).await?;
        let mut mesh = Self {
            lab,
            config,
            manifests,
            cluster,
            control_plane,
            nodes: BTreeMap::new(),
            waypoints: BTreeMap::new(),
            enrolled: BTreeSet::new(),
        };
        let names: Vec<String> = mesh
            .lab
            .nodes()
            .map(|node| node.name().to_owned())
            .collect();
        for name in names {
            let node = mesh.start_node(&name).await?;
            mesh.nodes.insert(name, node);
        }
        for node in mesh.nodes.values_mut() {
            node.ztunnel.wait_ready(READY_LIMIT).await?;
        }
        mesh.reconcile().await?;
        Ok(mesh)
    }

    /// The lab underneath.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The programs in use.
    pub fn binaries(&self) -> &Binaries {
        &self.config.binaries
    }

    /// A pod by `<namespace>/<name>`.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn pod(&self, name: &str) -> &Pod {
        self.lab.pod(name)
    }

    /// The ztunnel of a node.
    ///
    /// # Panics
    /// When there is no such node.
    pub fn ztunnel(&self, node: &str) -> &Ztunnel {
        let node = self
            .nodes
            .get(node)
            .unwrap_or_else(|| panic!("no node {node}"));
        &node.ztunnel
    }

    /// The ztunnel of a node, to be stopped, killed or started again.
    ///
    /// # Panics
    /// When there is no such node.
    pub fn ztunnel_mut(&mut self, node: &str) -> &mut Ztunnel {
        let node = self
            .nodes
            .get_mut(node)
            .unwrap_or_else(|| panic!("no node {node}"));
        &mut node.ztunnel
    }

    /// All ztunnels.
    pub fn ztunnels(&self) -> impl Iterator<Item = &Ztunnel> {
        self.nodes.values().map(|node| &node.ztunnel)
    }

    /// The control plane's process.
    pub fn control_plane(&mut self) -> &mut ControlPlane {
        &mut self.control_plane
    }

    /// The API server, if there is one.
    ///
    /// # Panics
    /// When objects are in a folder.
    pub fn cluster(&self) -> &Cluster {
        self.cluster.as_ref().expect("no API server")
    }

    /// The folder of manifests.
    pub fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    /// Whether a pod is in the mesh.
    pub fn is_enrolled(&self, pod: &str) -> bool {
        self.enrolled.contains(pod)
    }

    /// The agent of a node, to be stopped or killed.
    ///
    /// # Panics
    /// When there is no such node.
    pub fn agent_mut(&mut self, node: &str) -> &mut NodeAgent {
        let node = self
            .nodes
            .get_mut(node)
            .unwrap_or_else(|| panic!("no node {node}"));
        &mut node.agent
    }

    /// Adds a pod, and takes it into the mesh if its labels or its namespace's say so.
    ///
    /// # Errors
    /// When it cannot be made or enrolled.
    pub async fn add_pod(&mut self, spec: PodSpec) -> Result<()> {
        self.start_pod(spec).await?;
        self.reconcile().await
    }

    /// As [`Mesh::add_pod`], but returns as soon as the runtime could start the pod's containers: how long the mesh's plugin
    /// has kept it from that.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn start_pod(&mut self, spec: PodSpec) -> Result<Duration> {
        let name = self.place_pod(spec)?;
        self.lab.connect_pod(&name).await
    }

    /// Makes a pod and its object, without a network.
    fn place_pod(&mut self, spec: PodSpec) -> Result<String> {
        let pod = self.lab.place_pod(spec)?.clone();
        self.ensure_namespace(pod.namespace())?;
        let id = self.manifests.put(object::pod(&pod))?;
        let name = pod.full_name();
        if let Some(uid) = self.manifests.uid(&id) {
            self.lab.set_uid(&name, uid);
        }
        Ok(name)
    }

    /// As [`Mesh::start_pod`], for many at a time: what is returned does the work, on its own.
    ///
    /// # Errors
    /// When there is one of that name, or its node is full.
    pub fn starting(
        &mut self,
        spec: PodSpec,
    ) -> Result<impl Future<Output = Result<Duration>> + use<>> {
        let name = self.place_pod(spec)?;
        let pod = self.lab.pod(&name).clone();
        let node = self.lab.node(pod.node()).clone();
        let runtime = self.lab.runtime_of(pod.node())?.clone();
        Ok(async move { runtime.add(&node, &pod).await })
    }

    /// The same for [`Mesh::remove_pod`]. Once it is done, [`Mesh::forget_pod`] gives name and address free.
    ///
    /// # Errors
    /// When its object cannot be removed.
    pub fn stopping(&mut self, name: &str) -> Result<impl Future<Output = Result<()>> + use<>> {
        let pod = self.lab.pod(name).clone();
        let id = ObjectId::new("Pod", pod.namespace(), pod.name());
        self.manifests.remove(&id)?;
        self.enrolled.remove(name);
        let node = self.lab.node(pod.node()).clone();
        let runtime = self.lab.runtime_of(pod.node())?.clone();
        Ok(async move { runtime.del(&node, &pod).await })
    }

    /// Tries again to start a pod that could not be started: in another namespace.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn retry_pod(&mut self, name: &str) -> Result<()> {
        self.lab.renew_pod(name)?;
        self.lab.connect_pod(name).await?;
        self.reconcile().await
    }

    /// Has the runtime of a node tell its plugins which pods the lab still has there.
    ///
    /// # Errors
    /// What a plugin says.
    pub async fn collect_garbage(&self, node: &str) -> Result<()> {
        let left: Vec<&Pod> = self.lab.pods().filter(|pod| pod.node() == node).collect();
        let runtime = self.lab.runtime_of(node)?;
        runtime.gc(self.lab.node(node), &left).await
    }

    /// Lets go of a pod without a network.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn forget_pod(&mut self, name: &str) -> Result<()> {
        self.lab.forget_pod(name).map(drop)
    }

    /// Removes a pod, as when it is deleted while in use: its object, then its network.
    ///
    /// # Errors
    /// When there is none of that name.
    pub async fn remove_pod(&mut self, name: &str) -> Result<()> {
        let pod = self.lab.pod(name);
        self.manifests
            .remove(&ObjectId::new("Pod", pod.namespace(), pod.name()))?;
        self.enrolled.remove(name);
        self.lab.remove_pod(name).await?;
        Ok(())
    }

    /// Takes the network of a pod away that has been removed, once more: the kubelet repeats itself where it missed an answer.
    ///
    /// # Errors
    /// What a plugin says.
    pub async fn remove_again(&self, pod: &Pod) -> Result<()> {
        let runtime = self.lab.runtime_of(pod.node())?;
        runtime.del(self.lab.node(pod.node()), pod).await
    }

    /// Adds a service.
    ///
    /// # Errors
    /// When there is one of that name.
    pub fn add_service(&mut self, spec: ServiceSpec) -> Result<()> {
        let service = self.lab.add_service(spec)?;
        let (namespace, object) = (service.namespace().to_owned(), object::service(service));
        self.ensure_namespace(&namespace)?;
        self.manifests.put(object)?;
        Ok(())
    }

    /// Adds or replaces objects, written as YAML. Labels on namespaces and pods take effect.
    ///
    /// # Errors
    /// When the text is not YAML or a pod cannot be enrolled.
    pub async fn apply(&mut self, yaml: &str) -> Result<()> {
        self.manifests.apply(yaml)?;
        self.reconcile().await
    }

    /// Removes an object. For pods there is [`Mesh::remove_pod`].
    ///
    /// # Errors
    /// When there is none.
    pub async fn remove(&mut self, kind: &str, namespace: &str, name: &str) -> Result<()> {
        self.manifests
            .remove(&ObjectId::new(kind, namespace, name))?;
        self.reconcile().await
    }

    /// Labels a namespace, and takes its pods into the mesh or lets them out accordingly.
    ///
    /// # Errors
    /// When there is no such namespace, or a pod cannot be enrolled.
    pub async fn label_namespace(&mut self, name: &str, label: &str, value: &str) -> Result<()> {
        let id = ObjectId::new("Namespace", "", name);
        self.manifests.mark(&id, "labels", label, Some(value))?;
        self.reconcile().await
    }

    /// Takes a label off a namespace.
    ///
    /// # Errors
    /// As [`Mesh::label_namespace`].
    pub async fn unlabel_namespace(&mut self, name: &str, label: &str) -> Result<()> {
        let id = ObjectId::new("Namespace", "", name);
        self.manifests.mark(&id, "labels", label, None)?;
        self.reconcile().await
    }

    /// Sets or removes a label of a pod.
    ///
    /// # Errors
    /// When there is no such pod, or it cannot be enrolled.
    pub async fn label_pod(&mut self, name: &str, label: &str, value: Option<&str>) -> Result<()> {
        self.mark_pod(name, label, value)?;
        self.reconcile().await
    }

    /// As [`Mesh::label_pod`], without waiting for anything to come of it.
    ///
    /// # Errors
    /// When there is no such pod.
    pub fn mark_pod(&mut self, name: &str, label: &str, value: Option<&str>) -> Result<()> {
        self.lab.label_pod(name, label, value)?;
        let pod = self.lab.pod(name);
        let id = ObjectId::new("Pod", pod.namespace(), pod.name());
        self.manifests.mark(&id, "labels", label, value)
    }

    /// Gives a running pod a further address, and then its object. Nothing is waited for.
    ///
    /// # Errors
    /// When the pod has no network, or its node none of that family.
    pub async fn readdress_pod(&mut self, name: &str, address: IpAddr) -> Result<()> {
        self.lab.readdress(name, address).await?;
        let pod = self.lab.pod(name);
        let mut object = object::pod(pod);
        let ips = object.pointer_mut("/status/podIPs");
        let ips = ips.and_then(Value::as_array_mut);
        ips.context("a pod has addresses")?
            .push(json!({"ip": address}));
        self.manifests.put(object).map(drop)
    }

    /// Sets or removes an annotation of a pod. Nothing is waited for.
    ///
    /// # Errors
    /// When there is no such pod.
    pub fn annotate_pod(&mut self, name: &str, key: &str, value: Option<&str>) -> Result<()> {
        let pod = self.lab.pod(name);
        let id = ObjectId::new("Pod", pod.namespace(), pod.name());
        self.manifests.mark(&id, "annotations", key, value)
    }

    /// Has the runtime check a pod's network.
    ///
    /// # Errors
    /// What a plugin finds wrong.
    pub async fn check_pod(&self, name: &str) -> Result<()> {
        let pod = self.lab.pod(name);
        let runtime = self.lab.runtime_of(pod.node())?;
        runtime.check(self.lab.node(pod.node()), pod).await
    }

    fn ensure_namespace(&mut self, name: &str) -> Result<()> {
        if self
            .manifests
            .get(&ObjectId::new("Namespace", "", name))
            .is_none()
        {
            self.manifests.put(object::namespace(name))?;
        }
        Ok(())
    }
}

/// Writes down what is in the lab.
fn describe(lab: &mut Lab, manifests: &mut Manifests) -> Result<()> {
    manifests.put(object::namespace(SYSTEM_NAMESPACE))?;
    for node in lab.nodes() {
        manifests.put(object::node(node))?;
        manifests.put(ZtunnelPod::of(node).object(node))?;
    }
    let pods: Vec<Pod> = lab.pods().cloned().collect();
    for pod in pods {
        manifests.put(object::namespace(pod.namespace()))?;
        let id = manifests.put(object::pod(&pod))?;
        if let Some(uid) = manifests.uid(&id) {
            lab.set_uid(&pod.full_name(), uid);
        }
    }
    for service in lab.services() {
        manifests.put(object::namespace(service.namespace()))?;
        manifests.put(object::service(service))?;
    }
    Ok(())
}

const READY_LIMIT: Duration = Duration::from_secs(20);
