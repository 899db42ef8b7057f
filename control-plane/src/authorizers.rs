//! Who is asked about requests, of whom the settings of the mesh tell.
//!
//! Spec: `control-plane.md` §8.2; `waypoint-l7.md` §4.5.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tulle_manifest::mesh_config::{BodyInCheck, ExtensionProvider, ExternalAuthorizer};
use tulle_model::{
    ServiceKey, StringMatch,
    authorizer::{Authorizer, AuthorizerProtocol, BodySample, HttpQuestion},
    http::BackendService,
};

use crate::{
    index::Index,
    references,
    validate::{is_in_order, istio_duration, status_code},
};

/// Those that can be asked, by name: they are in order, and the service is known.
pub fn authorizers(index: &Index) -> BTreeMap<Arc<str>, Authorizer> {
    let providers = index.mesh_config().extension_providers.iter();
    let mut all = BTreeMap::new();
    // Of several of one name the first is meant.
    for provider in providers.rev() {
        let name: Arc<str> = provider.name.as_str().into();
        match authorizer(index, provider) {
            Some(authorizer) => drop(all.insert(name, authorizer)),
            None => drop(all.remove(&name)),
        }
    }
    all
}

fn authorizer(index: &Index, provider: &ExtensionProvider) -> Option<Authorizer> {
    let http = provider.envoy_ext_authz_http.as_ref();
    let asked = provider.envoy_ext_authz_grpc.as_ref().or(http)?;
    if !is_in_order(provider) {
        return None;
    }
    let status = asked.status_on_error.as_deref();
    let timeout = asked.timeout.as_deref();
    Some(Authorizer {
        name: provider.name.as_str().into(),
        service: provider_service(index, &asked.service, asked.port)?,
        timeout: timeout.and_then(istio_duration).unwrap_or(TIMEOUT),
        fail_open: asked.fail_open == Some(true),
        status_on_error: status.and_then(status_code).unwrap_or(STATUS),
        routes_again: asked.clear_route_cache == Some(true),
        body: asked.include_request_body_in_check.as_ref().map(sample),
        protocol: match http {
            Some(http) => AuthorizerProtocol::Http(question(http)),
            None => AuthorizerProtocol::Grpc,
        },
    })
}

/// The service of a provider. A host without dots is of the root namespace, where the settings are.
pub(crate) fn provider_service(
    index: &Index,
    written: &str,
    port: Option<i64>,
) -> Option<BackendService> {
    service(index, &index.mesh().root_namespace, written, port)
}

/// Who is meant by one that is to be asked or told, if it is there. Its namespace may be written before the host; a host without dots is of
/// the namespace in which that is written.
pub(crate) fn service(
    index: &Index,
    written_in: &str,
    written: &str,
    port: Option<i64>,
) -> Option<BackendService> {
    let (namespace, host) = match written.split_once('/') {
        Some((namespace, host)) => (Some(namespace), host),
        None => (None, written),
    };
    let host = index.full_name(namespace.unwrap_or(written_in), host);
    let known = match namespace {
        Some(namespace) => {
            references::known(index, &host).find(|id| *id.key.namespace == *namespace)
        }
        None => references::meant(index, written_in, &host),
    };
    Some(BackendService {
        key: ServiceKey::new(known?.key.namespace, host),
        port: Some(u16::try_from(port?).ok()?),
        subset: None,
    })
}

fn sample(body: &BodyInCheck) -> BodySample {
    let most = body.max_request_bytes.unwrap_or_default();
    BodySample {
        most: u32::try_from(most).unwrap_or_default(),
        partial: body.allow_partial_message == Some(true),
        as_bytes: body.pack_as_bytes == Some(true),
    }
}

fn question(http: &ExternalAuthorizer) -> HttpQuestion {
    let said = http.include_additional_headers_in_check.iter();
    HttpQuestion {
        path_prefix: http.path_prefix.clone().unwrap_or_default(),
        shown: names(&http.include_request_headers_in_check),
        said: said
            .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
            .collect(),
        to_endpoint: names(&http.headers_to_upstream_on_allow),
        to_client: names(&http.headers_to_downstream_on_allow),
        to_refused: names(&http.headers_to_downstream_on_deny),
    }
}

fn names(written: &[String]) -> Vec<StringMatch> {
    let name = |written: &String| {
        let name = written.to_ascii_lowercase();
        match (name.strip_suffix('*'), name.strip_prefix('*')) {
            (Some(prefix), _) => StringMatch::Prefix(prefix.into()),
            (None, Some(suffix)) => StringMatch::Suffix(suffix.into()),
            (None, None) => StringMatch::Exact(name.into()),
        }
    };
    written.iter().map(name).collect()
}

/// Who waits longer for a decision has given up.
const TIMEOUT: Duration = Duration::from_secs(10);
const STATUS: u16 = 403;

#[cfg(test)]
mod tests;
