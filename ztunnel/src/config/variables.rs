//! Reading variables, with errors that tell the operator what to change.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::parse;

/// Why a configuration is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A variable does not parse.
    #[error("{variable}={value:?}: must be {expected}")]
    Invalid {
        /// Its name.
        variable: String,
        /// Its value.
        value: String,
        /// What is accepted.
        expected: String,
    },
    /// A variable of ours that does not exist.
    #[error("{0}: there is no such variable")]
    Unknown(String),
    /// A variable of upstream that asks for something we do not do.
    #[error("{variable}={value:?}: not supported, only {supported}")]
    Unsupported {
        /// Its name.
        variable: &'static str,
        /// Its value.
        value: String,
        /// The one value it may have.
        supported: &'static str,
    },
    /// Two variables that exclude each other.
    #[error("{0} and {1} exclude each other")]
    Exclusive(&'static str, &'static str),
    /// A document that does not parse.
    #[error("{from}: {error}")]
    Document {
        /// Where it is from.
        from: &'static str,
        /// What is wrong.
        error: String,
    },
}

/// The variables of one process.
#[derive(Clone, Copy)]
pub(super) struct Variables<'a>(&'a BTreeMap<String, String>);

impl<'a> Variables<'a> {
    /// Refuses what is ours and unknown, and what is upstream's and not supported.
    pub(super) fn new(all: &'a BTreeMap<String, String>) -> Result<Self, ConfigError> {
        for name in all.keys().filter(|name| name.starts_with("TULLE_")) {
            if !OURS.contains(&name.as_str()) && !OTHERS.contains(&name.as_str()) {
                return Err(ConfigError::Unknown(name.clone()));
            }
        }
        let variables = Self(all);
        for &(variable, supported) in SUPPORTED {
            if let Some(value) = variables.text(variable).filter(|v| v != supported.0) {
                return Err(ConfigError::Unsupported {
                    variable,
                    value,
                    supported: supported.1,
                });
            }
        }
        Ok(variables)
    }

    /// The value as it is, also if it is empty.
    pub(super) fn raw(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).map(String::as_str)
    }

    /// The value without the blanks around it, if there is anything left.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let value = self.raw(name)?.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }

    pub(super) fn parse<T>(
        &self,
        name: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.text(name) else {
            return Ok(None);
        };
        match parse(&value) {
            Some(parsed) => Ok(Some(parsed)),
            None => Err(ConfigError::Invalid {
                variable: name.to_owned(),
                value,
                expected: expected.to_owned(),
            }),
        }
    }

    pub(super) fn boolean(&self, name: &str) -> Result<Option<bool>, ConfigError> {
        self.parse(name, "true or false", |text| match text {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        })
    }

    pub(super) fn number<T>(
        &self,
        name: &str,
        range: RangeInclusive<T>,
    ) -> Result<Option<T>, ConfigError>
    where
        T: std::str::FromStr + PartialOrd + std::fmt::Display,
    {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        let parse = |text: &str| text.parse().ok().filter(|number| range.contains(number));
        self.parse(name, &expected, parse)
    }

    /// A time of at least a millisecond: none of ours may be zero.
    pub(super) fn duration(&self, name: &str) -> Result<Option<Duration>, ConfigError> {
        let expected = "a time above zero such as 500ms, 90s or 1h30m";
        let parse = |text: &str| parse::duration(text).filter(|time| !time.is_zero());
        self.parse(name, expected, parse)
    }

    /// A number of processors as Kubernetes writes it, rounded up.
    pub(super) fn processors(&self, name: &str) -> Result<Option<NonZeroUsize>, ConfigError> {
        self.parse(
            name,
            "a quantity of processors such as 2 or 500m",
            parse::processors,
        )
    }

    /// The variables that begin with `prefix`, without it.
    pub(super) fn with_prefix(
        &self,
        prefix: &'static str,
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        let stripped = move |(name, value): (&'a String, &'a String)| {
            let name = name.strip_prefix(prefix).filter(|name| !name.is_empty())?;
            Some((name, value.as_str()))
        };
        self.0.iter().filter_map(stripped)
    }
}

const OURS: &[&str] = &[
    "TULLE_ADMIN_ADDR",
    "TULLE_CONNECT_TIMEOUT",
    "TULLE_HANDSHAKE_TIMEOUT",
    "TULLE_LOG_BUFFER",
    "TULLE_MAX_CONNECTIONS_PER_POD",
    "TULLE_MAX_DNS_QUERIES_PER_POD",
    "TULLE_MAX_HANDSHAKES_PER_POD",
    "TULLE_MAX_IDENTITIES",
    "TULLE_MAX_NAMES",
    "TULLE_POOL_MAX_CONNECTIONS",
    "TULLE_READINESS_ADDR",
    "TULLE_RESOLV_CONF",
    "TULLE_STATS_ADDR",
    "TULLE_TUNNEL_TIMEOUT",
    "TULLE_WORKLOAD_WAIT",
];

/// Those of the build and of the lab, which its children inherit.
const OTHERS: &[&str] = &["TULLE_GIT_REVISION", "TULLE_SANDBOX_PARENT"];

/// Variables of upstream whose other values ask for what we do not do: the value that is accepted, and how to say it.
const SUPPORTED: &[(&str, (&str, &str))] = &[
    ("COMPLIANCE_POLICY", ("", "unset")),
    ("CRL_PATH", ("", "unset")),
    ("ENABLE_PROXY", ("true", "true")),
    ("ENABLE_RESPONSE_BAGGAGE", ("true", "true")),
    ("FAKE_CA", ("false", "false")),
    ("LOCALHOST_APP_TUNNEL", ("true", "true")),
    ("PROXY_MODE", ("shared", "shared")),
    ("TLS12_ENABLED", ("false", "false")),
    ("UNSTABLE_ENABLE_SOCKS5", ("false", "false")),
    ("USER_TIMEOUT_ENABLED", ("false", "false")),
    ("XDS_ON_DEMAND", ("false", "false")),
];
