//! One request to the API server, and what can become of it.

use std::{error::Error, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use kube::{client::Body, core::Status};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::Client;

/// Why there is no answer, or not the one that was hoped for.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody answers, or the connection broke.
    #[error("the API server cannot be reached: {0}")]
    Unreachable(String),
    /// The answer, or its end, did not come.
    #[error("the API server did not answer within {0:?}")]
    Timeout(Duration),
    /// The answer is no.
    #[error("the API server refused with {code}: {message}")]
    Refused {
        /// Of the answer.
        code: StatusCode,
        /// Why.
        message: String,
        /// When to ask again, if it says so.
        after: Option<Duration>,
    },
    /// A kind is defined, but not in the version that is asked for; or not yet.
    #[error(
        "{name} is defined, but nothing is served at {path}: install its definition in that version"
    )]
    NotServed {
        /// The definition.
        name: String,
        /// What is asked for.
        path: String,
    },
    /// Nothing is known of a kind.
    #[error("the API server knows no {kind} of {version}")]
    UnknownKind {
        /// Its group and version.
        version: String,
        /// Its name.
        kind: String,
    },
    /// There is more than anybody would say.
    #[error("the answer is longer than {MAX_ANSWER} bytes")]
    TooLong,
    /// It is not what was asked for.
    #[error("the answer cannot be understood: {0}")]
    Unreadable(#[from] serde_json::Error),
    /// Path or body are none.
    #[error("the request cannot be made: {0}")]
    Request(#[from] http::Error),
}

impl CallError {
    /// The status that the server refused with.
    pub fn code(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::Unreachable(_)
            | Self::Timeout(_)
            | Self::NotServed { .. }
            | Self::UnknownKind { .. }
            | Self::TooLong
            | Self::Unreadable(_)
            | Self::Request(_) => None,
        }
    }

    /// Whether what happened since the version that was named is forgotten.
    pub fn is_expired(&self) -> bool {
        self.code() == Some(StatusCode::GONE)
    }

    /// Whether no other request would fare better now.
    pub fn is_outage(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Timeout(_) => true,
            // Not 500: that may be an admission webhook's view of one object.
            Self::Refused { code, .. } => matches!(code.as_u16(), 429 | 502..=504),
            Self::NotServed { .. }
            | Self::UnknownKind { .. }
            | Self::TooLong
            | Self::Unreadable(_)
            | Self::Request(_) => false,
        }
    }

    /// When the server wants to be asked again; zero if it does not say.
    pub fn after(&self) -> Duration {
        match self {
            Self::Refused { after, .. } => after.unwrap_or_default().min(LONGEST_AFTER),
            _ => Duration::ZERO,
        }
    }

    /// What a status object says, which is also how a watch says that it is over.
    pub(crate) fn refused(code: StatusCode, body: &[u8]) -> Self {
        // Proxies in between answer in other ways.
        let status: Option<Status> = serde_json::from_slice(body).ok();
        let after = status
            .as_ref()
            .and_then(|status| status.details.as_ref())
            .map(|details| details.retry_after_seconds);
        let code = match status.as_ref().map(|status| status.code) {
            Some(told) if told != 0 => StatusCode::from_u16(told).unwrap_or(code),
            Some(_) | None => code,
        };
        Self::Refused {
            code,
            message: status.map(|status| status.message).unwrap_or_default(),
            after: after
                .filter(|&seconds| seconds > 0)
                .map(|seconds| Duration::from_secs(seconds.into())),
        }
    }
}

impl Client {
    /// What there is at a path.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, CallError> {
        let answer = self.call(Method::GET, path, JSON, Vec::new()).await?;
        Ok(serde_json::from_slice(&answer)?)
    }

    /// Sends a request and returns what is answered. `kind` is that of what is sent, or of what is wanted if nothing is.
    ///
    /// # Errors
    /// [`CallError`]; [`CallError::Timeout`] after 20 s.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: Vec<u8>,
    ) -> Result<Bytes, CallError> {
        let answered = timeout(ANSWER, async {
            let body = self.open(method, path, kind, body).await?;
            collect(body).await
        });
        answered.await.unwrap_or(Err(CallError::Timeout(ANSWER)))
    }

    /// Sends a request and returns the answer as it comes, once it is known to be a good one.
    pub(crate) async fn open(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: Vec<u8>,
    ) -> Result<Body, CallError> {
        let about = match body.is_empty() {
            true => header::ACCEPT,
            false => header::CONTENT_TYPE,
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(about, kind);
        let answer = self.inner().send(request.body(Body::from(body))?).await;
        let answer = answer.map_err(|error| unreachable(&error))?;
        let code = answer.status();
        if code.is_success() {
            return Ok(answer.into_body());
        }
        let body = collect(answer.into_body()).await?;
        Err(CallError::refused(code, &body))
    }
}

async fn collect(body: Body) -> Result<Bytes, CallError> {
    let collected = Limited::new(body, MAX_ANSWER).collect().await;
    match collected {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(CallError::TooLong),
        Err(error) => Err(unreachable(error.as_ref())),
    }
}

/// With all causes: the outermost error only says that there is one.
pub(crate) fn unreachable(error: &(dyn Error + 'static)) -> CallError {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.ends_with(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    CallError::Unreachable(text)
}

/// Any object, as JSON.
pub const JSON: &str = "application/json";
/// A part of an object that is to be as it is written, as YAML, of which JSON is a part.
pub const APPLY: &str = "application/apply-patch+yaml";
/// A part of an object that is to be merged into it; `null` takes away.
pub const MERGE: &str = "application/merge-patch+json";
const ANSWER: Duration = Duration::from_secs(20);
/// A page of the largest pods that there can be.
const MAX_ANSWER: usize = 64 << 20;
const LONGEST_AFTER: Duration = Duration::from_secs(60);
