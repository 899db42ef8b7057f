//! Who is asked about requests. What cannot be understood is refused as a whole: an authorizer that is not known permits nothing.

use std::time::Duration;

use tulle_model::{
    ServiceKey, StringMatch,
    authorizer::{Authorizer, AuthorizerProtocol, BodySample, HttpQuestion},
    http::BackendService,
};
use tulle_proto::mesh as wire;

use super::{
    InvalidResource,
    authorization::text as name,
    configuration::{Decoded, all, port, status, text},
};

pub(super) fn authorizer(value: wire::Authorizer) -> Decoded<Authorizer> {
    let missing = InvalidResource::Missing;
    let protocol = value.protocol.ok_or(missing("protocol of an authorizer"))?;
    Ok(Authorizer {
        name: text(value.name)
            .ok_or(missing("name of an authorizer"))?
            .into(),
        service: BackendService {
            key: ServiceKey::new(value.namespace, value.hostname),
            port: Some(port("port of an authorizer", value.port)?),
            subset: None,
        },
        timeout: Duration::from_millis(value.timeout),
        fail_open: value.fail_open,
        status_on_error: status(value.status_on_error)?,
        routes_again: value.routes_again,
        body: value.body.map(sample),
        protocol: match protocol {
            wire::authorizer::Protocol::Grpc(wire::Present {}) => AuthorizerProtocol::Grpc,
            wire::authorizer::Protocol::Http(value) => AuthorizerProtocol::Http(question(value)?),
        },
    })
}

fn sample(value: wire::BodySample) -> BodySample {
    BodySample {
        most: value.most,
        partial: value.partial,
        as_bytes: value.as_bytes,
    }
}

fn question(value: wire::HttpQuestion) -> Decoded<HttpQuestion> {
    let said = value.said.into_iter();
    Ok(HttpQuestion {
        path_prefix: value.path_prefix,
        shown: all(value.shown, matched)?,
        said: said.map(|header| (header.name, header.value)).collect(),
        to_endpoint: all(value.to_endpoint, matched)?,
        to_client: all(value.to_client, matched)?,
        to_refused: all(value.to_refused, matched)?,
    })
}

fn matched(value: wire::TextMatch) -> Decoded<StringMatch> {
    name(value).ok_or(InvalidResource::Missing("match of a header's name"))
}
