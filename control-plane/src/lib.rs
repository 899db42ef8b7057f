//! The control plane: objects to workload xDS, and the certificate authority.

pub mod index;
pub mod manifest;
pub mod mesh;
pub mod objects;
pub mod source;
pub mod translate;

#[cfg(test)]
mod testing;
