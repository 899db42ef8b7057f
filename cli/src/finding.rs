//! What a check found, and how it is told.

use std::io::{self, Write};

use anyhow::Result;
use clap::ValueEnum;
use serde::Serialize;

use crate::style::Style;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// Worth knowing; everything that was asked for works.
    Warning,
    /// Something does not work.
    Failure,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    /// What it is about.
    pub(crate) about: &'static str,
    pub(crate) level: Level,
    /// What is the case.
    pub(crate) what: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) todo: Option<String>,
}

impl Finding {
    pub(crate) fn ok(about: &'static str, what: impl Into<String>) -> Self {
        Self {
            about,
            level: Level::Ok,
            what: what.into(),
            todo: None,
        }
    }

    pub(crate) fn warning(
        about: &'static str,
        what: impl Into<String>,
        todo: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Warning,
            todo: Some(todo.into()),
            ..Self::ok(about, what)
        }
    }

    pub(crate) fn failure(
        about: &'static str,
        what: impl Into<String>,
        todo: impl Into<String>,
    ) -> Self {
        Self {
            level: Level::Failure,
            ..Self::warning(about, what, todo)
        }
    }
}

/// In which form findings are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// All of them.
    Text,
    /// Only what is not as it should be.
    Short,
    /// One document for machines.
    Json,
}

/// Everything that a check found, and what follows, in one sentence.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) ok: bool,
    pub(crate) conclusion: String,
    pub(crate) findings: Vec<Finding>,
}

impl Report {
    /// Tells of it at standard output.
    pub(crate) fn print(&self, form: Form) -> Result<()> {
        let mut out = io::stdout().lock();
        match form {
            Form::Json => {
                serde_json::to_writer_pretty(&mut out, self)?;
                writeln!(out)?;
            }
            Form::Text | Form::Short => {
                let style = Style::for_stream(&out);
                write!(out, "{}", lines(&self.findings, form, style))?;
                writeln!(out, "{}", style.bold(&self.conclusion))?;
            }
        }
        Ok(())
    }
}

/// Findings, those about one thing together, under its name.
pub(crate) fn lines(findings: &[Finding], form: Form, style: Style) -> String {
    let (mut text, mut about) = (String::new(), "");
    for finding in findings {
        if form == Form::Short && finding.level == Level::Ok {
            continue;
        }
        if finding.about != about {
            about = finding.about;
            text.push_str(&format!("{}\n", style.bold(about)));
        }
        let mark = match finding.level {
            Level::Ok => style.good("✓"),
            Level::Warning => style.bold("!"),
            Level::Failure => style.bad("✗"),
        };
        text.push_str(&format!("  {mark} {}\n", finding.what));
        if let Some(todo) = &finding.todo {
            text.push_str(&format!("      {}\n", style.dim(format!("→ {todo}"))));
        }
    }
    text
}

/// How many findings are of a level.
pub(crate) fn count(findings: &[Finding], level: Level) -> usize {
    let of_level = findings.iter().filter(|finding| finding.level == level);
    of_level.count()
}

/// A number and what it counts: `1 node`, `2 nodes`.
pub(crate) fn counted(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

/// Names for people: the first few, and how many more there are.
pub(crate) fn some<S: AsRef<str>>(names: &[S]) -> String {
    let first: Vec<&str> = names.iter().take(MOST).map(AsRef::as_ref).collect();
    let first = first.join(", ");
    match names.len().saturating_sub(MOST) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

const MOST: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_told_with_what_to_do() {
        let findings = [
            Finding::ok("nodes", "Linux"),
            Finding::failure("nodes", "a is old", "replace it"),
            Finding::warning("images", "far away", "wait"),
        ];
        let text = lines(&findings, Form::Text, Style::Plain);
        let expected = "nodes\n  ✓ Linux\n  ✗ a is old\n      → replace it\nimages\n  ! far away\n      → wait\n";
        assert_eq!(text, expected);
        let text = lines(&findings, Form::Short, Style::Plain);
        let expected =
            "nodes\n  ✗ a is old\n      → replace it\nimages\n  ! far away\n      → wait\n";
        assert_eq!(text, expected);
        assert_eq!(count(&findings, Level::Failure), 1);
    }

    #[test]
    fn of_many_names_some_are_told() {
        let names: Vec<String> = (1..=7).map(|number| format!("n{number}")).collect();
        assert_eq!(some(&names), "n1, n2, n3, n4, n5 and 2 more");
        assert_eq!(some(&["a", "b"]), "a, b");
        assert_eq!(counted(1, "node"), "1 node");
        assert_eq!(counted(0, "node"), "0 nodes");
    }
}
