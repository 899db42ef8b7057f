//! Objects that cannot be understood.
//!
//! The API server checks them against a schema, which may be newer than we are. A policy that says something unheard of
//! must not be as good as none: it then refuses what it is about. Of a route or rule that does, it is remembered why, so that its
//! status can say so.

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error},
};
use serde_json::value::RawValue;
use tracing::warn;
use tulle_manifest::{
    AuthorizationPolicy, Conditions, Declared, Metadata, PeerAuthentication, PolicySelector,
    RequestAuthenticationSpec, TargetRef,
    destination_rule::DestinationRuleSpec,
    lenient,
    rate_limit_policy::RateLimitPolicySpec,
    route::{GrpcRouteSpec, HttpRouteSpec, ParentReference, ReferenceGrantSpec},
    telemetry::TelemetrySpec,
    virtual_service::VirtualServiceSpec,
};

/// A kind whose objects stand for something where they cannot be understood.
pub(super) trait Restriction: for<'de> Deserialize<'de> {
    /// What was told of it.
    type Status: DeserializeOwned + Default;

    /// What becomes of one that cannot be understood.
    const THEN: &str;

    /// One that is in force for nobody, or refuses everything that it is about.
    fn refusal(named: Named<Self::Status>, about: AboutSpec, why: String) -> Self;
}

impl Restriction for AuthorizationPolicy {
    type Status = Conditions;
    const THEN: &str = REFUSES;

    fn refusal(named: Named<Conditions>, about: AboutSpec, _: String) -> Self {
        let mut targets = about.target_refs;
        targets.extend(about.target_ref);
        Self::refusal(named.metadata, about.selector, targets, named.status)
    }
}

impl Restriction for PeerAuthentication {
    type Status = Conditions;
    const THEN: &str = REFUSES;

    fn refusal(named: Named<Conditions>, about: AboutSpec, _: String) -> Self {
        Self::strict(named.metadata, about.selector, named.status)
    }
}

impl<S: About + DeserializeOwned, T: DeserializeOwned + Default> Restriction for Declared<S, T> {
    type Status = T;
    const THEN: &str = "is not in force";

    fn refusal(named: Named<T>, about: AboutSpec, why: String) -> Self {
        Self {
            metadata: named.metadata,
            spec: S::about(about),
            status: named.status,
            unreadable: Some(why),
        }
    }
}

/// A specification of which only that is known what it is about.
pub(super) trait About: Default {
    /// That, as far as anything is told of it there.
    fn about(_: AboutSpec) -> Self {
        Self::default()
    }
}

impl About for HttpRouteSpec {
    fn about(about: AboutSpec) -> Self {
        Self {
            parent_refs: about.parent_refs,
            ..Self::default()
        }
    }
}

impl About for GrpcRouteSpec {
    fn about(about: AboutSpec) -> Self {
        Self {
            parent_refs: about.parent_refs,
            ..Self::default()
        }
    }
}

impl About for ReferenceGrantSpec {}
impl About for RequestAuthenticationSpec {
    fn about(about: AboutSpec) -> Self {
        Self {
            target_ref: about.target_ref,
            target_refs: about.target_refs,
            ..Self::default()
        }
    }
}

impl About for RateLimitPolicySpec {
    fn about(about: AboutSpec) -> Self {
        Self {
            target_refs: about.target_refs,
            ..Self::default()
        }
    }
}

impl About for DestinationRuleSpec {}
impl About for VirtualServiceSpec {}
impl About for TelemetrySpec {}

/// An object as it was written, or what stands for it.
#[derive(Debug)]
pub(super) struct Readable<T>(pub(super) T);

impl<'de, T: Restriction> Deserialize<'de> for Readable<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&RawValue>::deserialize(deserializer)?.get();
        serde_json::from_str(text).map(Self).or_else(|error| {
            let named: Named<T::Status> = serde_json::from_str(text).map_err(D::Error::custom)?;
            let key = named.metadata.key();
            warn!(%key, %error, then = T::THEN, "object cannot be understood");
            // If that cannot be read either, a policy is about the whole namespace.
            let about = serde_json::from_str(text).map(|about: Written| about.spec);
            let about = about.unwrap_or_default();
            Ok(Self(T::refusal(named, about, error.to_string())))
        })
    }
}

/// Whose it is, and what was told of it.
#[derive(Deserialize)]
#[serde(bound(deserialize = "T: DeserializeOwned + Default"))]
pub(super) struct Named<T> {
    metadata: Metadata,
    #[serde(default, deserialize_with = "lenient")]
    status: T,
}

#[derive(Deserialize)]
struct Written {
    spec: AboutSpec,
}

/// What an object is about.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct AboutSpec {
    selector: PolicySelector,
    target_ref: Option<TargetRef>,
    target_refs: Vec<TargetRef>,
    parent_refs: Vec<ParentReference>,
}

const REFUSES: &str = "refuses everything that it is about";

#[cfg(test)]
mod tests {
    use tulle_manifest::{HTTPRoute, MutualTlsMode, PolicyAction};

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

    #[test]
    fn a_route_that_cannot_be_understood_is_still_for_its_parents() {
        let parent = r#"{"group": "", "kind": "Service", "name": "s"}"#;
        let spec = format!(r#"{{"parentRefs": [{parent}], "rules": [{{"matches": "all"}}]}}"#);
        let text = format!(r#"{{"metadata": {{"name": "a"}}, "spec": {spec}}}"#);
        let Readable(route) = serde_json::from_str::<Readable<HTTPRoute>>(&text).unwrap();
        assert_eq!(route.spec.parent_refs[0].name, "s");
        assert_eq!(route.spec.rules, []);
        let why = route.unreadable.unwrap();
        assert!(why.contains("expected a sequence"), "{why}");
        let good = text.replace(r#""all""#, "[]");
        let Readable(route) = serde_json::from_str::<Readable<HTTPRoute>>(&good).unwrap();
        assert_eq!((route.unreadable, route.spec.rules.len()), (None, 1));
    }
}
