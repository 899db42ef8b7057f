//! What the admin server on loopback tells and does.

use std::{collections::BTreeMap, sync::Arc};

use http::{Method, StatusCode};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tulle_identity::{SvidState, SvidStatus, SvidStore};
use tulle_model::SpiffeId;
use tulle_runtime::http::{Request, Response, Router, json, text};

use certificate::{Certificate, describe_all};

use crate::{
    build_info,
    dns::Resolver,
    dump,
    pods::{PodState, PodTable},
    proxy::ConnectionDump,
    worker::{Command, Worker},
};
use tulle_state::SnapshotReader;

mod certificate;

/// Where the admin server gets its answers from.
#[derive(Clone)]
pub struct Admin {
    /// The mesh as last heard of.
    pub snapshots: SnapshotReader,
    /// Certificates.
    pub svids: SvidStore,
    /// Where names lead.
    pub resolver: Arc<Resolver>,
    /// Pods of this node.
    pub pods: PodTable,
    /// Data-plane threads, asked for live connections.
    pub workers: Arc<[Worker]>,
    /// The effective configuration, without secrets.
    pub config: Value,
    /// Asks the process to end in order.
    pub quit: mpsc::Sender<()>,
}

impl Admin {
    /// The routes.
    pub fn routes(self) -> Router {
        let (dump, quit, renew) = (self.clone(), self.quit.clone(), self.svids.clone());
        Router::new("ztunnel")
            .route(
                Method::GET,
                "/config_dump",
                "workloads, services, policies, certificates, pods and their connections",
                move |_| {
                    let admin = dump.clone();
                    async move { json(&admin.dump().await) }
                },
            )
            .route(
                Method::POST,
                "/quitquitquit",
                "end in order, as on SIGTERM",
                move |_| {
                    let _ = quit.try_send(());
                    std::future::ready(text(StatusCode::OK, "shutting down\n"))
                },
            )
            .route(
                Method::POST,
                "/certificates/renew",
                "renew a certificate now: ?identity=spiffe://…",
                move |request| std::future::ready(renew_now(&renew, &request)),
            )
            .route(
                Method::GET,
                "/debug/pprof/profile",
                "CPU profile in pprof format: ?seconds=10&frequency=100",
                |request| async move { crate::profile::cpu(&request).await },
            )
    }

    async fn dump(&self) -> Dump {
        let snapshot = self.snapshots.load();
        let mut connections = BTreeMap::new();
        for worker in &*self.workers {
            let (reply, answer) = oneshot::channel();
            if worker.send(Command::Dump(reply)).await.is_err() {
                continue;
            }
            for (uid, (inbound, outbound)) in answer.await.unwrap_or_default() {
                let entry: &mut Connections = connections.entry(uid).or_default();
                entry.inbound.extend(inbound);
                entry.outbound.extend(outbound);
            }
        }
        let pods = self.pods.list().into_iter().map(|(uid, info, state)| {
            let dump = PodDump {
                state: match state {
                    PodState::Pending => "Pending",
                    PodState::Up => "Up",
                },
                connections: connections.remove(&uid).unwrap_or_default(),
                info: InfoDump {
                    name: info.name,
                    namespace: info.namespace,
                    service_account: info.service_account,
                },
            };
            (uid, dump)
        });
        Dump {
            state: dump::state(&snapshot),
            version: build_info::version(),
            config: self.config.clone(),
            certificates: self.svids.statuses().iter().map(certificate).collect(),
            resolved_names: self.resolver.known().into_iter().map(dump::name).collect(),
            workload_state: pods.collect(),
        }
    }
}

fn renew_now(svids: &SvidStore, request: &Request) -> Response {
    let Some(identity) = request.query.get("identity") else {
        let usage = "say whose: ?identity=spiffe://<trust domain>/ns/<namespace>/sa/<account>\n";
        return text(StatusCode::BAD_REQUEST, usage);
    };
    match identity.parse::<SpiffeId>() {
        Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        Ok(id) if svids.refresh_now(&id) => text(StatusCode::OK, "renewing\n"),
        Ok(_) => text(StatusCode::NOT_FOUND, "no such identity on this node\n"),
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Dump {
    #[serde(flatten)]
    state: dump::StateDump,
    version: Value,
    config: Value,
    certificates: Vec<CertificateDump>,
    resolved_names: Vec<dump::NameDump>,
    workload_state: BTreeMap<String, PodDump>,
}

#[derive(Serialize)]
struct PodDump {
    state: &'static str,
    info: InfoDump,
    connections: Connections,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct InfoDump {
    name: String,
    namespace: String,
    service_account: String,
}

#[derive(Default, Serialize)]
struct Connections {
    inbound: Vec<ConnectionDump>,
    outbound: Vec<ConnectionDump>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CertificateDump {
    identity: String,
    state: String,
    cert_chain: Vec<Certificate>,
    root_certs: Vec<Certificate>,
}

fn certificate(status: &SvidStatus) -> CertificateDump {
    let state = match (status.state, &status.last_error) {
        (SvidState::Initializing, _) => "Initializing".to_owned(),
        (SvidState::Available, _) => "Available".to_owned(),
        (SvidState::Expired, None) => "Unavailable: expired".to_owned(),
        (SvidState::Unavailable, None) => "Unavailable".to_owned(),
        (_, Some(error)) => format!("Unavailable: {error}"),
    };
    let svid = status.svid.as_deref();
    CertificateDump {
        identity: status.id.to_string(),
        state,
        cert_chain: svid
            .map(|svid| describe_all(svid.chain()))
            .unwrap_or_default(),
        root_certs: svid
            .map(|svid| describe_all(svid.roots().certificates()))
            .unwrap_or_default(),
    }
}
