//! L4 authorization: policies and connection facts in, permit or denial out.
//!
//! A policy is compiled once, when it arrives; [`PolicySet::check`] then decides one connection without allocating.
//! Which policies apply to a workload is the caller's to find out (its state knows), HTTP is not looked at.
//!
//! ```
//! use std::sync::Arc;
//! use tulle_model::{Action, Authorization, Clause, Match, PolicyKey, Rule, Scope, StringMatch};
//! use tulle_policy::{CompiledPolicy, Connection, Denied, PolicySet};
//!
//! let only_cart = Authorization {
//!     key: PolicyKey::new("shop", "only-cart"),
//!     scope: Scope::Namespace,
//!     action: Action::Allow,
//!     rules: vec![Rule { clauses: vec![Clause { matches: vec![Match {
//!         principals: vec![StringMatch::Exact("cluster.local/ns/shop/sa/cart".into())],
//!         ..Match::default()
//!     }] }] }],
//!     dry_run: false,
//!     authorizer: None,
//! };
//! let policies = PolicySet::new([Arc::new(CompiledPolicy::compile(&only_cart))], Vec::new());
//! let cart = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
//! let connection = Connection {
//!     identity: Some(&cart),
//!     source_ip: "10.0.0.1".parse().unwrap(),
//!     destination_ip: "10.0.0.2".parse().unwrap(),
//!     destination_port: 80,
//! };
//! assert!(policies.check(&connection).is_ok());
//! let plaintext = Connection { identity: None, ..connection };
//! assert_eq!(policies.check(&plaintext), Err(Denied::NotAllowed));
//! ```

mod connection;
mod policy;
mod set;

pub use connection::{Connection, Request};
pub use policy::CompiledPolicy;
pub use set::{Denied, DryRun, Permit, PermitReason, PolicyList, PolicySet};
