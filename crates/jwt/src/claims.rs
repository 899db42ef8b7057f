//! What a valid token says.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;
use tulle_model::token::{PARTS, TokenField, TokenRule};

/// A valid token.
#[derive(Debug)]
pub struct Token {
    principal: String,
    claims: Value,
    /// Claims whose values are separated by spaces.
    lists: Vec<String>,
}

impl Token {
    pub(crate) fn new(claims: Value, rule: &TokenRule) -> Self {
        let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
        let principal = match (text("iss"), text("sub")) {
            ("", _) | (_, "") => String::new(),
            (issuer, subject) if [issuer, subject].iter().any(|part| part.contains(PARTS)) => {
                String::new()
            }
            (issuer, subject) => format!("{issuer}{PARTS}{subject}"),
        };
        let lists = LISTS.iter().map(|name| (*name).to_owned());
        Self {
            principal,
            lists: lists.chain(rule.lists.iter().cloned()).collect(),
            claims,
        }
    }

    /// The values of a field: one, several, or none. What is neither a text nor a list of texts has none.
    pub fn values(&self, field: &TokenField) -> Vec<&str> {
        let path = match field {
            TokenField::Principal => {
                return Some(self.principal.as_str())
                    .filter(|principal| !principal.is_empty())
                    .into_iter()
                    .collect();
            }
            TokenField::Claim(path) => path,
        };
        let mut found = Some(&self.claims);
        for name in path {
            found = found.and_then(|value| value.get(name));
        }
        let is_list = matches!(path.as_slice(), [name] if self.lists.contains(name));
        match found {
            Some(Value::String(text)) if is_list => {
                text.split(' ').filter(|value| !value.is_empty()).collect()
            }
            Some(Value::String(text)) => vec![text],
            Some(Value::Array(values)) => values.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        }
    }

    /// The values of a claim as texts, whole numbers and whether something is so among them.
    pub fn texts(&self, path: &[String]) -> Vec<Cow<'_, str>> {
        let values = self.values(&TokenField::Claim(path.to_vec()));
        if !values.is_empty() {
            return values.into_iter().map(Cow::Borrowed).collect();
        }
        let claims = Some(&self.claims);
        let found = path.iter().fold(claims, |value, name| value?.get(name));
        let all = match found {
            Some(Value::Array(values)) => values.as_slice(),
            Some(one) => std::slice::from_ref(one),
            None => &[],
        };
        all.iter().filter_map(text).map(Cow::Owned).collect()
    }

    /// A claim as a header has it, by a path with dots: a text, a whole number, or whether something is so.
    pub(crate) fn scalar(&self, path: &str) -> Option<String> {
        let found = self.claims.get(path);
        let nested = || {
            path.split('.')
                .try_fold(&self.claims, |value, name| value.get(name))
        };
        text(found.or_else(nested)?)
    }

    /// Whether it is for one of these.
    pub(crate) fn is_for(&self, audiences: &[String]) -> bool {
        let field = TokenField::Claim(vec!["aud".to_owned()]);
        let values = self.values(&field);
        audiences.is_empty()
            || values
                .iter()
                .any(|value| audiences.iter().any(|of| of == value))
    }

    /// From when to when it is valid. A time that is none is no limit that holds: `Err`.
    pub(crate) fn times(&self) -> Result<Times, NoTime> {
        Ok(Times {
            not_before: self.time("nbf")?,
            expires: self.time("exp")?,
        })
    }

    fn time(&self, claim: &str) -> Result<Option<SystemTime>, NoTime> {
        let Some(value) = self.claims.get(claim) else {
            return Ok(None);
        };
        let seconds = value
            .as_f64()
            .filter(|seconds| *seconds >= 0.0)
            .ok_or(NoTime)?;
        let since = Duration::try_from_secs_f64(seconds).map_err(|_| NoTime)?;
        UNIX_EPOCH.checked_add(since).map(Some).ok_or(NoTime)
    }
}

/// From when to when a token is valid.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    not_before: Option<SystemTime>,
    expires: Option<SystemTime>,
}

/// A time that is none.
pub(crate) struct NoTime;

impl Times {
    /// Clocks may differ by a minute.
    pub(crate) fn is_early(&self, now: SystemTime) -> bool {
        self.not_before.is_some_and(|from| now + SKEW < from)
    }

    pub(crate) fn is_late(&self, now: SystemTime) -> bool {
        let until = self.expires.map(|until| until.checked_add(SKEW));
        until.flatten().is_some_and(|until| now > until)
    }
}

/// Always separated by spaces (RFC 8693 §4.2).
const LISTS: [&str; 2] = ["scope", "permission"];
const SKEW: Duration = Duration::from_secs(60);

/// A text, a whole number, or whether something is so.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
        _ => None,
    }
}
