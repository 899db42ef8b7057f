//! What is known of a request, or of a connection without HTTP, once it has ended.
//!
//! Operators choose what of it is told: by [`Expression`]s, which decide what is logged and what labels say, and by [`Format`]s, which say
//! what lines look like. Both name [`Fact`]s; whoever has seen the request knows their values.
//!
//! ```
//! use tulle_facts::{Expression, Fact, Facts, Value};
//!
//! struct NotFound;
//! impl Facts for NotFound {
//!     fn value(&self, fact: Fact) -> Option<Value<'_>> {
//!         (fact == Fact::ResponseCode).then_some(Value::Number(404))
//!     }
//! }
//! assert!(Expression::new("response.code >= 400").unwrap().holds(&NotFound));
//! ```
//!
//! Spec: `waypoint-l7.md` §5.2, §5.4.

use std::{borrow::Cow, time::SystemTime};

pub use expression::{Expression, InvalidExpression};
pub use format::{Format, InvalidFormat};
use names::NAMES;

mod expression;
mod format;
mod names;

/// Something that may be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Fact {
    StartTime,
    Method,
    /// As it came, with the query.
    Path,
    /// Without the query.
    UrlPath,
    Query,
    Host,
    Scheme,
    Protocol,
    RequestId,
    UserAgent,
    /// Bytes of the body; of a connection, all.
    BytesReceived,
    /// Bytes of the body; of a connection, all.
    BytesSent,
    /// Milliseconds.
    Duration,
    /// 0 if there was none.
    ResponseCode,
    ResponseCodeDetails,
    ResponseFlags,
    /// A number.
    GrpcStatus,
    TransportFailure,
    UpstreamHost,
    UpstreamCluster,
    UpstreamAttempts,
    DownstreamAddress,
    DownstreamIp,
    DownstreamPort,
    LocalAddress,
    LocalIp,
    LocalPort,
    RouteName,
    TraceId,
    /// Whether both sides have proved who they are.
    MutualTls,
    SourcePrincipal,
    SourceWorkload,
    SourceNamespace,
    SourceApp,
    SourceVersion,
    SourceService,
    SourceRevision,
    SourceCluster,
    DestinationPrincipal,
    DestinationWorkload,
    DestinationNamespace,
    DestinationApp,
    DestinationVersion,
    DestinationService,
    DestinationRevision,
    DestinationCluster,
}

/// What is known.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// Any text.
    Text(Cow<'a, str>),
    /// A count.
    Number(i64),
    /// Yes or no.
    Bool(bool),
    /// When something was.
    Time(SystemTime),
}

/// Headers of one of the two sides, or what follows a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Headers {
    Request,
    Response,
    Trailers,
}

/// Who has seen a request.
pub trait Facts {
    /// What is known of `fact`, if anything is.
    fn value(&self, fact: Fact) -> Option<Value<'_>>;

    /// A header, by its name in lower case; `None` if there is none, or nobody has kept it.
    fn header(&self, _of: Headers, _name: &str) -> Option<Cow<'_, str>> {
        None
    }

    /// All headers that were kept.
    fn headers(&self, _of: Headers) -> Vec<(String, String)> {
        Vec::new()
    }
}

/// What has to be kept of a request for what is to be told of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Its headers.
    pub request: bool,
    /// Those of its response.
    pub response: bool,
}

impl Kept {
    /// What either needs.
    pub fn or(self, other: Self) -> Self {
        Self {
            request: self.request || other.request,
            response: self.response || other.response,
        }
    }

    fn add(&mut self, of: Headers) {
        match of {
            Headers::Request => self.request = true,
            Headers::Response | Headers::Trailers => self.response = true,
        }
    }
}

impl Value<'_> {
    /// As it is written. Times are of ISO 8601, in milliseconds.
    pub fn to_text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Number(number) => Cow::Owned(number.to_string()),
            Self::Bool(is_so) => Cow::Borrowed(if *is_so { "true" } else { "false" }),
            Self::Time(at) => Cow::Owned(names::stamp(*at)),
        }
    }
}
