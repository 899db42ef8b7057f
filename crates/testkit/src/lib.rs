//! Test certificate authority, builders and in-memory peers for tests
