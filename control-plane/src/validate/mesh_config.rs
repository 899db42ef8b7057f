//! Settings of the mesh.

use std::time::Duration;

use tulle_manifest::{
    ConfigMap, Fields, MeshConfig, Path,
    mesh_config::{BodyInCheck, ExtensionProvider, ExternalAuthorizer},
};

use super::{Check, Problem};

/// What is wrong with the settings in a ConfigMap, if it is one with settings.
pub(super) fn config_map(map: &ConfigMap) -> Vec<Problem> {
    if map.metadata.name != ConfigMap::MESH {
        return Vec::new();
    }
    match map.mesh_config() {
        Ok(config) => mesh_config(&config),
        Err(why) => {
            let mut check = Check::new("data.mesh");
            check.invalid(
                "",
                format!("cannot be understood, what was said before stays: {why}"),
            );
            check.problems
        }
    }
}

fn mesh_config(config: &MeshConfig) -> Vec<Problem> {
    let mut check = Check::new("data.mesh");
    let providers = &config.extension_providers;
    let names = providers.iter().map(|provider| provider.name.as_str());
    check.distinct("extensionProviders", names);
    check.each("extensionProviders", providers, provider);
    check.problems
}

/// Whether a provider can be asked as it is written.
pub(crate) fn is_in_order(written: &ExtensionProvider) -> bool {
    let mut check = Check::new("");
    provider(&mut check, written);
    !check.problems.iter().any(|problem| problem.fault.refuses())
}

fn provider(check: &mut Check, provider: &ExtensionProvider) {
    check.required("name", &provider.name);
    let (grpc, http) = (
        &provider.envoy_ext_authz_grpc,
        &provider.envoy_ext_authz_http,
    );
    check.alternatives(&[
        ("envoyExtAuthzGrpc", grpc.is_some()),
        ("envoyExtAuthzHttp", http.is_some()),
    ]);
    check.some("envoyExtAuthzGrpc", grpc, |check, asked| {
        authorizer(check, asked);
        of_http_alone(check, asked);
    });
    check.some("envoyExtAuthzHttp", http, |check, asked| {
        authorizer(check, asked);
        let names = [
            (
                "includeRequestHeadersInCheck",
                &asked.include_request_headers_in_check,
            ),
            (
                "headersToUpstreamOnAllow",
                &asked.headers_to_upstream_on_allow,
            ),
            (
                "headersToDownstreamOnAllow",
                &asked.headers_to_downstream_on_allow,
            ),
            (
                "headersToDownstreamOnDeny",
                &asked.headers_to_downstream_on_deny,
            ),
        ];
        for (field, names) in names {
            check.each(field, names, |check, name| {
                let plain = name.strip_suffix('*').or(name.strip_prefix('*'));
                check.header_name("", plain.unwrap_or(name));
            });
        }
        let said = &asked.include_additional_headers_in_check;
        check.each_of(
            "includeAdditionalHeadersInCheck",
            said,
            |check, name, value| {
                check.header_name("", name);
                check.header_value("", value);
            },
        );
        check.some("pathPrefix", &asked.path_prefix, |check, prefix| {
            check.path("", prefix);
        });
    });
}

fn authorizer(check: &mut Check, asked: &ExternalAuthorizer) {
    if check.required("service", &asked.service) {
        let host = asked.service.split_once('/');
        let host = host.map_or(asked.service.as_str(), |(_, host)| host);
        check.host("service", host, false);
    }
    match asked.port {
        Some(_) => check.port("port", asked.port),
        None => check.invalid("port", "is missing"),
    }
    check.istio_duration("timeout", &asked.timeout, Duration::from_millis(1));
    check.some("statusOnError", &asked.status_on_error, |check, status| {
        if status_code(status).is_none() {
            check.invalid("", "is no status from 200 to 599");
        }
    });
    check.some(
        "includeRequestBodyInCheck",
        &asked.include_request_body_in_check,
        body,
    );
    asked.unknown(Path::root("x"), &mut |path| {
        let path = path.to_string();
        let field = path.strip_prefix("x.").unwrap_or(&path);
        check.unsupported(field, "is not known");
    });
}

fn body(check: &mut Check, body: &BodyInCheck) {
    match body.max_request_bytes {
        Some(_) => check.within("maxRequestBytes", body.max_request_bytes, 1, MOST_BODY),
        None => check.invalid("maxRequestBytes", "is missing"),
    }
}

fn of_http_alone(check: &mut Check, asked: &ExternalAuthorizer) {
    let fields = [
        ("pathPrefix", asked.path_prefix.is_some()),
        (
            "includeRequestHeadersInCheck",
            !asked.include_request_headers_in_check.is_empty(),
        ),
        (
            "includeAdditionalHeadersInCheck",
            !asked.include_additional_headers_in_check.is_empty(),
        ),
        (
            "headersToUpstreamOnAllow",
            !asked.headers_to_upstream_on_allow.is_empty(),
        ),
        (
            "headersToDownstreamOnAllow",
            !asked.headers_to_downstream_on_allow.is_empty(),
        ),
        (
            "headersToDownstreamOnDeny",
            !asked.headers_to_downstream_on_deny.is_empty(),
        ),
    ];
    for (field, is_there) in fields {
        if is_there {
            check.unsupported(field, "is of envoyExtAuthzHttp alone");
        }
    }
}

/// A status that a client may be given.
pub(crate) fn status_code(text: &str) -> Option<u16> {
    let status: u16 = text.parse().ok()?;
    (200..=599).contains(&status).then_some(status)
}

/// Bytes of a body that are kept until somebody has decided.
const MOST_BODY: i64 = 1 << 20;
