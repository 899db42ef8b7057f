//! What is known of a request or connection that has ended, for those who choose what is told of it.

use std::{
    borrow::Cow,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use http::HeaderMap;
use tulle_facts::{Fact, Facts, Headers, Value};
use tulle_telemetry::WorkloadLabels;

use super::{Outcome, Requested, labels::Parties, or_dash, or_via_upstream};

/// A request or connection.
pub(super) struct Ended<'a> {
    pub(super) parties: &'a Parties,
    /// The client, and what it dialled.
    pub(super) addresses: (SocketAddr, SocketAddr),
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) lasted: Duration,
    pub(super) received: u64,
    pub(super) sent: u64,
    pub(super) flag: &'static str,
    pub(super) failure: Option<&'a str>,
    /// Of a request.
    pub(super) request: Option<(&'a Requested, &'a Outcome)>,
}

impl Facts for Ended<'_> {
    fn value(&self, fact: Fact) -> Option<Value<'_>> {
        match fact {
            Fact::StartTime => Some(Value::Time(SystemTime::now() - self.lasted)),
            Fact::BytesReceived => number(self.received),
            Fact::BytesSent => number(self.sent),
            Fact::Duration => Some(Value::Number(self.lasted.as_millis().try_into().ok()?)),
            Fact::ResponseFlags => text(or_dash(self.flag)),
            Fact::TransportFailure => text(self.failure?),
            Fact::UpstreamHost => shown(self.endpoint?),
            Fact::UpstreamCluster => text(&self.parties.service.as_ref()?.0),
            Fact::DownstreamAddress => shown(self.addresses.0),
            Fact::DownstreamIp => shown(self.addresses.0.ip()),
            Fact::DownstreamPort => number(self.addresses.0.port().into()),
            Fact::LocalAddress => shown(self.addresses.1),
            Fact::LocalIp => shown(self.addresses.1.ip()),
            Fact::LocalPort => number(self.addresses.1.port().into()),
            Fact::MutualTls => Some(Value::Bool(self.parties.destination_principal.is_some())),
            Fact::SourcePrincipal => text(self.parties.source_principal.as_str()),
            Fact::DestinationPrincipal => {
                text(self.parties.destination_principal.as_ref()?.as_str())
            }
            Fact::SourceWorkload
            | Fact::SourceNamespace
            | Fact::SourceApp
            | Fact::SourceVersion
            | Fact::SourceService
            | Fact::SourceRevision
            | Fact::SourceCluster
            | Fact::DestinationWorkload
            | Fact::DestinationNamespace
            | Fact::DestinationApp
            | Fact::DestinationVersion
            | Fact::DestinationService
            | Fact::DestinationRevision
            | Fact::DestinationCluster => self.of_workload(fact),
            Fact::Method
            | Fact::Path
            | Fact::UrlPath
            | Fact::Query
            | Fact::Host
            | Fact::Scheme
            | Fact::Protocol
            | Fact::RequestId
            | Fact::UserAgent
            | Fact::ResponseCode
            | Fact::ResponseCodeDetails
            | Fact::GrpcStatus
            | Fact::UpstreamAttempts
            | Fact::RouteName
            | Fact::TraceId => self.of_request(fact),
        }
    }

    fn header(&self, of: Headers, name: &str) -> Option<Cow<'_, str>> {
        let value = self.kept(of)?.get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()))
    }

    fn headers(&self, of: Headers) -> Vec<(String, String)> {
        let Some(kept) = self.kept(of) else {
            return Vec::new();
        };
        // Several values are one list (RFC 9110 §5.3).
        let all = kept.keys().map(|name| {
            let values = kept.get_all(name).iter();
            let values = values.map(|value| String::from_utf8_lossy(value.as_bytes()));
            let values: Vec<_> = values.collect();
            (name.as_str().to_owned(), values.join(","))
        });
        all.collect()
    }
}

impl Ended<'_> {
    fn of_request(&self, fact: Fact) -> Option<Value<'_>> {
        let (requested, outcome) = self.request?;
        let path = requested.path.as_str();
        match fact {
            Fact::Method => text(requested.method.as_str()),
            Fact::Path => text(path),
            Fact::UrlPath => text(path.split_once('?').map_or(path, |(path, _)| path)),
            Fact::Query => text(path.split_once('?')?.1),
            Fact::Host => text(&requested.authority),
            Fact::Scheme => text("http"),
            Fact::Protocol => text(requested.protocol),
            Fact::RequestId => text(&requested.id),
            Fact::UserAgent => text(&requested.user_agent),
            Fact::ResponseCode => number(outcome.status.into()),
            Fact::ResponseCodeDetails => text(or_via_upstream(outcome.details)),
            Fact::GrpcStatus => {
                let status = outcome.grpc_status.filter(|_| requested.grpc)?;
                number(status.into())
            }
            Fact::UpstreamAttempts => number(outcome.attempts.into()),
            Fact::RouteName => text(&outcome.route.as_ref()?.name),
            Fact::TraceId => text(&requested.trace),
            _ => None,
        }
    }

    fn of_workload(&self, fact: Fact) -> Option<Value<'_>> {
        let (source, destination) = (&self.parties.source, &self.parties.destination);
        let of = |labels: &WorkloadLabels| match fact {
            Fact::SourceWorkload | Fact::DestinationWorkload => labels.workload.clone(),
            Fact::SourceNamespace | Fact::DestinationNamespace => labels.namespace.clone(),
            Fact::SourceCluster | Fact::DestinationCluster => labels.cluster.clone(),
            Fact::SourceVersion
            | Fact::SourceRevision
            | Fact::DestinationVersion
            | Fact::DestinationRevision => labels.canonical_revision.clone(),
            _ => labels.canonical_service.clone(),
        };
        let said = match fact {
            Fact::SourceWorkload
            | Fact::SourceNamespace
            | Fact::SourceApp
            | Fact::SourceVersion
            | Fact::SourceService
            | Fact::SourceRevision
            | Fact::SourceCluster => of(source),
            _ => of(destination),
        };
        (!said.is_empty()).then(|| Value::Text(Cow::Owned(said.as_ref().to_owned())))
    }

    fn kept(&self, of: Headers) -> Option<&HeaderMap> {
        let (requested, outcome) = self.request?;
        match of {
            Headers::Request => requested.headers.as_ref(),
            Headers::Response => outcome.headers.as_ref(),
            Headers::Trailers => outcome.trailers.as_ref(),
        }
    }
}

/// Nothing is no text.
fn text(text: &str) -> Option<Value<'_>> {
    (!text.is_empty()).then_some(Value::Text(Cow::Borrowed(text)))
}

fn number(number: u64) -> Option<Value<'static>> {
    Some(Value::Number(number.try_into().unwrap_or(i64::MAX)))
}

fn shown(address: impl ToString) -> Option<Value<'static>> {
    Some(Value::Text(Cow::Owned(address.to_string())))
}
