//! The pods of a waypoint.

use k8s_openapi::{
    api::core::v1::{
        Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource,
        EnvVar, EnvVarSource, HTTPGetAction, Lifecycle, LifecycleHandler, LocalObjectReference,
        ObjectFieldSelector, PodSecurityContext, PodSpec, Probe, ProjectedVolumeSource,
        ResourceRequirements, SeccompProfile, SecurityContext, ServiceAccountTokenProjection,
        SleepAction, TopologySpreadConstraint, Volume, VolumeMount, VolumeProjection,
    },
    apimachinery::pkg::{
        api::resource::Quantity, apis::meta::v1::ObjectMeta, util::intstr::IntOrString,
    },
};

use super::{DATAPLANE_MODE, Making, STATUS_PORT};

impl Making<'_> {
    pub(super) fn pod_metadata(&self) -> ObjectMeta {
        let mut labels = self.labels();
        let name = self.name();
        for (label, value) in [
            (DATAPLANE_MODE, self.dataplane_mode()),
            ("sidecar.istio.io/inject", "false"),
            ("service.istio.io/canonical-name", name),
            ("service.istio.io/canonical-revision", "latest"),
        ] {
            labels.insert(label.to_owned(), value.to_owned());
        }
        let mut annotations = self.annotations();
        for (annotation, value) in [
            ("prometheus.io/scrape", "true"),
            ("prometheus.io/port", "15020"),
            ("prometheus.io/path", "/stats/prometheus"),
        ] {
            annotations.insert(annotation.to_owned(), value.to_owned());
        }
        ObjectMeta {
            labels: Some(labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        }
    }

    pub(super) fn pod(&self) -> PodSpec {
        let account = self.own_account().unwrap_or(self.name());
        PodSpec {
            service_account_name: Some(account.to_owned()),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(30 + WITHDRAWAL),
            security_context: Some(PodSecurityContext {
                run_as_non_root: Some(true),
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    localhost_profile: None,
                }),
                ..PodSecurityContext::default()
            }),
            topology_spread_constraints: Some(vec![TopologySpreadConstraint {
                max_skew: 1,
                topology_key: "kubernetes.io/hostname".to_owned(),
                when_unsatisfiable: "ScheduleAnyway".to_owned(),
                label_selector: Some(self.label_selector()),
                ..TopologySpreadConstraint::default()
            }]),
            image_pull_secrets: self.pull_secrets(),
            containers: vec![self.container()],
            volumes: Some(volumes()),
            ..PodSpec::default()
        }
    }

    fn container(&self) -> Container {
        let ready = |period, failures| Probe {
            http_get: Some(HTTPGetAction {
                path: Some("/healthz/ready".to_owned()),
                port: IntOrString::Int(STATUS_PORT.into()),
                ..HTTPGetAction::default()
            }),
            period_seconds: Some(period),
            failure_threshold: Some(failures),
            timeout_seconds: Some(1),
            ..Probe::default()
        };
        let user = (!self.config.any_user).then_some(1337);
        Container {
            name: CONTAINER.to_owned(),
            image: Some(self.config.image.clone()),
            image_pull_policy: Some(self.config.pull_policy.clone())
                .filter(|policy| !policy.is_empty()),
            env: Some(self.environment()),
            ports: Some(vec![
                port("http-metrics", 15020),
                port("status-port", STATUS_PORT),
            ]),
            lifecycle: Some(Lifecycle {
                pre_stop: Some(LifecycleHandler {
                    sleep: Some(SleepAction {
                        seconds: WITHDRAWAL,
                    }),
                    ..LifecycleHandler::default()
                }),
                ..Lifecycle::default()
            }),
            readiness_probe: Some(ready(15, 4)),
            startup_probe: Some(ready(1, 30)),
            resources: Some(ResourceRequirements {
                requests: Some(quantities("100m", "128Mi")),
                limits: Some(quantities("2", "1Gi")),
                claims: None,
            }),
            security_context: Some(SecurityContext {
                allow_privilege_escalation: Some(false),
                privileged: Some(false),
                read_only_root_filesystem: Some(true),
                run_as_non_root: Some(true),
                run_as_user: user,
                run_as_group: user,
                capabilities: Some(Capabilities {
                    drop: Some(vec!["ALL".to_owned()]),
                    add: None,
                }),
                ..SecurityContext::default()
            }),
            volume_mounts: Some(vec![
                mount("root-cert", "/var/run/secrets/istio", true),
                mount("token", "/var/run/secrets/tokens", true),
                mount("scratch", "/tmp", false),
            ]),
            ..Container::default()
        }
    }

    fn pull_secrets(&self) -> Option<Vec<LocalObjectReference>> {
        let secrets = self.config.pull_secrets.iter();
        let secrets: Vec<_> = secrets
            .map(|name| LocalObjectReference { name: name.clone() })
            .collect();
        (!secrets.is_empty()).then_some(secrets)
    }

    /// The names are those of ztunnel's, so that what is set for one is known for the other.
    fn environment(&self) -> Vec<EnvVar> {
        let config = self.config;
        let metadata = &self.gateway.metadata;
        let value = |name: &str, value: &str| EnvVar {
            name: name.to_owned(),
            value: Some(value.to_owned()),
            value_from: None,
        };
        let field = |name: &str, path: &str| EnvVar {
            name: name.to_owned(),
            value: None,
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector {
                    api_version: None,
                    field_path: path.to_owned(),
                }),
                ..EnvVarSource::default()
            }),
        };
        vec![
            field("NODE_NAME", "spec.nodeName"),
            field("POD_NAME", "metadata.name"),
            field("POD_NAMESPACE", "metadata.namespace"),
            field("INSTANCE_IP", "status.podIP"),
            field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
            value("GATEWAY_NAME", &metadata.name),
            value("GATEWAY_CLASS", &self.gateway.spec.gateway_class_name),
            value("XDS_ADDRESS", &config.control_plane),
            value("CA_ADDRESS", &config.control_plane),
            value("CLUSTER_ID", &config.cluster_id),
            value("CLUSTER_DOMAIN", &config.cluster_domain),
            value("RUST_LOG", &config.log.0),
            value("LOG_FORMAT", &config.log.1),
        ]
    }
}

fn volumes() -> Vec<Volume> {
    let token = ServiceAccountTokenProjection {
        audience: Some("istio-ca".to_owned()),
        expiration_seconds: Some(43_200),
        path: "istio-token".to_owned(),
    };
    let volume = |name: &str| Volume {
        name: name.to_owned(),
        ..Volume::default()
    };
    vec![
        Volume {
            config_map: Some(ConfigMapVolumeSource {
                name: "istio-ca-root-cert".to_owned(),
                ..ConfigMapVolumeSource::default()
            }),
            ..volume("root-cert")
        },
        Volume {
            projected: Some(ProjectedVolumeSource {
                sources: Some(vec![VolumeProjection {
                    service_account_token: Some(token),
                    ..VolumeProjection::default()
                }]),
                default_mode: None,
            }),
            ..volume("token")
        },
        Volume {
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..volume("scratch")
        },
    ]
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: Some(read_only),
        ..VolumeMount::default()
    }
}

fn port(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: number.into(),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn quantities(cpu: &str, memory: &str) -> std::collections::BTreeMap<String, Quantity> {
    let named = |name: &str, quantity: &str| (name.to_owned(), Quantity(quantity.to_owned()));
    [named("cpu", cpu), named("memory", memory)].into()
}

/// Seconds that a pod goes on as before when it, or its Gateway, is deleted: nodes are told meanwhile that it goes.
const WITHDRAWAL: i64 = 5;
/// As overlays know it.
const CONTAINER: &str = "istio-proxy";
