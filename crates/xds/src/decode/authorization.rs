//! Policies.

use std::sync::Arc;

use ipnet::IpNet;
use prost::Message;
use tulle_model::{
    Action, Authorization, Clause, HeaderMatch, HttpMatch, Match, PathMatch, PolicyKey, Rule,
    Scope, ServiceAccountMatch, StringMatch, TokenMatch, token::TokenField,
};
use tulle_proto::{mesh, security as wire};

use super::{InvalidResource, gateway::raw_range};
use crate::resource::{AUDIT, AUTHORIZER_URL, HTTP_URL, TOKEN_URL};

pub(super) fn authorization(sent: wire::Authorization) -> Result<Authorization, InvalidResource> {
    if sent.name.is_empty() || sent.namespace.contains('/') {
        return Err(InvalidResource::Key {
            field: "policy name",
        });
    }
    // Only of one that is not enforced: what is added to a policy must not weaken it.
    let mut extensions = sent.extensions.iter();
    let is_audit = sent.dry_run && extensions.any(|extension| extension.name == AUDIT);
    Ok(Authorization {
        key: PolicyKey::new(sent.namespace, sent.name),
        scope: scope(sent.scope)?,
        action: match is_audit {
            true => Action::Audit,
            false => action(sent.action)?,
        },
        rules: sent.rules.into_iter().map(rule).collect(),
        dry_run: sent.dry_run && !is_audit,
        authorizer: sent.extensions.into_iter().find_map(authorizer),
    })
}

/// Who is asked instead of refusing. If it cannot be understood, what the rules match is refused.
fn authorizer(sent: wire::Extension) -> Option<Arc<str>> {
    let config = sent.config.filter(|it| it.type_url == AUTHORIZER_URL)?;
    let sent = mesh::AskedInstead::decode(config.value.as_slice()).ok()?;
    (!sent.authorizer.is_empty()).then(|| sent.authorizer.into())
}

fn scope(value: i32) -> Result<Scope, InvalidResource> {
    match wire::Scope::try_from(value) {
        Ok(wire::Scope::Global) => Ok(Scope::Global),
        Ok(wire::Scope::Namespace) => Ok(Scope::Namespace),
        Ok(wire::Scope::WorkloadSelector) => Ok(Scope::WorkloadSelector),
        Err(_) => Err(InvalidResource::Enum {
            field: "scope",
            value,
        }),
    }
}

fn action(value: i32) -> Result<Action, InvalidResource> {
    match wire::Action::try_from(value) {
        Ok(wire::Action::Allow) => Ok(Action::Allow),
        Ok(wire::Action::Deny) => Ok(Action::Deny),
        Err(_) => Err(InvalidResource::Enum {
            field: "action",
            value,
        }),
    }
}

fn rule(sent: wire::Rule) -> Rule {
    Rule {
        clauses: sent.clauses.into_iter().map(clause).collect(),
    }
}

fn clause(sent: wire::Clause) -> Clause {
    Clause {
        matches: sent.matches.into_iter().map(conditions).collect(),
    }
}

/// An extension may be one more condition, so a match that has any but those that we know, each once, counts as not understood.
fn conditions(sent: wire::Match) -> Match {
    let mut malformed = false;
    let lost = &mut malformed;
    let (mut requests, mut tokens) = (None, None);
    for extension in keep(sent.extensions, extension, lost) {
        *lost |= match extension {
            Extension::Http(http) => requests.replace(http).is_some(),
            Extension::Tokens(of) => tokens.replace(of).is_some(),
        };
    }
    if let Some(tokens) = tokens {
        requests.get_or_insert_default().tokens = tokens;
    }
    Match {
        http: requests,
        namespaces: keep(sent.namespaces, string, lost),
        not_namespaces: keep(sent.not_namespaces, string, lost),
        principals: keep(sent.principals, string, lost),
        not_principals: keep(sent.not_principals, string, lost),
        service_accounts: keep(sent.service_accounts, account, lost),
        not_service_accounts: keep(sent.not_service_accounts, account, lost),
        source_ips: keep(sent.source_ips, range, lost),
        not_source_ips: keep(sent.not_source_ips, range, lost),
        destination_ips: keep(sent.destination_ips, range, lost),
        not_destination_ips: keep(sent.not_destination_ips, range, lost),
        destination_ports: keep(sent.destination_ports, port, lost),
        not_destination_ports: keep(sent.not_destination_ports, port, lost),
        malformed,
    }
}

/// Converts a list; `lost` is set when an entry cannot be converted.
fn keep<W, M>(sent: Vec<W>, convert: impl Fn(W) -> Option<M>, lost: &mut bool) -> Vec<M> {
    let expected = sent.len();
    let kept: Vec<M> = sent.into_iter().filter_map(convert).collect();
    *lost |= kept.len() != expected;
    kept
}

enum Extension {
    Http(Box<HttpMatch>),
    Tokens(Vec<TokenMatch>),
}

fn extension(sent: wire::Extension) -> Option<Extension> {
    let config = sent.config?;
    match config.type_url.as_str() {
        HTTP_URL => {
            let sent = mesh::HttpConditions::decode(config.value.as_slice()).ok()?;
            let conditions = conditions_on_requests(sent)?;
            Some(Extension::Http(Box::new(conditions)))
        }
        TOKEN_URL => tokens(&config.value).map(Extension::Tokens),
        _ => None,
    }
}

fn tokens(sent: &[u8]) -> Option<Vec<TokenMatch>> {
    use mesh::token_match::Field;
    let sent = mesh::TokenConditions::decode(sent).ok()?;
    all(sent.tokens, |sent| {
        Some(TokenMatch {
            field: match sent.field? {
                Field::Principal(mesh::Present {}) => TokenField::Principal,
                Field::Claim(path) => TokenField::Claim(path.names),
            },
            values: all(sent.values, text)?,
            not_values: all(sent.not_values, text)?,
        })
    })
}

/// But for those on tokens.
pub(super) fn conditions_on_requests(sent: mesh::HttpConditions) -> Option<HttpMatch> {
    let texts = |sent: Vec<mesh::TextMatch>| all(sent, text);
    Some(HttpMatch {
        hosts: texts(sent.hosts)?,
        not_hosts: texts(sent.not_hosts)?,
        methods: texts(sent.methods)?,
        not_methods: texts(sent.not_methods)?,
        paths: all(sent.paths, path)?,
        not_paths: all(sent.not_paths, path)?,
        remote_ips: all(sent.remote_ips, network)?,
        not_remote_ips: all(sent.not_remote_ips, network)?,
        headers: all(sent.headers, |sent| {
            Some(HeaderMatch {
                name: sent.name.into(),
                values: texts(sent.values)?,
                not_values: texts(sent.not_values)?,
            })
        })?,
        tokens: Vec::new(),
    })
}

/// Converts a list, if all of it can be converted.
fn all<W, M>(sent: Vec<W>, convert: impl Fn(W) -> Option<M>) -> Option<Vec<M>> {
    sent.into_iter().map(convert).collect()
}

fn path(sent: mesh::TextMatch) -> Option<PathMatch> {
    Some(match sent.kind {
        Some(mesh::text_match::Kind::Template(template)) => PathMatch::Template(template.into()),
        _ => PathMatch::Text(text(sent)?),
    })
}

pub(super) fn text(sent: mesh::TextMatch) -> Option<StringMatch> {
    use mesh::text_match::Kind;
    Some(match sent.kind? {
        Kind::Exact(text) => StringMatch::Exact(text.into()),
        Kind::Prefix(text) => StringMatch::Prefix(text.into()),
        Kind::Suffix(text) => StringMatch::Suffix(text.into()),
        Kind::Present(mesh::Present {}) => StringMatch::Presence,
        Kind::Template(_) => return None,
    })
}

fn network(sent: mesh::Network) -> Option<IpNet> {
    let (address, length) = raw_range(&sent.address, sent.length)?;
    IpNet::new(address, length).ok()
}

fn string(sent: wire::StringMatch) -> Option<StringMatch> {
    use wire::string_match::MatchType;
    Some(match sent.match_type? {
        MatchType::Exact(text) => StringMatch::Exact(text.into()),
        MatchType::Prefix(text) => StringMatch::Prefix(text.into()),
        MatchType::Suffix(text) => StringMatch::Suffix(text.into()),
        MatchType::Presence(()) => StringMatch::Presence,
    })
}

fn account(sent: wire::ServiceAccountMatch) -> Option<ServiceAccountMatch> {
    Some(ServiceAccountMatch {
        namespace: sent.namespace.into(),
        service_account: sent.service_account.into(),
    })
}

fn range(sent: wire::Address) -> Option<IpNet> {
    let (address, length) = raw_range(&sent.address, sent.length)?;
    IpNet::new(address, length).ok()
}

fn port(sent: u32) -> Option<u16> {
    u16::try_from(sent).ok()
}
