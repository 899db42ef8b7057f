//! Network-namespace tests and benches

pub mod harness;
