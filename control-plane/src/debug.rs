//! What operators can look at while the process runs.

mod view;

use std::{future::ready, sync::Arc};

use http::{Method, StatusCode};
use parking_lot::{Mutex, RwLock};
use serde_json::{Value as Json, json};
use tokio::time::Instant;
use tulle_http::Text;
use tulle_model::http::{Action, Alternative, MatchKind};
use tulle_runtime::http::{Request, Response, Router, json as json_response, text};
use tulle_xds::{ServerMetrics, store::Store};

use crate::{index::Index, routes::Attached, translate::Unbound};
use tulle_manifest::{Kind, Labels, ObjectId, ObjectKey, source::directory::Problems};

/// What the pages show.
#[derive(Clone)]
pub struct Debug {
    /// Objects and reports.
    pub index: Arc<RwLock<Index>>,
    /// What is served.
    pub store: Store,
    /// Streams.
    pub server: Arc<ServerMetrics>,
    /// What is wrong with the files.
    pub problems: Arc<Mutex<Problems>>,
}

impl Debug {
    /// The pages.
    pub fn routes(&self) -> Router {
        let (snapshot, policies, waypoints) = (self.clone(), self.clone(), self.clone());
        let (streams, source, why) = (self.clone(), self.clone(), self.clone());
        let order = self.clone();
        Router::new("debug")
            .route(
                Method::GET,
                "/debug/snapshot",
                "every resource that is served: workloads, services, policies",
                move |_| ready(snapshot.snapshot()),
            )
            .route(
                Method::GET,
                "/debug/policies",
                "what became of each policy, and why it is not enforced as written; what is wrong with routes and the like",
                move |_| ready(policies.policies()),
            )
            .route(
                Method::GET,
                "/debug/waypoints",
                "which waypoint each service and pod asks for, and why it does not get it",
                move |_| ready(waypoints.waypoints()),
            )
            .route(
                Method::GET,
                "/debug/why",
                "why a pod is what it is to the mesh: ?pod=NAMESPACE/NAME",
                move |request| ready(why.why(&request)),
            )
            .route(
                Method::GET,
                "/debug/routes",
                "in which order a service's HTTPRoutes are looked at: ?service=NAMESPACE/NAME, and with &path=/PATH, those for a path",
                move |request| ready(order.order(&request)),
            )
            .route(
                Method::GET,
                "/debug/streams",
                "xDS streams: how many, what was sent and rejected, how far each client is",
                move |_| ready(streams.streams()),
            )
            .route(
                Method::GET,
                "/debug/source",
                "files that cannot be used, and objects that are there more than once",
                move |_| ready(json_response(&*source.problems.lock())),
            )
    }

    fn snapshot(&self) -> Response {
        let everything = self.index.read().everything();
        json_response(&view::transaction(self.store.version(), everything))
    }

    fn policies(&self) -> Response {
        let reports = self.index.read().reports().clone();
        let policies: Vec<_> = reports.policies().collect();
        let left_out = reports
            .all_left_out()
            .map(|(id, reason)| json!({"object": id.to_string(), "reason": reason.to_string()}));
        let left_out: Vec<_> = left_out.collect();
        let problems = reports
            .all_problems()
            .map(|(id, problems)| json!({"object": id.to_string(), "problems": problems}));
        let problems: Vec<_> = problems.collect();
        json_response(&json!({"policies": policies, "leftOut": left_out, "problems": problems}))
    }

    fn waypoints(&self) -> Response {
        let reports = self.index.read().reports().clone();
        let waypoints = reports.waypoints().map(|(id, report)| {
            json!({
                "object": id.to_string(),
                "waypoint": report.waypoint.to_string(),
                "refused": report.refused.map(Unbound::reason),
                "canary": report.canary.map(Unbound::reason),
            })
        });
        json_response(&json!({"waypoints": waypoints.collect::<Vec<_>>()}))
    }

    /// The rules of a service's routes, the first to be looked at first.
    fn order(&self, request: &Request) -> Response {
        let service = request.query.get("service");
        let Some((namespace, name)) = service.and_then(|service| service.split_once('/')) else {
            let which = "which service: ?service=NAMESPACE/NAME\n";
            return text(StatusCode::BAD_REQUEST, which);
        };
        let key = ObjectKey::new(namespace, name);
        let index = self.index.read();
        if !index.objects().services().contains_key(&key) {
            return text(
                StatusCode::NOT_FOUND,
                format!("there is no service {key}\n"),
            );
        }
        let id = ObjectId {
            kind: Kind::Service,
            key: key.clone(),
        };
        let service = index.service_key(&key);
        let routes = Attached::of(&index).routes(&index, service, &id);
        let path = request.query.get("path");
        let fits = |alternative: &&Alternative| {
            let wanted = alternative.path.as_ref().map(Text::new);
            match (path, wanted) {
                (Some(path), Some(Ok(wanted))) => wanted.fits(path.as_bytes()),
                (Some(_), Some(Err(_))) => false,
                (None, _) | (_, None) => true,
            }
        };
        let rules = routes.iter().flat_map(|routes| {
            let fitting = routes.alternatives.iter().filter(fits);
            fitting.map(|alternative| {
                let rule = routes.rules.get(alternative.rule);
                json!({
                    "route": rule.map(|rule| rule.name.as_str()),
                    "ports": alternative.ports,
                    "path": alternative.path.as_ref().map(|path| shown(&path.kind)),
                    "method": alternative.method.as_ref().map(|method| shown(&method.kind)),
                    "headers": alternative.headers.len(),
                    "queryParams": alternative.query.len(),
                    "backends": rule.map(|rule| backends(&rule.action)),
                })
            })
        });
        json_response(&json!({"rules": rules.collect::<Vec<_>>()}))
    }

    /// Which labels and rules have made of a pod what is served.
    fn why(&self, request: &Request) -> Response {
        let pod = request.query.get("pod").and_then(|pod| pod.split_once('/'));
        let Some((namespace, name)) = pod else {
            return text(StatusCode::BAD_REQUEST, "which pod: ?pod=NAMESPACE/NAME\n");
        };
        let key = ObjectKey::new(namespace, name);
        let index = self.index.read();
        let Some(pod) = index.objects().pods().get(&key) else {
            return text(StatusCode::NOT_FOUND, format!("there is no pod {key}\n"));
        };
        let of_namespace = index.objects().namespace(namespace);
        let labels = of_namespace.map(|found| &found.metadata.labels);
        let said =
            |labels: Option<&Labels>, name: &str| labels.and_then(|all| all.get(name)).cloned();
        let both = |name: &str| {
            let pod = said(Some(&pod.metadata.labels), name);
            json!({"pod": pod, "namespace": said(labels, name)})
        };
        let nothing = Labels::new();
        let selected = index
            .mesh()
            .enablement
            .selects(&pod.metadata.labels, labels.unwrap_or(&nothing));
        let id = ObjectId {
            kind: Kind::Pod,
            key: key.clone(),
        };
        let report = index.reports().waypoint_of(&id).map(|report| {
            json!({
                "wanted": report.waypoint.to_string(),
                "refused": report.refused.map(|why| why.to_string()),
            })
        });
        let (workload, left_out) = match index.workload_of(&key) {
            Ok(workload) => (workload, None),
            Err(why) => (None, Some(why.to_string())),
        };
        json_response(&json!({
            "pod": key.to_string(),
            "selected": {"is": selected, "istio.io/dataplane-mode": both("istio.io/dataplane-mode")},
            "redirection": pod.metadata.annotations.get("ambient.istio.io/redirection"),
            "waypoint": {"istio.io/use-waypoint": both("istio.io/use-waypoint"), "report": report},
            "leftOut": left_out,
            "served": workload.as_ref().map(view::workload),
        }))
    }

    fn streams(&self) -> Response {
        let server = &self.server;
        let of_type = |metrics: &tulle_xds::server::TypeMetrics| {
            json!({
                "pushes": metrics.pushes.value(),
                "resources": metrics.resources.value(),
                "nacks": metrics.nacks.value(),
            })
        };
        let statuses = server.streams_now(Instant::now());
        let clients = statuses.iter().map(|status| {
            json!({
                "client": status.client,
                "openSeconds": status.age.as_secs(),
                "sent": status.sent,
                "answered": status.answered,
                "pending": status.pending,
                "rejected": status.rejected,
            })
        });
        json_response(&json!({
            "version": self.store.version().0,
            "open": server.streams.value(),
            "opened": server.opened.value(),
            "unauthorized": server.unauthorized.value(),
            "tooSlow": server.too_slow.value(),
            "addresses": of_type(&server.addresses),
            "policies": of_type(&server.policies),
            "configurations": of_type(&server.configurations),
            "clients": clients.collect::<Vec<_>>(),
        }))
    }
}

/// How a text is compared, for people.
fn shown(kind: &MatchKind) -> Json {
    let (kind, value) = match kind {
        MatchKind::Exact(text) => ("Exact", text.as_str()),
        MatchKind::Prefix(text) => ("Prefix", text.as_str()),
        MatchKind::Regex(text) => ("RegularExpression", text.as_str()),
        MatchKind::Elements(text) => ("PathPrefix", text.as_str()),
        MatchKind::Present => ("Present", ""),
    };
    json!({"type": kind, "value": value})
}

fn backends(action: &Action) -> Json {
    let Action::Forward(backends) = action else {
        return Json::Null;
    };
    let backends = backends.iter().map(|backend| {
        let service = backend.service.as_ref();
        json!({
            "weight": backend.weight,
            "service": service.map(|service| service.key.to_string()),
            "port": service.map(|service| service.port),
        })
    });
    backends.collect()
}
