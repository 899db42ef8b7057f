//! Whether the control plane writes what is its to write.

use serde_json::Value;
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use super::is_ending;
use crate::{
    finding::{Finding, some},
    json::{name, namespace, number, text},
};

/// Whether one replica writes.
pub(super) fn lease(lease: Option<&Value>, now: Option<OffsetDateTime>) -> Finding {
    let todo = "kubectl logs -l app=tulled tells why; until then no status and no roots of trust are written";
    let Some(lease) = lease else {
        return Finding::failure(WRITING, "no replica writes: there is no Lease tulled", todo);
    };
    let holder = text(lease, "/spec/holderIdentity");
    if holder.is_empty() {
        return Finding::failure(
            WRITING,
            "no replica writes: nobody holds the Lease tulled",
            todo,
        );
    }
    let renewed = OffsetDateTime::parse(text(lease, "/spec/renewTime"), &Rfc3339).ok();
    let age = now.zip(renewed).map(|(now, renewed)| now - renewed);
    // Clocks differ; a lease that nobody renews gets older without end.
    let most = Duration::seconds(number(lease, "/spec/leaseDurationSeconds")) + SKEW;
    match age {
        Some(age) if age > most => Finding::failure(
            WRITING,
            format!(
                "no replica writes: {holder} has not renewed the Lease tulled for {} s",
                age.whole_seconds()
            ),
            todo,
        ),
        _ => Finding::ok(WRITING, format!("replica {holder} writes")),
    }
}

/// Whether every namespace has the same roots of trust.
pub(super) fn roots(namespaces: &[Value], roots: &[Value]) -> Finding {
    let of = |wanted: &str| {
        let mut roots = roots.iter().filter(|root| namespace(root) == wanted);
        roots.next().map(|root| text(root, "/data/root-cert.pem"))
    };
    let kept = namespaces.iter().filter(|namespace| !is_ending(namespace));
    let wanted: Vec<&str> = kept
        .map(name)
        .filter(|name| !WITHOUT.contains(name))
        .collect();
    let missing: Vec<&str> = wanted
        .iter()
        .copied()
        .filter(|name| of(name).is_none())
        .collect();
    if !missing.is_empty() {
        return Finding::failure(
            WRITING,
            format!(
                "ConfigMap istio-ca-root-cert is missing in {}",
                some(&missing)
            ),
            "kubectl logs -l app=tulled tells why",
        );
    }
    let mut different: Vec<&str> = wanted.iter().filter_map(|name| of(name)).collect();
    different.sort_unstable();
    different.dedup();
    match different.len() {
        0 | 1 => Finding::ok(WRITING, "every namespace has the roots of trust"),
        _ => Finding::failure(
            WRITING,
            "ConfigMap istio-ca-root-cert is not the same in all namespaces",
            "is there another control plane that writes it?",
        ),
    }
}

/// Whether the kinds that the mesh reads are served.
pub(super) fn definitions(undefined: &[String]) -> Finding {
    match undefined {
        [] => Finding::ok("definitions of kinds", "all are served"),
        undefined => Finding::failure(
            "definitions of kinds",
            format!("not served: {}", undefined.join(", ")),
            "tulle install puts them back",
        ),
    }
}

const WRITING: &str = "control plane";
const SKEW: Duration = Duration::seconds(60);
/// Nothing runs there, and tulled writes nothing there.
const WITHOUT: [&str; 3] = ["kube-node-lease", "kube-public", "local-path-storage"];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::finding::Level;

    #[test]
    fn somebody_must_hold_the_lease() {
        let now = OffsetDateTime::parse("2026-01-01T00:02:00Z", &Rfc3339).ok();
        let of = |holder: &str, renewed: &str| json!({"spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": renewed}});
        let level = |found: Option<&Value>| lease(found, now).level;
        assert_eq!(level(None), Level::Failure);
        assert_eq!(
            level(Some(&of("", "2026-01-01T00:02:00.000000Z"))),
            Level::Failure
        );
        assert_eq!(
            level(Some(&of("a", "2026-01-01T00:01:50.000000Z"))),
            Level::Ok
        );
        assert_eq!(
            level(Some(&of("a", "2026-01-01T00:00:00.000000Z"))),
            Level::Failure
        );
        // By a clock that is ahead.
        assert_eq!(
            level(Some(&of("a", "2026-01-01T00:05:00.000000Z"))),
            Level::Ok
        );
    }

    #[test]
    fn every_namespace_has_the_same_roots() {
        let named = |name: &str| json!({"metadata": {"name": name}});
        let root = |namespace: &str, pem: &str| json!({"metadata": {"namespace": namespace}, "data": {"root-cert.pem": pem}});
        let namespaces = [named("a"), named("b"), named("kube-node-lease")];
        let level = |of: &[Value]| roots(&namespaces, of).level;
        assert_eq!(level(&[root("a", "x"), root("b", "x")]), Level::Ok);
        assert_eq!(level(&[root("a", "x"), root("b", "y")]), Level::Failure);
        let finding = roots(&namespaces, &[root("a", "x")]);
        assert_eq!(finding.what, "ConfigMap istio-ca-root-cert is missing in b");
    }
}
