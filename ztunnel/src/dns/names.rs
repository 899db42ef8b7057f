//! Which services a name may mean to a client, in the order in which they are tried.
//!
//! ```text
//! asked ──▶ itself, its Kubernetes expansions, then without each search domain that it ends in: the same of what is left
//!            └─ of each also the wildcards above it, the longest first: *.b.c, *.c
//! ```
//!
//! Every name here is in lower case, without a dot at its end. Spec: `l4-data-plane.md` §7.

use std::{borrow::Cow, iter};

/// Where clients of a pod look names up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Realm<'a> {
    /// The pod's namespace.
    pub(super) namespace: &'a str,
    /// The cluster's domain, as `cluster.local`.
    pub(super) domain: &'a str,
}

/// One name to try.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate<'a> {
    /// The hostname of a service, perhaps a wildcard.
    pub(super) host: Cow<'a, str>,
    /// What was left of the name that was asked without a search domain, where one was taken away.
    pub(super) stripped: Option<&'a str>,
}

impl Realm<'_> {
    /// All names to try for `asked`, each made when its turn comes: a long name has hundreds.
    pub(super) fn candidates<'a>(&'a self, asked: &'a str) -> impl Iterator<Item = Candidate<'a>> {
        let searched = self.search_domains().into_iter();
        let left = searched.filter_map(|search| {
            let left = asked.strip_suffix(&*search)?;
            left.strip_suffix('.')
        });
        let names = iter::once((asked, None)).chain(left.map(|left| (left, Some(left))));
        names.flat_map(|(name, stripped)| {
            let expanded = self.expansions(name).into_iter().map(Cow::Owned);
            let hosts = iter::once(Cow::Borrowed(name)).chain(expanded);
            let hosts = hosts.flat_map(with_wildcards);
            hosts.map(move |host| Candidate { host, stripped })
        })
    }

    /// What a resolver of Kubernetes makes of short names.
    fn expansions(&self, name: &str) -> Vec<String> {
        let Self { namespace, domain } = self;
        let labels: Vec<&str> = name.split('.').collect();
        match labels.as_slice() {
            [_] => vec![format!("{name}.{namespace}.svc.{domain}")],
            [_, _] => vec![
                format!("{name}.svc.{domain}"),
                format!("{name}.{namespace}.svc.{domain}"),
            ],
            [_, _, "svc"] => vec![format!("{name}.{domain}"), format!("{name}.svc.{domain}")],
            [_, _, _] => vec![format!("{name}.svc.{domain}")],
            [_, _, _, "svc"] => vec![format!("{name}.{domain}")],
            _ => Vec::new(),
        }
    }

    fn search_domains(&self) -> [String; 3] {
        let Self { namespace, domain } = self;
        [
            format!("{namespace}.svc.{domain}"),
            format!("svc.{domain}"),
            (*domain).to_owned(),
        ]
    }
}

/// `a.b.c` itself, `*.b.c` and `*.c`.
fn with_wildcards(name: Cow<'_, str>) -> impl Iterator<Item = Cow<'_, str>> {
    let mut next = Some((name.clone(), 0));
    iter::from_fn(move || {
        let (host, start) = next.take()?;
        next = name.get(start..).and_then(|rest| {
            let dot = start + rest.find('.')?;
            Some((format!("*{}", name.get(dot..)?).into(), dot + 1))
        });
        Some(host)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(asked: &str) -> Vec<String> {
        let realm = Realm {
            namespace: "shop",
            domain: "cluster.local",
        };
        let candidates = realm.candidates(asked);
        let named = candidates.map(|candidate| match candidate.stripped {
            Some(stripped) => format!("{} ({stripped})", candidate.host),
            None => candidate.host.into_owned(),
        });
        named.filter(|host| !host.starts_with('*')).collect()
    }

    #[test]
    fn short_names_are_completed_as_resolvers_do() {
        for (asked, expected) in [
            ("web", vec!["web", "web.shop.svc.cluster.local"]),
            (
                "web.out",
                vec![
                    "web.out",
                    "web.out.svc.cluster.local",
                    "web.out.shop.svc.cluster.local",
                ],
            ),
            (
                "web.out.svc",
                vec![
                    "web.out.svc",
                    "web.out.svc.cluster.local",
                    "web.out.svc.svc.cluster.local",
                ],
            ),
            ("a.b.c", vec!["a.b.c", "a.b.c.svc.cluster.local"]),
            ("a.b.c.svc", vec!["a.b.c.svc", "a.b.c.svc.cluster.local"]),
            ("a.b.c.d", vec!["a.b.c.d"]),
            ("a.b.c.d.e", vec!["a.b.c.d.e"]),
        ] {
            assert_eq!(hosts(asked), expected, "{asked}");
        }
    }

    #[test]
    fn search_domains_are_taken_away() {
        assert_eq!(
            hosts("example.com.shop.svc.cluster.local"),
            [
                "example.com.shop.svc.cluster.local",
                "example.com (example.com)",
                "example.com.svc.cluster.local (example.com)",
                "example.com.shop.svc.cluster.local (example.com)",
                "example.com.shop (example.com.shop)",
                "example.com.shop.svc.cluster.local (example.com.shop)",
                "example.com.shop.svc (example.com.shop.svc)",
                "example.com.shop.svc.cluster.local (example.com.shop.svc)",
            ]
        );
        assert_eq!(
            hosts("cluster.local"),
            [
                "cluster.local",
                "cluster.local.svc.cluster.local",
                "cluster.local.shop.svc.cluster.local"
            ]
        );
    }

    #[test]
    fn wildcards_stand_behind_what_they_cover() {
        let all = |name: &'static str| with_wildcards(name.into()).collect::<Vec<_>>();
        assert_eq!(all("a.b.c"), ["a.b.c", "*.b.c", "*.c"]);
        assert_eq!(all("a"), ["a"]);
    }
}
