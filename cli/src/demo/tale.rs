//! What the demo says: chapters with evidence and claims, as a story for people or as JSON for machines.

use std::{
    fmt,
    io::{self, Write},
    time::Duration,
};

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use crate::style::Style;

/// The story so far. Each line is shown as it is told.
#[derive(Debug)]
pub(super) struct Tale {
    audience: Audience,
    chapters: Vec<Chapter>,
}

#[derive(Clone, Copy, Debug)]
enum Audience {
    People(Style),
    Machines,
}

/// A chapter and what it showed.
#[derive(Debug, Default, Serialize)]
struct Chapter {
    title: &'static str,
    evidence: Vec<Evidence>,
    claims: Vec<Claim>,
}

#[derive(Debug, Serialize)]
struct Evidence {
    what: &'static str,
    seen: String,
}

#[derive(Debug, Serialize)]
struct Claim {
    claim: String,
    held: bool,
    /// Why not, or in numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

#[derive(Debug, Serialize)]
struct Document<'a> {
    held: bool,
    chapters: &'a [Chapter],
}

impl Tale {
    pub(super) fn new(json: bool) -> Self {
        let audience = if json {
            Audience::Machines
        } else {
            Audience::People(Style::for_stream(&io::stdout()))
        };
        Self {
            audience,
            chapters: Vec::new(),
        }
    }

    pub(super) fn begin(&self) {
        if let Audience::People(style) = self.audience {
            say(style.bold("tulle demo: a mesh on this machine"));
        }
    }

    /// Says something on the way.
    pub(super) fn note(&self, text: impl fmt::Display) {
        if let Audience::People(style) = self.audience {
            say(style.dim(text));
        }
    }

    /// Starts a chapter.
    pub(super) fn chapter(&mut self, title: &'static str) {
        self.chapters.push(Chapter {
            title,
            ..Chapter::default()
        });
        if let Audience::People(style) = self.audience {
            let number = self.chapters.len();
            say(format_args!(
                "\n{}",
                style.bold(format!("{number}. {title}"))
            ));
        }
    }

    /// Shows something that was seen.
    pub(super) fn evidence(&mut self, what: &'static str, seen: impl Into<String>) {
        let seen = seen.into();
        if let Audience::People(style) = self.audience {
            say(format_args!(
                "   {} {seen}",
                style.dim(format!("{what:<LABEL$}"))
            ));
        }
        if let Some(chapter) = self.chapters.last_mut() {
            chapter.evidence.push(Evidence { what, seen });
        }
    }

    /// Says whether a claim held.
    pub(super) fn claim(&mut self, claim: &'static str, held: bool) {
        self.conclude_claim(claim.into(), held, None);
    }

    /// As [`Tale::claim`], with the figures for the table.
    pub(super) fn claim_with(&mut self, claim: &'static str, held: bool, note: impl Into<String>) {
        self.conclude_claim(claim.into(), held, Some(note.into()));
    }

    /// Ends a chapter that could not be told to its end.
    pub(super) fn cut_short(&mut self) {
        let title = self.chapters.last().map_or("", |chapter| chapter.title);
        self.conclude_claim(format!("told to its end: {title}"), false, None);
    }

    fn conclude_claim(&mut self, claim: String, held: bool, note: Option<String>) {
        if let Audience::People(style) = self.audience {
            say(format_args!("   {} {claim}", style.verdict(held)));
        }
        if let Some(chapter) = self.chapters.last_mut() {
            chapter.claims.push(Claim { claim, held, note });
        }
    }

    /// Whether there were claims and all of them held.
    pub(super) fn all_held(&self) -> bool {
        let mut claims = self.claims().peekable();
        claims.peek().is_some() && claims.all(|claim| claim.held)
    }

    /// Ends the story with the table of claims, or prints the document.
    ///
    /// # Errors
    /// When the document cannot be written.
    pub(super) fn conclude(&self) -> Result<()> {
        let held = self.all_held();
        match self.audience {
            Audience::People(style) => say(format_args!(
                "\n{}\n\n{}",
                self.table(),
                style.summary(held)
            )),
            Audience::Machines => {
                let document = Document {
                    held,
                    chapters: &self.chapters,
                };
                let text = serde_json::to_string_pretty(&document)?;
                writeln!(io::stdout(), "{text}")?;
            }
        }
        Ok(())
    }

    /// Without colours: their escape sequences would count as width.
    fn table(&self) -> Table {
        let mut table = Table::new();
        table
            .load_style(presets::UTF8_FULL_CONDENSED)
            .set_content_arrangement(ContentArrangement::Disabled)
            .set_header(["", "claim", "held", "figures"]);
        for (number, chapter) in (1..).zip(&self.chapters) {
            for claim in &chapter.claims {
                let held = if claim.held { "yes" } else { "NO" };
                let note = claim.note.clone().unwrap_or_default();
                table.add_row([format!("{number}"), claim.claim.clone(), held.into(), note]);
            }
        }
        table
    }

    fn claims(&self) -> impl Iterator<Item = &Claim> {
        self.chapters.iter().flat_map(|chapter| &chapter.claims)
    }
}

impl Style {
    fn verdict(self, held: bool) -> String {
        if held {
            self.good("✓")
        } else {
            self.bad("✗")
        }
    }

    fn summary(self, held: bool) -> String {
        if held {
            self.good("Every claim held.")
        } else {
            self.bad("Not every claim held.")
        }
    }
}

/// Writes a line. Who reads no more, as `head` does, has not made a claim fail.
fn say(line: impl fmt::Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// A duration as people write it.
pub(super) fn human(duration: Duration) -> String {
    if duration < Duration::from_millis(1) {
        format!("{} µs", duration.as_micros())
    } else if duration < Duration::from_secs(1) {
        format!("{:.1} ms", duration.as_secs_f64() * 1e3)
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

/// Width of the column that says what was seen.
const LABEL: usize = 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tale_holds_if_it_claims_something_and_all_of_it_held() {
        let mut tale = Tale::new(true);
        assert!(!tale.all_held());
        tale.chapter("one");
        tale.claim("a", true);
        assert!(tale.all_held());
        tale.claim("b", false);
        assert!(!tale.all_held());
    }

    #[test]
    fn durations_read_well() {
        let cases = [(250, "250 µs"), (1500, "1.5 ms"), (2_500_000, "2.5 s")];
        for (micros, text) in cases {
            assert_eq!(human(Duration::from_micros(micros)), text);
        }
    }
}
