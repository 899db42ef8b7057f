//! What a proxy knows of the mesh: workloads, services and policies.
//!
//! ```text
//! xDS client ──┐                                  ┌── SnapshotReader (data plane thread)
//!              ├── StateWriter ── Arc<Snapshot> ──┤
//! local file ──┘                                  └── SnapshotReader (admin)
//! ```
//!
//! One writer, on the control thread, collects a whole response into a draft and publishes it at once. A snapshot
//! never changes; it shares what did not change with the one before, so a change of k resources costs about k.

mod endpoints;
mod policies;
mod services;

mod cow_map;
mod draft;
mod intern;
mod quarantine;
mod reader;
mod resource;
mod snapshot;
mod workload;
mod workloads;
mod writer;

pub use endpoints::{Endpoints, Group, Select, endpoint_name};
pub use policies::PolicyRecord;
pub use reader::SnapshotReader;
pub use resource::{Resource, ResourceName};
pub use services::ServiceRecord;
pub use snapshot::{Counts, Destination, PolicyEpoch, Snapshot};
pub use workload::{Place, Profile, Workload};
pub use writer::{StateConfig, StateWriter};
