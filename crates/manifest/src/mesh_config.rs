//! Settings of the mesh: ConfigMap `istio` of the root namespace, key `mesh`.
//!
//! Spec: `control-plane.md` §8.2, §8.3.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{
    fields::{fields, present},
    meta::Metadata,
};

/// Texts by name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct ConfigMap {
    /// Metadata.
    pub metadata: Metadata,
    /// The texts.
    #[serde(default, deserialize_with = "present")]
    pub data: BTreeMap<String, String>,
}

impl ConfigMap {
    /// The name of the one with the settings of the mesh.
    pub const MESH: &str = "istio";

    /// The settings that it holds; none were written if it has none.
    ///
    /// # Errors
    /// Why they cannot be understood.
    pub fn mesh_config(&self) -> Result<MeshConfig, String> {
        let Some(text) = self.data.get(KEY) else {
            return Ok(MeshConfig::default());
        };
        let read: Option<MeshConfig> =
            serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        Ok(read.unwrap_or_default())
    }

    /// Leaves out what is not about the mesh.
    pub fn trim(&mut self) {
        self.data.retain(|key, _| key == KEY);
    }
}

fields! {
    /// What holds for the whole mesh. Most of what may be written there is for others.
    MeshConfig {
        extension_providers: Vec<ExtensionProvider>,
        default_providers: Option<DefaultProviders>,
        default_config: Option<ProxyConfig>,
        /// Where lines go; nowhere if it is empty.
        access_log_file: Option<String>,
        access_log_format: Option<String>,
        /// `TEXT` or `JSON`.
        access_log_encoding: Option<String>,
    }

    /// Who is told where nobody else is named.
    DefaultProviders {
        tracing: Vec<String>,
        metrics: Vec<String>,
        access_logging: Vec<String>,
    }

    /// Settings of proxies.
    ProxyConfig {
        tracing: Option<ProxyTracing>,
    }

    /// Of their traces.
    ProxyTracing {
        /// 0 to 100.
        sampling: Option<f64>,
    }

    /// Somebody outside of the proxies whom they ask or tell.
    ExtensionProvider {
        name: String,
        envoy_ext_authz_grpc: Option<ExternalAuthorizer>,
        envoy_ext_authz_http: Option<ExternalAuthorizer>,
        opentelemetry: Option<OpenTelemetry>,
        envoy_file_access_log: Option<FileAccessLog>,
        prometheus: Option<Prometheus>,
    }

    /// A collector of spans.
    OpenTelemetry {
        service: String,
        port: Option<i64>,
        max_tag_length: Option<i64>,
        http: Option<OpenTelemetryHttp>,
        grpc: Option<OpenTelemetryGrpc>,
    }

    /// How it is told by HTTP.
    OpenTelemetryHttp {
        path: String,
        timeout: Option<String>,
        headers: Vec<SaidHeader>,
    }

    /// How it is told by gRPC.
    OpenTelemetryGrpc {
        timeout: Option<String>,
    }

    /// A header and its value.
    SaidHeader {
        name: String,
        value: Option<String>,
    }

    /// Lines of access logs.
    FileAccessLog {
        path: Option<String>,
        log_format: Option<LineFormat>,
        omit_empty_values: Option<bool>,
    }

    /// What they look like: one of these.
    LineFormat {
        text: Option<String>,
        labels: Option<BTreeMap<String, String>>,
    }

    /// Asks for metrics.
    Prometheus {}

    /// Who is asked whether a request may pass. The second half is of HTTP alone.
    ExternalAuthorizer {
        service: String,
        port: Option<i64>,
        timeout: Option<String>,
        fail_open: Option<bool>,
        status_on_error: Option<String>,
        clear_route_cache: Option<bool>,
        include_request_body_in_check: Option<BodyInCheck>,
        path_prefix: Option<String>,
        include_request_headers_in_check: Vec<String>,
        include_additional_headers_in_check: BTreeMap<String, String>,
        headers_to_upstream_on_allow: Vec<String>,
        headers_to_downstream_on_allow: Vec<String>,
        headers_to_downstream_on_deny: Vec<String>,
    }

    /// How much of a body is shown.
    BodyInCheck {
        max_request_bytes: Option<i64>,
        allow_partial_message: Option<bool>,
        pack_as_bytes: Option<bool>,
    }
}

/// Of the settings.
const KEY: &str = "mesh";

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mesh: &str) -> Result<MeshConfig, String> {
        let mut map = ConfigMap::default();
        map.data.insert(KEY.to_owned(), mesh.to_owned());
        map.data.insert("meshNetworks".to_owned(), "{}".to_owned());
        map.trim();
        assert_eq!(map.data.len(), 1);
        map.mesh_config()
    }

    #[test]
    fn settings_of_others_do_not_matter() {
        let mesh = "trustDomain: cluster.local\nextensionProviders:\n- name: guard\n  envoyExtAuthzGrpc: {service: guard.shop.svc.cluster.local, port: 9000}\n";
        let config = read(mesh).unwrap();
        assert_eq!(config.unknown.keys().collect::<Vec<_>>(), ["trustDomain"]);
        let guard = &config.extension_providers[0];
        let asked = guard.envoy_ext_authz_grpc.as_ref().unwrap();
        assert_eq!((guard.name.as_str(), asked.port), ("guard", Some(9000)));
        for nothing in ["", "# nothing\n", "{}"] {
            assert_eq!(read(nothing).unwrap(), MeshConfig::default());
        }
        let none = ConfigMap::default().mesh_config().unwrap();
        assert_eq!(none, MeshConfig::default());
    }

    #[test]
    fn what_cannot_be_understood_is_no_setting() {
        for mesh in [
            "extensionProviders: 1",
            "extensionProviders:",
            "a: [",
            "- x",
        ] {
            assert!(read(mesh).is_err(), "{mesh}");
        }
    }
}
