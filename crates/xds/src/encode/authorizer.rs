//! Who is asked about requests.

use tulle_model::authorizer::{Authorizer, AuthorizerProtocol, BodySample, HttpQuestion};
use tulle_proto::mesh as wire;

use super::{authorization::texts, configuration::milliseconds};

pub(super) fn authorizer(value: &Authorizer) -> wire::Authorizer {
    wire::Authorizer {
        name: value.name.as_ref().to_owned(),
        namespace: value.service.key.namespace.as_ref().to_owned(),
        hostname: value.service.key.hostname.as_ref().to_owned(),
        port: value.service.port.map_or(0, u32::from),
        timeout: milliseconds(Some(value.timeout)),
        fail_open: value.fail_open,
        status_on_error: value.status_on_error.into(),
        routes_again: value.routes_again,
        body: value.body.map(sample),
        protocol: Some(match &value.protocol {
            AuthorizerProtocol::Grpc => wire::authorizer::Protocol::Grpc(wire::Present {}),
            AuthorizerProtocol::Http(value) => wire::authorizer::Protocol::Http(question(value)),
        }),
    }
}

fn sample(value: BodySample) -> wire::BodySample {
    wire::BodySample {
        most: value.most,
        partial: value.partial,
        as_bytes: value.as_bytes,
    }
}

fn question(value: &HttpQuestion) -> wire::HttpQuestion {
    let said = value.said.iter().map(|(name, value)| wire::Header {
        name: name.clone(),
        value: value.clone(),
    });
    wire::HttpQuestion {
        path_prefix: value.path_prefix.clone(),
        shown: texts(&value.shown),
        said: said.collect(),
        to_endpoint: texts(&value.to_endpoint),
        to_client: texts(&value.to_client),
        to_refused: texts(&value.to_refused),
    }
}
