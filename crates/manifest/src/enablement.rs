//! Which labels ask for the mesh.
//!
//! Spec: `cni-and-redirection.md` §2.1.

use std::str::FromStr;

use serde::Deserialize;

use super::{
    meta::Labels,
    selector::{InvalidSelector, LabelSelector, Operator, Requirement},
};

/// A pod is in the mesh if both selectors of one of these match. Default: its own label says so, or its namespace's does and its
/// own does not object.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Enablement(pub Vec<Selectors>);

/// A pair of selectors that must both match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selectors {
    /// For the pod's labels. Default: any.
    #[serde(default)]
    pub pod_selector: LabelSelector,
    /// For its namespace's. Default: any.
    #[serde(default)]
    pub namespace_selector: LabelSelector,
}

/// Selectors that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidEnablement {
    /// Neither YAML nor JSON of that form.
    #[error(transparent)]
    Form(#[from] serde_saphyr::Error),
    /// One of them is wrong.
    #[error(transparent)]
    Selector(#[from] InvalidSelector),
}

impl Enablement {
    /// Whether the labels of a pod and of its namespace ask for the mesh.
    pub fn selects(&self, pod: &Labels, namespace: &Labels) -> bool {
        self.0.iter().any(|selectors| {
            selectors.pod_selector.matches(pod) && selectors.namespace_selector.matches(namespace)
        })
    }
}

impl FromStr for Enablement {
    type Err = InvalidEnablement;

    /// Reads a list of pairs, as YAML or JSON.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let all: Self = serde_saphyr::from_str(text)?;
        for pair in &all.0 {
            pair.pod_selector.validate()?;
            pair.namespace_selector.validate()?;
        }
        Ok(all)
    }
}

impl Default for Enablement {
    fn default() -> Self {
        let requirement = |operator, value: &str| LabelSelector {
            match_expressions: vec![Requirement {
                key: MODE.to_owned(),
                operator,
                values: vec![value.to_owned()],
            }],
            ..LabelSelector::default()
        };
        let ambient = requirement(Operator::In, "ambient");
        Self(vec![
            Selectors {
                pod_selector: ambient.clone(),
                namespace_selector: LabelSelector::default(),
            },
            Selectors {
                pod_selector: requirement(Operator::NotIn, "none"),
                namespace_selector: ambient,
            },
        ])
    }
}

/// The label of pods and namespaces that asks for the mesh, or objects to it.
const MODE: &str = "istio.io/dataplane-mode";
