//! What becomes of HTTP requests to a service: which of its routes takes one, and what that does with it.
//!
//! The same for routes of the Gateway API and of Istio; what only one of them can say is empty in those of the other.

use std::time::Duration;

use crate::ServiceKey;

/// The routes of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes {
    /// Whose.
    pub service: ServiceKey,
    /// In the order in which they are looked at: the first that a request fits decides. One that fits none is refused, if any is for its
    /// port.
    pub alternatives: Vec<Alternative>,
    /// What they lead to.
    pub rules: Vec<Rule>,
}

/// What a request must be, all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alternative {
    /// Which of the rules holds then; always one that there is.
    pub rule: usize,
    /// Ports of the service; any, if there are none.
    pub ports: Vec<u16>,
    /// The path, without the query.
    pub path: Option<StringMatch>,
    /// The method.
    pub method: Option<StringMatch>,
    /// `http` or `https`.
    pub scheme: Option<StringMatch>,
    /// The host, as the client named it.
    pub authority: Option<StringMatch>,
    /// Headers, by name in lower case.
    pub headers: Vec<NamedMatch>,
    /// Parameters of the query.
    pub query: Vec<NamedMatch>,
}

/// What a text must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StringMatch {
    /// How it is compared.
    pub kind: MatchKind,
    /// Letters of ASCII count the same in upper and lower case. Not for patterns.
    pub ignore_case: bool,
}

/// How a text is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MatchKind {
    /// It is this.
    Exact(String),
    /// It begins with this.
    Prefix(String),
    /// All of it is of this pattern, in the syntax of RE2.
    Regex(String),
    /// It begins with these elements of a path: `/a` is for `/a` and `/a/b`, not for `/ab`.
    Elements(String),
    /// It is there.
    Present,
}

impl From<MatchKind> for StringMatch {
    fn from(kind: MatchKind) -> Self {
        Self {
            kind,
            ignore_case: false,
        }
    }
}

/// What something with a name must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedMatch {
    /// Its name.
    pub name: String,
    /// What it must be.
    pub value: StringMatch,
    /// It must not be so. What is absent is an empty text.
    pub inverted: bool,
}

/// What becomes of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Where it is written, for people: `HTTPRoute/shop/web/0`.
    pub name: String,
    /// Where it goes.
    pub action: Action,
    /// Changes of its headers.
    pub request_headers: HeaderChanges,
    /// Changes of its response's headers.
    pub response_headers: HeaderChanges,
    /// What the endpoint sees instead of what the client has asked for.
    pub rewrite: Rewrite,
    /// How long it may take, with all tries.
    pub timeout: Option<Duration>,
    /// How long each try may take.
    pub try_timeout: Option<Duration>,
    /// That counts to the end of the response, and not only to its head.
    pub try_ends_response: bool,
    /// Whether it is tried again; `None`: as nobody has said anything.
    pub retry: Option<Retry>,
    /// Who gets copies.
    pub mirrors: Vec<Mirror>,
    /// What is made to fail.
    pub fault: Fault,
    /// Which pages may call.
    pub cors: Option<Cors>,
    /// What keeps requests of one client with one endpoint.
    pub persistence: Option<Persistence>,
}

/// That requests of one client stay with one endpoint, which a response tells it by something that its requests repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persistence {
    /// What they repeat.
    pub by: PersistsBy,
    /// After which it begins anew.
    pub lasts: Option<Duration>,
    /// Without a request, after which it begins anew.
    pub idle: Option<Duration>,
}

/// What requests repeat of an earlier response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PersistsBy {
    /// A cookie.
    Cookie {
        /// Its name.
        name: String,
        /// Where it counts; `None`: everywhere.
        path: Option<String>,
        /// It outlives the client's session, as long as [`Persistence::lasts`].
        permanent: bool,
    },
    /// A header, by its name in lower case.
    Header(String),
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// To one of these, by weight; to the service itself if there are none.
    Forward(Vec<Backend>),
    /// Back, with the place to ask.
    Redirect(Redirect),
    /// Back, with this.
    Respond {
        /// 200 to 599.
        status: u16,
        /// The body.
        body: Vec<u8>,
    },
}

impl Default for Action {
    fn default() -> Self {
        Self::Forward(Vec::new())
    }
}

/// A share of the requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Of the sum of all.
    pub weight: u32,
    /// Who gets it; `None`: nobody, and it is refused.
    pub service: Option<BackendService>,
    /// Changes of headers of its requests.
    pub request_headers: HeaderChanges,
    /// And of their responses.
    pub response_headers: HeaderChanges,
}

/// A service that requests are sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendService {
    /// Its name.
    pub key: ServiceKey,
    /// One of its ports; `None`: the one that the client has asked for.
    pub port: Option<u16>,
    /// Some of its endpoints, by the name of a [subset](crate::traffic::Subset); `None`: all.
    pub subset: Option<String>,
}

/// The place to ask. What is `None` stays as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// Without the port.
    pub host: Option<String>,
    /// Left out where it goes without saying.
    pub port: Option<u16>,
    /// The path.
    pub path: Option<PathChange>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// Changes of headers: removed first, then set, then added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// Name and only value.
    pub set: Vec<(String, String)>,
    /// Name and one more value.
    pub add: Vec<(String, String)>,
    /// Names.
    pub remove: Vec<String>,
}

/// What an endpoint sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The host.
    pub authority: Option<String>,
    /// The path; the query stays.
    pub path: Option<PathChange>,
}

/// Another path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// This.
    Full(String),
    /// This instead of the elements that were asked for.
    Elements(String),
    /// This instead of the letters that were asked for.
    Prefix(String),
    /// What all that is of the pattern is replaced with; `$1` is what its first group was.
    Regex {
        /// In the syntax of RE2.
        pattern: String,
        /// What stands instead.
        substitution: String,
    },
}

/// When a request is tried again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retry {
    /// How often, after the first time.
    pub attempts: u32,
    /// After which failures.
    pub on: Vec<RetryOn>,
    /// After which statuses.
    pub statuses: Vec<u16>,
    /// The pause before the first, of which others are made.
    pub backoff: Option<Duration>,
}

/// A failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryOn {
    /// No connection.
    ConnectFailure,
    /// The endpoint said that it has not looked at it.
    RefusedStream,
    /// The connection ended before anything was sent.
    ResetBeforeRequest,
    /// It ended, or a try took too long, before there was a response.
    Reset,
    /// 502, 503, 504, or no response.
    GatewayError,
    /// 5xx, or no response.
    ServerError,
    /// 409.
    Retriable4xx,
    /// A limit of how many requests may pass: `x-envoy-ratelimited`.
    RateLimited,
    /// `grpc-status` 1.
    GrpcCancelled,
    /// 4.
    GrpcDeadlineExceeded,
    /// 8.
    GrpcResourceExhausted,
    /// 13.
    GrpcInternal,
    /// 14.
    GrpcUnavailable,
}

/// Who gets copies of requests, whose responses nobody sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Its weight means nothing.
    pub backend: Backend,
    /// Of a million.
    pub share: u32,
}

/// What is made to fail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// How long, and how many of a million requests.
    pub delay: Option<(Duration, u32)>,
    /// With what, and how many of a million requests.
    pub abort: Option<(Abort, u32)>,
}

/// How a request fails that is made to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// With a status of HTTP, 200 to 599.
    Status(u16),
    /// With one of gRPC.
    Grpc(u16),
}

/// Which pages may call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    /// Where they come from.
    pub origins: Vec<StringMatch>,
    /// What they may ask with.
    pub methods: Vec<String>,
    /// Which headers they may send.
    pub headers: Vec<String>,
    /// Which they may read.
    pub expose: Vec<String>,
    /// How long a browser may remember.
    pub max_age: Option<Duration>,
    /// Whether it may send what it keeps of us.
    pub credentials: bool,
    /// What asks for leave from another origin goes on to the service.
    pub forward_unmatched: bool,
}

/// Of requests, what all are.
pub const ALL: u32 = 1_000_000;
