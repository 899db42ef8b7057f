//! The operator's command, `tulle`: a mesh installed in a cluster, checked, given waypoints and removed again; and `tulle demo`, a
//! whole mesh on one machine that proves what it claims.
//!
//! The mesh itself is in other programs (`ztunnel`, `tulled`, `tulle-node`). Those that the demo runs are in the network that
//! `tulle-lab` makes; those of a cluster come as images, by the manifest that is built in here.
//!
//! - [`install`], [`uninstall`], [`check`], [`waypoint`]: about a cluster; each takes its arguments and returns how it ended.
//! - [`demo`], [`workload`]: about this machine.

pub mod check;
mod cluster;
mod definition;
pub mod demo;
mod finding;
pub mod install;
mod json;
mod limit;
mod manifest;
mod progress;
mod rollout;
mod style;
pub mod uninstall;
mod wait;
pub mod waypoint;
pub mod workload;
