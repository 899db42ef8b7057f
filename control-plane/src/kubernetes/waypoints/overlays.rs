//! The ConfigMaps that say what waypoints shall have otherwise, asked for every now and then.

use std::collections::BTreeMap;

use http::StatusCode;
use serde::Deserialize;
use tokio::time::{Duration, Instant};
use tulle_kubernetes::{CallError, Client, is_name};
use tulle_manifest::Gateway;

use crate::{kubernetes::config_map::ConfigMap, waypoints::Overlay};

/// What was answered, and when.
pub(super) struct Overlays<'a> {
    client: &'a Client,
    /// Of the control plane.
    namespace: String,
    answers: BTreeMap<String, (Instant, Vec<Overlay>)>,
}

impl<'a> Overlays<'a> {
    pub(super) fn new(client: &'a Client, namespace: &str) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            answers: BTreeMap::new(),
        }
    }

    /// Those of a Gateway, the class's first; or what is wrong with its reference to one.
    pub(super) async fn of(
        &mut self,
        gateway: &Gateway,
    ) -> Result<Result<Vec<Overlay>, String>, CallError> {
        let class = gateway.spec.gateway_class_name.as_str();
        let mut overlays = match is_name(class) {
            true => match self.of_class(class).await {
                Err(error) if !error.is_outage() => {
                    return Ok(Err(format!("ConfigMaps of class {class}: {error}")));
                }
                overlays => overlays?,
            },
            false => Vec::new(),
        };
        let infrastructure = gateway.spec.infrastructure.as_ref();
        let Some(reference) = infrastructure.and_then(|more| more.parameters_ref.as_ref()) else {
            return Ok(Ok(overlays));
        };
        let (group, kind, name) = (&reference.group, &reference.kind, &reference.name);
        if !group.is_empty() || kind != "ConfigMap" || !is_name(name) {
            return Ok(Err(format!(
                "parametersRef: {group:?} {kind:?} {name:?} is no ConfigMap"
            )));
        }
        let own = match self.one(gateway.metadata.namespace(), name).await {
            Err(error) if !error.is_outage() => {
                return Ok(Err(format!("ConfigMap {name}: {error}")));
            }
            own => own?,
        };
        if own.is_empty() {
            return Ok(Err(format!("parametersRef: there is no ConfigMap {name}")));
        }
        overlays.extend(own);
        Ok(Ok(overlays))
    }

    async fn of_class(&mut self, class: &str) -> Result<Vec<Overlay>, CallError> {
        let path = format!(
            "/api/v1/namespaces/{}/configmaps?labelSelector=gateway.istio.io%2Fdefaults-for-class%3D{class}",
            self.namespace
        );
        let client = self.client;
        let ask = async {
            let list: ConfigMaps = client.get(&path).await?;
            let mut overlays: Vec<Overlay> = list.items.into_iter().map(Into::into).collect();
            overlays.sort_by(|one, other| one.name.cmp(&other.name));
            Ok(overlays)
        };
        self.kept(&path, ask).await
    }

    async fn one(&mut self, namespace: &str, name: &str) -> Result<Vec<Overlay>, CallError> {
        let path = format!("/api/v1/namespaces/{namespace}/configmaps/{name}");
        let client = self.client;
        let ask = async {
            match client.get::<ConfigMap>(&path).await {
                Ok(one) => Ok(vec![one.into()]),
                Err(error) if error.code() == Some(StatusCode::NOT_FOUND) => Ok(Vec::new()),
                Err(error) => Err(error),
            }
        };
        self.kept(&path, ask).await
    }

    async fn kept(
        &mut self,
        path: &str,
        ask: impl Future<Output = Result<Vec<Overlay>, CallError>>,
    ) -> Result<Vec<Overlay>, CallError> {
        let now = Instant::now();
        self.answers.retain(|_, (until, _)| now < *until);
        if let Some((_, overlays)) = self.answers.get(path) {
            return Ok(overlays.clone());
        }
        let overlays = ask.await?;
        self.answers
            .insert(path.to_owned(), (now + KEPT, overlays.clone()));
        Ok(overlays)
    }
}

#[derive(Deserialize)]
struct ConfigMaps {
    items: Vec<ConfigMap>,
}

impl From<ConfigMap> for Overlay {
    fn from(one: ConfigMap) -> Self {
        Self {
            name: one.metadata.key().to_string(),
            data: one.data,
        }
    }
}

/// Shorter than between two looks at everything, so that each asks.
const KEPT: Duration = Duration::from_secs(8);
