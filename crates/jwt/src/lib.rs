//! Which tokens of end users (JSON Web Tokens, RFC 7519) are valid, and what they say.
//!
//! ```text
//!  TokenRule ── once ──▶ Issuer: keys, places                       ┌─ no token: a request like any other
//!                          │                                        │
//!  request ──▶ check() ────┴─ signature, issuer, time, audience ────┼─ valid: Token, whose claims policies ask about
//!                                                                   └─ anything else: Refused
//! ```
//!
//! What is valid has been signed with a public key of its issuer, by an algorithm that is for that kind of key. Nothing here does I/O or
//! reads a clock.
//!
//! Spec: `waypoint-l7.md` §4.4; `control-plane.md` §3.6.

mod check;
mod claims;
mod keys;
mod place;

pub use check::{Checked, Issuers, Refused};
pub use claims::Token;

#[cfg(test)]
mod testing;
