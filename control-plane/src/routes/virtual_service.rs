//! VirtualService: the rules of all that are for a host, the oldest first, each as it is written.
//!
//! What cannot be done yet fails where it is written, and nowhere else: the requests that such a rule takes are refused. Statuses say so.
//!
//! Spec: `waypoint-l7.md` §2; `control-plane.md` §8.1.

mod action;
mod undone;

pub use undone::undone;

use tulle_manifest::{
    Kind, ObjectId, VirtualService,
    virtual_service::{
        Destination, HeaderOperations, HttpMatch, HttpRule, RouteDestination, StringMatch as Text,
    },
};
use tulle_model::{
    ServiceKey,
    http::{
        Action, Alternative, Backend, BackendService, HeaderChanges, MatchKind, NamedMatch, Rule,
        StringMatch,
    },
};

use super::{filter::nobody, rule_name};
use crate::{index::Index, references};

/// Adds what one says of a service.
pub(super) fn add(
    index: &Index,
    service: &VirtualService,
    alternatives: &mut Vec<Alternative>,
    rules: &mut Vec<Rule>,
) {
    let written = Written {
        index,
        namespace: service.metadata.namespace(),
    };
    for (number, rule) in service.spec.http.iter().enumerate() {
        let anything = [HttpMatch::default()];
        let matches = match rule.r#match.as_slice() {
            [] => &anything,
            matches => matches,
        };
        let fits = matches.iter().filter(|found| is_for_mesh(found));
        let fits = fits.map(|found| alternative(found, rules.len()));
        alternatives.extend(fits);
        let name = rule_name(
            Kind::VirtualService,
            &service.metadata,
            rule.name.as_deref(),
            number,
        );
        rules.push(written.rule(name, rule));
    }
}

/// What is for gateways alone, or asks for what nobody here knows of a caller, is for nobody.
fn is_for_mesh(found: &HttpMatch) -> bool {
    let gateways = &found.gateways;
    (gateways.is_empty() || gateways.iter().any(|gateway| gateway == "mesh"))
        && found.source_labels.is_empty()
        && found.source_namespace.is_none()
}

fn alternative(found: &HttpMatch, rule: usize) -> Alternative {
    let mut path = match &found.uri {
        Some(uri) => text(uri),
        // A rewrite needs something to replace.
        None => MatchKind::Prefix("/".to_owned()).into(),
    };
    path.ignore_case = found.ignore_uri_case.unwrap_or_default();
    let headers = found
        .headers
        .iter()
        .map(|(name, value)| (name, value, false));
    let without = &found.without_headers;
    let without = without.iter().map(|(name, value)| (name, value, true));
    let named = |(name, value, inverted): (&String, &Text, bool)| NamedMatch {
        name: match tulle_http::claim(name) {
            Some(_) => name.clone(),
            None => name.to_ascii_lowercase(),
        },
        value: text(value),
        inverted,
    };
    let query = found.query_params.iter().map(|(name, value)| NamedMatch {
        name: name.clone(),
        value: text(value),
        inverted: false,
    });
    Alternative {
        rule,
        ports: found
            .port
            .and_then(|port| u16::try_from(port).ok())
            .into_iter()
            .collect(),
        path: Some(path),
        method: found.method.as_ref().map(text),
        scheme: found.scheme.as_ref().map(text),
        authority: found.authority.as_ref().map(text),
        headers: headers.chain(without).map(named).collect(),
        query: query.collect(),
    }
}

/// One that says nothing, or `*`, is about anything that is there.
pub(super) fn text(written: &Text) -> StringMatch {
    let kind = match (&written.exact, &written.prefix, &written.regex) {
        (Some(exact), _, _) => MatchKind::Exact(exact.clone()),
        (None, Some(prefix), _) => MatchKind::Prefix(prefix.clone()),
        (None, None, Some(regex)) if regex != "*" => MatchKind::Regex(regex.clone()),
        (None, None, _) => MatchKind::Present,
    };
    kind.into()
}

/// A VirtualService, and where it is written.
struct Written<'a> {
    index: &'a Index,
    namespace: &'a str,
}

impl Written<'_> {
    fn rule(&self, name: String, written: &HttpRule) -> Rule {
        let mut rule = Rule {
            name,
            action: self.action(written),
            timeout: written.timeout.as_deref().and_then(action::limit),
            retry: written.retries.as_ref().map(action::retry),
            try_timeout: written
                .retries
                .as_ref()
                .and_then(|retries| action::limit(retries.per_try_timeout.as_deref()?)),
            rewrite: action::rewrite(written.rewrite.as_ref()),
            mirrors: self.mirrors(written),
            fault: written
                .fault
                .as_ref()
                .map(action::fault)
                .unwrap_or_default(),
            cors: written.cors_policy.as_ref().map(action::cors),
            ..Rule::default()
        };
        if let Some(headers) = &written.headers {
            let (request, authority) = changes(headers.request.as_ref());
            rule.request_headers = request;
            // What a rewrite says comes before it.
            rule.rewrite.authority = rule.rewrite.authority.or(authority);
            rule.response_headers = changes(headers.response.as_ref()).0;
        }
        rule
    }

    fn action(&self, written: &HttpRule) -> Action {
        if let Some(redirect) = &written.redirect {
            return Action::Redirect(action::redirect(redirect));
        }
        if let Some(response) = &written.direct_response {
            return action::respond(response);
        }
        let mut backends: Vec<Backend> = written.route.iter().map(|to| self.backend(to)).collect();
        if let [only] = backends.as_mut_slice() {
            only.weight = 1;
        }
        // One that is delegated is done by nobody yet.
        if backends.is_empty() {
            backends.push(nobody());
        }
        Action::Forward(backends)
    }

    fn backend(&self, to: &RouteDestination) -> Backend {
        let headers = to.headers.as_ref();
        let (request, authority) = changes(headers.and_then(|headers| headers.request.as_ref()));
        let response = changes(headers.and_then(|headers| headers.response.as_ref())).0;
        Backend {
            weight: u32::try_from(to.weight.unwrap_or_default()).unwrap_or_default(),
            // A host of its own for one of several is not done.
            service: self
                .destination(&to.destination)
                .filter(|_| authority.is_none()),
            request_headers: request,
            response_headers: response,
        }
    }

    /// The service that is meant, or some of its endpoints. Where there are no such, waypoints refuse.
    fn destination(&self, to: &Destination) -> Option<BackendService> {
        let host = self.index.full_name(self.namespace, &to.host);
        let known = references::meant(self.index, self.namespace, &host)?;
        let port = match &to.port {
            Some(port) => Some(u16::try_from(port.number).ok()?),
            None => self.only_port(&known),
        };
        Some(BackendService {
            key: ServiceKey::new(known.key.namespace, host),
            port,
            subset: to.subset.clone().filter(|subset| !subset.is_empty()),
        })
    }

    /// The port of what has one alone. Of others it is the one that was asked for.
    fn only_port(&self, id: &ObjectId) -> Option<u16> {
        let objects = self.index.objects();
        let ports: Vec<u16> = match id.kind {
            Kind::ServiceEntry => {
                let entry = objects.service_entries().get(&id.key)?;
                entry.spec.ports.iter().map(|port| port.number).collect()
            }
            _ => {
                let service = objects.services().get(&id.key)?;
                service.spec.ports.iter().map(|port| port.port).collect()
            }
        };
        match ports.as_slice() {
            [only] => Some(*only),
            _ => None,
        }
    }

    fn mirrors(&self, written: &HttpRule) -> Vec<tulle_model::http::Mirror> {
        let one = written
            .mirror
            .iter()
            .map(|to| (to, &written.mirror_percentage));
        let several = written.mirrors.iter();
        let several = several.map(|mirror| (&mirror.destination, &mirror.percentage));
        let mirrors = one
            .chain(several)
            .map(|(to, share)| tulle_model::http::Mirror {
                backend: Backend {
                    service: self.destination(to),
                    ..nobody()
                },
                share: action::share(share.as_ref()),
            });
        mirrors.collect()
    }
}

/// Changes of headers, and the host if one of them is meant as that.
fn changes(written: Option<&HeaderOperations>) -> (HeaderChanges, Option<String>) {
    let Some(written) = written else {
        return Default::default();
    };
    let is_host = |name: &str| matches!(name.to_ascii_lowercase().as_str(), "host" | ":authority");
    let pairs = |headers: &std::collections::BTreeMap<String, String>| {
        let headers = headers.iter().filter(|(name, _)| !is_host(name));
        // `%%` stands for one.
        let headers = headers.map(|(name, value)| (name.clone(), value.replace("%%", "%")));
        headers.collect()
    };
    let host = written.set.iter().find(|(name, _)| is_host(name));
    let changes = HeaderChanges {
        set: pairs(&written.set),
        add: pairs(&written.add),
        remove: written.remove.clone(),
    };
    (changes, host.map(|(_, value)| value.clone()))
}
