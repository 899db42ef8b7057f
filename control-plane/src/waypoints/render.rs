//! The objects of a waypoint.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    Resource,
    api::{
        apps::v1::{Deployment, DeploymentSpec},
        autoscaling::v2::{
            CrossVersionObjectReference, HorizontalPodAutoscaler, HorizontalPodAutoscalerSpec,
        },
        core::v1::{PodTemplateSpec, Service, ServiceAccount, ServicePort, ServiceSpec},
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference},
        util::intstr::IntOrString,
    },
};
use serde::Serialize;
use serde_json::Value;
use tulle_manifest::{Gateway, Labels, ObjectKey};

use super::{
    GATEWAY_NAME, InvalidOverlay, MANAGED, MANAGED_WAYPOINT, Overlay, WaypointConfig, name_of,
    overlay::{AUTOSCALER, DEPLOYMENT, DISRUPTION_BUDGET, SERVICE, SERVICE_ACCOUNT},
};

mod pod;

/// The kinds of objects that are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Made {
    ServiceAccount,
    Deployment,
    Service,
    DisruptionBudget,
    Autoscaler,
}

impl Made {
    pub(crate) const ALL: [Self; 5] = [
        Self::ServiceAccount,
        Self::Service,
        Self::Deployment,
        Self::DisruptionBudget,
        Self::Autoscaler,
    ];

    /// Where those of all namespaces are.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::ServiceAccount => "/api/v1/serviceaccounts",
            Self::Service => "/api/v1/services",
            Self::Deployment => "/apis/apps/v1/deployments",
            Self::DisruptionBudget => "/apis/policy/v1/poddisruptionbudgets",
            Self::Autoscaler => "/apis/autoscaling/v2/horizontalpodautoscalers",
        }
    }

    /// Where one is.
    pub(crate) fn path_of(self, key: &ObjectKey) -> String {
        let (folder, plural) = self.path().rsplit_once('/').unwrap_or_default();
        format!(
            "{folder}/namespaces/{}/{plural}/{}",
            key.namespace, key.name
        )
    }
}

/// An object as it shall be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rendered {
    pub(crate) kind: Made,
    pub(crate) key: ObjectKey,
    pub(crate) body: Value,
}

/// All objects of a Gateway; `overlays` in the order in which they are to be merged. `captured`: its instances stand behind ztunnel.
pub(crate) fn objects(
    gateway: &Gateway,
    config: &WaypointConfig,
    overlays: &[Overlay],
    captured: bool,
) -> Result<Vec<Rendered>, InvalidOverlay> {
    for overlay in overlays {
        overlay.check()?;
    }
    let made = Making {
        gateway,
        config,
        captured,
    };
    let mut objects = Vec::new();
    if made.own_account().is_none() {
        let mut account = ServiceAccount {
            metadata: made.metadata(),
            ..ServiceAccount::default()
        };
        for overlay in overlays {
            overlay.merge(SERVICE_ACCOUNT, &mut account)?;
        }
        account.metadata = made.kept(account.metadata);
        objects.push(made.rendered(Made::ServiceAccount, &account));
    }
    let mut service = made.service();
    let mut deployment = made.deployment();
    for overlay in overlays {
        overlay.merge(SERVICE, &mut service)?;
        overlay.merge(DEPLOYMENT, &mut deployment)?;
    }
    service.metadata = made.kept(service.metadata);
    if let Some(spec) = &mut service.spec {
        spec.selector = Some(made.selector());
    }
    objects.push(made.rendered(Made::Service, &service));
    made.keep_deployment(&mut deployment);
    objects.push(made.rendered(Made::Deployment, &deployment));
    if overlays
        .iter()
        .any(|overlay| overlay.has(DISRUPTION_BUDGET))
    {
        let mut budget = made.disruption_budget();
        for overlay in overlays {
            overlay.merge(DISRUPTION_BUDGET, &mut budget)?;
        }
        budget.metadata = made.kept(budget.metadata);
        budget.spec.get_or_insert_default().selector = Some(made.label_selector());
        objects.push(made.rendered(Made::DisruptionBudget, &budget));
    }
    if overlays.iter().any(|overlay| overlay.has(AUTOSCALER)) {
        let mut autoscaler = made.autoscaler();
        for overlay in overlays {
            overlay.merge(AUTOSCALER, &mut autoscaler)?;
        }
        autoscaler.metadata = made.kept(autoscaler.metadata);
        autoscaler.spec.get_or_insert_default().scale_target_ref = made.itself();
        objects.push(made.rendered(Made::Autoscaler, &autoscaler));
    }
    Ok(objects)
}

struct Making<'a> {
    gateway: &'a Gateway,
    config: &'a WaypointConfig,
    captured: bool,
}

impl Making<'_> {
    fn name(&self) -> &str {
        name_of(self.gateway)
    }

    /// The service account that users have given it.
    fn own_account(&self) -> Option<&str> {
        let annotations = &self.gateway.metadata.annotations;
        annotations.get(OWN_ACCOUNT).map(String::as_str)
    }

    fn selector(&self) -> Labels {
        let name = self.gateway.metadata.name.clone();
        [(GATEWAY_NAME.to_owned(), name)].into()
    }

    fn label_selector(&self) -> LabelSelector {
        LabelSelector {
            match_labels: Some(self.selector()),
            match_expressions: None,
        }
    }

    /// What users want on all objects; labels of the Gateway itself if they do not say.
    fn labels(&self) -> Labels {
        let mut labels = match &self.gateway.spec.infrastructure {
            Some(infrastructure) => infrastructure.labels.clone(),
            None => self.gateway.metadata.labels.clone(),
        };
        labels.extend(self.selector());
        let class = &self.gateway.spec.gateway_class_name;
        // Names of classes may be longer than labels.
        if class.len() <= 63 {
            labels.insert(GATEWAY_CLASS.to_owned(), class.clone());
        }
        labels.insert(MANAGED.to_owned(), MANAGED_WAYPOINT.to_owned());
        labels
    }

    fn annotations(&self) -> BTreeMap<String, String> {
        let infrastructure = self.gateway.spec.infrastructure.as_ref();
        infrastructure
            .map(|infrastructure| infrastructure.annotations.clone())
            .unwrap_or_default()
    }

    fn metadata(&self) -> ObjectMeta {
        self.kept(ObjectMeta {
            labels: Some(self.labels()),
            annotations: Some(self.annotations()).filter(|annotations| !annotations.is_empty()),
            ..ObjectMeta::default()
        })
    }

    /// With what nobody can change.
    fn kept(&self, mut metadata: ObjectMeta) -> ObjectMeta {
        let gateway = &self.gateway.metadata;
        metadata.name = Some(self.name().to_owned());
        metadata.namespace = Some(gateway.namespace().to_owned());
        metadata.owner_references = Some(vec![OwnerReference {
            api_version: GATEWAY_API.to_owned(),
            kind: "Gateway".to_owned(),
            name: gateway.name.clone(),
            uid: gateway.uid.clone(),
            controller: Some(true),
            block_owner_deletion: None,
        }]);
        let labels = metadata.labels.get_or_insert_default();
        labels.extend(self.selector());
        labels.insert(MANAGED.to_owned(), MANAGED_WAYPOINT.to_owned());
        metadata
    }

    fn service(&self) -> Service {
        let mut metadata = self.metadata();
        let annotations = metadata.annotations.get_or_insert_default();
        annotations
            .entry(DISTRIBUTION.to_owned())
            .or_insert_with(|| "PreferClose".to_owned());
        let given = self.gateway.metadata.annotations.get(SERVICE_TYPE);
        let kind = given.cloned().unwrap_or_else(|| "ClusterIP".to_owned());
        let mut seen = BTreeSet::from([STATUS_PORT]);
        let listeners = self.gateway.spec.listeners.iter();
        let listeners =
            listeners.filter(|listener| listener.port != 0 && seen.insert(listener.port));
        let mut ports = vec![port("status-port", STATUS_PORT, "tcp")];
        ports.extend(listeners.map(|listener| {
            let protocol = listener.protocol.to_lowercase();
            port(&listener.name, listener.port, &protocol)
        }));
        Service {
            metadata,
            spec: Some(ServiceSpec {
                type_: Some(kind),
                ip_family_policy: Some("PreferDualStack".to_owned()),
                ports: Some(ports),
                selector: Some(self.selector()),
                ..ServiceSpec::default()
            }),
            status: None,
        }
    }

    /// How many there shall be is not said: somebody else may scale it.
    fn deployment(&self) -> Deployment {
        Deployment {
            metadata: self.metadata(),
            spec: Some(DeploymentSpec {
                selector: self.label_selector(),
                template: PodTemplateSpec {
                    metadata: Some(self.pod_metadata()),
                    spec: Some(self.pod()),
                },
                ..DeploymentSpec::default()
            }),
            status: None,
        }
    }

    fn keep_deployment(&self, deployment: &mut Deployment) {
        deployment.metadata = self.kept(std::mem::take(&mut deployment.metadata));
        let spec = deployment.spec.get_or_insert_default();
        spec.selector = self.label_selector();
        let labels = &mut spec.template.metadata.get_or_insert_default().labels;
        let labels = labels.get_or_insert_default();
        labels.extend(self.selector());
        labels.insert(MANAGED.to_owned(), MANAGED_WAYPOINT.to_owned());
        labels.insert(DATAPLANE_MODE.to_owned(), self.dataplane_mode().to_owned());
    }

    /// It is a proxy itself: nobody else's stands before it, unless it is asked for.
    fn dataplane_mode(&self) -> &'static str {
        match self.captured {
            true => "ambient",
            false => "none",
        }
    }

    fn disruption_budget(&self) -> PodDisruptionBudget {
        PodDisruptionBudget {
            metadata: self.metadata(),
            spec: Some(PodDisruptionBudgetSpec::default()),
            status: None,
        }
    }

    fn autoscaler(&self) -> HorizontalPodAutoscaler {
        HorizontalPodAutoscaler {
            metadata: self.metadata(),
            spec: Some(HorizontalPodAutoscalerSpec {
                scale_target_ref: self.itself(),
                ..HorizontalPodAutoscalerSpec::default()
            }),
            status: None,
        }
    }

    fn itself(&self) -> CrossVersionObjectReference {
        CrossVersionObjectReference {
            api_version: Some(Deployment::API_VERSION.to_owned()),
            kind: Deployment::KIND.to_owned(),
            name: self.name().to_owned(),
        }
    }

    fn rendered(&self, kind: Made, object: &impl Serialize) -> Rendered {
        Rendered {
            kind,
            key: ObjectKey::new(self.gateway.metadata.namespace(), self.name()),
            // Typed objects have nothing that JSON has not.
            body: serde_json::to_value(object).unwrap_or_default(),
        }
    }
}

fn port(name: &str, number: u16, protocol: &str) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port: number.into(),
        target_port: Some(IntOrString::Int(number.into())),
        protocol: Some("TCP".to_owned()),
        app_protocol: Some(protocol.to_owned()),
        ..ServicePort::default()
    }
}

const GATEWAY_API: &str = "gateway.networking.k8s.io/v1";
const GATEWAY_CLASS: &str = "gateway.networking.k8s.io/gateway-class-name";
const OWN_ACCOUNT: &str = "gateway.istio.io/service-account";
const SERVICE_TYPE: &str = "networking.istio.io/service-type";
const DISTRIBUTION: &str = "networking.istio.io/traffic-distribution";
const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
const STATUS_PORT: u16 = 15021;

#[cfg(test)]
mod tests;
