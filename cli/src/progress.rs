//! What a command that takes a while is doing: a line for each step, as it is taken.

use std::io;

use crate::style::Style;

/// Steps, told at standard output.
#[derive(Debug)]
pub(crate) struct Progress(Style);

impl Progress {
    pub(crate) fn new() -> Self {
        Self(Style::for_stream(&io::stdout()))
    }

    /// A part of the work begins.
    pub(crate) fn part(&self, title: &str) {
        println!("{}", self.0.bold(title));
    }

    /// Something is as it should be.
    pub(crate) fn done(&self, what: &str, how: &str) {
        println!("  {} {what}: {how}", self.0.good("✓"));
    }

    /// Something is waited for.
    pub(crate) fn waiting(&self, what: &str, why: &str) {
        println!("  {} {what}: {why}", self.0.dim("…"));
    }

    /// Something that belongs to the step before.
    pub(crate) fn detail(&self, what: &str) {
        println!("      {}", self.0.dim(what));
    }

    /// Something that whoever started this should know.
    pub(crate) fn note(&self, what: &str) {
        println!("  {} {what}", self.0.bold("!"));
    }

    /// How it ended, in one sentence.
    pub(crate) fn conclude(&self, sentence: &str) {
        println!("{}", self.0.bold(sentence));
    }
}
