//! In which order the rules of a service's HTTPRoutes are looked at: the first that a request fits takes it.
//!
//! Spec: `waypoint-l7.md` §2.2.

use std::cmp::Reverse;

use tulle_manifest::{
    Kind, ObjectId, ObjectKey,
    route::{HTTPRoute, HttpRouteMatch, PathMatch},
};

use super::{Parent, parent};
use crate::{index::Index, validate::pattern};

/// An alternative of a rule.
#[derive(Clone, Copy, Debug)]
pub struct Alternative<'a> {
    /// The route.
    pub route: &'a HTTPRoute,
    /// Which of its rules.
    pub rule: usize,
    /// What a request must be; none: anything.
    pub fits: Option<&'a HttpRouteMatch>,
}

/// The alternatives of all routes that are in order and name the service as a parent, the first to be looked at first.
pub fn http_rules<'a>(index: &'a Index, service: &ObjectKey) -> Vec<Alternative<'a>> {
    let routes = index.objects().http_routes().iter();
    let routes = routes.filter(|(key, route)| is_of(index, key, route, service));
    let mut all: Vec<Alternative<'a>> = Vec::new();
    for (_, route) in routes {
        for (rule, of_rule) in route.spec.rules.iter().enumerate() {
            let alternative = |fits| Alternative { route, rule, fits };
            match of_rule.matches.is_empty() {
                true => all.push(alternative(None)),
                false => all.extend(of_rule.matches.iter().map(Some).map(alternative)),
            }
        }
    }
    // Stable: what is left is as it is written.
    all.sort_by_cached_key(Alternative::rank);
    all
}

fn is_of(index: &Index, key: &ObjectKey, route: &HTTPRoute, service: &ObjectKey) -> bool {
    let id = ObjectId {
        kind: Kind::HTTPRoute,
        key: key.clone(),
    };
    let mut problems = index.reports().problems_of(&id).iter();
    let names = |reference: &tulle_manifest::route::ParentReference| {
        let namespace = reference.namespace.as_deref().unwrap_or(&key.namespace);
        reference.group_kind() == ("", "Service")
            && namespace == &*service.namespace
            && reference.name == *service.name
            && matches!(
                parent(index, &key.namespace, reference),
                Some(Parent::Served(_))
            )
    };
    !problems.any(|problem| problem.fault.refuses()) && route.spec.parent_refs.iter().any(names)
}

impl<'a> Alternative<'a> {
    /// The smallest comes first.
    fn rank(&self) -> impl Ord + use<'a> {
        let path = self.path();
        let (kind, length) = match path.kind {
            "Exact" => (2, path.value.len()),
            "RegularExpression" => (0, path.value.len()),
            _ => (1, path.value.trim_end_matches('/').len()),
        };
        let fits = self.fits;
        let method = fits.is_some_and(|fits| fits.method.is_some());
        let headers = fits.map_or(0, |fits| fits.headers.len());
        let query = fits.map_or(0, |fits| fits.query_params.len());
        let metadata = &self.route.metadata;
        (
            Reverse((kind, length, method, headers, query)),
            metadata.creation_timestamp,
            metadata.namespace().to_owned(),
            metadata.name.clone(),
            self.rule,
        )
    }

    /// Whether a path is one that it is for. What it says of methods, headers and query is not looked at.
    pub fn fits_path(&self, path: &str) -> bool {
        let wanted = self.path();
        match wanted.kind {
            "Exact" => path == wanted.value,
            "RegularExpression" => {
                let pattern = pattern::compile(wanted.value);
                pattern.is_ok_and(|pattern| pattern.is_match(path.as_bytes()))
            }
            // Whole elements: `/abc` is for `/abc` and `/abc/d`, not for `/abcd`.
            _ => {
                let rest = path.strip_prefix(wanted.value.trim_end_matches('/'));
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }

    /// What a path must be.
    pub fn path(&self) -> WantedPath<'a> {
        let path = self.fits.and_then(|fits| fits.path.as_ref());
        let text =
            |of: fn(&PathMatch) -> &Option<String>| path.and_then(|path| of(path).as_deref());
        WantedPath {
            kind: text(|path| &path.r#type).unwrap_or("PathPrefix"),
            value: text(|path| &path.value).unwrap_or("/"),
        }
    }
}

/// What a path must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedPath<'a> {
    /// `PathPrefix`, `Exact` or `RegularExpression`.
    pub kind: &'a str,
    /// The path, or the pattern.
    pub value: &'a str,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{mesh::Mesh, testing};
    use tulle_manifest::source::Change;

    const WEB: &str = "
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: other, namespace: shop}, spec: {clusterIP: 10.96.0.2, ports: [{port: 80}]}}
";

    fn route(name: &str, made: &str, parent: &str, rules: &str) -> String {
        format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\n\
             metadata: {{name: {name}, namespace: shop, creationTimestamp: '2026-01-{made}T00:00:00Z'}}\n\
             spec: {{parentRefs: [{{group: '', kind: Service, name: {parent}}}], rules: [{rules}]}}\n"
        )
    }

    fn to(path: &str) -> String {
        format!("{{matches: [{{path: {path}}}], backendRefs: [{{name: web, port: 80}}]}}")
    }

    fn index(routes: &[String]) -> Index {
        let mut index = Index::new(Arc::new(Mesh::default()));
        let objects = testing::objects(&[WEB, &routes.concat()].concat()).into_iter();
        index.apply(objects.map(Change::Upsert).collect());
        index
    }

    /// Names of the routes, in order, of those that are for the path.
    fn for_path(index: &Index, path: &str) -> Vec<String> {
        let all = http_rules(index, &ObjectKey::new("shop", "web"));
        let fitting = all.iter().filter(|alternative| alternative.fits_path(path));
        fitting
            .map(|alternative| alternative.route.metadata.name.clone())
            .collect()
    }

    #[test]
    fn the_more_specific_prefix_takes_a_request_whatever_is_older() {
        let routes = [
            route("old", "01", "web", &to("{value: /}")),
            route("new", "02", "web", &to("{value: /v2}")),
        ];
        let index = index(&routes);
        assert_eq!(for_path(&index, "/v2/x"), ["new", "old"]);
        assert_eq!(for_path(&index, "/v2"), ["new", "old"]);
        assert_eq!(for_path(&index, "/v20"), ["old"]);
    }

    #[test]
    fn exact_then_longer_then_more_conditions_then_older_then_by_name() {
        let conditions = |more: &str| {
            format!(
                "{{matches: [{{path: {{value: /a}}, {more}}}], backendRefs: [{{name: web, port: 80}}]}}"
            )
        };
        let header = "headers: [{name: x, value: y}]";
        let routes = [
            route(
                "regex",
                "01",
                "web",
                &to("{type: RegularExpression, value: '/a.*'}"),
            ),
            route(
                "everything",
                "01",
                "web",
                "{backendRefs: [{name: web, port: 80}]}",
            ),
            route("prefix-late", "03", "web", &conditions("queryParams: []")),
            route("prefix-early", "02", "web", &conditions("queryParams: []")),
            route("prefix-also", "02", "web", &conditions("queryParams: []")),
            route("header", "04", "web", &conditions(header)),
            route("method", "05", "web", &conditions("method: GET")),
            route(
                "both",
                "06",
                "web",
                &conditions(&format!("method: GET, {header}")),
            ),
            route("exact", "07", "web", &to("{type: Exact, value: /a}")),
            route("elsewhere", "01", "other", &to("{type: Exact, value: /a}")),
            route("wrong", "01", "web", &to("{type: Exact, value: a}")),
        ];
        let expected = [
            "exact",
            "both",
            "method",
            "header",
            "prefix-also",
            "prefix-early",
            "prefix-late",
            "everything",
            "regex",
        ];
        assert_eq!(for_path(&index(&routes), "/a"), expected);
    }
}
