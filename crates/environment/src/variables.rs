//! Reading variables, with errors that tell the operator what to change.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::parse;

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
    /// A variable that has to be there.
    #[error("{0} is not set")]
    Missing(&'static str),
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
pub struct Variables<'a>(&'a BTreeMap<String, String>);

/// A variable of upstream, the one value of it that is accepted (none if empty), and how to say that.
pub type Supported = (&'static str, (&'static str, &'static str));

/// What a program knows of variables.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Those of ours that it reads.
    pub ours: &'static [&'static str],
    /// Those of ours that are for others, and may be there.
    pub others: &'static [&'static str],
    /// Those of upstream whose other values ask for what it does not do.
    pub supported: &'static [Supported],
}

impl<'a> Variables<'a> {
    /// Refuses what is ours and unknown, and what is upstream's and not supported.
    ///
    /// # Errors
    /// [`ConfigError`] names the first.
    pub fn new(all: &'a BTreeMap<String, String>, known: &Known) -> Result<Self, ConfigError> {
        for name in all.keys().filter(|name| name.starts_with("TULLE_")) {
            if !known.ours.contains(&name.as_str()) && !known.others.contains(&name.as_str()) {
                return Err(ConfigError::Unknown(name.clone()));
            }
        }
        let variables = Self(all);
        for &(variable, supported) in known.supported {
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
    pub fn raw(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).map(String::as_str)
    }

    /// The value without the blanks around it, if there is anything left.
    pub fn text(&self, name: &str) -> Option<String> {
        let value = self.raw(name)?.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }

    /// The value of one that has to be there.
    ///
    /// # Errors
    /// [`ConfigError::Missing`] if it is not, or empty.
    pub fn required(&self, name: &'static str) -> Result<String, ConfigError> {
        self.text(name).ok_or(ConfigError::Missing(name))
    }

    /// What `parse` makes of the value; `expected` says what it takes.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] if it is there and something else.
    pub fn parse<T>(
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

    /// True or false.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] if it is there and something else.
    pub fn boolean(&self, name: &str) -> Result<Option<bool>, ConfigError> {
        self.parse(name, "true or false", |text| match text {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => None,
        })
    }

    /// A number of a range.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] if it is there and something else.
    pub fn number<T>(&self, name: &str, range: RangeInclusive<T>) -> Result<Option<T>, ConfigError>
    where
        T: std::str::FromStr + PartialOrd + std::fmt::Display,
    {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        let parse = |text: &str| text.parse().ok().filter(|number| range.contains(number));
        self.parse(name, &expected, parse)
    }

    /// A time of at least a millisecond: none of ours may be zero.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] if it is there and something else.
    pub fn duration(&self, name: &str) -> Result<Option<Duration>, ConfigError> {
        let expected = "a time above zero such as 500ms, 90s or 1h30m";
        let parse = |text: &str| parse::duration(text).filter(|time| !time.is_zero());
        self.parse(name, expected, parse)
    }

    /// A number of processors as Kubernetes writes it, rounded up.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] if it is there and something else.
    pub fn processors(&self, name: &str) -> Result<Option<NonZeroUsize>, ConfigError> {
        self.parse(
            name,
            "a quantity of processors such as 2 or 500m",
            parse::processors,
        )
    }

    /// The variables that begin with `prefix`, without it.
    pub fn with_prefix(&self, prefix: &'static str) -> impl Iterator<Item = (&'a str, &'a str)> {
        let stripped = move |(name, value): (&'a String, &'a String)| {
            let name = name.strip_prefix(prefix).filter(|name| !name.is_empty())?;
            Some((name, value.as_str()))
        };
        self.0.iter().filter_map(stripped)
    }
}
