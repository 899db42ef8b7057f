//! Which endpoint of a service gets a request, how many there may be, and which endpoints are left alone for failing.
//!
//! A [`Destination`] is what all threads of a proxy know of one port of a service, or of a part of its endpoints: what each has to do, and
//! how it did. It outlives changes of the endpoints, whose list each choice is made from:
//!
//! ```text
//!  Endpoints ── groups, the nearest first ──▶ Picker ── one of a group ──▶ Active ── how it went ──▶ Destination
//!                                               ▲                                                       │
//!                                               └──────────────── to do, left alone, new ───────────────┘
//! ```
//!
//! Nothing here does I/O or reads a clock: the time is an argument.
//!
//! Spec: `waypoint-l7.md` §3.1 to §3.3; `control-plane.md` §7.2.

mod destination;
mod endpoint;
mod limits;
mod outliers;
mod pick;

pub use destination::Destination;
pub use endpoint::Active;
pub use limits::{Connection, Overflow, Request, Retry};
pub use outliers::Outcome;
pub use pick::{Picker, Preference};

#[cfg(test)]
mod testing;
