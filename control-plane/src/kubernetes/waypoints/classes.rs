//! The classes of Gateways that are ours: made if they are missing, never changed, and told that they are accepted.

use std::sync::Arc;

use http::{Method, StatusCode};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tulle_kubernetes::{CallError, Client, JSON};
use tulle_manifest::{GatewayClass, StatusCondition};

use super::GATEWAY_API;
use crate::{
    index::Index,
    kubernetes::{
        apply::{self, apply},
        statuses::{now, written},
    },
    statuses::{Condition, conditions},
};

/// Something to be written about a class.
pub(super) enum Class {
    /// There is none of this name.
    Missing(&'static str, &'static str),
    /// It does not say that it is accepted.
    Unaccepted(String, Vec<StatusCondition>),
}

/// What is to be written.
pub(super) fn wanted(index: &Index) -> Vec<Class> {
    let objects = index.objects();
    let mut wanted = Vec::new();
    for (name, controller) in CLASSES {
        if objects.gateway_class(name).is_none() {
            wanted.push(Class::Missing(name, controller));
        }
    }
    let is_ours = |class: &&Arc<GatewayClass>| {
        let mut ours = CLASSES.iter();
        ours.any(|(_, controller)| class.spec.controller_name == *controller)
    };
    for class in objects.gateway_classes().filter(is_ours) {
        let (there, should) = accepted(class);
        if should != there {
            let name = class.metadata.name.clone();
            wanted.push(Class::Unaccepted(name, should));
        }
    }
    wanted
}

/// What the class says of us, and what it should.
fn accepted(class: &GatewayClass) -> (Vec<StatusCondition>, Vec<StatusCondition>) {
    let accepted = Condition {
        kind: "Accepted",
        holds: true,
        reason: "Accepted",
        message: "Gateways of this class are waypoints".to_owned(),
    };
    let ours = class.status.conditions.iter();
    let ours: Vec<StatusCondition> = ours
        .filter(|condition| condition.kind == accepted.kind)
        .cloned()
        .collect();
    let should = conditions(&class.metadata, &ours, vec![accepted]);
    (ours, should)
}

impl Class {
    /// Where it is, or its status.
    pub(super) fn path(&self) -> String {
        match self {
            Self::Missing(name, _) => format!("{PATH}/{name}"),
            Self::Unaccepted(name, _) => format!("{PATH}/{name}/status"),
        }
    }

    pub(super) async fn write(&self, client: &Client) -> Result<(), CallError> {
        match self {
            Self::Missing(name, controller) => {
                let body = json!({
                    "apiVersion": GATEWAY_API,
                    "kind": "GatewayClass",
                    "metadata": {"name": name},
                    "spec": {
                        "controllerName": controller,
                        "description": "Proxies that route and authorize requests to services",
                    },
                });
                // By our name there, whoever removes the mesh knows whose it is.
                let made = apply::write::<IgnoredAny>(client, Method::POST, PATH, "", JSON, &body);
                match made.await {
                    // Somebody was faster.
                    Err(error) if error.code() == Some(StatusCode::CONFLICT) => Ok(()),
                    made => made.map(drop),
                }
            }
            Self::Unaccepted(name, conditions) => {
                let now = now();
                let conditions = conditions.iter();
                let conditions: Vec<Value> = conditions
                    .map(|condition| written(condition, &now))
                    .collect();
                let body = json!({
                    "apiVersion": GATEWAY_API,
                    "kind": "GatewayClass",
                    "metadata": {"name": name},
                    "status": {"conditions": conditions},
                });
                apply::<IgnoredAny>(client, &self.path(), &body)
                    .await
                    .map(drop)
            }
        }
    }
}

const PATH: &str = "/apis/gateway.networking.k8s.io/v1/gatewayclasses";
const CLASSES: [(&str, &str); 2] = [
    ("istio-waypoint", "istio.io/mesh-controller"),
    ("tulle-waypoint", "tulle.io/mesh-controller"),
];
