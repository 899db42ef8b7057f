//! GRPCRoute.

use tulle_manifest::{
    GRPCRoute, Kind,
    route::{GrpcMethodMatch, GrpcRouteMatch},
};
use tulle_model::http::{Action, Alternative, Backend, MatchKind, Rule, StringMatch};

use super::{filter, http::named, rank::Rank, rule_name, session};
use crate::{index::Index, references};

pub(super) fn add(
    index: &Index,
    route: &GRPCRoute,
    ports: &[u16],
    ranked: &mut Vec<(Rank, Alternative)>,
    rules: &mut Vec<Rule>,
) {
    let namespace = route.metadata.namespace();
    let backends = references::Backends::new(index, "GRPCRoute", namespace);
    for (number, written) in route.spec.rules.iter().enumerate() {
        let anything = [GrpcRouteMatch::default()];
        let matches = match written.matches.as_slice() {
            [] => &anything,
            matches => matches,
        };
        let taken: Vec<Alternative> = matches
            .iter()
            .map(|fits| Alternative {
                rule: rules.len(),
                ports: ports.to_vec(),
                path: fits.method.as_ref().and_then(path),
                headers: named(&fits.headers, true),
                ..Alternative::default()
            })
            .collect();
        let name = written.name.as_deref();
        let all = written.backend_refs.iter();
        let mut all: Vec<Backend> = all
            .map(|backend| filter::backend(&backends, backend))
            .collect();
        if all.is_empty() {
            all.push(filter::nobody());
        }
        let mut rule = Rule {
            name: rule_name(Kind::GRPCRoute, &route.metadata, name, number),
            action: Action::Forward(all),
            ..Rule::default()
        };
        filter::apply(&backends, &written.filters, &mut rule);
        rule.persistence = session::of_rule(written.session_persistence.as_ref(), &rule, &taken);
        rules.push(rule);
        let ranks = taken
            .into_iter()
            .map(|one| (Rank::new(&one, &route.metadata, number), one));
        ranked.extend(ranks);
    }
}

/// Calls are for `/SERVICE/METHOD`.
fn path(wanted: &GrpcMethodMatch) -> Option<StringMatch> {
    let is_regex = wanted.r#type.as_deref() == Some("RegularExpression");
    let part = |text: &str| match is_regex {
        true => format!("(?:{text})"),
        false => regex_of(text),
    };
    let kind = match (wanted.service.as_deref(), wanted.method.as_deref()) {
        (None, None) => return None,
        (Some(service), Some(method)) if !is_regex => {
            MatchKind::Exact(format!("/{service}/{method}"))
        }
        (Some(service), None) if !is_regex => MatchKind::Prefix(format!("/{service}/")),
        (service, method) => {
            let any = || "[^/]+".to_owned();
            let service = service.map_or_else(any, part);
            let method = method.map_or_else(any, part);
            MatchKind::Regex(format!("/{service}/{method}"))
        }
    };
    Some(kind.into())
}

/// A pattern of this text and nothing else.
fn regex_of(text: &str) -> String {
    text.replace('.', "[.]")
}
