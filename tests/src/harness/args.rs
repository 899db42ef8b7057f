//! The arguments that `cargo test` passes on, in the spelling of the standard harness.

use std::{env, num::NonZeroUsize};

use super::Case;

/// What to run, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Args {
    pub(super) list: bool,
    /// Output goes to the terminal as it comes.
    pub(super) nocapture: bool,
    pub(super) at_once: usize,
    filters: Vec<String>,
    skips: Vec<String>,
    exact: bool,
    /// `--ignored` selects tests that are not run by default, and there are none.
    only_ignored: bool,
}

impl Args {
    /// Reads arguments; the error is the one that is not understood.
    pub(super) fn parse(args: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut parsed = Self {
            list: false,
            nocapture: false,
            at_once: env::var("RUST_TEST_THREADS")
                .ok()
                .and_then(|text| count(&text))
                .unwrap_or(AT_ONCE),
            filters: Vec::new(),
            skips: Vec::new(),
            exact: false,
            only_ignored: false,
        };
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let (flag, attached) = match arg.split_once('=') {
                Some((flag, value)) if flag.starts_with("--") => {
                    (flag.to_owned(), Some(value.to_owned()))
                }
                _ => (arg.clone(), None),
            };
            let mut value = || attached.clone().or_else(|| args.next()).ok_or(arg.clone());
            match flag.as_str() {
                "--list" => parsed.list = true,
                "--nocapture" | "--no-capture" => parsed.nocapture = true,
                "--exact" => parsed.exact = true,
                "--ignored" => parsed.only_ignored = true,
                "--skip" => parsed.skips.push(value()?),
                "--test-threads" => parsed.at_once = count(&value()?).ok_or(arg)?,
                // How a run looks is fixed.
                "--format" | "--color" | "-Z" => drop(value()?),
                "-q" | "--quiet" | "--show-output" | "--include-ignored" | "--test"
                | "--report-time" => {}
                flag if flag.starts_with('-') => return Err(arg),
                _ => parsed.filters.push(arg),
            }
        }
        Ok(parsed)
    }

    /// The cases to run, in order.
    pub(super) fn select<'a>(&self, cases: &'a [Case]) -> Vec<&'a Case> {
        cases
            .iter()
            .filter(|case| self.selects(case.name))
            .collect()
    }

    fn selects(&self, name: &str) -> bool {
        let fits = |pattern: &String| {
            if self.exact {
                name == pattern
            } else {
                name.contains(pattern.as_str())
            }
        };
        let wanted = self.filters.is_empty() || self.filters.iter().any(fits);
        wanted && !self.only_ignored && !self.skips.iter().any(fits)
    }
}

fn count(text: &str) -> Option<usize> {
    text.parse().ok().map(NonZeroUsize::get)
}

/// Tests run at once: each keeps several processes busy.
const AT_ONCE: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &str) -> Result<Args, String> {
        Args::parse(args.split_ascii_whitespace().map(str::to_owned))
    }

    #[test]
    fn tests_are_selected_as_the_standard_harness_selects_them() {
        let names = ["paths::ipv4", "paths::ipv6", "policy::deny"];
        let table: [(&str, &[&str]); 7] = [
            ("", &names),
            ("paths", &["paths::ipv4", "paths::ipv6"]),
            ("ipv6 deny", &["paths::ipv6", "policy::deny"]),
            ("paths --exact", &[]),
            ("--exact paths::ipv4 -q", &["paths::ipv4"]),
            ("--skip ipv --nocapture", &["policy::deny"]),
            ("--ignored", &[]),
        ];
        for (args, expected) in table {
            let args = parse(args).unwrap();
            let selected: Vec<&str> = names
                .into_iter()
                .filter(|name| args.selects(name))
                .collect();
            assert_eq!(selected, expected, "{args:?}");
        }
    }

    #[test]
    fn values_are_taken_attached_or_apart() {
        for args in [
            "--test-threads=5 --format terse --list",
            "--list --format=terse --test-threads 5",
        ] {
            let args = parse(args).unwrap();
            assert!(
                args.list && args.at_once == 5 && args.filters.is_empty(),
                "{args:?}"
            );
        }
        for wrong in ["--test-threads", "--test-threads 0", "--nonsense", "--skip"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
