//! The CNI plugin `tulle-cni` and the node agent `tulle-node`: asked by the container runtime, the one asks the other,
//! and no pod starts outside the mesh that belongs in it.
//!
//! ```text
//! runtime ──env, config──▶ tulle-cni ──POST /cmdadd, Unix socket──▶ node agent
//!         ◀──result────────           ◀──enrolled | passed | error──
//! ```
//!
//! The plugin runs after the one that made the pod's network and passes that plugin's result on as it came. It decides
//! next to nothing and fetches nothing: what is not surely outside the mesh is the agent's to judge, and without an
//! answer the pod does not start.
//!
//! - [`cni`]: what the runtime says and wants to hear, in every version that we speak.
//! - [`agent`]: what plugin and agent say to each other.
//! - [`plugin`]: the verbs.
//! - [`enrollment`]: which pods are in the mesh.
//! - [`node`]: the agent.
//!
//! Spec: CNI 0.3.0 to 1.1.0, `cni-and-redirection.md` §1 and §2.4.

pub mod agent;
pub mod cni;
pub mod enrollment;
pub mod node;
pub mod plugin;
