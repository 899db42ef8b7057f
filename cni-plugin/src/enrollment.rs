//! Which pods are in the mesh, and how: pure decisions over what Kubernetes says of a pod.
//!
//! ```text
//! hostNetwork ─▶ sidecar ─▶ ended ─▶ excluded namespace ─▶ selectors ─▶ in the mesh, with options from annotations
//!      └────────────┴─────────┴──────────────┴─────────────────┴─────▶ not in the mesh, and why
//! ```
//!
//! Spec: `cni-and-redirection.md` §2.1 and §2.2.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

mod options;

pub use options::{Ignored, Options};
pub use tulle_manifest::Enablement;

/// Labels or annotations.
pub type Texts = BTreeMap<String, String>;

/// What the decision about a pod rests on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// Its namespace.
    pub namespace: String,
    /// Its labels.
    pub labels: Texts,
    /// Its annotations.
    pub annotations: Texts,
    /// Whether it shares the node's network.
    pub host_network: bool,
    /// Whether it has run to its end.
    pub ended: bool,
}

/// The rules of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Namespaces whose pods are never in the mesh. Default `kube-system`.
    pub excluded: BTreeSet<String>,
    /// Which labels ask for the mesh.
    pub enablement: Enablement,
}

/// What is decided about a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// In the mesh.
    Enroll(Options),
    /// Not in the mesh.
    Stay(Reason),
}

/// Why a pod is not in the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It shares the node's network, which cannot be captured for one pod alone.
    HostNetwork,
    /// It has a proxy of its own.
    Sidecar,
    /// It has run to its end.
    Ended,
    /// Its namespace is excluded.
    ExcludedNamespace,
    /// No labels ask for it.
    NotSelected,
}

impl Reason {
    /// For people: the pod's events, the log.
    pub fn describe(self) -> &'static str {
        match self {
            Self::HostNetwork => "not capturable: hostNetwork",
            Self::Sidecar => "has a sidecar",
            Self::Ended => "has ended",
            Self::ExcludedNamespace => "its namespace is excluded from the mesh",
            Self::NotSelected => "no label asks for the mesh",
        }
    }
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            excluded: ["kube-system".to_owned()].into(),
            enablement: Enablement::default(),
        }
    }
}

impl Rules {
    /// Why a pod cannot be in the mesh although its labels ask for it; none for all others.
    pub fn unfit(&self, pod: &PodFacts, namespace: &Texts) -> Option<Reason> {
        match self.decide(pod, namespace) {
            Decision::Stay(reason @ (Reason::HostNetwork | Reason::Sidecar)) => {
                let asks = !self.excluded.contains(&pod.namespace) && !pod.ended;
                (asks && self.enablement.selects(&pod.labels, namespace)).then_some(reason)
            }
            Decision::Stay(Reason::Ended | Reason::ExcludedNamespace | Reason::NotSelected)
            | Decision::Enroll(_) => None,
        }
    }

    /// Decides about a pod. `namespace` are the labels of its namespace.
    pub fn decide(&self, pod: &PodFacts, namespace: &Texts) -> Decision {
        if pod.host_network {
            Decision::Stay(Reason::HostNetwork)
        } else if pod.annotations.contains_key(SIDECAR) {
            Decision::Stay(Reason::Sidecar)
        } else if pod.ended {
            Decision::Stay(Reason::Ended)
        } else if self.excluded.contains(&pod.namespace) {
            Decision::Stay(Reason::ExcludedNamespace)
        } else if self.enablement.selects(&pod.labels, namespace) {
            Decision::Enroll(Options::read(&pod.annotations))
        } else {
            Decision::Stay(Reason::NotSelected)
        }
    }
}

/// What injection of a sidecar leaves behind.
const SIDECAR: &str = "sidecar.istio.io/status";

/// Destinations or sources by address.
pub type Networks = BTreeSet<IpNet>;

#[cfg(test)]
mod tests {
    use super::*;

    const MODE: &str = "istio.io/dataplane-mode";

    fn texts(pairs: &[(&str, &str)]) -> Texts {
        let pair = |&(key, value): &(&str, &str)| (key.to_owned(), value.to_owned());
        pairs.iter().map(pair).collect()
    }

    fn decide(pod: Option<&str>, namespace: Option<&str>) -> Decision {
        let labels = |mode: Option<&str>| match mode {
            Some(mode) => texts(&[(MODE, mode)]),
            None => Texts::new(),
        };
        let facts = PodFacts {
            namespace: "shop".into(),
            labels: labels(pod),
            ..PodFacts::default()
        };
        Rules::default().decide(&facts, &labels(namespace))
    }

    #[test]
    fn labels_decide_the_pods_own_first() {
        let enroll = Decision::Enroll(Options::default());
        let stay = Decision::Stay(Reason::NotSelected);
        for (pod, namespace, expected) in [
            (None, None, &stay),
            (None, Some("ambient"), &enroll),
            (None, Some("none"), &stay),
            (None, Some("Ambient"), &stay),
            (Some("ambient"), None, &enroll),
            (Some("ambient"), Some("none"), &enroll),
            (Some("none"), Some("ambient"), &stay),
            (Some("none"), None, &stay),
            (Some("other"), Some("ambient"), &enroll),
            (Some("other"), None, &stay),
        ] {
            assert_eq!(
                &decide(pod, namespace),
                expected,
                "{pod:?} in {namespace:?}"
            );
        }
    }

    #[test]
    fn some_pods_are_never_in_the_mesh() {
        let asking = PodFacts {
            namespace: "shop".into(),
            labels: texts(&[(MODE, "ambient")]),
            ..PodFacts::default()
        };
        let sidecar = texts(&[(SIDECAR, "")]);
        for (pod, reason) in [
            (
                PodFacts {
                    host_network: true,
                    annotations: sidecar.clone(),
                    ..asking.clone()
                },
                Reason::HostNetwork,
            ),
            (
                PodFacts {
                    annotations: sidecar,
                    ..asking.clone()
                },
                Reason::Sidecar,
            ),
            (
                PodFacts {
                    ended: true,
                    ..asking.clone()
                },
                Reason::Ended,
            ),
            (
                PodFacts {
                    namespace: "kube-system".into(),
                    ..asking.clone()
                },
                Reason::ExcludedNamespace,
            ),
        ] {
            let decision = Rules::default().decide(&pod, &Texts::new());
            assert_eq!(decision, Decision::Stay(reason));
        }
    }

    #[test]
    fn only_pods_that_ask_for_what_cannot_be_are_unfit() {
        let asking = texts(&[(MODE, "ambient")]);
        let host = |labels: &Texts, namespace: &str, ended| PodFacts {
            namespace: namespace.into(),
            labels: labels.clone(),
            host_network: true,
            ended,
            ..PodFacts::default()
        };
        let rules = Rules::default();
        let unfit = |pod: PodFacts| rules.unfit(&pod, &Texts::new());
        assert_eq!(
            unfit(host(&asking, "shop", false)),
            Some(Reason::HostNetwork)
        );
        assert_eq!(unfit(host(&Texts::new(), "shop", false)), None);
        assert_eq!(unfit(host(&asking, "kube-system", false)), None);
        assert_eq!(unfit(host(&asking, "shop", true)), None);
        let fits = PodFacts {
            labels: asking,
            ..PodFacts::default()
        };
        assert_eq!(unfit(fits), None);
    }

    #[test]
    fn empty_pair_selects_everything_and_no_pair_nothing() {
        let pod = PodFacts::default();
        let with = |pairs| Rules {
            enablement: Enablement(pairs),
            ..Rules::default()
        };
        let everything = with(vec![tulle_manifest::Selectors::default()]);
        let enroll = Decision::Enroll(Options::default());
        assert_eq!(everything.decide(&pod, &Texts::new()), enroll);
        let stay = Decision::Stay(Reason::NotSelected);
        assert_eq!(with(Vec::new()).decide(&pod, &Texts::new()), stay);
    }
}
