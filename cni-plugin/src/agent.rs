//! What the plugin and the node agent say to each other: JSON by HTTP/1.1 over a Unix socket.
//!
//! | path | body | answer |
//! |---|---|---|
//! | `/cmdadd` | [`Pod`] | 200 with a [`Verdict`], or an error |
//! | `/cmdcheck` | [`Pod`] | 200 if the pod is as ADD left it, or an error |
//! | `/cmddel` | [`Gone`] | 200 |
//! | `/cmdgc` | [`Left`] | 200 |
//!
//! An error has a status of 400 or more and a body of [`Failure`]. `/cmdadd` and the first four fields of its body are
//! those of the ambient contract, whose plugins and agents leave out the rest.
//!
//! Spec: `cni-and-redirection.md` §2.4.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cni::Attachment;

mod client;

pub use client::{CallError, Socket};

/// A pod with a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Path of its network namespace, as the host sees it.
    #[serde(rename = "Netns")]
    pub netns: PathBuf,
    /// Its name.
    #[serde(rename = "PodName")]
    pub name: String,
    /// Its namespace.
    #[serde(rename = "PodNamespace")]
    pub namespace: String,
    /// Its addresses.
    #[serde(rename = "IPs", default)]
    pub ips: Vec<Ip>,
    /// Its UID; empty if the runtime does not tell.
    #[serde(rename = "PodUID", default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// The container whose network it is.
    #[serde(
        rename = "ContainerID",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub container: String,
}

/// One address of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ip {
    /// Number of the interface in the result.
    #[serde(rename = "Interface", default)]
    pub interface: Option<u32>,
    /// The address with its mask.
    #[serde(rename = "Address")]
    pub address: Network,
    /// Where its routes lead; empty if nowhere.
    #[serde(rename = "Gateway", default)]
    pub gateway: String,
}

/// An address with its mask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The address.
    #[serde(rename = "IP")]
    pub ip: String,
    /// The bytes of the mask in base64.
    #[serde(rename = "Mask")]
    pub mask: String,
}

/// What the agent did about a pod. An empty answer means that it is enrolled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "lowercase", deny_unknown_fields)]
pub enum Verdict {
    /// It is in the mesh: ztunnel listens and the rules are there.
    Enrolled,
    /// It does not belong in the mesh.
    Passed {
        /// Why.
        reason: String,
    },
}

/// A container that is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// The container.
    #[serde(rename = "ContainerID")]
    pub container: String,
    /// Its pod's UID; empty if not known.
    #[serde(rename = "PodUID", default)]
    pub uid: String,
}

/// The containers that are left: all others are gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// They, and their interfaces.
    pub attachments: Vec<Attachment>,
}

/// Why the agent did not do it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// One line for whoever reads the pod's events.
    pub error: String,
    /// Whether the same request may succeed later.
    #[serde(default)]
    pub retry: bool,
}
