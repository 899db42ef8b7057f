//! What runs on each node: an agent and a ztunnel.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Mesh;
use crate::{
    agent::{AgentSetup, AgentSource, NodeAgent},
    cluster::Cluster,
    control_plane::TokenOf,
    manifest::ObjectId,
    node::Node,
    object::{self, SYSTEM_NAMESPACE, ZtunnelPod},
    process::{Process, Program},
    ztunnel::Ztunnel,
};

/// The processes of one node.
#[derive(Debug)]
pub(super) struct MeshNode {
    pub(super) agent: NodeAgent,
    pub(super) ztunnel: Ztunnel,
}

impl Mesh {
    /// Starts them. The agent is up on return, the ztunnel on its way.
    pub(super) async fn start_node(&self, name: &str) -> Result<MeshNode> {
        let node = self.lab.node(name);
        let dir = self.lab.dir().join(name);
        std::fs::create_dir_all(&dir)?;
        let socket = dir.join("ztunnel.sock");
        let agent = NodeAgent::start(
            node,
            AgentSetup {
                binaries: &self.config.binaries,
                source: match &self.cluster {
                    Some(cluster) => AgentSource::Kubernetes(agent_kubeconfig(cluster, node)?),
                    None => AgentSource::Manifests(self.manifests.folder().to_owned()),
                },
                ztunnel_socket: &socket,
                run_dir: &dir,
                runtime: self.lab.runtime_of(name)?,
                logs: &self.lab.logs(),
                log_filter: &self.config.log_filter,
                families: self.lab.families(),
            },
        )
        .await?;
        let mut pod = ZtunnelPod::of(node);
        let id = ObjectId::new("Pod", SYSTEM_NAMESPACE, &pod.name);
        if let Some(uid) = self.manifests.uid(&id) {
            uid.clone_into(&mut pod.uid);
        }
        let of = TokenOf {
            namespace: SYSTEM_NAMESPACE,
            service_account: object::ZTUNNEL_ACCOUNT,
            pod: &pod.name,
            uid: &pod.uid,
            node: name,
        };
        let token = self.control_plane.token(&of, &dir).await?;
        let control_plane = self.control_plane.address();
        let yes_no = |value: bool| if value { "true" } else { "false" };
        let program = Program::new(
            format!("ztunnel-{name}"),
            self.config.binaries.path("ztunnel")?,
        )
        .env("NODE_NAME", name)
        .env("CLUSTER_ID", "Kubernetes")
        .env("POD_NAME", pod.name.as_str())
        .env("POD_NAMESPACE", SYSTEM_NAMESPACE)
        .env("SERVICE_ACCOUNT", object::ZTUNNEL_ACCOUNT)
        .env(
            "INSTANCE_IP",
            node.addresses()
                .first()
                .map(ToString::to_string)
                .unwrap_or_default(),
        )
        .env("XDS_ADDRESS", control_plane.as_str())
        .env("CA_ADDRESS", control_plane.as_str())
        .env("XDS_ROOT_CA", path_text(&self.control_plane.root()))
        .env("CA_ROOT_CA", path_text(&self.control_plane.root()))
        .env("AUTH_TOKEN", path_text(&token))
        .env("INPOD_UDS", path_text(&socket))
        .env("IPV6_ENABLED", yes_no(self.lab.families().v6()))
        .env("LOG_FORMAT", "json")
        .env("RUST_LOG", self.config.log_filter.as_str());
        let program = match self.config.certificate_lifetime {
            Some(lifetime) => program.env("SECRET_TTL", format!("{}s", lifetime.as_secs())),
            None => program,
        };
        let extra = self.config.ztunnel_env.iter();
        let program = extra.fold(program, |program, (name, value)| program.env(name, value));
        let process = Process::spawn(node.netns(), &self.lab.logs(), program)?;
        let ztunnel = Ztunnel::new(name, node.netns(), self.lab.families(), process);
        Ok(MeshNode { agent, ztunnel })
    }
}

pub(super) fn path_text(path: &std::path::Path) -> String {
    path.to_string_lossy().into_owned()
}

/// What the agent of a node finds the API server by: the token of a pod there, which is all that says which node it is on.
fn agent_kubeconfig(cluster: &Cluster, node: &Node) -> Result<PathBuf> {
    let account = "tulle-node";
    let pod = cluster.put(&object::agent(node))?;
    let text = |pointer| pod.pointer(pointer).and_then(Value::as_str);
    let name = text("/metadata/name").context("a pod without name")?;
    let uid = text("/metadata/uid").context("a pod without UID")?;
    let bound = Some((name, uid));
    let token = cluster.token(SYSTEM_NAMESPACE, account, Cluster::AUDIENCE, bound)?;
    cluster.kubeconfig(name, &token)
}
