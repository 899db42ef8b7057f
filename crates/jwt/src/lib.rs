//! Which tokens of end users (JSON Web Tokens, RFC 7519) are valid, and what they say.
//!
//! ```text
//!  TokenRule ── once ──▶ Issuer: keys or KeySource, places          ┌─ no token: a request like any other
//!                          │                                        │
//!  request ──▶ check() ────┴─ signature, issuer, time, audience ────┼─ valid: Token, whose claims policies ask about
//!                                                                   └─ anything else: Refused
//! ```
//!
//! What is valid has been signed with a public key of its issuer, by an algorithm that is for that kind of key. Nothing here does I/O or
//! reads a clock: keys that are not written come from a [`KeySource`].
//!
//! Spec: `waypoint-l7.md` §4.4; `control-plane.md` §3.6.

mod check;
mod claims;
mod keys;
mod place;
mod source;

pub use check::{Checked, Issuers, Lacking, Refused};
pub use claims::Token;
pub use keys::{InvalidKeys, Keys};
pub use place::is_named;
pub use source::{KeySource, Sources};

#[cfg(test)]
mod testing;
