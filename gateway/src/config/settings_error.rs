//! Mistakes in settings.

use std::fmt::{self, Display};

use net::{MAX_ESCAPED_BYTES, escaped};

/// All mistakes in settings: a line for each, with its position.
#[derive(Debug)]
pub(crate) struct SettingsError {
    lines: Vec<String>,
}

impl SettingsError {
    pub(crate) fn new(lines: Vec<String>) -> Self {
        Self { lines }
    }

    /// The lines of the mistakes, one for each.
    pub(crate) fn lines(&self) -> &[String] {
        &self.lines
    }
}

/// A part of a file, for a line about it.
pub(super) fn shown(text: &str) -> impl Display + '_ {
    escaped(text, MAX_ESCAPED_BYTES)
}

impl Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))
    }
}
