//! What runs for a Gateway that is a waypoint, and what is told of it.
//!
//! ```text
//! Gateway ──┐
//! overlays ─┴▶ render ──▶ ServiceAccount, Deployment, Service, PodDisruptionBudget, HorizontalPodAutoscaler
//! Gateway, its Service, its pods ──▶ status ──▶ addresses, conditions
//! ```
//!
//! Pure functions. Who writes it, and when, is a matter of [`crate::kubernetes::waypoints`].
//!
//! Spec: `control-plane.md` §2.2, §2.4 and §2.5.

use tulle_manifest::{Gateway, GatewayClass};

use crate::translate::{CONTROLLERS, is_waypoint};

mod overlay;
mod render;
pub(crate) mod status;

pub use overlay::{InvalidOverlay, Overlay};
pub(crate) use render::{Made, Rendered, objects};

/// What all waypoints of a mesh are given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaypointConfig {
    /// The image that they run.
    pub image: String,
    /// Where they find xDS and the CA, as a URL.
    pub control_plane: String,
    /// Name of the cluster.
    pub cluster_id: String,
    /// DNS domain of the cluster.
    pub cluster_domain: String,
    /// When the image is pulled; empty: as Kubernetes likes.
    pub pull_policy: String,
    /// Secrets to pull it with, of the waypoint's namespace.
    pub pull_secrets: Vec<String>,
    /// Whether the platform says which user they run as.
    pub any_user: bool,
    /// What they log, and how.
    pub log: (String, String),
}

/// Whether objects are to be made for a Gateway.
pub(crate) fn is_ours(gateway: &Gateway, class: Option<&GatewayClass>) -> bool {
    let metadata = &gateway.metadata;
    let revision = metadata.labels.get(REVISION).map(String::as_str);
    let version = metadata.annotations.get(CONTROLLER_VERSION);
    let version = version.and_then(|version| version.parse().ok());
    is_waypoint(gateway, class)
        // A class of that name may be somebody else's.
        && class.is_none_or(|class| CONTROLLERS.contains(&class.spec.controller_name.as_str()))
        && metadata.deletion_timestamp.is_none()
        && matches!(revision, None | Some("" | "default"))
        // A later one takes care of it.
        && version.is_none_or(|version: u32| version <= VERSION)
        // It describes one that somebody else runs.
        && !gateway.spec.addresses.iter().any(|address| address.kind == "Hostname")
}

/// The name of what is made for a Gateway.
pub(crate) fn name_of(gateway: &Gateway) -> &str {
    let metadata = &gateway.metadata;
    let overridden = metadata.annotations.get(NAME);
    let overridden = overridden.filter(|name| tulle_kubernetes::is_name(name) && name.len() <= 63);
    overridden.unwrap_or(&metadata.name)
}

const REVISION: &str = "istio.io/rev";
const NAME: &str = "gateway.istio.io/name-override";
/// How control planes of different age tell who takes care of a Gateway.
const CONTROLLER_VERSION: &str = "gateway.istio.io/controller-version";
/// Ours.
const VERSION: u32 = 5;
/// On all that is made: by whose controller.
pub(crate) const MANAGED: &str = "gateway.istio.io/managed";
/// Its value for waypoints.
pub(crate) const MANAGED_WAYPOINT: &str = "istio.io-mesh-controller";
/// On all that is made: for which Gateway.
pub(crate) const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
