//! Regular expressions.

use tulle_http::pattern;

use super::Check;

impl Check {
    /// A regular expression.
    pub(super) fn pattern(&mut self, field: &str, pattern: &str) {
        self.patterns += 1;
        if self.patterns > MOST_PATTERNS {
            if self.patterns == MOST_PATTERNS + 1 {
                let message = format!("there are more than {MOST_PATTERNS} regular expressions");
                self.invalid(field, message);
            }
            return;
        }
        if let Err(why) = pattern::compile(pattern) {
            self.invalid(field, why);
        }
    }
}

/// In one object. Each may take a millisecond to compile.
const MOST_PATTERNS: usize = 128;
