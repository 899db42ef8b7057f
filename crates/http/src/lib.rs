//! What becomes of an HTTP request: which route takes it, and what that makes of it.
//!
//! Nothing here does I/O. Routes are compiled once, when they arrive, so that a request costs comparisons only; the control plane uses the
//! same code to tell what is wrong with one, and which one a request would take.
//!
//! Spec: `waypoint-l7.md` §2.

mod change;
mod claim;
pub mod pattern;
mod routes;
mod text;

pub use change::{Headers, Location, PathEdit, Redirection, Unwritable, location};
pub use claim::{NoClaim, claim};
pub use routes::{
    Action, Backend, Backends, Cors, Found, RequestHead, Route, RouteTable, Uncompilable,
};
pub use text::Text;
