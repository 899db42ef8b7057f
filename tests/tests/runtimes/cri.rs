//! What we need of the runtime's own interface, CRI: sandboxes of pods.
//!
//! Spec: `runtime.v1` of Kubernetes' CRI.

use std::{collections::HashMap, path::Path};

use anyhow::{Context, Result};
use http::uri::PathAndQuery;
use prost::Message;
use serde_json::Value;
use tonic::{
    Request,
    client::Grpc,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

/// A runtime.
pub(crate) struct Cri(Grpc<Channel>);

/// A pod's sandbox, with its network.
pub(crate) struct Sandbox {
    id: String,
    /// The path of its network namespace.
    pub(crate) netns: String,
    /// Its addresses.
    pub(crate) ips: Vec<String>,
}

impl Cri {
    /// Connects to the runtime that listens at `socket`.
    pub(crate) async fn connect(socket: &Path) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?;
        Ok(Self(Grpc::new(endpoint.connect().await?)))
    }

    /// Runs a pod's sandbox, in a control group of its own below this one.
    pub(crate) async fn run(&mut self, cgroup: &str, name: &str, uid: &str) -> Result<Sandbox> {
        let metadata = Metadata {
            name: name.to_owned(),
            uid: uid.to_owned(),
            namespace: "shop".to_owned(),
            attempt: 0,
        };
        let config = SandboxConfig {
            metadata: Some(metadata),
            hostname: name.to_owned(),
            log_directory: "/run/tulle/pod-logs".to_owned(),
            linux: Some(Linux {
                cgroup_parent: format!("/{cgroup}"),
                security: Some(Security {
                    namespaces: Some(Namespaces { pid: OF_CONTAINER }),
                }),
            }),
        };
        let run = RunRequest {
            config: Some(config),
        };
        let RunResponse { id } = self.call("RunPodSandbox", run).await?;
        let asked = SandboxStatusRequest {
            id: id.clone(),
            verbose: true,
        };
        let answer: SandboxStatusResponse = self.call("PodSandboxStatus", asked).await?;
        let network = answer.status.and_then(|status| status.network);
        let network = network.context("a sandbox without network")?;
        let info: Value = serde_json::from_str(answer.info.get("info").context("no details")?)?;
        let namespaces = info.pointer("/runtimeSpec/linux/namespaces");
        let mut namespaces = namespaces.and_then(Value::as_array).into_iter().flatten();
        let netns = namespaces.find_map(|namespace| {
            let is_network = namespace.get("type")? == "network";
            is_network.then(|| namespace.get("path")?.as_str())?
        });
        let others = network.others.into_iter().map(|other| other.ip);
        Ok(Sandbox {
            netns: netns
                .context("a sandbox without network namespace")?
                .to_owned(),
            ips: [network.ip].into_iter().chain(others).collect(),
            id,
        })
    }

    /// Ends a sandbox.
    pub(crate) async fn end(&mut self, sandbox: Sandbox) -> Result<()> {
        let Sandbox { id, .. } = sandbox;
        let stop = SandboxRequest { id };
        let _: Nothing = self.call("StopPodSandbox", stop.clone()).await?;
        let _: Nothing = self.call("RemovePodSandbox", stop).await?;
        Ok(())
    }

    async fn call<I, O>(&mut self, method: &str, input: I) -> Result<O>
    where
        I: Message + 'static,
        O: Message + Default + 'static,
    {
        self.0.ready().await?;
        let path = PathAndQuery::try_from(format!("/runtime.v1.RuntimeService/{method}"))?;
        let codec = ProstCodec::<I, O>::default();
        let answer = self.0.unary(Request::new(input), path, codec).await;
        let answer = answer.with_context(|| method.to_owned())?;
        Ok(answer.into_inner())
    }
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
    #[prost(uint32, tag = "4")]
    attempt: u32,
}

#[derive(Clone, PartialEq, Message)]
struct SandboxConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<Metadata>,
    #[prost(string, tag = "2")]
    hostname: String,
    #[prost(string, tag = "3")]
    log_directory: String,
    #[prost(message, optional, tag = "8")]
    linux: Option<Linux>,
}

#[derive(Clone, PartialEq, Message)]
struct Linux {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
    #[prost(message, optional, tag = "2")]
    security: Option<Security>,
}

#[derive(Clone, PartialEq, Message)]
struct Security {
    #[prost(message, optional, tag = "1")]
    namespaces: Option<Namespaces>,
}

#[derive(Clone, PartialEq, Message)]
struct Namespaces {
    /// A `NamespaceMode`.
    #[prost(int32, tag = "2")]
    pid: i32,
}

/// Each container has its own, as kubelets ask for unless a pod wants something else.
const OF_CONTAINER: i32 = 1;

#[derive(Clone, PartialEq, Message)]
struct RunRequest {
    #[prost(message, optional, tag = "1")]
    config: Option<SandboxConfig>,
}

#[derive(Clone, PartialEq, Message)]
struct RunResponse {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct SandboxRequest {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct Nothing {}

#[derive(Clone, PartialEq, Message)]
struct SandboxStatusRequest {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(bool, tag = "2")]
    verbose: bool,
}

#[derive(Clone, PartialEq, Message)]
struct SandboxStatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<SandboxStatus>,
    #[prost(map = "string, string", tag = "2")]
    info: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct SandboxStatus {
    #[prost(message, optional, tag = "5")]
    network: Option<Network>,
}

#[derive(Clone, PartialEq, Message)]
struct Network {
    #[prost(string, tag = "1")]
    ip: String,
    #[prost(message, repeated, tag = "2")]
    others: Vec<Address>,
}

#[derive(Clone, PartialEq, Message)]
struct Address {
    #[prost(string, tag = "1")]
    ip: String,
}
