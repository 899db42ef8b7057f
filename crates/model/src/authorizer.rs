//! Who is asked whether a request may pass, besides policies.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{StringMatch, http::BackendService};

/// Somebody outside of the mesh's own policies who decides about requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorizer {
    /// By which policies know it.
    pub name: Arc<str>,
    /// Where it is.
    pub service: BackendService,
    /// For the whole of one question.
    pub timeout: Duration,
    /// What it cannot be asked about passes.
    pub fail_open: bool,
    /// The answer to a request that it cannot be asked about, if that does not pass.
    pub status_on_error: u16,
    /// What it has changed of a request may lead to another route.
    pub routes_again: bool,
    /// How much of bodies it sees; `None`: nothing.
    pub body: Option<BodySample>,
    /// How it is asked.
    pub protocol: AuthorizerProtocol,
}

/// How much of a request's body is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodySample {
    /// Bytes.
    pub most: u32,
    /// A longer body is shown as far as that; otherwise the request is refused.
    pub partial: bool,
    /// It need not be a text.
    pub as_bytes: bool,
}

/// How somebody is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthorizerProtocol {
    /// `envoy.service.auth.v3.Authorization/Check`: all headers are shown.
    Grpc,
    /// By a request like the one in question.
    Http(HttpQuestion),
}

/// A question in HTTP. Names of headers are in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpQuestion {
    /// Before the request's own path.
    pub path_prefix: String,
    /// The headers that are shown besides what every question has.
    pub shown: Vec<StringMatch>,
    /// Others that are said besides.
    pub said: BTreeMap<String, String>,
    /// Headers of a yes that the request gets.
    pub to_endpoint: Vec<StringMatch>,
    /// Headers of a yes that the response gets.
    pub to_client: Vec<StringMatch>,
    /// Headers of a no that the client gets; all if there are none.
    pub to_refused: Vec<StringMatch>,
}
