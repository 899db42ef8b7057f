//! Policies that cannot be understood.
//!
//! The API server checks policies against a schema, which may be newer than we are. A policy that says something unheard of
//! must not be as good as none: it then refuses what it is about.

use serde::{Deserialize, Deserializer, de::Error};
use serde_json::value::RawValue;
use tracing::warn;
use tulle_manifest::{
    AuthorizationPolicy, Conditions, Metadata, PeerAuthentication, PolicySelector, TargetRef,
    lenient,
};

/// A kind whose objects stand for refusal where they cannot be understood.
pub(super) trait Restriction: for<'de> Deserialize<'de> {
    /// One that refuses everything that it is about.
    fn refusal(named: Named, about: AboutSpec) -> Self;
}

impl Restriction for AuthorizationPolicy {
    fn refusal(named: Named, about: AboutSpec) -> Self {
        let mut targets = about.target_refs;
        targets.extend(about.target_ref);
        Self::refusal(named.metadata, about.selector, targets, named.status)
    }
}

impl Restriction for PeerAuthentication {
    fn refusal(named: Named, about: AboutSpec) -> Self {
        Self::strict(named.metadata, about.selector, named.status)
    }
}

/// An object as it was written, or one that refuses.
#[derive(Debug)]
pub(super) struct Readable<T>(pub(super) T);

impl<'de, T: Restriction> Deserialize<'de> for Readable<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&RawValue>::deserialize(deserializer)?.get();
        serde_json::from_str(text).map(Self).or_else(|error| {
            let named: Named = serde_json::from_str(text).map_err(D::Error::custom)?;
            let key = named.metadata.key();
            warn!(%key, %error, "policy cannot be understood, and refuses everything that it is about");
            // If that cannot be read either, it is about the whole namespace.
            let about = serde_json::from_str(text).map(|about: About| about.spec);
            Ok(Self(T::refusal(named, about.unwrap_or_default())))
        })
    }
}

/// Whose it is, and what was told of it.
#[derive(Deserialize)]
pub(super) struct Named {
    metadata: Metadata,
    #[serde(default, deserialize_with = "lenient")]
    status: Conditions,
}

#[derive(Deserialize)]
struct About {
    spec: AboutSpec,
}

/// What a policy is about.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct AboutSpec {
    selector: PolicySelector,
    target_ref: Option<TargetRef>,
    target_refs: Vec<TargetRef>,
}

#[cfg(test)]
mod tests {
    use tulle_manifest::{MutualTlsMode, PolicyAction};

    use super::*;

    #[test]
    fn what_cannot_be_understood_refuses() {
        let read = |spec: &str| -> AuthorizationPolicy {
            let metadata = r#"{"name": "a", "namespace": "shop"}"#;
            let text = format!(r#"{{"metadata": {metadata}, "spec": {spec}}}"#);
            serde_json::from_str::<Readable<_>>(&text).unwrap().0
        };
        let good = read(r#"{"action": "ALLOW", "rules": [{}]}"#);
        assert_eq!(good.spec.action, PolicyAction::Allow);
        let selector = r#"{"matchLabels": {"app": "web"}}"#;
        let new = read(&format!(
            r#"{{"action": "PERHAPS", "selector": {selector}}}"#
        ));
        assert_eq!(new.spec.action, PolicyAction::Deny);
        assert_eq!(new.spec.rules.len(), 1);
        let labels = &new.spec.selector.match_labels;
        assert_eq!(labels.get("app").map(String::as_str), Some("web"));
        let target = r#"{"kind": "Gateway", "name": "w"}"#;
        let new = read(&format!(
            r#"{{"action": "PERHAPS", "targetRefs": [{target}]}}"#
        ));
        assert_eq!(new.spec.target_refs[0].name, "w");
        let new = read(&format!(
            r#"{{"action": "PERHAPS", "targetRef": {target}}}"#
        ));
        assert_eq!(new.spec.target_refs[0].kind, "Gateway");
        let new = read(r#"{"action": "PERHAPS", "selector": 7}"#);
        assert_eq!(new.spec.target_refs, []);
        assert_eq!(new.metadata.name, "a");
        assert_eq!(new.spec.selector, PolicySelector::default());
        assert!(serde_json::from_str::<Readable<AuthorizationPolicy>>("{}").is_err());
    }

    #[test]
    fn mode_that_nobody_knows_requires_identities() {
        let text = r#"{"metadata": {"name": "a"}, "spec": {"mtls": {"mode": "QUANTUM"}}}"#;
        let read: Readable<PeerAuthentication> = serde_json::from_str(text).unwrap();
        assert_eq!(read.0.spec.mtls.mode, MutualTlsMode::Strict);
    }
}
