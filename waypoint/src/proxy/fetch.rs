//! Asks issuers for their keys.
//!
//! Whoever may write a policy names whom the waypoint asks. So it is asked as anybody in the mesh would: what is of the mesh is reached by a
//! tunnel to who it is meant to be, and policies of what is served here are asked before. Nobody is asked who is only there for those that
//! are near, whatever a name leads to, and nobody sends the waypoint elsewhere.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::{task::JoinSet, time::timeout};
use tracing::{debug, warn};
use tulle_identity::Roots;
use tulle_jwt::{InvalidKeys, Keys};
use tulle_model::token::{KeyAddress, KeyFetch};
use tulle_route::served;
use tulle_state::{ServiceRecord, Snapshot, Workload};
use tulle_telemetry::describe;

use super::{
    io::{Stream, ToEndpoint},
    policy,
    reach::{Reach, Unreached, client, resolved},
    upstream::{HEADERS, MAX_HEADERS},
};
use crate::keys::{self, Got};
use url::Url;
use web::Web;

mod url;
mod web;

/// Asks for keys.
pub(crate) struct Fetcher {
    reach: Rc<Reach>,
    web: Web,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
enum NoKeys {
    #[error("{0:?} is no http or https URL")]
    Url(String),
    #[error(transparent)]
    Unreached(#[from] Unreached),
    #[error("TLS failed")]
    Tls { source: io::Error },
    #[error("no HTTP with it")]
    Http(#[from] hyper::Error),
    #[error("it answered with {0}")]
    Status(StatusCode),
    #[error("its answer is longer than {LONGEST} bytes, or broke off")]
    Body,
    #[error(transparent)]
    Keys(#[from] InvalidKeys),
    #[error("what it tells of itself cannot be understood")]
    Told(#[from] serde_json::Error),
    #[error("it says that it is {0:?}")]
    OtherIssuer(String),
    #[error("it took longer than {0:?}")]
    Late(Duration),
}

impl NoKeys {
    /// As metrics have it.
    fn outcome(&self) -> &'static str {
        match self {
            Self::Url(_) | Self::Unreached(Unreached::OffLimits(_) | Unreached::Forbidden(_)) => {
                "refused"
            }
            Self::Unreached(_) => "unreachable",
            Self::Tls { .. } => "tls",
            Self::Http(_) | Self::Status(_) | Self::Body => "http",
            Self::Keys(_) | Self::Told(_) | Self::OtherIssuer(_) => "not_understood",
            Self::Late(_) => "timeout",
        }
    }
}

/// What an issuer tells of itself.
#[derive(Deserialize)]
struct Told {
    issuer: String,
    jwks_uri: String,
}

/// What somebody said.
struct Said {
    text: Bytes,
    max_age: Option<Duration>,
}

impl Fetcher {
    /// `roots` are trusted beside the web's.
    pub(crate) fn new(reach: Rc<Reach>, roots: Option<Arc<Roots>>) -> Self {
        Self {
            reach,
            web: Web::new(roots),
        }
    }

    /// The keys that somebody has, or a line in the log. Both are counted.
    pub(crate) async fn get(&self, fetch: &KeyFetch) -> Option<Got> {
        let limit = keys::limit(fetch);
        let got = timeout(limit, self.keys(fetch)).await;
        let got = got.unwrap_or(Err(NoKeys::Late(limit)));
        let from = keys::told(fetch);
        match got {
            Ok(got) => {
                self.reach.shared.metrics.keys("ok");
                debug!(from, "keys of an issuer are there");
                Some(got)
            }
            Err(error) => {
                self.reach.shared.metrics.keys(error.outcome());
                warn!(
                    from,
                    error = describe(&error),
                    "keys of an issuer could not be had"
                );
                None
            }
        }
    }

    async fn keys(&self, fetch: &KeyFetch) -> Result<Got, NoKeys> {
        let url = match &fetch.from {
            KeyAddress::Url(url) => parse(url)?,
            KeyAddress::Issuer(issuer) => self.of_issuer(issuer).await?,
        };
        let Said { text, max_age } = self.ask(&url).await?;
        let keys = Keys::read(&text)?;
        Ok(Got {
            keys,
            text,
            max_age,
        })
    }

    /// Where the keys of an issuer are, as that itself tells (OpenID Connect Discovery §4.3).
    async fn of_issuer(&self, issuer: &str) -> Result<Url, NoKeys> {
        let asked = parse(&url::of_issuer(issuer))?;
        let said = self.ask(&asked).await?;
        let told: Told = serde_json::from_slice(&said.text)?;
        if told.issuer != issuer {
            return Err(NoKeys::OtherIssuer(told.issuer));
        }
        let url = parse(&told.jwks_uri)?;
        // What was proved by TLS must not end where anybody may answer.
        match asked.is_https && !url.is_https {
            true => Err(NoKeys::Url(told.jwks_uri)),
            false => Ok(url),
        }
    }

    async fn ask(&self, url: &Url) -> Result<Said, NoKeys> {
        let stream = self.connect(url).await?;
        if !url.is_https {
            return exchange(stream, url).await;
        }
        let tls = self.web.connect(TokioIo::new(stream), &url.host).await;
        let tls = tls.map_err(|source| NoKeys::Tls { source })?;
        exchange(TokioIo::new(tls), url).await
    }

    /// A connection to it, by whatever leads there from the waypoint.
    async fn connect(&self, url: &Url) -> Result<Stream<ToEndpoint>, NoKeys> {
        let shared = &self.reach.shared;
        let snapshot = shared.snapshots.load();
        let own = shared.own(&snapshot).ok_or(Unreached::NoSelf)?;
        // What an address means in clear text is not for everybody's eyes to choose: a name is looked up once.
        let addresses = self.addresses(&snapshot, own, url).await?;
        if let Some(near) = addresses.iter().find(|ip| web::is_off_limits(**ip)) {
            return Err(Unreached::OffLimits(*near).into());
        }
        let mut last = Unreached::Name {
            name: url.host.clone(),
            source: io::ErrorKind::NotFound.into(),
        };
        for ip in addresses {
            let destination = SocketAddr::new(ip.to_canonical(), url.port);
            self.permitted(&snapshot, own, url, destination)?;
            let connecting = self
                .reach
                .connect(&snapshot, own, destination, web::is_off_limits);
            match connecting.await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last.into())
    }

    /// The addresses of a host: of a service that the mesh knows, or as name servers say.
    async fn addresses(
        &self,
        snapshot: &Snapshot,
        own: &Workload,
        url: &Url,
    ) -> Result<Vec<IpAddr>, Unreached> {
        if let Some(address) = url.address() {
            return Ok(vec![address]);
        }
        let service = service(snapshot, own, &url.host);
        let backend = service
            .and_then(|record| tulle_route::backend(snapshot, own, &record.service.key, url.port));
        let vip = backend.map(|backend| backend.destination.ip());
        match vip.filter(|vip| !vip.is_unspecified()) {
            Some(vip) => Ok(vec![vip]),
            None => resolved(&url.host, url.port).await,
        }
    }

    /// Whether policy permits the request, if it is this waypoint that asks for the destination.
    fn permitted(
        &self,
        snapshot: &Snapshot,
        own: &Workload,
        url: &Url,
        destination: SocketAddr,
    ) -> Result<(), Unreached> {
        let Ok(served) = served(snapshot, own, &destination.to_string()) else {
            return Ok(());
        };
        let source = client(own).ip();
        let connection = tulle_policy::Connection {
            identity: Some(&own.identity),
            source_ip: source,
            destination_ip: destination.ip(),
            destination_port: destination.port(),
        };
        let facts = tulle_policy::Request {
            host: &url.authority,
            method: "GET",
            path: url.path.path(),
            remote_ip: source,
            header: &|name| match name {
                "host" => vec![url.authority.as_bytes()],
                _ => Vec::new(),
            },
            token: &|_| Vec::new(),
        };
        let (policies, _) = policy::about(&self.reach.shared, snapshot, &served);
        if !policies.authorizers(&connection, facts).is_empty() {
            let why = "whoever is asked about its requests is not asked about this one";
            return Err(Unreached::Forbidden(why.to_owned()));
        }
        let decided = policies.check_request(&connection, facts);
        decided
            .map(drop)
            .map_err(|denied| Unreached::Forbidden(policy::told(&denied)))
    }
}

fn parse(text: &str) -> Result<Url, NoKeys> {
    Url::parse(text).ok_or_else(|| NoKeys::Url(text.to_owned()))
}

/// A service by its name, or by a part of that as name servers complete it.
fn service<'a>(
    snapshot: &'a Snapshot,
    own: &Workload,
    host: &str,
) -> Option<&'a Arc<ServiceRecord>> {
    let is_visible = |record: &&Arc<ServiceRecord>| record.is_visible_to(&own.namespace);
    let named = snapshot.services_by_hostname(host).find(is_visible);
    named.or_else(|| {
        let parts: Vec<&str> = host.split('.').collect();
        let (name, namespace) = match parts.as_slice() {
            [name] => (*name, &*own.namespace),
            [name, namespace] | [name, namespace, "svc"] => (*name, *namespace),
            _ => return None,
        };
        let start = format!("{name}.{namespace}.svc.");
        let is_it = |record: &&Arc<ServiceRecord>| {
            let key = &record.service.key;
            *key.namespace == *namespace && key.hostname.starts_with(&start)
        };
        snapshot.services().find(is_it)
    })
}

/// One request, and its answer.
async fn exchange<I>(io: I, url: &Url) -> Result<Said, NoKeys>
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + 'static,
{
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEADERS as usize)
        .max_headers(MAX_HEADERS)
        .handshake(io)
        .await?;
    // Ends with this.
    let mut driver = JoinSet::new();
    driver.spawn_local(connection);
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = url.path.clone().into();
    let headers = [
        (header::HOST, &*url.authority),
        (header::ACCEPT, "application/json"),
        (header::USER_AGENT, "tulle-waypoint"),
        (header::CONNECTION, "close"),
    ];
    for (name, value) in headers {
        let value = value.parse();
        let value = value.map_err(|_| NoKeys::Url(url.authority.clone()))?;
        request.headers_mut().insert(name, value);
    }
    let response = sender.send_request(request).await?;
    // Whoever is asked must not send the waypoint elsewhere.
    if response.status() != StatusCode::OK {
        return Err(NoKeys::Status(response.status()));
    }
    let max_age = max_age(response.headers());
    let body = Limited::new(response.into_body(), LONGEST).collect().await;
    let text = body.map_err(|error| match error.downcast::<LengthLimitError>() {
        Ok(_) => NoKeys::Body,
        Err(error) => error
            .downcast()
            .map_or(NoKeys::Body, |error| NoKeys::Http(*error)),
    })?;
    Ok(Said {
        text: text.to_bytes(),
        max_age,
    })
}

/// For how long an answer is good (RFC 9111 §5.2.2.1).
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(header::CACHE_CONTROL).iter();
    let mut said = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    let seconds = said.find_map(|said| {
        let (name, value) = said.trim().split_once('=')?;
        let is_it = name.eq_ignore_ascii_case("max-age");
        is_it
            .then(|| value.trim_matches('"').parse().ok())
            .flatten()
    })?;
    Some(Duration::from_secs(seconds))
}

/// Bytes of an answer.
const LONGEST: usize = 256 << 10;

#[cfg(test)]
mod tests;
