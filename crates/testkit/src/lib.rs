//! What tests of several crates need: a certificate authority that also mints bad certificates, builders of
//! workloads, services and policies, and I/O that misbehaves on demand.
//!
//! A dev-dependency only. It knows the model and no other crate of the mesh, so that every crate can use it.
//!
//! ```
//! use tulle_testkit::{TestCa, spiffe};
//!
//! let ca = TestCa::new();
//! let minted = ca.svid(&spiffe("shop", "cart"));
//! assert_eq!(minted.chain.len(), 1);
//! ```

mod authority;
mod build;
mod certs;
mod io;
pub mod sample;

pub use authority::FakeAuthority;
pub use build::{allow, deny, service, spiffe, workload};
pub use certs::{Hostile, LeafSpec, Minted, TestCa, Usage};
pub use io::Trickle;
