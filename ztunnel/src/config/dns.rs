//! Mesh DNS.

use crate::dns::DnsSettings;
use tulle_environment::{ConfigError, ProxyConfig, Variables};
use tulle_route::DNS_PORT;

/// `None` if pods are to have none. `ipv6` is whether they have IPv6.
pub(super) fn dns(
    variables: &Variables<'_>,
    defaults: &ProxyConfig,
    ipv6: bool,
) -> Result<Option<DnsSettings>, ConfigError> {
    let metadata = |name: &str| {
        let named = defaults.proxy_metadata.get(name).cloned();
        variables.text(name).or(named)
    };
    if metadata("ISTIO_META_DNS_CAPTURE").is_some_and(|value| value != "true") {
        return Ok(None);
    }
    // Queries are redirected to this one.
    let address = format!("localhost:{DNS_PORT}");
    if let Some(value) = metadata(ADDRESS).filter(|value| *value != address) {
        return Err(ConfigError::Invalid {
            variable: ADDRESS.to_owned(),
            value,
            expected: address,
        });
    }
    let domain = variables.text("CLUSTER_DOMAIN");
    let domain = domain.as_deref().unwrap_or("cluster.local");
    Ok(Some(DnsSettings {
        domain: domain.trim_matches('.').to_ascii_lowercase().into(),
        preferred: variables.text("PREFERED_SERVICE_NAMESPACE").map(Into::into),
        ipv6,
        max_queries: variables
            .number("TULLE_MAX_DNS_QUERIES_PER_POD", 1..=100_000)?
            .unwrap_or(MAX_QUERIES),
    }))
}

const ADDRESS: &str = "ISTIO_META_DNS_PROXY_ADDR";
const MAX_QUERIES: usize = 512;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{super::KNOWN, *};

    fn read(variables: &[(&str, &str)], mesh_file: &str) -> Result<Option<DnsSettings>, String> {
        let owned = variables
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()));
        let owned: BTreeMap<_, _> = owned.collect();
        let variables = Variables::new(&owned, &KNOWN).unwrap();
        let defaults = ProxyConfig::read(Some(mesh_file), &variables).unwrap();
        dns(&variables, &defaults, true).map_err(|error| error.to_string())
    }

    #[test]
    fn names_are_answered_unless_told_otherwise() {
        let defaults = read(&[], "").unwrap().unwrap();
        assert_eq!(
            (&*defaults.domain, defaults.preferred),
            ("cluster.local", None)
        );
        assert_eq!(defaults.max_queries, 512);

        let told = read(
            &[
                ("CLUSTER_DOMAIN", "Example.ORG."),
                ("PREFERED_SERVICE_NAMESPACE", "shop"),
                ("TULLE_MAX_DNS_QUERIES_PER_POD", "7"),
            ],
            "",
        );
        let told = told.unwrap().unwrap();
        assert_eq!(&*told.domain, "example.org");
        assert_eq!(told.preferred.as_deref(), Some("shop"));
        assert_eq!(told.max_queries, 7);

        let off = "defaultConfig: {proxyMetadata: {ISTIO_META_DNS_CAPTURE: 'false'}}";
        assert_eq!(read(&[], off), Ok(None));
        assert_eq!(read(&[("ISTIO_META_DNS_CAPTURE", "no")], ""), Ok(None));
        assert!(
            read(&[("ISTIO_META_DNS_CAPTURE", "true")], off)
                .unwrap()
                .is_some()
        );
    }

    #[test]
    fn queries_are_led_to_one_address() {
        assert!(read(&[(ADDRESS, "localhost:15053")], "").unwrap().is_some());
        assert_eq!(
            read(&[(ADDRESS, "localhost:53")], "").unwrap_err(),
            "ISTIO_META_DNS_PROXY_ADDR=\"localhost:53\": must be localhost:15053"
        );
    }
}
