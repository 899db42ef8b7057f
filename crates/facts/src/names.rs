//! What facts are called: in formats of lines, and in expressions.

use std::time::SystemTime;

use time::OffsetDateTime;

use crate::Fact;

/// A fact, its names in formats, and the attributes that are it.
pub(crate) type Named = (Fact, &'static [&'static str], &'static [&'static str]);

pub(crate) const NAMES: &[Named] = &[
    (Fact::StartTime, &["START_TIME"], &[]),
    (Fact::Method, &[], &["request.method"]),
    (Fact::Path, &[], &["request.path"]),
    (Fact::UrlPath, &[], &["request.url_path"]),
    (Fact::Query, &[], &["request.query"]),
    (Fact::Host, &[], &["request.host"]),
    (Fact::Scheme, &[], &["request.scheme"]),
    (Fact::Protocol, &["PROTOCOL"], &["request.protocol"]),
    (Fact::RequestId, &[], &["request.id"]),
    (Fact::UserAgent, &[], &["request.useragent"]),
    (Fact::BytesReceived, &["BYTES_RECEIVED"], &["request.size"]),
    (Fact::BytesSent, &["BYTES_SENT"], &["response.size"]),
    (Fact::Duration, &["DURATION"], &[]),
    (Fact::ResponseCode, &["RESPONSE_CODE"], &["response.code"]),
    (
        Fact::ResponseCodeDetails,
        &["RESPONSE_CODE_DETAILS"],
        &["response.code_details"],
    ),
    (Fact::ResponseFlags, &["RESPONSE_FLAGS"], &[]),
    (
        Fact::GrpcStatus,
        &["GRPC_STATUS_NUMBER"],
        &["response.grpc_status"],
    ),
    (
        Fact::TransportFailure,
        &["UPSTREAM_TRANSPORT_FAILURE_REASON"],
        &["upstream.transport_failure_reason"],
    ),
    (
        Fact::UpstreamHost,
        &["UPSTREAM_HOST", "UPSTREAM_REMOTE_ADDRESS"],
        &["upstream.address"],
    ),
    (
        Fact::UpstreamCluster,
        &["UPSTREAM_CLUSTER"],
        &["xds.cluster_name"],
    ),
    (
        Fact::UpstreamAttempts,
        &["UPSTREAM_REQUEST_ATTEMPT_COUNT"],
        &["upstream.request_attempt_count"],
    ),
    (
        Fact::DownstreamAddress,
        &[
            "DOWNSTREAM_REMOTE_ADDRESS",
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
        ],
        &["source.address"],
    ),
    (
        Fact::DownstreamIp,
        &[
            "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
            "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
        ],
        &[],
    ),
    (
        Fact::DownstreamPort,
        &["DOWNSTREAM_REMOTE_PORT"],
        &["source.port"],
    ),
    (
        Fact::LocalAddress,
        &["DOWNSTREAM_LOCAL_ADDRESS"],
        &["destination.address"],
    ),
    (
        Fact::LocalIp,
        &["DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT"],
        &[],
    ),
    (
        Fact::LocalPort,
        &["DOWNSTREAM_LOCAL_PORT"],
        &["destination.port"],
    ),
    (Fact::RouteName, &["ROUTE_NAME"], &["xds.route_name"]),
    (Fact::TraceId, &["TRACE_ID"], &[]),
    (Fact::MutualTls, &[], &["connection.mtls"]),
    (
        Fact::SourcePrincipal,
        &["DOWNSTREAM_PEER_URI_SAN"],
        &["connection.uri_san_peer_certificate"],
    ),
    (Fact::SourceWorkload, &[], &["downstream_peer.workload"]),
    (Fact::SourceNamespace, &[], &["downstream_peer.namespace"]),
    (Fact::SourceApp, &[], &["downstream_peer.app"]),
    (Fact::SourceVersion, &[], &["downstream_peer.version"]),
    (Fact::SourceService, &[], &["downstream_peer.service"]),
    (Fact::SourceRevision, &[], &["downstream_peer.revision"]),
    (Fact::SourceCluster, &[], &["downstream_peer.cluster"]),
    (
        Fact::DestinationPrincipal,
        &["UPSTREAM_PEER_URI_SAN"],
        &["upstream.uri_san_peer_certificate"],
    ),
    (Fact::DestinationWorkload, &[], &["upstream_peer.workload"]),
    (
        Fact::DestinationNamespace,
        &[],
        &["upstream_peer.namespace"],
    ),
    (Fact::DestinationApp, &[], &["upstream_peer.app"]),
    (Fact::DestinationVersion, &[], &["upstream_peer.version"]),
    (Fact::DestinationService, &[], &["upstream_peer.service"]),
    (Fact::DestinationRevision, &[], &["upstream_peer.revision"]),
    (Fact::DestinationCluster, &[], &["upstream_peer.cluster"]),
];

/// ISO 8601 in UTC, to the millisecond.
pub(crate) fn stamp(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second(),
        at.millisecond()
    )
}

/// As `strftime` writes it, in UTC, as far as that is known; `%3f` and the like are parts of a second. What is not known stays.
pub(crate) fn formatted(form: &str, at: SystemTime) -> String {
    let time = OffsetDateTime::from(at);
    let mut text = String::new();
    let mut rest = form;
    while let Some((before, after)) = rest.split_once('%') {
        text.push_str(before);
        let digits = after
            .chars()
            .next()
            .filter(|digit| ('1'..='9').contains(digit));
        let length = digits.map_or(1, |_| 2);
        let (sign, after) = after.split_at_checked(length).unwrap_or((after, ""));
        rest = after;
        let (date, seconds) = (time.date(), time.unix_timestamp());
        let part = match sign {
            "Y" => format!("{:04}", time.year()),
            "m" => format!("{:02}", u8::from(time.month())),
            "d" => format!("{:02}", time.day()),
            "H" => format!("{:02}", time.hour()),
            "M" => format!("{:02}", time.minute()),
            "S" => format!("{:02}", time.second()),
            "F" => date.to_string(),
            "T" => stamp(at).get(11..19).unwrap_or_default().to_owned(),
            "s" => seconds.to_string(),
            "z" => "+0000".to_owned(),
            "Z" => "UTC".to_owned(),
            "b" => time.month().to_string().chars().take(3).collect(),
            "a" => time.weekday().to_string().chars().take(3).collect(),
            "%" => "%".to_owned(),
            _ => match (
                digits.and_then(|digit| digit.to_digit(10)),
                sign.ends_with('f'),
            ) {
                (Some(digits), true) => {
                    let parts = format!("{:09}", time.nanosecond());
                    parts.chars().take(digits as usize).collect()
                }
                _ => format!("%{sign}"),
            },
        };
        text.push_str(&part);
    }
    text.push_str(rest);
    text
}

/// As gRPC calls its statuses.
pub(crate) fn grpc_status(status: i64) -> String {
    let known = usize::try_from(status).ok().and_then(|at| GRPC.get(at));
    known.map_or_else(|| status.to_string(), |name| (*name).to_owned())
}

const GRPC: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];
