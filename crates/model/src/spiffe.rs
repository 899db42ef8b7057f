//! SPIFFE IDs of the mesh: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
    sync::Arc,
};

/// A SPIFFE trust domain such as `cluster.local`: 1 to 255 bytes of `a-z 0-9 . - _`.
///
/// Spec: SPIFFE-ID §2.1 (characters), §2.3 (length).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Parses a trust domain.
    ///
    /// # Errors
    /// [`InvalidSpiffeId::TrustDomain`] for a wrong length or character.
    pub fn new(text: &str) -> Result<Self, InvalidSpiffeId> {
        let valid = (1..=255).contains(&text.len())
            && text
                .bytes()
                .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'));
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(InvalidSpiffeId::TrustDomain)
        }
    }

    /// The trust domain as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TrustDomain {
    /// `cluster.local`, what the mesh assumes when nothing is said.
    fn default() -> Self {
        Self("cluster.local".into())
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = InvalidSpiffeId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

/// The identity of a workload: trust domain, namespace and service account.
///
/// Cheap to clone, to compare and to print. Namespace and service account are non-empty and contain no `/` and no
/// control character.
#[derive(Clone)]
pub struct SpiffeId {
    /// The whole of it; the parts lie in it.
    uri: Arc<str>,
    trust_domain: TrustDomain,
    namespace_len: usize,
}

impl SpiffeId {
    /// Builds an identity from its parts.
    ///
    /// # Errors
    /// [`InvalidSpiffeId::Segment`] when a part is empty or holds a byte that a path segment cannot.
    pub fn new(
        trust_domain: TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, InvalidSpiffeId> {
        for segment in [namespace, service_account] {
            if !valid_segment(segment) {
                return Err(InvalidSpiffeId::Segment);
            }
        }
        let parts = [SCHEME, &*trust_domain.0, NS, namespace, SA, service_account];
        Ok(Self {
            uri: parts.concat().into(),
            trust_domain,
            namespace_len: namespace.len(),
        })
    }

    /// The whole identity: `spiffe://…`.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        let start = self.namespace_start();
        self.part(start..start + self.namespace_len)
    }

    /// The Kubernetes service account.
    pub fn service_account(&self) -> &str {
        let start = self.namespace_start() + self.namespace_len + SA.len();
        self.part(start..self.uri.len())
    }

    /// The form that policies compare with: the identity without `spiffe://`.
    pub fn principal(&self) -> &str {
        self.part(SCHEME.len()..self.uri.len())
    }

    fn namespace_start(&self) -> usize {
        SCHEME.len() + self.trust_domain.0.len() + NS.len()
    }

    /// Parts are ASCII, so every place is between two characters.
    fn part(&self, range: std::ops::Range<usize>) -> &str {
        self.uri.get(range).unwrap_or_default()
    }
}

/// What the identities look like between their parts.
const SCHEME: &str = "spiffe://";
const NS: &str = "/ns/";
const SA: &str = "/sa/";

impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        self.uri == other.uri
    }
}

impl Eq for SpiffeId {}

impl Hash for SpiffeId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.uri.hash(state);
    }
}

impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.uri.cmp(&other.uri)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for SpiffeId {
    type Err = InvalidSpiffeId;

    /// Parses the URI form. Exactly five `/`-separated segments after the scheme's first slash pair.
    fn from_str(uri: &str) -> Result<Self, Self::Err> {
        let rest = uri.strip_prefix(SCHEME).ok_or(InvalidSpiffeId::Scheme)?;
        let mut segments = rest.split('/');
        let mut next = || segments.next().ok_or(InvalidSpiffeId::Shape);
        let (trust_domain, ns, namespace, sa, service_account) =
            (next()?, next()?, next()?, next()?, next()?);
        if segments.next().is_some() || ns != "ns" || sa != "sa" {
            return Err(InvalidSpiffeId::Shape);
        }
        Self::new(TrustDomain::new(trust_domain)?, namespace, service_account)
    }
}

/// Why a text is not a SPIFFE ID of the mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpiffeId {
    /// The text does not start with `spiffe://`.
    #[error("a SPIFFE ID starts with spiffe://")]
    Scheme,
    /// The path is not `/ns/<namespace>/sa/<service account>`.
    #[error("the path of a mesh SPIFFE ID is /ns/<namespace>/sa/<service account>")]
    Shape,
    /// The trust domain is empty, too long, or holds a forbidden character.
    #[error("a trust domain is 1 to 255 bytes of a-z 0-9 . - _")]
    TrustDomain,
    /// A segment is empty or holds a character outside `a-z A-Z 0-9 . - _ :`.
    #[error("a path segment is 1 to 253 bytes of a-z A-Z 0-9 . - _ :")]
    Segment,
}

/// SPIFFE-ID §2.2 allows letters, digits, dot, dash and underscore. The colon occurs in service account names of
/// system components (`system:...`) and is harmless in every place where we print an identity.
fn valid_segment(segment: &str) -> bool {
    (1..=253).contains(&segment.len())
        && segment != "."
        && segment != ".."
        && segment
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parses_and_prints_the_uri() {
        let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/cart".parse().unwrap();
        assert_eq!(id.trust_domain().as_str(), "cluster.local");
        assert_eq!(id.namespace(), "shop");
        assert_eq!(id.service_account(), "cart");
        assert_eq!(id.to_string(), "spiffe://cluster.local/ns/shop/sa/cart");
        assert_eq!(id.as_str(), "spiffe://cluster.local/ns/shop/sa/cart");
        assert_eq!(id.principal(), "cluster.local/ns/shop/sa/cart");
    }

    #[test]
    fn refuses_everything_else() {
        for (text, why) in [
            ("https://cluster.local/ns/a/sa/b", InvalidSpiffeId::Scheme),
            ("SPIFFE://cluster.local/ns/a/sa/b", InvalidSpiffeId::Scheme),
            ("spiffe://cluster.local/ns/a/sa", InvalidSpiffeId::Shape),
            ("spiffe://cluster.local/ns/a/sa/b/c", InvalidSpiffeId::Shape),
            ("spiffe://cluster.local/sa/a/ns/b", InvalidSpiffeId::Shape),
            ("spiffe:///ns/a/sa/b", InvalidSpiffeId::TrustDomain),
            ("spiffe://Cluster/ns/a/sa/b", InvalidSpiffeId::TrustDomain),
            ("spiffe://td/ns//sa/b", InvalidSpiffeId::Segment),
            ("spiffe://td/ns/../sa/b", InvalidSpiffeId::Segment),
            ("spiffe://td/ns/a/sa/b\0", InvalidSpiffeId::Segment),
            ("spiffe://td/ns/a/sa/b,c", InvalidSpiffeId::Segment),
        ] {
            assert_eq!(text.parse::<SpiffeId>(), Err(why), "{text}");
        }
    }

    proptest! {
        #[test]
        fn round_trips(td in "[a-z0-9._-]{1,30}", ns in "[a-z0-9]{1,20}", sa in "[a-z0-9]{1,20}") {
            let id = SpiffeId::new(TrustDomain::new(&td).unwrap(), &ns, &sa).unwrap();
            prop_assert_eq!(id.to_string().parse::<SpiffeId>().unwrap(), id);
        }

        #[test]
        fn never_panics(text in ".{0,80}") {
            let _ = text.parse::<SpiffeId>();
        }
    }
}
