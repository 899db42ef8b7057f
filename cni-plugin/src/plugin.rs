//! The verbs: environment and configuration in, what to print out.

pub mod pass_through;

use std::{ffi::OsString, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use ipnet::IpNet;
use serde::Deserialize;

use crate::{
    agent::{CallError, Gone, Ip, Left, Network, Pod, Socket, Verdict},
    cni::{CniError, Code, Command, Config, Environment, PodArgs, Version},
};

/// What the process prints on standard output, and whether it succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// A result or an error, with its line end; empty where the verb has no result.
    pub stdout: String,
    /// Whether to exit with 0.
    pub success: bool,
}

/// Does what the runtime asks.
///
/// ADD and CHECK end within the configuration's `timeout_seconds`, DEL and GC within two seconds, the others at once.
pub fn run(variable: impl Fn(&str) -> Option<OsString>, input: &[u8]) -> Output {
    let environment = Environment::read(variable);
    // VERSION may come without any configuration.
    let bare = match &environment {
        Ok(environment) if environment.command == Command::Version => input.is_empty(),
        _ => false,
    };
    let config = Config::parse(if bare { b"{}" } else { input });
    let version = config
        .as_ref()
        .map_or(Version::NEWEST, |config| config.version);
    let done = match (environment, config) {
        (Ok(environment), Ok(config)) => execute(&environment, &config),
        // A container that is gone must never be held back.
        (Ok(environment), Err(_)) if environment.command == Command::Del => Ok(String::new()),
        (Err(error), _) | (_, Err(error)) => Err(error),
    };
    match done {
        Ok(stdout) => Output {
            stdout,
            success: true,
        },
        Err(error) => Output {
            stdout: error.to_json(version),
            success: false,
        },
    }
}

/// An error for input that could not be read.
pub fn unreadable(error: &std::io::Error) -> Output {
    let error =
        CniError::new(Code::Io, "cannot read standard input").with_details(error.to_string());
    Output {
        stdout: error.to_json(Version::NEWEST),
        success: false,
    }
}

fn execute(environment: &Environment, config: &Config) -> Result<String, CniError> {
    let since = match environment.command {
        Command::Add | Command::Del | Command::Version => Version::V0_3_0,
        Command::Check => Version::V0_4_0,
        Command::Gc | Command::Status => Version::V1_1_0,
    };
    if config.version < since {
        let verb = environment.command;
        let message = format!("version {} has no {verb:?}", config.version);
        return Err(CniError::new(Code::IncompatibleVersion, message));
    }
    match environment.command {
        Command::Add => add(environment, config),
        Command::Check => check(environment, config),
        Command::Del => {
            del(environment, config);
            Ok(String::new())
        }
        Command::Gc => gc(config),
        // The agent needs a pod network to start on many nodes, and the node would not get one while we say no.
        Command::Status => Ok(String::new()),
        Command::Version => Ok(versions(config.version)),
    }
}

/// The previous result, once the pod is in the mesh or is known not to belong there.
fn add(environment: &Environment, config: &Config) -> Result<String, CniError> {
    let previous = previous(config)?;
    if !is_exempt(&environment.pod, config) {
        let answer = call(
            config,
            "/cmdadd",
            &pod(environment, config)?,
            config.timeout,
        )?;
        read_verdict(&answer)?;
    }
    Ok(format!("{previous}\n"))
}

fn check(environment: &Environment, config: &Config) -> Result<String, CniError> {
    previous(config)?;
    if !is_exempt(&environment.pod, config) {
        call(
            config,
            "/cmdcheck",
            &pod(environment, config)?,
            config.timeout,
        )?;
    }
    Ok(String::new())
}

/// Tells the agent, so that it need not find out. If it cannot be told it will.
fn del(environment: &Environment, config: &Config) {
    let gone = Gone {
        container: environment.container.clone().unwrap_or_default(),
        uid: environment.pod.uid.clone(),
    };
    let _ = Socket::new(config.socket()).post("/cmddel", &gone, TOLD);
}

/// As DEL for everything that is not left.
fn gc(config: &Config) -> Result<String, CniError> {
    let Some(attachments) = config.attachments.clone() else {
        let message = "GC without cni.dev/valid-attachments";
        return Err(CniError::new(Code::InvalidConfig, message));
    };
    let _ = Socket::new(config.socket()).post("/cmdgc", &Left { attachments }, TOLD);
    Ok(String::new())
}

fn versions(version: Version) -> String {
    let supported = Version::ALL
        .map(|version| format!("\"{version}\""))
        .join(",");
    format!("{{\"cniVersion\":\"{version}\",\"supportedVersions\":[{supported}]}}\n")
}

fn previous(config: &Config) -> Result<&str, CniError> {
    let previous = config.previous.as_ref().map(|previous| previous.get());
    previous.ok_or_else(|| {
        let message =
            "no prevResult: tulle-cni comes after the plugin that makes the pod's network";
        CniError::new(Code::InvalidConfig, message)
    })
}

/// Whether a pod is surely outside the mesh: it is none of Kubernetes', its namespace is excluded, or the mesh itself
/// needs it to start.
fn is_exempt(pod: &PodArgs, config: &Config) -> bool {
    let of_the_mesh = || pod.namespace == config.mesh_namespace && is_mesh_pod(&pod.name);
    pod.namespace.is_empty()
        || pod.name.is_empty()
        || config.exclude_namespaces.contains(&pod.namespace)
        || of_the_mesh()
}

/// Pods of our DaemonSets and Deployments, and of those that they replace.
fn is_mesh_pod(name: &str) -> bool {
    MESH_PODS.iter().any(|start| name.starts_with(start))
}

fn pod(environment: &Environment, config: &Config) -> Result<Pod, CniError> {
    #[derive(Deserialize)]
    struct Result {
        #[serde(default)]
        ips: Vec<Address>,
    }
    #[derive(Deserialize)]
    struct Address {
        address: IpNet,
        #[serde(default)]
        gateway: Option<String>,
        #[serde(default)]
        interface: Option<u32>,
    }
    let result: Result = serde_json::from_str(previous(config)?).map_err(|error| {
        CniError::new(Code::Decode, "prevResult has no usable addresses")
            .with_details(error.to_string())
    })?;
    let ip = |address: Address| Ip {
        interface: address.interface,
        address: Network {
            ip: address.address.addr().to_string(),
            mask: mask(address.address),
        },
        gateway: address.gateway.unwrap_or_default(),
    };
    Ok(Pod {
        netns: environment.netns.clone().unwrap_or_default(),
        name: environment.pod.name.clone(),
        namespace: environment.pod.namespace.clone(),
        ips: result.ips.into_iter().map(ip).collect(),
        uid: environment.pod.uid.clone(),
        container: environment.container.clone().unwrap_or_default(),
    })
}

fn mask(network: IpNet) -> String {
    match network {
        IpNet::V4(network) => BASE64_STANDARD.encode(network.netmask().octets()),
        IpNet::V6(network) => BASE64_STANDARD.encode(network.netmask().octets()),
    }
}

fn call(
    config: &Config,
    path: &'static str,
    pod: &Pod,
    limit: Duration,
) -> Result<Vec<u8>, CniError> {
    let answer = Socket::new(config.socket()).post(path, pod, limit);
    answer.map_err(|error| failed(pod, &error))
}

fn failed(pod: &Pod, error: &CallError) -> CniError {
    let code = match error.is_retryable() {
        true => Code::TryAgain,
        false => Code::Refused,
    };
    let message = format!("pod {}/{}: {error}", pod.namespace, pod.name);
    CniError::new(code, message)
}

/// An agent of the ambient contract says nothing when a pod is enrolled.
fn read_verdict(answer: &[u8]) -> Result<(), CniError> {
    if answer.trim_ascii().is_empty() {
        return Ok(());
    }
    match serde_json::from_slice(answer) {
        Ok(Verdict::Enrolled | Verdict::Passed { .. }) => Ok(()),
        Err(error) => {
            let message = "the node agent's answer is not understood";
            Err(CniError::new(Code::Refused, message).with_details(error.to_string()))
        }
    }
}

/// How long telling the agent of an end may take.
const TOLD: Duration = Duration::from_secs(2);
const MESH_PODS: [&str; 5] = [
    "tulle-node-",
    "tulled-",
    "ztunnel-",
    "istio-cni-node-",
    "istiod-",
];
