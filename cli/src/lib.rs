//! The operator's command, `tulle`: for now `tulle demo`, a whole mesh on one machine that proves what it claims.
//!
//! The mesh itself is in other programs (`ztunnel`, `tulled`), which the demo starts; the network it runs in is made
//! by `tulle-lab`.

pub mod demo;
mod style;
pub mod workload;
