//! Policies.

use ipnet::IpNet;
use prost::Message;
use tulle_model::{
    Action, Authorization, Clause, HeaderMatch, HttpMatch, Match, PathMatch, Rule, Scope,
    ServiceAccountMatch, StringMatch, TokenMatch, token::TokenField,
};
use tulle_proto::{mesh, security as wire};

use super::gateway::ip;
use crate::resource::{AUDIT, AUTHORIZER, AUTHORIZER_URL, HTTP, HTTP_URL, TOKEN, TOKEN_URL};

pub(super) fn authorization(value: &Authorization) -> wire::Authorization {
    let scope = match value.scope {
        Scope::Global => wire::Scope::Global,
        Scope::Namespace => wire::Scope::Namespace,
        Scope::WorkloadSelector => wire::Scope::WorkloadSelector,
    };
    let action = match value.action {
        Action::Allow => wire::Action::Allow,
        Action::Deny | Action::Audit => wire::Action::Deny,
    };
    let is_audit = value.action == Action::Audit;
    let audit = is_audit.then(|| wire::Extension {
        name: AUDIT.to_owned(),
        config: None,
    });
    wire::Authorization {
        name: value.key.name.as_ref().to_owned(),
        namespace: value.key.namespace.as_ref().to_owned(),
        scope: scope.into(),
        action: action.into(),
        rules: value.rules.iter().map(rule).collect(),
        dry_run: value.dry_run || is_audit,
        extensions: audit
            .into_iter()
            .chain(value.authorizer.as_deref().map(authorizer))
            .collect(),
    }
}

fn authorizer(name: &str) -> wire::Extension {
    let asked = mesh::AskedInstead {
        authorizer: name.to_owned(),
    };
    wire::Extension {
        name: AUTHORIZER.to_owned(),
        config: Some(prost_types::Any {
            type_url: AUTHORIZER_URL.to_owned(),
            value: asked.encode_to_vec(),
        }),
    }
}

fn rule(value: &Rule) -> wire::Rule {
    wire::Rule {
        clauses: value.clauses.iter().map(clause).collect(),
    }
}

fn clause(value: &Clause) -> wire::Clause {
    wire::Clause {
        matches: value.matches.iter().map(conditions).collect(),
    }
}

fn conditions(value: &Match) -> wire::Match {
    let ports = |ports: &[u16]| ports.iter().map(|port| u32::from(*port)).collect();
    let mut namespaces = strings(&value.namespaces);
    if value.malformed {
        // A matcher without a value is what our decoder takes for malformed.
        namespaces.push(wire::StringMatch { match_type: None });
    }
    wire::Match {
        namespaces,
        not_namespaces: strings(&value.not_namespaces),
        principals: strings(&value.principals),
        not_principals: strings(&value.not_principals),
        source_ips: ranges(&value.source_ips),
        not_source_ips: ranges(&value.not_source_ips),
        destination_ips: ranges(&value.destination_ips),
        not_destination_ips: ranges(&value.not_destination_ips),
        destination_ports: ports(&value.destination_ports),
        not_destination_ports: ports(&value.not_destination_ports),
        service_accounts: accounts(&value.service_accounts),
        not_service_accounts: accounts(&value.not_service_accounts),
        extensions: extensions(value.http.as_deref()),
    }
}

/// Of requests, and besides of their tokens.
fn extensions(value: Option<&HttpMatch>) -> Vec<wire::Extension> {
    let of_tokens = value.filter(|value| !value.tokens.is_empty());
    let of_tokens = of_tokens.map(|value| tokens(&value.tokens));
    value.map(http).into_iter().chain(of_tokens).collect()
}

fn tokens(value: &[TokenMatch]) -> wire::Extension {
    use mesh::token_match::Field;
    let token = |value: &TokenMatch| mesh::TokenMatch {
        field: Some(match &value.field {
            TokenField::Principal => Field::Principal(mesh::Present {}),
            TokenField::Claim(names) => Field::Claim(mesh::ClaimPath {
                names: names.clone(),
            }),
        }),
        values: texts(&value.values),
        not_values: texts(&value.not_values),
    };
    let conditions = mesh::TokenConditions {
        tokens: value.iter().map(token).collect(),
    };
    extension(TOKEN, TOKEN_URL, &conditions)
}

fn http(value: &HttpMatch) -> wire::Extension {
    extension(HTTP, HTTP_URL, &conditions_on_requests(value))
}

/// But for those on tokens.
pub(super) fn conditions_on_requests(value: &HttpMatch) -> mesh::HttpConditions {
    let header = |value: &HeaderMatch| mesh::HeaderMatch {
        name: value.name.as_ref().to_owned(),
        values: texts(&value.values),
        not_values: texts(&value.not_values),
    };
    mesh::HttpConditions {
        hosts: texts(&value.hosts),
        not_hosts: texts(&value.not_hosts),
        methods: texts(&value.methods),
        not_methods: texts(&value.not_methods),
        paths: value.paths.iter().map(path).collect(),
        not_paths: value.not_paths.iter().map(path).collect(),
        remote_ips: value.remote_ips.iter().map(network).collect(),
        not_remote_ips: value.not_remote_ips.iter().map(network).collect(),
        headers: value.headers.iter().map(header).collect(),
    }
}

fn extension(name: &str, url: &str, conditions: &impl Message) -> wire::Extension {
    wire::Extension {
        name: name.to_owned(),
        config: Some(prost_types::Any {
            type_url: url.to_owned(),
            value: conditions.encode_to_vec(),
        }),
    }
}

pub(super) fn texts(values: &[StringMatch]) -> Vec<mesh::TextMatch> {
    values.iter().map(text).collect()
}

fn text(value: &StringMatch) -> mesh::TextMatch {
    use mesh::text_match::Kind;
    let kind = match value {
        StringMatch::Exact(text) => Kind::Exact(text.as_ref().to_owned()),
        StringMatch::Prefix(text) => Kind::Prefix(text.as_ref().to_owned()),
        StringMatch::Suffix(text) => Kind::Suffix(text.as_ref().to_owned()),
        StringMatch::Presence => Kind::Present(mesh::Present {}),
    };
    mesh::TextMatch { kind: Some(kind) }
}

fn path(value: &PathMatch) -> mesh::TextMatch {
    match value {
        PathMatch::Text(value) => text(value),
        PathMatch::Template(template) => mesh::TextMatch {
            kind: Some(mesh::text_match::Kind::Template(
                template.as_ref().to_owned(),
            )),
        },
    }
}

fn network(value: &IpNet) -> mesh::Network {
    mesh::Network {
        address: ip(value.addr()),
        length: value.prefix_len().into(),
    }
}

fn strings(values: &[StringMatch]) -> Vec<wire::StringMatch> {
    use wire::string_match::MatchType;
    let convert = |value: &StringMatch| match value {
        StringMatch::Exact(text) => MatchType::Exact(text.as_ref().to_owned()),
        StringMatch::Prefix(text) => MatchType::Prefix(text.as_ref().to_owned()),
        StringMatch::Suffix(text) => MatchType::Suffix(text.as_ref().to_owned()),
        StringMatch::Presence => MatchType::Presence(()),
    };
    values
        .iter()
        .map(|value| wire::StringMatch {
            match_type: Some(convert(value)),
        })
        .collect()
}

fn ranges(values: &[IpNet]) -> Vec<wire::Address> {
    values
        .iter()
        .map(|range| wire::Address {
            address: ip(range.addr()),
            length: range.prefix_len().into(),
        })
        .collect()
}

fn accounts(values: &[ServiceAccountMatch]) -> Vec<wire::ServiceAccountMatch> {
    values
        .iter()
        .map(|value| wire::ServiceAccountMatch {
            namespace: value.namespace.as_ref().to_owned(),
            service_account: value.service_account.as_ref().to_owned(),
        })
        .collect()
}
