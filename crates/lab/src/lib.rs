//! A mesh lab of network namespaces: nodes, pods, links and the processes in them.
//!
//! The demo, the namespace tests and the bench all run in one. [`sandbox::enter`] first puts the program where nothing
//! can be left behind; [`Lab`] then makes the topology, and [`Mesh`] runs the real binaries in it: a control plane on a
//! folder of manifests, and on each node a ztunnel and a node agent. It needs Linux and nothing else: no root where
//! user namespaces are permitted, no `ip`, no `nft`.
//!
//! It is for showing and testing, not for production: calls on things that are not in the topology panic, and errors
//! are for people to read.
//!
//! ```no_run
//! use tulle_lab::{Lab, LabSpec, PodSpec, sandbox::{self, Run}};
//!
//! fn main() -> anyhow::Result<()> {
//!     let Run::Inside(sandbox) = sandbox::enter()? else { return Ok(()) };
//!     sandbox.block_on(async |sandbox| {
//!         let mut lab = Lab::create(&sandbox, &LabSpec::default()).await?;
//!         lab.add_pod(PodSpec::new("shop/cart", "node1")).await?;
//!         lab.add_pod(PodSpec::new("shop/web", "node2")).await?;
//!         let web = lab.pod("shop/web").listen(80)?;
//!         let to = (lab.pod("shop/web").ip(), 80).into();
//!         let (client, server) = tokio::join!(lab.pod("shop/cart").connect(to), web.accept());
//!         # drop((client, server));
//!         Ok(())
//!     })?
//! }
//! ```

mod address;
mod agent;
mod binaries;
pub mod capture;
pub mod cluster;
mod control_plane;
pub mod http;
mod lab;
mod link;
mod manifest;
mod mesh;
mod metrics;
mod node;
mod object;
mod pod;
pub mod primary;
pub mod process;
mod runtime;
pub mod sandbox;
mod service;
mod waypoint;
mod ztunnel;

pub use address::Families;
pub use agent::NodeAgent;
pub use binaries::Binaries;
pub use capture::{Capture, Flow};
pub use control_plane::{ClientSetup, ControlPlane};
pub use lab::{Lab, LabSpec};
pub use manifest::{Manifests, ObjectId};
pub use mesh::{Mesh, MeshConfig};
pub use metrics::{Metrics, Sample};
pub use node::Node;
pub use pod::{Pod, PodSpec};
pub use process::{Process, Program, Usage, wait_for};
pub use service::{Service, ServiceSpec};
pub use waypoint::Waypoint;
pub use ztunnel::{Access, Ztunnel};
