//! The node agent: who is in the mesh on this node, and everything that makes it so.
//!
//! ```text
//! manifests, or
//! Kubernetes ──▶ objects ──┐
//!                          ├──▶ agent ──▶ ztunnel (ZDS): open listeners in the pod
//! tulle-cni ───▶ api ──────┘        └───▶ redirection: lead the pod's traffic there
//! ```
//!
//! - [`objects`]: the pods of this node and the labels of namespaces, kept up to date.
//! - [`kubernetes`]: the API server as their source, and as the place where pods are told of.
//! - [`agent`]: the pods that have a network here, and whether they are enrolled.
//! - [`discovery`]: where the pods are that nobody told of.
//! - [`state`]: what the next agent needs to know.
//! - [`status`]: what is to be told of the pods; [`manifest_status`] writes it where manifests are.
//! - [`probes`]: whom health probes of the node reach.
//! - [`metrics`]: what is counted.
//! - [`api`]: what the plugin asks.
//! - [`install`]: the plugin's executable and configuration, on this node.
//! - [`config`]: the command line; [`app`]: all of it together.

pub mod agent;
mod announced;
pub mod api;
pub mod app;
pub mod config;
pub mod discovery;
pub mod install;
pub mod kubernetes;
pub mod manifest_status;
pub mod metrics;
pub mod objects;
pub mod probes;
pub mod state;
pub mod status;
pub mod traces;
