//! The control plane and the certificate authority.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tulle_identity::control_tls::{ChannelConfig, Credentials, RootSource, TokenSource};
use tulle_identity::{CaClientConfig, SvidStoreConfig};
use tulle_xds::{ClientConfig, NodeConfig};

use crate::proxy_config::ProxyConfig;
use crate::variables::{ConfigError, Variables};

/// How the control plane is reached: `XDS_ADDRESS`, `XDS_ROOT_CA`, `ALT_XDS_HOSTNAME`, `XDS_HEADER_*`, `AUTH_TOKEN`, `ISTIO_META_*`.
/// `None` if `XDS_ADDRESS` is there but empty. `exists` says whether a file does.
///
/// # Errors
/// If a variable is not accepted.
pub fn xds(
    variables: &Variables<'_>,
    defaults: &ProxyConfig,
    exists: fn(&Path) -> bool,
) -> Result<Option<ClientConfig>, ConfigError> {
    if variables
        .raw("XDS_ADDRESS")
        .is_some_and(|a| a.trim().is_empty())
    {
        return Ok(None);
    }
    let address = xds_address(variables, defaults);
    let channel = channel(
        variables,
        address,
        ["XDS_ROOT_CA", "ALT_XDS_HOSTNAME"],
        exists,
    )?;
    let credentials = credentials(variables, "XDS_HEADER_", exists);
    let node = node(variables, defaults)?;
    Ok(Some(ClientConfig::new(channel, credentials, node)))
}

/// How the certificate authority is reached: the same server as for xDS unless told otherwise.
///
/// # Errors
/// If a variable is not accepted.
pub fn ca(
    variables: &Variables<'_>,
    defaults: &ProxyConfig,
    exists: fn(&Path) -> bool,
) -> Result<CaClientConfig, ConfigError> {
    let address = variables.text("CA_ADDRESS");
    let address = address.unwrap_or_else(|| xds_address(variables, defaults));
    let channel = channel(
        variables,
        address,
        ["CA_ROOT_CA", "ALT_CA_HOSTNAME"],
        exists,
    )?;
    let credentials = credentials(variables, "CA_HEADER_", exists);
    Ok(CaClientConfig::new(channel, credentials))
}

/// How certificates are kept: `SECRET_TTL`, `TULLE_MAX_IDENTITIES`.
///
/// # Errors
/// If a variable is not accepted.
pub fn svids(variables: &Variables<'_>) -> Result<SvidStoreConfig, ConfigError> {
    let defaults = SvidStoreConfig::default();
    Ok(SvidStoreConfig {
        validity: variables
            .duration("SECRET_TTL")?
            .unwrap_or(defaults.validity),
        max_identities: variables
            .number("TULLE_MAX_IDENTITIES", 1..=1_000_000)?
            .unwrap_or(defaults.max_identities),
        ..defaults
    })
}

fn xds_address(variables: &Variables<'_>, defaults: &ProxyConfig) -> String {
    let in_cluster = variables.text("KUBERNETES_SERVICE_HOST").is_some();
    let fallback = if in_cluster {
        CLUSTER_ADDRESS
    } else {
        LOCAL_ADDRESS
    };
    let address = variables.text("XDS_ADDRESS");
    let address = address.or_else(|| defaults.discovery_address.clone());
    address.unwrap_or_else(|| fallback.to_owned())
}

/// `names`: of the variables with the roots and with the server's name.
fn channel(
    variables: &Variables<'_>,
    address: String,
    [root, server_name]: [&str; 2],
    exists: fn(&Path) -> bool,
) -> Result<ChannelConfig, ConfigError> {
    let root = variables.parse(
        root,
        "a path, the text of PEM certificates, or SYSTEM where there is a system store",
        |text| root_source(text, exists),
    )?;
    let root = root.unwrap_or_else(|| RootSource::File(ROOT_FILE.into()));
    let mut channel = ChannelConfig::new(address, root);
    channel.server_name = variables.text(server_name);
    Ok(channel)
}

fn root_source(text: &str, exists: fn(&Path) -> bool) -> Option<RootSource> {
    if text == "SYSTEM" {
        let store = SYSTEM_ROOTS.iter().find(|path| exists(Path::new(path)))?;
        return Some(RootSource::File(store.into()));
    }
    if text.contains("-----BEGIN") {
        return Some(RootSource::Pem(text.to_owned()));
    }
    Some(RootSource::File(text.into()))
}

/// A token is sent if `AUTH_TOKEN` gives one, as a path or as it is, or else if the usual file exists.
fn credentials(
    variables: &Variables<'_>,
    header_prefix: &'static str,
    exists: fn(&Path) -> bool,
) -> Credentials {
    let token = match variables.text("AUTH_TOKEN") {
        // No token has a slash: a JWT is base64url.
        Some(path) if path.contains('/') => TokenSource::File(path.into()),
        Some(token) => TokenSource::Literal(token),
        None if exists(Path::new(TOKEN_FILE)) => TokenSource::File(TOKEN_FILE.into()),
        None => TokenSource::None,
    };
    let headers = variables.with_prefix(header_prefix);
    Credentials {
        token,
        cluster_id: Some(cluster_id(variables)),
        headers: headers.map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
    }
}

fn cluster_id(variables: &Variables<'_>) -> String {
    let id = variables.text("ISTIO_META_CLUSTER_ID");
    let id = id.or_else(|| variables.text("CLUSTER_ID"));
    id.unwrap_or_else(|| "Kubernetes".to_owned())
}

fn node(variables: &Variables<'_>, defaults: &ProxyConfig) -> Result<NodeConfig, ConfigError> {
    let text = |name| variables.text(name).unwrap_or_default();
    let mut node = NodeConfig::new(
        &text("POD_NAME"),
        &text("POD_NAMESPACE"),
        &text("NODE_NAME"),
    );
    node.instance_ip = variables.parse("INSTANCE_IP", "an IP address", |ip| ip.parse().ok())?;
    node.metadata = metadata(variables, defaults)?;
    Ok(node)
}

fn metadata(
    variables: &Variables<'_>,
    defaults: &ProxyConfig,
) -> Result<BTreeMap<String, Value>, ConfigError> {
    let mut metadata = BTreeMap::new();
    for (name, value) in &defaults.proxy_metadata {
        let name = name.strip_prefix("ISTIO_META_").unwrap_or(name);
        metadata.insert(name.to_owned(), Value::from(value.as_str()));
    }
    for (name, value) in variables.with_prefix("ISTIO_META_") {
        metadata.insert(name.to_owned(), Value::from(value));
    }
    for (name, value) in variables.with_prefix("ISTIO_METAJSON_") {
        let value = serde_json::from_str(value).map_err(|_| ConfigError::Invalid {
            variable: format!("ISTIO_METAJSON_{name}"),
            value: value.to_owned(),
            expected: "JSON".to_owned(),
        })?;
        metadata.insert(name.to_owned(), value);
    }
    Ok(metadata)
}

const CLUSTER_ADDRESS: &str = "https://istiod.istio-system.svc:15012";
const LOCAL_ADDRESS: &str = "https://localhost:15012";
const ROOT_FILE: &str = "./var/run/secrets/istio/root-cert.pem";
const TOKEN_FILE: &str = "./var/run/secrets/tokens/istio-token";

/// Where distributions keep what they trust.
const SYSTEM_ROOTS: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];
