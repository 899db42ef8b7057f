//! The Kubernetes API as the source of objects and the judge of tokens.
//!
//! ```text
//! list, watch ──▶ source ──▶ index      TokenReview ──▶ reviews ──▶ callers      Secret ──▶ authority
//! ```
//!
//! - [`source`]: objects, listed as a whole before anything is served, then followed.
//! - [`reviews`]: tokens of service accounts.
//! - [`secret`]: the key of the certificate authority.
//! - [`lease`]: which replica writes; [`roots`]: what clients are to trust, in every namespace; [`statuses`]: what became of
//!   objects; [`waypoints`]: what runs for Gateways.

pub mod lease;
pub mod reviews;
pub mod roots;
pub mod rotation;
pub mod secret;
pub mod source;
pub mod statuses;
pub mod waypoints;

mod apply;
mod config_map;
mod pending;
mod readable;
mod tries;
