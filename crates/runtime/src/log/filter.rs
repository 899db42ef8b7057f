//! Which lines are logged.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

/// Levels by target, such as `info,access=debug`: the longest target that starts an event's decides, and what has no
/// target decides the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directives {
    rest: Option<LevelFilter>,
    targets: BTreeMap<String, LevelFilter>,
}

/// Directives that do not parse.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDirectives {
    /// Not a level.
    #[error(
        "invalid level {0:?}: use off, error, warn, info, debug or trace, alone or as target=level"
    )]
    Level(String),
    /// Not a target.
    #[error("invalid target {0:?}")]
    Target(String),
    /// More targets than are kept.
    #[error("more than {MAX_TARGETS} targets")]
    TooMany,
}

impl Default for Directives {
    fn default() -> Self {
        Self {
            rest: Some(LevelFilter::INFO),
            targets: BTreeMap::new(),
        }
    }
}

impl Directives {
    /// These, overridden by `others`.
    pub(super) fn with(&self, others: &Self) -> Result<Self, InvalidDirectives> {
        let mut merged = self.clone();
        merged.rest = others.rest.or(merged.rest);
        merged.targets.extend(others.targets.clone());
        if merged.targets.len() > MAX_TARGETS {
            return Err(InvalidDirectives::TooMany);
        }
        Ok(merged)
    }

    pub(super) fn targets(&self) -> Targets {
        let targets = self.targets.iter().map(|(t, level)| (t.as_str(), *level));
        Targets::new()
            .with_default(self.rest.unwrap_or(LevelFilter::INFO))
            .with_targets(targets)
    }
}

impl FromStr for Directives {
    type Err = InvalidDirectives;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parsed = Self {
            rest: None,
            targets: BTreeMap::new(),
        };
        for directive in text.split(',').map(str::trim).filter(|d| !d.is_empty()) {
            match directive.split_once('=') {
                None => parsed.rest = Some(level(directive)?),
                Some((target, value)) => {
                    let value = level(value)?;
                    parsed.targets.insert(target_name(target)?, value);
                }
            }
        }
        if parsed.targets.len() > MAX_TARGETS {
            return Err(InvalidDirectives::TooMany);
        }
        Ok(parsed)
    }
}

impl fmt::Display for Directives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.rest.unwrap_or(LevelFilter::INFO))?;
        for (target, level) in &self.targets {
            write!(f, ",{target}={level}")?;
        }
        Ok(())
    }
}

fn level(text: &str) -> Result<LevelFilter, InvalidDirectives> {
    // Names only: the type's own parser also takes numbers and nothing at all.
    let named = text.chars().all(|c| c.is_ascii_alphabetic()) && !text.is_empty();
    let level = named.then(|| text.parse().ok()).flatten();
    level.ok_or_else(|| InvalidDirectives::Level(text.to_owned()))
}

fn target_name(text: &str) -> Result<String, InvalidDirectives> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_:-.".contains(c);
    if text.is_empty() || text.len() > MAX_TARGET || !text.chars().all(allowed) {
        return Err(InvalidDirectives::Target(text.to_owned()));
    }
    Ok(text.to_owned())
}

const MAX_TARGETS: usize = 64;
const MAX_TARGET: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn directives_parse_and_print() {
        for (text, printed) in [
            ("", "info"),
            ("debug", "debug"),
            ("WARN", "warn"),
            ("access=debug", "info,access=debug"),
            (
                " tulle_xds::client=trace , off",
                "off,tulle_xds::client=trace",
            ),
            ("a=debug,a=warn", "info,a=warn"),
        ] {
            let parsed: Directives = text.parse().unwrap();
            assert_eq!(parsed.to_string(), printed, "{text}");
        }
    }

    #[test]
    fn what_is_not_a_level_or_target_is_refused() {
        let level = |text: &str| Err(InvalidDirectives::Level(text.into()));
        assert_eq!("loud".parse::<Directives>(), level("loud"));
        assert_eq!("3".parse::<Directives>(), level("3"));
        assert_eq!("a=".parse::<Directives>(), level(""));
        assert_eq!("a=b=debug".parse::<Directives>(), level("b=debug"));
        let target = |text: &str| Err(InvalidDirectives::Target(text.into()));
        assert_eq!("=debug".parse::<Directives>(), target(""));
        assert_eq!("[span]=debug".parse::<Directives>(), target("[span]"));
    }

    #[test]
    fn later_directives_override_and_add_to_earlier_ones() {
        let base: Directives = "info,a=debug,b=warn".parse().unwrap();
        let merged = base.with(&"b=off,c=trace".parse().unwrap()).unwrap();
        assert_eq!(merged.to_string(), "info,a=debug,b=off,c=trace");
        let merged = base.with(&"error".parse().unwrap()).unwrap();
        assert_eq!(merged.to_string(), "error,a=debug,b=warn");
    }

    #[test]
    fn targets_are_bounded() {
        let many: Vec<_> = (0..MAX_TARGETS).map(|i| format!("t{i}=debug")).collect();
        let many: Directives = many.join(",").parse().unwrap();
        let one = "another=debug".parse().unwrap();
        assert_eq!(many.with(&one), Err(InvalidDirectives::TooMany));
    }

    #[test]
    fn longest_target_decides() {
        let targets = "warn,a=debug,a::b=off"
            .parse::<Directives>()
            .unwrap()
            .targets();
        assert!(targets.would_enable("a::c", &Level::DEBUG));
        assert!(!targets.would_enable("a::b::d", &Level::ERROR));
        assert!(!targets.would_enable("other", &Level::INFO));
        assert!(targets.would_enable("other", &Level::WARN));
    }
}
