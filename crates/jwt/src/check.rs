//! The token of a request.

use std::{sync::Arc, time::SystemTime};

use hashbrown::HashMap;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use jsonwebtoken::{dangerous::insecure_decode_claims, decode_header};
use parking_lot::Mutex;
use serde::Deserialize;
use tulle_model::token::{TokenPlace, TokenPolicy, TokenRule};

use crate::{KeySource, Keys, Sources, Token, claims::Times, place, source::Source};

/// Those whose tokens are valid, as one policy says.
pub struct Issuers(Vec<Issuer>);

struct Issuer {
    rule: TokenRule,
    keys: Source,
    payload_header: Option<HeaderName>,
    claim_headers: Vec<(HeaderName, String)>,
    /// Tokens that were found to be signed by it. Looking at a signature costs far more than all else.
    seen: Mutex<Remembered>,
}

/// Tokens that some keys have signed.
#[derive(Default)]
struct Remembered {
    keys: Option<Arc<Keys>>,
    tokens: HashMap<String, Seen>,
}

impl Remembered {
    /// What these keys have signed: what others did may not be valid any more.
    fn by(&mut self, keys: &Arc<Keys>) -> &mut HashMap<String, Seen> {
        if !self.keys.as_ref().is_some_and(|own| Arc::ptr_eq(own, keys)) {
            self.keys = Some(Arc::clone(keys));
            self.tokens.clear();
        }
        &mut self.tokens
    }
}

/// Keys that a token needs and that are not there.
pub struct Lacking {
    /// Who may have them.
    pub source: Arc<dyn KeySource>,
    /// The name of the key, if the token has one.
    pub id: Option<String>,
}

#[derive(Clone)]
struct Seen {
    token: Arc<Token>,
    times: Times,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is not signed by the issuer that it names, or is no token at all.
    #[error("Jwt verification fails")]
    Signature,
    /// The keys of its issuer could not be had.
    #[error("Jwks remote fetch is failed")]
    NoKeys,
    /// It names no issuer that is known here.
    #[error("Jwt issuer is not configured")]
    Issuer,
    /// Its time is over.
    #[error("Jwt is expired")]
    Expired,
    /// Its time has not come.
    #[error("Jwt not yet valid")]
    Early,
    /// It is for others.
    #[error("Audiences in Jwt are not allowed")]
    Audience,
}

/// Who a token says that it is of.
#[derive(Deserialize)]
struct Claimed {
    iss: Option<String>,
}

/// What a rule finds in a request.
enum Found {
    Missing,
    /// And the token as it was sent.
    Valid(Arc<Token>, String),
    Refused(Refused),
}

impl Issuers {
    /// Reads keys and names. A name of a header that is none is no header.
    pub fn new(policy: &TokenPolicy, sources: Sources<'_>) -> Self {
        let issuers = policy.rules.iter().map(|rule| {
            let header = |name: &str| HeaderName::try_from(name).ok();
            let claims = rule.claim_headers.iter();
            let claims = claims.filter_map(|(name, claim)| Some((header(name)?, claim.clone())));
            Issuer {
                keys: Source::new(&rule.keys, sources),
                payload_header: rule.payload_header.as_deref().and_then(header),
                claim_headers: claims.collect(),
                rule: rule.clone(),
                seen: Mutex::default(),
            }
        });
        Self(issuers.collect())
    }

    /// The keys that [`check`](Self::check) needs for a request and that are still to be had.
    pub fn lacking(all: &[Arc<Self>], headers: &HeaderMap, uri: &Uri) -> Vec<Lacking> {
        let issuers = all.iter().flat_map(|issuers| &issuers.0);
        issuers
            .flat_map(|issuer| issuer.lacking(headers, uri))
            .collect()
    }

    /// Checks the token of a request as all of these say together.
    ///
    /// A request is refused unless one rule finds a valid token, or each finds a valid one or none.
    ///
    /// # Errors
    /// [`Refused`], for which the answer is 401, or 403.
    pub fn check(
        all: &[Arc<Self>],
        headers: &HeaderMap,
        uri: &Uri,
        now: SystemTime,
    ) -> Result<Checked, Refused> {
        let mut checked = Checked {
            issuers: all.to_vec(),
            valid: None,
            takes_out: true,
        };
        let mut refused = None;
        for (of, issuers) in all.iter().enumerate() {
            for (number, issuer) in issuers.0.iter().enumerate() {
                match issuer.look(headers, uri, now) {
                    Found::Missing => {}
                    // That a token is of somebody else says less than what is wrong with it.
                    Found::Refused(why) => {
                        refused = match refused {
                            None | Some(Refused::Issuer) => Some(why),
                            said => said,
                        };
                    }
                    Found::Valid(token, sent) => {
                        let first = checked.valid.is_none();
                        let valid = first.then_some(Valid {
                            token,
                            sent,
                            rule: (of, number),
                        });
                        checked.valid = checked.valid.or(valid);
                    }
                }
            }
        }
        match (&checked.valid, refused) {
            (None, Some(why)) => Err(why),
            _ => Ok(checked),
        }
    }

    /// What a request is whose token nobody asks for, as that of a browser that only asks.
    pub fn unasked(all: &[Arc<Self>]) -> Checked {
        Checked {
            issuers: all.to_vec(),
            valid: None,
            takes_out: false,
        }
    }
}

/// A request whose token is valid, or that has none.
pub struct Checked {
    issuers: Vec<Arc<Issuers>>,
    valid: Option<Valid>,
    takes_out: bool,
}

struct Valid {
    token: Arc<Token>,
    /// As it was sent.
    sent: String,
    /// The rule that has taken it.
    rule: (usize, usize),
}

impl Checked {
    /// The valid token, if there is one.
    pub fn token(&self) -> Option<&Token> {
        self.valid.as_ref().map(|valid| &*valid.token)
    }

    /// Makes of a request what endpoints are to see: without tokens, unless they are wanted there, and with claims that are those of the
    /// token and not such as a client tells of.
    pub fn apply(&self, headers: &mut HeaderMap, uri: &mut Uri) {
        let issuers = || self.issuers.iter().flat_map(|issuers| &issuers.0);
        for issuer in issuers() {
            let claims = issuer.claim_headers.iter().map(|(name, _)| name);
            for name in claims.chain(&issuer.payload_header) {
                headers.remove(name);
            }
        }
        for issuer in issuers().filter(|issuer| self.takes_out && !issuer.rule.forward) {
            for place in &issuer.rule.places {
                place::remove(place, headers, uri);
            }
        }
        let Some(valid) = &self.valid else { return };
        let (of, number) = valid.rule;
        let issuer = self
            .issuers
            .get(of)
            .and_then(|issuers| issuers.0.get(number));
        if let Some(issuer) = issuer {
            issuer.tell(&valid.token, &valid.sent, headers);
        }
    }
}

impl Issuer {
    /// The tokens at its places.
    fn tokens<'a>(&'a self, headers: &'a HeaderMap, uri: &'a Uri) -> impl Iterator<Item = String> {
        let places = self.rule.places.iter();
        places.flat_map(move |place: &TokenPlace| place::tokens(place, headers, uri))
    }

    fn lacking(&self, headers: &HeaderMap, uri: &Uri) -> Vec<Lacking> {
        let Source::Fetched(source) = &self.keys else {
            return Vec::new();
        };
        let keys = source.keys();
        let lacks = |sent: String| {
            if let Some(keys) = &keys
                && self.seen.lock().by(keys).contains_key(&sent)
            {
                return None;
            }
            if !self.is_said_by(&sent) {
                return None;
            }
            let id = decode_header(&sent).ok()?.kid;
            let is_there = keys
                .as_ref()
                .is_some_and(|keys| id.as_deref().is_none_or(|id| keys.has(id)));
            (!is_there).then(|| Lacking {
                source: Arc::clone(source),
                id,
            })
        };
        self.tokens(headers, uri).filter_map(lacks).collect()
    }

    /// All tokens at its places have to be valid: nobody knows which of them a server looks at.
    fn look(&self, headers: &HeaderMap, uri: &Uri, now: SystemTime) -> Found {
        let mut found = Found::Missing;
        for sent in self.tokens(headers, uri) {
            match self.verify(&sent, now) {
                Ok(token) => {
                    if matches!(found, Found::Missing) {
                        found = Found::Valid(token, sent);
                    }
                }
                Err(why) => return Found::Refused(why),
            }
        }
        found
    }

    fn verify(&self, sent: &str, now: SystemTime) -> Result<Arc<Token>, Refused> {
        let Seen { token, times } = self.opened(sent)?;
        if times.is_early(now) {
            return Err(Refused::Early);
        }
        if times.is_late(now) {
            return Err(Refused::Expired);
        }
        match token.is_for(&self.rule.audiences) {
            true => Ok(token),
            false => Err(Refused::Audience),
        }
    }

    /// Whether a token says that it is of this issuer.
    fn is_said_by(&self, sent: &str) -> bool {
        insecure_decode_claims::<Claimed>(sent)
            .is_ok_and(|claimed| claimed.iss.as_ref() == Some(&self.rule.issuer))
    }

    fn opened(&self, sent: &str) -> Result<Seen, Refused> {
        let keys = self.keys.keys();
        if let Some(keys) = &keys
            && let Some(seen) = self.seen.lock().by(keys).get(sent)
        {
            return Ok(seen.clone());
        }
        // Only a claim as long as nobody has looked at the signature.
        let claimed = insecure_decode_claims::<Claimed>(sent).map_err(|_| Refused::Signature)?;
        if claimed.iss.as_ref() != Some(&self.rule.issuer) {
            return Err(Refused::Issuer);
        }
        let keys = keys.ok_or(Refused::NoKeys)?;
        let claims = keys.open(sent).ok_or(Refused::Signature)?;
        let token = Token::new(claims, &self.rule);
        let times = token.times().map_err(|_| Refused::Signature)?;
        let seen = Seen {
            token: Arc::new(token),
            times,
        };
        if sent.len() <= LONGEST {
            let mut remembered = self.seen.lock();
            let all = remembered.by(&keys);
            // Those that are still used come back.
            if all.len() >= MOST {
                all.clear();
            }
            all.insert(sent.to_owned(), seen.clone());
        }
        Ok(seen)
    }

    /// Tells an endpoint what it wants to know of a token.
    fn tell(&self, token: &Token, sent: &str, headers: &mut HeaderMap) {
        let payload = sent.split('.').nth(1).unwrap_or_default();
        if let (Some(name), Ok(value)) = (&self.payload_header, HeaderValue::try_from(payload)) {
            headers.insert(name, value);
        }
        for (name, claim) in &self.claim_headers {
            let value = token.scalar(claim).map(HeaderValue::try_from);
            if let Some(Ok(value)) = value {
                headers.insert(name, value);
            }
        }
    }
}

impl Refused {
    /// What the client is answered.
    pub fn status(self) -> u16 {
        match self {
            Self::Audience => 403,
            Self::Signature | Self::NoKeys | Self::Issuer | Self::Expired | Self::Early => 401,
        }
    }
}

/// Tokens of an issuer that are remembered.
const MOST: usize = 512;
/// Bytes of one that is remembered.
const LONGEST: usize = 4096;

#[cfg(test)]
mod tests;
