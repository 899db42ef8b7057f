//! What policies with targets say about a request or connection.

use std::{net::IpAddr, sync::Arc, time::SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use smallvec::SmallVec;
use tulle_jwt::{Checked, Issuers, Refused, Token};

use tulle_model::{PolicyKey, PolicyTarget, TargetKind, http::BackendService};
use tulle_policy::{CompiledPolicy, Connection, Denied, DryRun, PolicySet};
use tulle_route::Served;
use tulle_state::Snapshot;

use super::{
    front::Shared,
    stream::{Context, Now},
};
use crate::{
    configuration::{Target, Tokens},
    limits::Limits,
};

impl Context {
    /// Whether policy permits a connection in which no HTTP is spoken.
    ///
    /// # Errors
    /// Which one refuses, or that none permits.
    pub(super) fn check(&self, now: &Now) -> Result<(), Denied> {
        now.policies.check(&self.connection()).map(drop)
    }

    /// What is not enforced says of a connection in which no HTTP is spoken.
    pub(super) fn dry_run(&self, now: &Now) -> DryRun {
        now.policies.dry_run(&self.connection())
    }

    /// A request as it came, if anybody may want to know which token it had.
    pub(super) fn received<B>(&self, request: &Request<B>) -> Option<Received> {
        let configurations = &self.peer.front.shared.configurations;
        configurations.has_tokens().then(|| Received::of(request))
    }

    /// Waits for keys that the tokens of a request need, as far as they can be had now.
    pub(super) async fn look_for_keys(tokens: &[Tokens], received: Option<&Received>) {
        let Some(received) = received.filter(|received| !received.is_preflight) else {
            return;
        };
        let issuers = tokens.iter().filter_map(|tokens| match tokens {
            Tokens::Issuers(issuers) => Some(Arc::clone(issuers)),
            Tokens::Broken => None,
        });
        let issuers: Vec<_> = issuers.collect();
        for lacking in Issuers::lacking(&issuers, &received.headers, &received.uri) {
            lacking.source.look(lacking.id.as_deref()).await;
        }
    }

    /// Looks at the token of a request, and makes of that what endpoints are to see. `None` if nothing is said of tokens.
    ///
    /// # Errors
    /// It is not valid.
    pub(super) fn check_token<B>(
        &self,
        now: &Now,
        received: Option<&Received>,
        request: &mut Request<B>,
    ) -> Result<Option<Checked>, Refusal> {
        checked(&now.tokens, received, request)
    }

    /// Whether policy permits a request, with the token that it has.
    pub(super) fn check_request<B>(
        &self,
        now: &Now,
        request: &Request<B>,
        checked: Option<&Checked>,
    ) -> Decided {
        let token = checked.and_then(Checked::token);
        self.ask(&now.policies, &self.connection(), request, token)
    }

    /// Who has to permit a request besides policies. They are asked before anybody looks at its token.
    pub(super) fn authorizers<B>(&self, now: &Now, request: &Request<B>) -> Authorizers {
        let policies = &now.policies;
        self.seen(&self.connection(), request, None, |on, seen| {
            policies.authorizers(on, seen)
        })
    }

    fn ask<B>(
        &self,
        policies: &PolicySet,
        connection: &Connection<'_>,
        request: &Request<B>,
        token: Option<&Token>,
    ) -> Decided {
        self.seen(connection, request, token, |on, seen| {
            match policies.check_request(on, seen) {
                Ok(permit) => (Ok(()), permit.dry_run),
                Err(denied) => (Err(denied), policies.dry_run_of(on, seen)),
            }
        })
    }

    /// A request as policies see it.
    fn seen<B, R>(
        &self,
        connection: &Connection<'_>,
        request: &Request<B>,
        token: Option<&Token>,
        look: impl for<'x> FnOnce(&Connection<'x>, tulle_policy::Request<'x>) -> R,
    ) -> R {
        let uri = request.uri();
        let host = uri.authority().map_or("", |authority| authority.as_str());
        let seen = tulle_policy::Request {
            host: &host.to_ascii_lowercase(),
            method: request.method().as_str(),
            path: uri.path(),
            remote_ip: self.remote_ip(request.headers()),
            header: &|name| values(request, name),
            token: &|field| token.map(|token| token.values(field)).unwrap_or_default(),
        };
        look(connection, seen)
    }

    /// Whether conditions on a request hold.
    pub(super) fn holds<B>(
        &self,
        about: &CompiledPolicy,
        request: &Request<B>,
        token: Option<&Token>,
    ) -> bool {
        let connection = self.connection();
        self.seen(&connection, request, token, |on, seen| {
            about.matches_request(on, seen)
        })
    }

    /// Where a request began, as far as those tell who passed it on.
    pub(super) fn remote_ip(&self, headers: &HeaderMap) -> IpAddr {
        remote_ip(headers).unwrap_or(self.peer.address.ip())
    }

    /// How many requests may pass to the backend that a route has chosen, if this waypoint is the one that asks. What holds for all that it
    /// serves has counted the request already.
    pub(super) fn limits_of(&self, now: &Now, backend: &BackendService) -> Vec<Limits> {
        let shared = &self.peer.front.shared;
        if !shared.configurations.has_limits() {
            return Vec::new();
        }
        let snapshot = shared.snapshots.load();
        let target = self.asks_for(now, &snapshot, backend);
        let targets = target.map(|target| targets_of_service(&target));
        shared.configurations.limits(&targets.unwrap_or_default())
    }

    /// Who has to permit a request, as it is before anybody looks at its token, to the backend that a route has chosen for it.
    pub(super) fn authorizers_of<B>(
        &self,
        now: &Now,
        backend: &BackendService,
        request: &Request<B>,
    ) -> Authorizers {
        let shared = &self.peer.front.shared;
        let snapshot = shared.snapshots.load();
        let Some(target) = self.asks_for(now, &snapshot, backend) else {
            return Authorizers::new();
        };
        let (policies, _) = about(shared, &snapshot, &target);
        self.seen(&self.connection_to(&target), request, None, |on, seen| {
            policies.authorizers(on, seen)
        })
    }

    /// Whether policy permits a request to the backend that a route has chosen for it, if this waypoint is the one that asks: who may write
    /// routes of one service does not thereby permit what another refuses. `told` gets what is not enforced. Returns what is known of its
    /// token.
    ///
    /// # Errors
    /// As of a request that is sent there.
    pub(super) fn check_backend<B>(
        &self,
        now: &Now,
        backend: &BackendService,
        received: Option<&Received>,
        request: &mut Request<B>,
        told: impl FnOnce(DryRun),
    ) -> Result<Option<Checked>, Refusal> {
        let shared = &self.peer.front.shared;
        let snapshot = shared.snapshots.load();
        // One that is not there is refused when it is looked for.
        let Some(target) = self.asks_for(now, &snapshot, backend) else {
            return Ok(None);
        };
        let (policies, tokens) = about(shared, &snapshot, &target);
        // It asks about the token that came, and sees claims of that alone.
        let checked = checked(&tokens, received, request)?;
        let token = checked.as_ref().and_then(Checked::token);
        let (decided, dry_run) = self.ask(&policies, &self.connection_to(&target), request, token);
        told(dry_run);
        decided?;
        Ok(checked)
    }

    /// The same as [`look_for_keys`](Self::look_for_keys), for what a backend asks of tokens.
    pub(super) async fn look_for_keys_of(
        &self,
        now: &Now,
        backend: &BackendService,
        received: Option<&Received>,
    ) {
        let shared = &self.peer.front.shared;
        if !shared.configurations.fetches_keys() {
            return;
        }
        let tokens = {
            let snapshot = shared.snapshots.load();
            let target = self.asks_for(now, &snapshot, backend);
            target.map(|target| about(shared, &snapshot, &target).1)
        };
        Self::look_for_keys(&tokens.unwrap_or_default(), received).await;
    }

    /// A backend, if this waypoint is the one that asks policies for it, and has not done so for the service that was called.
    fn asks_for(&self, now: &Now, snapshot: &Snapshot, backend: &BackendService) -> Option<Served> {
        let port = backend.port.unwrap_or(self.destination.port());
        let target = tulle_route::backend(snapshot, &now.own, &backend.key, port)?;
        let record = target.service()?;
        let own = now.served.service();
        let is_same = own.is_some_and(|own| own.service.key == record.service.key);
        let is_ours = !is_same && tulle_route::serves(snapshot, &now.own, record);
        is_ours.then_some(target)
    }

    fn connection_to(&self, target: &Served) -> Connection<'_> {
        Connection {
            destination_ip: target.destination.ip(),
            destination_port: target.destination.port(),
            ..self.connection()
        }
    }

    fn connection(&self) -> Connection<'_> {
        Connection {
            identity: Some(&self.peer.identity),
            source_ip: self.peer.address.ip(),
            destination_ip: self.destination.ip(),
            destination_port: self.destination.port(),
        }
    }
}

/// Names of those who have to permit something.
pub(super) type Authorizers = SmallVec<[Arc<str>; 1]>;

/// What policies say of a request, and those of them that are not enforced.
pub(super) type Decided = (Result<(), Denied>, DryRun);

/// Why a request is refused.
#[derive(Debug)]
pub(super) enum Refusal {
    Denied(Denied),
    Token(Refused),
    /// Nobody knows which tokens are valid.
    Unknown,
}

impl From<Denied> for Refusal {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

/// A request as it came.
#[derive(Clone)]
pub(super) struct Received {
    headers: HeaderMap,
    uri: Uri,
    is_preflight: bool,
    /// Headers that were taken out of it with its token.
    taken: Vec<(HeaderName, HeaderValue)>,
}

impl Received {
    /// What is left of it has these headers.
    pub(super) fn is_left_with(&mut self, headers: &HeaderMap) {
        let all = self.headers.iter();
        let taken = all.filter(|(name, _)| !headers.contains_key(*name));
        self.taken = taken
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
    }

    /// Puts back what was taken out: who is asked before tokens are looked at sees them.
    pub(super) fn restore(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.taken {
            headers.append(name, value.clone());
        }
    }

    /// Takes it out again.
    pub(super) fn take_out(&self, headers: &mut HeaderMap) {
        for (name, _) in &self.taken {
            headers.remove(name);
        }
    }

    fn of<B>(request: &Request<B>) -> Self {
        Self {
            headers: request.headers().clone(),
            uri: request.uri().clone(),
            is_preflight: is_preflight(request),
            taken: Vec::new(),
        }
    }
}

/// What tokens say of a request as it came, applied to what is to be sent of it.
fn checked<B>(
    tokens: &[Tokens],
    received: Option<&Received>,
    request: &mut Request<B>,
) -> Result<Option<Checked>, Refusal> {
    if tokens.is_empty() {
        return Ok(None);
    }
    let issuers = tokens.iter().map(|tokens| match tokens {
        Tokens::Issuers(issuers) => Some(Arc::clone(issuers)),
        Tokens::Broken => None,
    });
    let issuers: Option<Vec<_>> = issuers.collect();
    let issuers = issuers.ok_or(Refusal::Unknown)?;
    // If nothing was said before, nothing was taken out of it.
    let unchanged = received.is_none().then(|| Received::of(request));
    let received = received.or(unchanged.as_ref()).ok_or(Refusal::Unknown)?;
    let checked = match received.is_preflight {
        // A browser asks without saying who its user is.
        true => Issuers::unasked(&issuers),
        false => {
            let Received { headers, uri, .. } = received;
            let checked = Issuers::check(&issuers, headers, uri, SystemTime::now());
            checked.map_err(Refusal::Token)?
        }
    };
    let mut uri = request.uri().clone();
    checked.apply(request.headers_mut(), &mut uri);
    *request.uri_mut() = uri;
    Ok(Some(checked))
}

/// Whether a browser asks what a page may ask (Fetch §4.8).
fn is_preflight<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    request.method() == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The last address that those tell who passed a request on: the one that is nearest, and the only one that is not told by hearsay.
fn remote_ip(headers: &HeaderMap) -> Option<IpAddr> {
    let told = headers.get_all("x-forwarded-for").iter().next_back()?;
    let last = told.to_str().ok()?.rsplit(',').next()?;
    let address: IpAddr = last.trim().parse().ok()?;
    Some(address.to_canonical())
}

/// The values of a header. The host is in the URI by now.
pub(super) fn values<'a, B>(request: &'a Request<B>, name: &str) -> Vec<&'a [u8]> {
    if name == "host" {
        let host = request.uri().authority();
        return host
            .map(|host| host.as_str().as_bytes())
            .into_iter()
            .collect();
    }
    let values = request.headers().get_all(name).iter();
    values.map(|value| value.as_bytes()).collect()
}

/// What is told of a refusal where operators look for it.
pub(super) fn told(denied: &Denied) -> String {
    let policy = |key: &PolicyKey| format!("ns[{}]-policy[{}]", key.namespace, key.object_name());
    match denied {
        Denied::Explicitly(key) => format!("matched_policy[{}]", policy(key)),
        Denied::NotAllowed => "matched_policy[none]".to_owned(),
        Denied::PolicyMissing(key) => format!("policy[{}] is not known yet", policy(key)),
    }
}

/// The policies about a destination, and the tokens that are valid there.
pub(super) fn about(
    shared: &Shared,
    snapshot: &Snapshot,
    served: &Served,
) -> (PolicySet, Vec<Tokens>) {
    let targets = targets(shared, served);
    let tokens = shared.configurations.tokens(&targets);
    (snapshot.policies_about(&targets), tokens)
}

/// How many requests to a destination may pass.
pub(super) fn limits_about(shared: &Shared, served: &Served) -> Vec<Limits> {
    match shared.configurations.has_limits() {
        true => shared.configurations.limits(&targets(shared, served)),
        false => Vec::new(),
    }
}

/// What policies name that are about a destination.
pub(super) fn targets(shared: &Shared, served: &Served) -> Vec<Target> {
    let instance = &shared.instance;
    let own: Arc<str> = instance.namespace.as_str().into();
    let target = |kind, name: &str| PolicyTarget::new(kind, name);
    let mut targets = vec![
        (
            Arc::clone(&own),
            target(TargetKind::Gateway, &instance.gateway),
        ),
        (own, target(TargetKind::GatewayClass, &instance.class)),
    ];
    targets.extend(targets_of_service(served));
    targets
}

/// Those that are about a service alone.
fn targets_of_service(served: &Served) -> Vec<Target> {
    let tulle_route::Target::Service { record, .. } = &served.target else {
        return Vec::new();
    };
    let service = &record.service;
    // Which of them it is made from is not told.
    [TargetKind::Service, TargetKind::ServiceEntry]
        .map(|kind| {
            let namespace = Arc::clone(&service.key.namespace);
            (namespace, PolicyTarget::new(kind, service.name.as_ref()))
        })
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_address_counts() {
        for (told, expected) in [
            (&[][..], None),
            (&["10.0.0.1"], Some("10.0.0.1")),
            (&["10.0.0.1, 10.0.0.2"], Some("10.0.0.2")),
            (&["10.0.0.1", "10.0.0.3,::ffff:10.0.0.4"], Some("10.0.0.4")),
            (&["10.0.0.1, made up"], None),
        ] {
            let mut headers = HeaderMap::new();
            for value in told {
                headers.append("x-forwarded-for", value.parse().unwrap());
            }
            let expected = expected.map(|address: &str| address.parse().unwrap());
            assert_eq!(remote_ip(&headers), expected, "{told:?}");
        }
    }

    #[test]
    fn the_host_is_a_header_too() {
        let mut request = Request::new(());
        *request.uri_mut() = "http://web.shop:80/".parse().unwrap();
        request.headers_mut().append("a", "1".parse().unwrap());
        request.headers_mut().append("a", "2".parse().unwrap());
        assert_eq!(values(&request, "host"), [b"web.shop:80"]);
        assert_eq!(values(&request, "a"), [b"1", b"2"]);
        assert!(values(&request, "b").is_empty());
    }
}
