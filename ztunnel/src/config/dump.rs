//! The configuration as JSON, without secrets.

use std::time::Duration;

use serde_json::{Value, json};
use tulle_identity::control_tls::{ChannelConfig, Credentials, RootSource, TokenSource};
use tulle_runtime::http::Listen;

use super::{Config, LocalSource};

pub(super) fn dump(config: &Config) -> Value {
    let proxy = &config.proxy;
    json!({
        "numWorkerThreads": config.worker_threads,
        "drainDeadline": time(config.drain_deadline),
        "localNode": config.node_name,
        "network": config.network,
        "inpodUds": config.zds_socket,
        "localXds": match &config.local {
            None => Value::Null,
            Some(LocalSource::File(path)) => json!(path),
            Some(LocalSource::Inline(_)) => json!("inline"),
        },
        "adminAddr": listen(config.listeners.admin),
        "statsAddr": listen(config.listeners.stats),
        "readinessAddr": listen(config.listeners.readiness),
        "log": {
            "level": config.log.directives.to_string(),
            "format": config.log.format.to_string(),
            "buffer": config.log.buffer,
        },
        "xds": config.xds.as_ref().map(|xds| json!({
            "channel": channel(&xds.channel),
            "credentials": credentials(&xds.credentials),
            "maxMessage": xds.max_message,
            "node": {
                "name": xds.node.name,
                "namespace": xds.node.namespace,
                "instanceIp": xds.node.instance_ip,
                "metadata": xds.node.metadata,
            },
        })),
        "ca": {
            "channel": channel(&config.ca.channel),
            "credentials": credentials(&config.ca.credentials),
            "deadline": time(config.ca.deadline),
            "secretTtl": time(config.svids.validity),
            "maxIdentities": config.svids.max_identities,
        },
        "proxy": {
            "outboundPort": proxy.outbound_port,
            "inboundPlaintextPort": proxy.inbound_port,
            "inboundPort": proxy.hbone_port,
            "packetMark": proxy.mark,
            "requireOriginalSource": proxy.original_source,
            "inpodPortReuse": proxy.reuse_port,
            "ipv6Enabled": proxy.ipv6,
            "keepalive": proxy.keepalive.as_ref().map(|keepalive| json!({
                "time": time(keepalive.idle),
                "interval": time(keepalive.interval),
                "retries": keepalive.probes,
            })),
            "connectTimeout": time(proxy.connect_timeout),
            "handshakeTimeout": time(proxy.handshake_timeout),
            "tunnelTimeout": time(proxy.pool.response_timeout),
            "workloadWait": time(proxy.workload_wait),
            "maxConnectionsPerPod": proxy.max_connections,
            "maxHandshakesPerPod": proxy.max_handshakes,
        },
        "dns": proxy.dns.as_ref().map(|dns| json!({
            "clusterDomain": dns.domain,
            "preferredNamespace": dns.preferred,
            "maxQueriesPerPod": dns.max_queries,
        })),
        "resolver": {
            "resolvConf": config.resolv_conf,
            "maxNames": config.max_names,
        },
        "http2": {
            "windowSize": proxy.http2.stream_window,
            "connectionWindowSize": proxy.http2.connection_window,
            "frameSize": proxy.http2.max_frame,
        },
        "pool": {
            "maxStreamsPerConn": proxy.pool.max_streams,
            "maxConnections": proxy.pool.max_connections,
            "unusedReleaseTimeout": time(proxy.pool.idle_release * 2),
        },
    })
}

fn channel(channel: &ChannelConfig) -> Value {
    json!({
        "address": channel.address,
        "altHostname": channel.server_name,
        "root": match &channel.root {
            RootSource::File(path) => json!(path),
            RootSource::Pem(_) => json!("inline"),
        },
        "connectTimeout": time(channel.connect_timeout),
    })
}

/// Headers may carry secrets as tokens do: only their names are shown.
fn credentials(credentials: &Credentials) -> Value {
    let headers: Vec<_> = credentials.headers.iter().map(|(name, _)| name).collect();
    json!({
        "token": match &credentials.token {
            TokenSource::File(path) => json!(path),
            TokenSource::Literal(_) => json!("inline"),
            TokenSource::None => Value::Null,
        },
        "clusterId": credentials.cluster_id,
        "headers": headers,
    })
}

fn listen(listen: Listen) -> String {
    match listen {
        Listen::Loopback(port) => format!("localhost:{port}"),
        Listen::Any(port) => format!("[::]:{port}"),
        Listen::Address(address) => address.to_string(),
    }
}

fn time(time: Duration) -> String {
    format!("{time:?}")
}
