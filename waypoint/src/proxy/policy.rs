//! What policies with targets say about a request or connection.

use std::{net::IpAddr, sync::Arc};

use http::{HeaderMap, Request};

use tulle_model::{PolicyKey, PolicyTarget, TargetKind, http::BackendService};
use tulle_policy::{Connection, Denied, PolicySet};
use tulle_route::{Served, Target};
use tulle_state::{ServiceRecord, Snapshot};

use super::{
    front::Shared,
    stream::{Context, Now},
};

impl Context {
    /// Whether policy permits a connection in which no HTTP is spoken.
    ///
    /// # Errors
    /// Which one refuses, or that none permits.
    pub(super) fn check(&self, now: &Now) -> Result<(), Denied> {
        now.policies.check(&self.connection()).map(drop)
    }

    /// Whether policy permits a request, as it is forwarded.
    ///
    /// # Errors
    /// As of a connection.
    pub(super) fn check_request<B>(&self, now: &Now, request: &Request<B>) -> Result<(), Denied> {
        self.ask(&now.policies, &self.connection(), request)
    }

    fn ask<B>(
        &self,
        policies: &PolicySet,
        connection: &Connection<'_>,
        request: &Request<B>,
    ) -> Result<(), Denied> {
        let uri = request.uri();
        let host = uri.authority().map_or("", |authority| authority.as_str());
        let facts = tulle_policy::Request {
            host: &host.to_ascii_lowercase(),
            method: request.method().as_str(),
            path: uri.path(),
            remote_ip: remote_ip(request.headers()).unwrap_or(self.peer.address.ip()),
            header: &|name| values(request, name),
        };
        policies.check_request(connection, facts).map(drop)
    }

    /// Whether policy permits a request to the backend that a route has chosen for it, if this waypoint is the one that asks: who may write
    /// routes of one service does not thereby permit what another refuses.
    ///
    /// # Errors
    /// As of a connection.
    pub(super) fn check_backend<B>(
        &self,
        now: &Now,
        backend: &BackendService,
        request: &Request<B>,
    ) -> Result<(), Denied> {
        let shared = &self.peer.front.shared;
        let snapshot = shared.snapshots.load();
        let port = backend.port.unwrap_or(self.destination.port());
        let target = tulle_route::backend(&snapshot, &now.own, &backend.key, port);
        // One that is not there is refused when it is looked for.
        let Some(target) = target else {
            return Ok(());
        };
        let is_same = |record: &Arc<ServiceRecord>| {
            let own = now.served.service();
            own.is_some_and(|own| own.service.key == record.service.key)
        };
        let record = target.service();
        let is_ours = record.is_some_and(|record| {
            !is_same(record) && tulle_route::serves(&snapshot, &now.own, record)
        });
        if !is_ours {
            return Ok(());
        }
        let connection = Connection {
            destination_ip: target.destination.ip(),
            destination_port: target.destination.port(),
            ..self.connection()
        };
        let policies = about(shared, &snapshot, &target);
        self.ask(&policies, &connection, request)
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

/// The last address that those tell who passed a request on: the one that is nearest, and the only one that is not told by hearsay.
fn remote_ip(headers: &HeaderMap) -> Option<IpAddr> {
    let told = headers.get_all("x-forwarded-for").iter().next_back()?;
    let last = told.to_str().ok()?.rsplit(',').next()?;
    let address: IpAddr = last.trim().parse().ok()?;
    Some(address.to_canonical())
}

/// The values of a header. The host is in the URI by now.
fn values<'a, B>(request: &'a Request<B>, name: &str) -> Vec<&'a [u8]> {
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

/// The policies about a destination.
pub(super) fn about(shared: &Shared, snapshot: &Snapshot, served: &Served) -> PolicySet {
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
    if let Target::Service { record, .. } = &served.target {
        let service = &record.service;
        // Which of them it is made from is not told.
        for kind in [TargetKind::Service, TargetKind::ServiceEntry] {
            let namespace = Arc::clone(&service.key.namespace);
            targets.push((namespace, target(kind, &service.name)));
        }
    }
    snapshot.policies_about(&targets)
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
