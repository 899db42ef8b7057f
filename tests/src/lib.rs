//! Network-namespace tests and benches

pub mod churn;
pub mod harness;
pub mod raw;
