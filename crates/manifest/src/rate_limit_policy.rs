//! How many requests may pass. A kind of our own: Istio has none.

use super::{TargetRef, declared::Declared, fields::fields};

/// How many requests may pass.
pub type RateLimitPolicy = Declared<RateLimitPolicySpec>;

fields! {
    /// What a RateLimitPolicy says.
    RateLimitPolicySpec {
        target_refs: Vec<TargetRef>,
        /// All that match count a request, and each may refuse it.
        limits: Vec<RateLimit>,
    }

    /// A limit of some requests.
    RateLimit {
        name: String,
        /// All requests, if absent.
        r#match: Option<RequestMatch>,
        local: Option<LocalRateLimit>,
        global: Option<GlobalRateLimit>,
        dry_run: Option<bool>,
        /// Responses have `x-ratelimit-limit`, `-remaining` and `-reset`.
        rate_limit_headers: Option<bool>,
        /// What callers of gRPC are told; UNAVAILABLE if false.
        rate_limited_as_resource_exhausted: Option<bool>,
    }

    /// What a request must be, all of it.
    RequestMatch {
        methods: Vec<String>,
        paths: Vec<String>,
        headers: Vec<HeaderCondition>,
    }

    /// What a header must be.
    HeaderCondition {
        name: String,
        /// Anything, if absent.
        value: Option<String>,
    }

    /// So many requests at a steady pace, in each waypoint.
    LocalRateLimit {
        requests: i64,
        per: String,
        /// How many may come at once; `requests` if absent.
        burst: Option<i64>,
        by: Vec<RequestPart>,
    }

    /// A service that decides.
    GlobalRateLimit {
        service: String,
        port: Option<i64>,
        domain: String,
        timeout: Option<String>,
        fail_open: Option<bool>,
        descriptors: Vec<RateLimitDescriptor>,
    }

    /// What a request is counted as.
    RateLimitDescriptor {
        entries: Vec<RequestPart>,
        /// Instead of what the service knows.
        limit: Option<RateLimitOverride>,
    }

    /// A limit that the service is told.
    RateLimitOverride {
        requests: i64,
        unit: String,
    }

    /// A part of a request; in a descriptor, with the key that the service knows it by.
    RequestPart {
        key: Option<String>,
        value: Option<String>,
        header: Option<String>,
        query_parameter: Option<String>,
        claim: Option<String>,
        principal: Option<Nothing>,
        remote_address: Option<Nothing>,
        method: Option<Nothing>,
        path: Option<Nothing>,
    }

    /// Written as `{}`.
    Nothing {}
}
