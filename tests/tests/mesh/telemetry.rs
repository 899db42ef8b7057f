//! What operators' dashboards are built on: names of metrics and of their labels.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use tulle_lab::sandbox::Sandbox;

use crate::{
    traffic::{Echo, call, eventually},
    world::{self, CART, SERVICE_PORT, WEB, identity},
};

/// Every standard name is there, with just the standard labels.
pub(crate) async fn standard_metrics(sandbox: Sandbox) -> Result<()> {
    let mesh = world::start(&sandbox).await?;
    let _web = Echo::start(mesh.pod(WEB))?;
    let to = (mesh.lab().service(WEB).ip(), SERVICE_PORT).into();
    call(mesh.pod(CART), to).await?;
    for (node, reporter) in [("node1", "source"), ("node2", "destination")] {
        let ztunnel = mesh.ztunnel(node);
        let of_call = [("reporter", reporter), ("destination_app", "web")];
        eventually("the call is counted", async || {
            let metrics = ztunnel.metrics().await;
            metrics.is_ok_and(|now| now.sum("istio_tcp_connections_closed_total", &of_call) == 1.0)
        })
        .await?;
        let metrics = ztunnel.metrics().await?;
        for name in TRAFFIC {
            let sample = metrics.select(name, &of_call).next().context(*name)?;
            let labels: BTreeSet<&str> = sample
                .labels
                .iter()
                .map(|(name, _)| name.as_str())
                .collect();
            let standard: BTreeSet<&str> = LABELS.iter().map(|(name, _)| *name).collect();
            ensure!(labels == standard, "{name}: {labels:?}");
            for (label, expected) in LABELS {
                let expected = expected.replace("REPORTER", reporter);
                ensure!(
                    sample.label(label) == Some(&expected),
                    "{name}: {label} is {:?}, not {expected}",
                    sample.label(label)
                );
            }
            ensure!(sample.value > 0.0, "{name}");
        }
        ensure!(LABELS.contains(&("source_principal", &identity(CART))));
        for (name, labels) in OTHERS {
            let sample = metrics.select(name, &[]).next().context(*name)?;
            let missing = labels.iter().find(|label| sample.label(label).is_none());
            ensure!(missing.is_none(), "{name} lacks {missing:?}");
        }
        let active = metrics.sum("workload_manager_active_proxy_count", &[]);
        let pods = mesh
            .lab()
            .pods()
            .filter(|pod| pod.node() == node && pod.namespace() == "shop");
        ensure!(active == pods.count() as f64, "{active} pods on {node}");
    }
    Ok(())
}

const TRAFFIC: &[&str] = &[
    "istio_tcp_connections_opened_total",
    "istio_tcp_connections_closed_total",
    "istio_tcp_received_bytes_total",
    "istio_tcp_sent_bytes_total",
];

/// Those of the one call.
const LABELS: &[(&str, &str)] = &[
    ("reporter", "REPORTER"),
    ("source_workload", "cart"),
    ("source_canonical_service", "cart"),
    ("source_canonical_revision", "latest"),
    ("source_workload_namespace", "shop"),
    ("source_principal", "spiffe://cluster.local/ns/shop/sa/cart"),
    ("source_app", "cart"),
    ("source_version", "latest"),
    ("source_cluster", "Kubernetes"),
    ("destination_service", "web.shop.svc.cluster.local"),
    ("destination_service_namespace", "shop"),
    ("destination_service_name", "web"),
    ("destination_workload", "web"),
    ("destination_canonical_service", "web"),
    ("destination_canonical_revision", "latest"),
    ("destination_workload_namespace", "shop"),
    (
        "destination_principal",
        "spiffe://cluster.local/ns/shop/sa/web",
    ),
    ("destination_app", "web"),
    ("destination_version", "latest"),
    ("destination_cluster", "Kubernetes"),
    ("request_protocol", "tcp"),
    ("response_flags", "-"),
    ("connection_security_policy", "mutual_tls"),
];

const OTHERS: &[(&str, &[&str])] = &[
    ("istio_build", &["component", "tag"]),
    ("istio_xds_message_total", &["url"]),
    ("istio_xds_message_bytes_total", &["url"]),
    ("istio_xds_connection_terminations_total", &["reason"]),
    ("workload_manager_active_proxy_count", &[]),
    ("workload_manager_pending_proxy_count", &[]),
    ("workload_manager_proxies_started_total", &[]),
    ("workload_manager_proxies_stopped_total", &[]),
    ("process_open_fds", &[]),
    ("process_max_fds", &[]),
];
