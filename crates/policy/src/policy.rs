//! One policy, compiled.
//!
//! The nested lists become a chain of tests. Each test names the test to continue with when it holds and when it
//! fails, so OR, AND and the meaning of empty lists are gone by the time a connection is checked:
//!
//! ```text
//! rule 1: (a OR b) AND c        a --holds--> c --holds--> MATCH
//! rule 2: d                     a --fails--> b --holds--> c
//!                               b, c --fails--> d --holds--> MATCH, --fails--> NO MATCH
//! ```
//!
//! The chain is written back to front: a jump always goes to an earlier position, hence evaluation ends.

mod template;

use std::{ops::Range, sync::Arc};

use ipnet::IpNet;
use tulle_model::{
    Action, Authorization, Clause, HttpMatch, Match, PathMatch, PolicyKey, Rule, Scope,
    ServiceAccountMatch, StringMatch, token::TokenField,
};

use crate::{Connection, Request, connection::Facts};

/// A policy in the form that is fast to evaluate.
#[derive(Debug)]
pub struct CompiledPolicy {
    key: PolicyKey,
    scope: Scope,
    action: Action,
    dry_run: bool,
    authorizer: Option<Arc<str>>,
    entry: Target,
    tests: Box<[Test]>,
    texts: Box<[Text]>,
    text_bytes: Box<[u8]>,
    accounts: Box<[ServiceAccountMatch]>,
    nets: Box<[IpNet]>,
    ports: Box<[u16]>,
    headers: Box<[Arc<str>]>,
    tokens: Box<[TokenField]>,
}

impl CompiledPolicy {
    /// Compiles a policy.
    pub fn compile(policy: &Authorization) -> Self {
        let mut compiler = Compiler::new(policy.action);
        let entry = compiler.policy(&policy.rules);
        Self {
            key: policy.key.clone(),
            scope: policy.scope,
            action: policy.action,
            dry_run: policy.dry_run,
            authorizer: policy.authorizer.clone(),
            entry,
            tests: compiler.tests.into(),
            texts: compiler.texts.into(),
            text_bytes: compiler.text_bytes.into(),
            accounts: compiler.accounts.into(),
            nets: compiler.nets.into(),
            ports: compiler.ports.into(),
            headers: compiler.headers.into(),
            tokens: compiler.tokens.into(),
        }
    }

    /// Namespace and name.
    pub fn key(&self) -> &PolicyKey {
        &self.key
    }

    /// To which workloads it applies.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// What a match means.
    pub fn action(&self) -> Action {
        self.action
    }

    /// Whether it is evaluated but not enforced.
    pub fn dry_run(&self) -> bool {
        self.dry_run
    }

    /// Who is asked about requests that match, instead of refusing them.
    pub fn authorizer(&self) -> Option<&Arc<str>> {
        self.authorizer.as_ref()
    }

    /// Whether any rule matches.
    pub fn matches(&self, connection: &Connection<'_>) -> bool {
        self.holds_for(&Facts::new(connection, None))
    }

    /// The same of a request on a connection.
    pub fn matches_request<'a>(&self, connection: &Connection<'a>, request: Request<'a>) -> bool {
        self.holds_for(&Facts::new(connection, Some(request)))
    }

    pub(crate) fn holds_for(&self, facts: &Facts<'_>) -> bool {
        let mut target = self.entry;
        loop {
            let position = match target {
                NO_MATCH => return false,
                MATCH => return true,
                position => position,
            };
            let Some(test) = self.tests.get(position as usize) else {
                // No compiled chain points past its end. If one did, access must not widen.
                return self.action != Action::Allow;
            };
            target = if self.holds(test, facts) {
                test.then
            } else {
                test.otherwise
            };
        }
    }

    fn holds(&self, test: &Test, facts: &Facts<'_>) -> bool {
        let entries = test.entries.start as usize..test.entries.end as usize;
        let any = match test.subject {
            Subject::Namespace => self.any_text(entries, facts.namespace()),
            Subject::Principal => facts
                .identity
                .is_some_and(|identity| self.any_text(entries, identity.principal().as_bytes())),
            Subject::ServiceAccount => facts.identity.is_some_and(|identity| {
                slice(&self.accounts, entries).iter().any(|account| {
                    account.namespace.as_ref() == identity.namespace()
                        && account.service_account.as_ref() == identity.service_account()
                })
            }),
            Subject::SourceIp => self.any_net(entries, facts.source_ip),
            Subject::DestinationIp => self.any_net(entries, facts.destination_ip),
            Subject::DestinationPort => {
                slice(&self.ports, entries).contains(&facts.destination_port)
            }
            Subject::Host
            | Subject::Method
            | Subject::Path
            | Subject::RemoteIp
            | Subject::Header(_)
            | Subject::Token(_) => {
                let Some(request) = &facts.request else {
                    // Nobody knows what a request would be: nothing is permitted for it, and nothing that is refused depends on it.
                    return self.action != Action::Allow;
                };
                self.any_of_request(test, entries, request)
            }
        };
        any != test.negated
    }

    fn any_of_request(&self, test: &Test, entries: Range<usize>, request: &Request<'_>) -> bool {
        match test.subject {
            Subject::Host => self.any_text(entries, request.host.as_bytes()),
            Subject::Method => self.any_text(entries, request.method.as_bytes()),
            Subject::Path => self.any_text(entries, request.path.as_bytes()),
            Subject::RemoteIp => self.any_net(entries, request.remote_ip),
            Subject::Header(name) => {
                let name = self.headers.get(name as usize);
                let values = name.map(|name| (request.header)(name)).unwrap_or_default();
                self.any_value(test.negated, &entries, &values)
            }
            // Whoever issued the token has said all of them.
            Subject::Token(field) => {
                let field = self.tokens.get(field as usize);
                let values = field.map(|field| (request.token)(field));
                let mut values = values.unwrap_or_default().into_iter();
                values.any(|value| self.any_text(entries.clone(), value.as_bytes()))
            }
            _ => false,
        }
    }

    /// Whether a header is as it is asked for. Nobody knows which of several values a server looks at: what would permit has to hold for
    /// all of them, and what would refuse for any, or for the list that they are together.
    fn any_value(&self, negated: bool, entries: &Range<usize>, values: &[&[u8]]) -> bool {
        let fits = |value: &[u8]| self.any_text(entries.clone(), value);
        match (self.action != Action::Allow) != negated {
            true => {
                values.iter().any(|value| fits(value))
                    || (values.len() > 1 && fits(&values.join(&b',')))
            }
            false => !values.is_empty() && values.iter().all(|value| fits(value)),
        }
    }

    fn any_text(&self, entries: Range<usize>, subject: &[u8]) -> bool {
        slice(&self.texts, entries).iter().any(|text| {
            let wanted = slice(
                &self.text_bytes,
                text.bytes.start as usize..text.bytes.end as usize,
            );
            match text.comparison {
                Comparison::Exact => subject == wanted,
                Comparison::Prefix => subject.starts_with(wanted),
                Comparison::Suffix => subject.ends_with(wanted),
                Comparison::Presence => !subject.is_empty(),
                Comparison::Template => template::fits(wanted, subject),
            }
        })
    }

    fn any_net(&self, entries: Range<usize>, address: std::net::IpAddr) -> bool {
        slice(&self.nets, entries)
            .iter()
            .any(|net| net.contains(&address))
    }
}

/// Position of a test, or one of the two outcomes.
type Target = u32;

const NO_MATCH: Target = u32::MAX;
const MATCH: Target = u32::MAX - 1;

/// One list of one match.
#[derive(Debug)]
struct Test {
    subject: Subject,
    negated: bool,
    /// Range in the pool of the subject's kind.
    entries: Range<u32>,
    then: Target,
    otherwise: Target,
}

#[derive(Clone, Copy, Debug)]
enum Subject {
    Namespace,
    Principal,
    ServiceAccount,
    SourceIp,
    DestinationIp,
    DestinationPort,
    Host,
    Method,
    Path,
    RemoteIp,
    /// By its place in the pool of names.
    Header(u32),
    /// By its place in the pool of fields.
    Token(u32),
}

#[derive(Debug)]
struct Text {
    comparison: Comparison,
    bytes: Range<u32>,
}

#[derive(Clone, Copy, Debug)]
enum Comparison {
    Exact,
    Prefix,
    Suffix,
    Presence,
    Template,
}

fn slice<T>(pool: &[T], range: Range<usize>) -> &[T] {
    pool.get(range).unwrap_or_default()
}

struct Compiler {
    action: Action,
    tests: Vec<Test>,
    texts: Vec<Text>,
    text_bytes: Vec<u8>,
    accounts: Vec<ServiceAccountMatch>,
    nets: Vec<IpNet>,
    ports: Vec<u16>,
    headers: Vec<Arc<str>>,
    tokens: Vec<TokenField>,
}

/// Each function writes one construct, given where to go when it holds or fails, and returns where to enter it.
impl Compiler {
    fn new(action: Action) -> Self {
        Self {
            action,
            tests: Vec::new(),
            texts: Vec::new(),
            text_bytes: Vec::new(),
            accounts: Vec::new(),
            nets: Vec::new(),
            ports: Vec::new(),
            headers: Vec::new(),
            tokens: Vec::new(),
        }
    }

    fn policy(&mut self, rules: &[Rule]) -> Target {
        let mut entry = NO_MATCH;
        for rule in rules.iter().rev() {
            entry = self.rule(rule, MATCH, entry);
        }
        entry
    }

    fn rule(&mut self, rule: &Rule, then: Target, otherwise: Target) -> Target {
        let mut entry = then;
        for clause in rule.clauses.iter().rev() {
            entry = self.clause(clause, entry, otherwise);
        }
        entry
    }

    fn clause(&mut self, clause: &Clause, then: Target, otherwise: Target) -> Target {
        if clause.matches.is_empty() {
            return then;
        }
        let mut entry = otherwise;
        for one in clause.matches.iter().rev() {
            entry = self.one_match(one, then, entry);
        }
        entry
    }

    fn one_match(&mut self, one: &Match, then: Target, otherwise: Target) -> Target {
        if one.malformed {
            return match self.action {
                Action::Allow => otherwise,
                Action::Deny | Action::Audit => then,
            };
        }
        let mut tests = Vec::new();
        self.pool_lists(one, |subject, negated, entries| {
            if !entries.is_empty() {
                tests.push((subject, negated, entries));
            }
        });
        if tests.is_empty() {
            return otherwise;
        }
        let mut entry = then;
        for (subject, negated, entries) in tests.into_iter().rev() {
            self.tests.push(Test {
                subject,
                negated,
                entries,
                then: entry,
                otherwise,
            });
            entry = position(self.tests.len() - 1);
        }
        entry
    }

    /// Copies every list of a match into its pool and tells `list` where it is. Cheap comparisons come first.
    fn pool_lists(&mut self, one: &Match, mut list: impl FnMut(Subject, bool, Range<u32>)) {
        for (negated, ports) in both(&one.destination_ports, &one.not_destination_ports) {
            let entries = append(&mut self.ports, ports);
            list(Subject::DestinationPort, negated, entries);
        }
        for (negated, texts) in both(&one.namespaces, &one.not_namespaces) {
            list(Subject::Namespace, negated, self.texts(texts));
        }
        for (negated, texts) in both(&one.principals, &one.not_principals) {
            list(Subject::Principal, negated, self.texts(texts));
        }
        for (negated, accounts) in both(&one.service_accounts, &one.not_service_accounts) {
            let entries = append(&mut self.accounts, accounts);
            list(Subject::ServiceAccount, negated, entries);
        }
        for (negated, nets) in both(&one.source_ips, &one.not_source_ips) {
            let entries = append(&mut self.nets, nets);
            list(Subject::SourceIp, negated, entries);
        }
        for (negated, nets) in both(&one.destination_ips, &one.not_destination_ips) {
            let entries = append(&mut self.nets, nets);
            list(Subject::DestinationIp, negated, entries);
        }
        if let Some(http) = &one.http {
            self.pool_http(http, list);
        }
    }

    fn pool_http(&mut self, one: &HttpMatch, mut list: impl FnMut(Subject, bool, Range<u32>)) {
        for (negated, texts) in both(&one.methods, &one.not_methods) {
            list(Subject::Method, negated, self.texts(texts));
        }
        for (negated, texts) in both(&one.hosts, &one.not_hosts) {
            let texts: Vec<_> = texts.iter().map(in_lower_case).collect();
            list(Subject::Host, negated, self.texts(&texts));
        }
        for (negated, paths) in both(&one.paths, &one.not_paths) {
            list(Subject::Path, negated, self.paths(paths));
        }
        for (negated, nets) in both(&one.remote_ips, &one.not_remote_ips) {
            let entries = append(&mut self.nets, nets);
            list(Subject::RemoteIp, negated, entries);
        }
        for header in &one.headers {
            let name = position(self.headers.len());
            self.headers.push(Arc::clone(&header.name));
            for (negated, texts) in both(&header.values, &header.not_values) {
                list(Subject::Header(name), negated, self.texts(texts));
            }
        }
        for token in &one.tokens {
            let field = position(self.tokens.len());
            self.tokens.push(token.field.clone());
            for (negated, texts) in both(&token.values, &token.not_values) {
                list(Subject::Token(field), negated, self.texts(texts));
            }
        }
    }

    fn paths(&mut self, paths: &[PathMatch]) -> Range<u32> {
        let start = position(self.texts.len());
        for path in paths {
            match path {
                PathMatch::Text(text) => {
                    self.texts(std::slice::from_ref(text));
                }
                PathMatch::Template(template) => {
                    let bytes = append(&mut self.text_bytes, template.as_bytes());
                    let comparison = Comparison::Template;
                    self.texts.push(Text { comparison, bytes });
                }
            }
        }
        start..position(self.texts.len())
    }

    fn texts(&mut self, matches: &[StringMatch]) -> Range<u32> {
        let start = position(self.texts.len());
        for one in matches {
            let (comparison, text) = match one {
                StringMatch::Exact(text) => (Comparison::Exact, text.as_bytes()),
                StringMatch::Prefix(text) => (Comparison::Prefix, text.as_bytes()),
                StringMatch::Suffix(text) => (Comparison::Suffix, text.as_bytes()),
                StringMatch::Presence => (Comparison::Presence, [].as_slice()),
            };
            let bytes = append(&mut self.text_bytes, text);
            self.texts.push(Text { comparison, bytes });
        }
        start..position(self.texts.len())
    }
}

fn in_lower_case(text: &StringMatch) -> StringMatch {
    let lower = |text: &str| text.to_ascii_lowercase().into();
    match text {
        StringMatch::Exact(text) => StringMatch::Exact(lower(text)),
        StringMatch::Prefix(text) => StringMatch::Prefix(lower(text)),
        StringMatch::Suffix(text) => StringMatch::Suffix(lower(text)),
        StringMatch::Presence => StringMatch::Presence,
    }
}

/// A positive list and its negative twin.
fn both<'a, T>(positive: &'a [T], negative: &'a [T]) -> [(bool, &'a [T]); 2] {
    [(false, positive), (true, negative)]
}

fn append<T: Clone>(pool: &mut Vec<T>, entries: &[T]) -> Range<u32> {
    let start = position(pool.len());
    pool.extend_from_slice(entries);
    start..position(pool.len())
}

/// A policy arrives in one message of at most 200 MiB, so no pool of it has 2^32 entries.
fn position(index: usize) -> u32 {
    u32::try_from(index).expect("a pool of one policy fits 32 bits")
}

#[cfg(test)]
mod tests;
