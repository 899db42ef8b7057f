//! Settings of the mesh.

use std::time::Duration;

use tulle_facts::Format;
use tulle_manifest::{
    ConfigMap, Fields, MeshConfig, Path,
    mesh_config::{
        BodyInCheck, ExtensionProvider, ExternalAuthorizer, FileAccessLog, OpenTelemetry,
    },
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
    own_log(&mut check, config);
    let defaults = config.default_providers.iter();
    let named =
        defaults.flat_map(|defaults| defaults.tracing.iter().chain(&defaults.access_logging));
    for name in named.filter(|name| !OWN.contains(&name.as_str())) {
        if !providers.iter().any(|provider| provider.name == *name) {
            check.invalid("defaultProviders", format!("{name:?} is no provider"));
        }
    }
    check.some("defaultConfig", &config.default_config, |check, config| {
        check.some("tracing", &config.tracing, |check, tracing| {
            check.share("sampling", tracing.sampling);
        });
    });
    check.problems
}

/// The log that needs no provider.
fn own_log(check: &mut Check, config: &MeshConfig) {
    let encoding = config.access_log_encoding.as_deref();
    check.word("accessLogEncoding", encoding, &["TEXT", "JSON"]);
    let file = config.access_log_file.as_deref().unwrap_or_default();
    if !file.is_empty() && file != OUTPUT {
        check.ignored(
            "accessLogFile",
            format!("lines are written to {OUTPUT} alone"),
        );
    }
    check.some(
        "accessLogFormat",
        &config.access_log_format,
        |check, text| {
            let found = match encoding {
                _ if text.is_empty() => return,
                Some("JSON") => match serde_json::from_str(text) {
                    Ok(labels) => Format::labels(&labels, false),
                    Err(why) => return check.invalid("", format!("is no object of texts: {why}")),
                },
                _ => Format::text(text),
            };
            if let Err(why) = found {
                check.invalid("", why);
            }
        },
    );
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
        ("opentelemetry", provider.opentelemetry.is_some()),
        (
            "envoyFileAccessLog",
            provider.envoy_file_access_log.is_some(),
        ),
        ("prometheus", provider.prometheus.is_some()),
    ]);
    for field in provider.unknown.keys() {
        check.ignored(field, "is no kind of provider that waypoints know");
    }
    check.some("opentelemetry", &provider.opentelemetry, collector);
    check.some(
        "envoyFileAccessLog",
        &provider.envoy_file_access_log,
        access_log,
    );
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

fn collector(check: &mut Check, told: &OpenTelemetry) {
    check.service(&told.service, told.port);
    let least = Duration::from_millis(1);
    check.alternatives(&[("http", told.http.is_some()), ("grpc", told.grpc.is_some())]);
    check.some("grpc", &told.grpc, |check, grpc| {
        check.istio_duration("timeout", &grpc.timeout, least);
    });
    check.some("http", &told.http, |check, http| {
        check.path("path", &http.path);
        check.istio_duration("timeout", &http.timeout, least);
        check.each("headers", &http.headers, |check, header| {
            check.header_name("name", &header.name);
            match &header.value {
                Some(value) => check.header_value("value", value),
                None => check.invalid("value", "is missing"),
            }
        });
    });
    if told.max_tag_length.is_some() {
        check.ignored(
            "maxTagLength",
            "no effect: tags have at most 512 characters",
        );
    }
    for field in told.unknown.keys() {
        check.ignored(field, "no effect");
    }
}

fn access_log(check: &mut Check, log: &FileAccessLog) {
    let path = log.path.as_deref().unwrap_or(OUTPUT);
    if path != OUTPUT {
        check.unsupported("path", format!("lines are written to {OUTPUT} alone"));
    }
    check.some("logFormat", &log.log_format, |check, format| {
        check.one_of(&[
            ("text", format.text.is_some()),
            ("labels", format.labels.is_some()),
        ]);
        check.some("text", &format.text, |check, text| {
            if let Err(why) = Format::text(text) {
                check.invalid("", why);
            }
        });
        check.some("labels", &format.labels, |check, labels| {
            if let Err(why) = Format::labels(labels, false) {
                check.invalid("", why);
            }
        });
    });
}

fn authorizer(check: &mut Check, asked: &ExternalAuthorizer) {
    check.service(&asked.service, asked.port);
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

/// Where lines go.
const OUTPUT: &str = "/dev/stdout";
/// Providers that need not be described.
const OWN: [&str; 2] = ["envoy", "prometheus"];
/// Bytes of a body that are kept until somebody has decided.
const MOST_BODY: i64 = 1 << 20;
