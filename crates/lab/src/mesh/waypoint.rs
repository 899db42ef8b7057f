//! Waypoints: what a Gateway asks for, without the Deployment that Kubernetes would make pods of.

use anyhow::Result;

use super::{Mesh, READY_LIMIT, node::path_text};
use crate::{
    control_plane::TokenOf,
    pod::PodSpec,
    process::{Process, Program},
    service::ServiceSpec,
    waypoint::Waypoint,
};

impl Mesh {
    /// Deploys a waypoint called `<namespace>/<name>`, with one instance on `node`, which is ready on return. Who is to use it says so by
    /// labels.
    ///
    /// # Errors
    /// When it cannot be made, or is not ready in time.
    ///
    /// # Panics
    /// When `name` has no slash.
    pub async fn add_waypoint(&mut self, name: &str, node: &str) -> Result<()> {
        let (namespace, short) = name
            .split_once('/')
            .expect("a waypoint is called <namespace>/<name>");
        let spec = PodSpec::new(name, node)
            .label("gateway.networking.k8s.io/gateway-name", short)
            .label("gateway.istio.io/managed", "istio.io-mesh-controller")
            .label("istio.io/dataplane-mode", "none");
        self.start_pod(spec).await?;
        self.add_service(ServiceSpec::new(name).port(15008, 15008))?;
        self.apply(&format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {short}, namespace: {namespace}}}\n\
             spec: {{gatewayClassName: istio-waypoint, listeners: [{{name: mesh, port: 15008, protocol: HBONE}}]}}\n\
             status: {{addresses: [{{type: Hostname, value: {short}.{namespace}.svc.cluster.local}}]}}\n"
        ))
        .await?;
        let pod = self.lab.pod(name);
        let own = [
            ("NODE_NAME", node),
            ("POD_NAME", short),
            ("POD_NAMESPACE", namespace),
            ("SERVICE_ACCOUNT", pod.service_account()),
            ("GATEWAY_NAME", short),
            ("GATEWAY_CLASS", "istio-waypoint"),
            ("CLUSTER_ID", "Kubernetes"),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
        self.run_waypoint(name, &own).await
    }

    /// Runs a waypoint in a pod `<namespace>/<name>`, with this environment and what volumes would give it; it is ready on return.
    ///
    /// # Errors
    /// When it cannot be started, or is not ready in time.
    pub async fn run_waypoint(
        &mut self,
        name: &str,
        environment: &[(String, String)],
    ) -> Result<()> {
        let pod = self.lab.pod(name).clone();
        let dir = self.lab.dir().join(pod.netns_name());
        std::fs::create_dir_all(&dir)?;
        let of = TokenOf {
            namespace: pod.namespace(),
            service_account: pod.service_account(),
            pod: pod.name(),
            uid: pod.uid(),
            node: pod.node(),
        };
        let token = self.control_plane.token(&of, &dir).await?;
        let (control_plane, root) = (self.control_plane.address(), self.control_plane.root());
        let program = Program::new(
            format!("waypoint-{}", pod.netns_name()),
            self.config.binaries.path("waypoint")?,
        );
        let program = environment
            .iter()
            .chain(&self.config.waypoint_env)
            .fold(program, |program, (name, value)| program.env(name, value))
            .env("XDS_ADDRESS", control_plane.as_str())
            .env("CA_ADDRESS", control_plane.as_str())
            .env("XDS_ROOT_CA", path_text(&root))
            .env("CA_ROOT_CA", path_text(&root))
            .env("AUTH_TOKEN", path_text(&token))
            .env("LOG_FORMAT", "json")
            .env("RUST_LOG", self.config.log_filter.as_str());
        let process = Process::spawn(pod.netns(), &self.lab.logs(), program)?;
        let mut waypoint = Waypoint::new(name, pod.netns(), self.lab.families(), process);
        waypoint.wait_ready(READY_LIMIT).await?;
        self.waypoints.insert(name.to_owned(), waypoint);
        Ok(())
    }

    /// A waypoint by `<namespace>/<name>`.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn waypoint(&self, name: &str) -> &Waypoint {
        let waypoint = self.waypoints.get(name);
        waypoint.unwrap_or_else(|| panic!("no waypoint {name}"))
    }

    /// A waypoint, to be stopped, killed or started again.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn waypoint_mut(&mut self, name: &str) -> &mut Waypoint {
        let waypoint = self.waypoints.get_mut(name);
        waypoint.unwrap_or_else(|| panic!("no waypoint {name}"))
    }
}
