//! Where connections go that are not HTTP.

use std::collections::BTreeMap;

use super::RouteDestination;
use crate::fields::fields;

fields! {
    /// Which connections with TLS, and where they go.
    TlsRule {
        r#match: Vec<TlsMatch>,
        route: Vec<RouteDestination>,
    }

    /// What such a connection must be, all of it.
    TlsMatch {
        sni_hosts: Vec<String>,
        destination_subnets: Vec<String>,
        port: Option<i64>,
        source_labels: BTreeMap<String, String>,
        source_namespace: Option<String>,
        gateways: Vec<String>,
    }

    /// Which connections, and where they go.
    TcpRule {
        r#match: Vec<L4Match>,
        route: Vec<RouteDestination>,
    }

    /// What a connection must be, all of it.
    L4Match {
        destination_subnets: Vec<String>,
        port: Option<i64>,
        source_labels: BTreeMap<String, String>,
        source_namespace: Option<String>,
        source_subnet: Option<String>,
        gateways: Vec<String>,
    }
}
