//! How many requests may pass.

use std::{sync::Arc, time::Duration};

use crate::{HttpMatch, PolicyKey, http::BackendService};

/// What a RateLimitPolicy says of the requests to one of its targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitPolicy {
    /// Its name and target.
    pub key: PolicyKey,
    /// All that match count a request, and each may refuse it. If they are not in order, why: what is meant is not known then, and nothing
    /// passes.
    pub limits: Result<Vec<Limit>, String>,
}

/// A limit of some requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// For people; others of the policy have other names.
    pub name: Arc<str>,
    /// Which requests it is about; all, if nothing is said of them.
    pub about: HttpMatch,
    /// It is told, and nothing is refused.
    pub dry_run: bool,
    /// Responses say how much is left.
    pub tells: bool,
    /// Callers of gRPC are told RESOURCE_EXHAUSTED, not UNAVAILABLE.
    pub resource_exhausted: bool,
    /// Who counts.
    pub counted: Counted,
}

/// Who counts requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Each waypoint by itself.
    Here(LocalLimit),
    /// A service of others, for all waypoints.
    There(GlobalLimit),
}

/// So many requests at a steady pace, in each waypoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalLimit {
    /// How many, at least one, in each period.
    pub requests: u32,
    /// The period.
    pub per: Duration,
    /// How many may come at once, at least one.
    pub burst: u32,
    /// Requests that have all of these in common count together; all do, if there are none.
    pub by: Vec<RequestPart>,
}

/// A service that decides: `envoy.service.ratelimit.v3.RateLimitService`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobalLimit {
    /// Where it is; `None` if it is not there.
    pub service: Option<BackendService>,
    /// Whose limits are meant, as the service knows it.
    pub domain: String,
    /// For the whole of one question.
    pub timeout: Duration,
    /// What it cannot be asked about passes.
    pub fail_open: bool,
    /// What a request is counted as.
    pub descriptors: Vec<Descriptor>,
}

/// What a request is counted as. It is left out if the request lacks any part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Keys, and their values.
    pub entries: Vec<(String, RequestPart)>,
    /// Instead of what the service knows.
    pub limit: Option<(u32, LimitUnit)>,
}

/// The period of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum LimitUnit {
    Second,
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Year,
}

/// A part of a request, or of what is known about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestPart {
    /// Always this.
    Text(String),
    /// A header, by its name in lower case; the values of several, with commas between them.
    Header(String),
    /// The first parameter of the query of this name, as it was sent.
    Query(String),
    /// A claim of its valid token, by its path; of a list, all values, with commas between them.
    Claim(Vec<String>),
    /// Which workload sends it.
    Principal,
    /// Where it began, as far as those tell who passed it on.
    RemoteAddress,
    /// Its method.
    Method,
    /// Its path, without the query.
    Path,
}
