//! Network-namespace tests and benches
