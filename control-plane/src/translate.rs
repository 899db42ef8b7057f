//! Objects into resources: pure functions, one object's resource at a time, whose dependencies are their arguments.

mod authorization;
mod endpoint_slice;
mod limits;
mod machine;
mod owner;
mod peer_authentication;
mod port;
mod report;
mod service;
mod service_entry;
mod tokens;
mod waypoint;
mod workload;

pub(crate) use authorization::{asked, path_match, targets, text_match};
pub use authorization::{authorization, is_sent, targeted, unchecked_tokens};
pub use endpoint_slice::{endpoint, endpoint_addresses, endpoint_uid};
pub(crate) use limits::claim_path;
pub use limits::limits;
pub use machine::{HEALTHY, Machine, MachineSurroundings, machine, machine_of, workload_entry_uid};
pub use peer_authentication::{
    Enforcement, Modes, PortMap, WorkloadLevel, derived_policy, effective,
    peer_authentication_report, static_strict,
};
pub use report::{Finding, Outcome, PolicyReport};
pub use service::{service, service_key};
pub use service_entry::{
    ListedEndpoint, claimed_addresses, claims_nonsense, endpoint_metadata, entry_endpoint_uid,
    entry_endpoints, entry_hosts, entry_key, entry_mappings, entry_service, service_mappings,
};
pub use tokens::tokens;
pub use waypoint::{
    Binding, CONTROLLERS, Gateways, Traffic, Unbound, WaypointReport, asked as asked_waypoint,
    binding, gateway_of, inbound_binding, is_waypoint,
};
pub(crate) use workload::terminates_hbone;
pub use workload::{Surroundings, Untranslatable, locality, workload, workload_uid};

use tulle_manifest::Labels;

/// Whether an object with these labels is selected. A selector without labels selects everything.
pub fn selects(selector: &Labels, labels: &Labels) -> bool {
    selector
        .iter()
        .all(|(name, value)| labels.get(name) == Some(value))
}

/// The first of these labels that says something.
fn first_label<'a>(labels: &'a Labels, names: &[&str]) -> Option<&'a str> {
    names
        .iter()
        .filter_map(|name| labels.get(*name))
        .map(String::as_str)
        .find(|value| !value.is_empty())
}
