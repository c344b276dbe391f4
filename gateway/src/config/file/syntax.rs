//! Errors of TOML syntax, in words that need no knowledge of its grammar. Pure.

use toml::de::{DeTable, Error};

use crate::config::settings_error::shown;

/// A place where a text is not TOML.
#[derive(Debug)]
pub(super) struct SyntaxError {
    /// The offset in bytes.
    pub(super) at: usize,
    pub(super) message: String,
    pub(super) kind: SyntaxErrorKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SyntaxErrorKind {
    /// The mistake is in one value, usually without quotes.
    Value,
    /// The mistake is around values and keys.
    Structure,
    /// The mistake is in a line with a bracket, so the table of the lines below it is unknown.
    Header,
}

/// The valid part of a text, and its errors in order.
pub(super) fn parse(text: &str) -> (DeTable<'_>, Vec<SyntaxError>) {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut errors: Vec<SyntaxError> = errors.iter().map(|error| explain(text, error)).collect();
    errors.sort_by_key(|error| error.at);
    (table.into_inner(), errors)
}

fn explain(text: &str, error: &Error) -> SyntaxError {
    let span = error.span().unwrap_or(text.len()..text.len());
    let at = text.floor_char_boundary(span.start);
    let begin = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    let line = text[begin..].lines().next().unwrap_or_default();
    let found = text.get(span).unwrap_or_default();
    let begins = |start: &str| error.message().starts_with(start);
    let is_colon = line.contains(':') && !line.contains('=');
    let (kind, message) = if begins("duplicate key") {
        (SyntaxErrorKind::Structure, duplicate(text, begin, found, line))
    } else if begins("unclosed array table") || begins("unclosed table") || begins("invalid table") {
        (SyntaxErrorKind::Header, "a bracket is missing: write [tls] or [[route]]".to_owned())
    } else if begins("missing comma") {
        (SyntaxErrorKind::Structure, "a comma is missing before this, or a bracket above it".to_owned())
    } else if begins("unclosed") {
        (SyntaxErrorKind::Structure, "a bracket is missing before this".to_owned())
    } else if (begins("key with no value") || begins("invalid unquoted key")) && is_colon {
        (SyntaxErrorKind::Structure, "write `=` between a name and its value, and not `:`".to_owned())
    } else if begins("key with no value") {
        let name = shown(line.trim());
        (SyntaxErrorKind::Structure, format!("`{name}` has no value: write `{name} = …`"))
    } else if begins("unexpected key or value") {
        (SyntaxErrorKind::Structure, "nothing can stand behind a value but a comment".to_owned())
    } else if begins("extra `=`") {
        (SyntaxErrorKind::Structure, "there is one `=` too many".to_owned())
    } else if begins("unexpected `") || begins("unexpected character") {
        (SyntaxErrorKind::Structure, format!("`{}` cannot stand here", shown(found)))
    } else if begins("unquoted keys cannot be empty") {
        (SyntaxErrorKind::Structure, "the name of the setting is missing before `=`".to_owned())
    } else if begins("invalid unquoted key") {
        (SyntaxErrorKind::Structure, "the name of a setting has letters, digits, `-` and `_`".to_owned())
    } else if found.is_empty() && line.trim_end().ends_with('=') {
        (SyntaxErrorKind::Value, format!("`{}` has no value", shown(line.trim().trim_end_matches(['=', ' ']))))
    } else if begins("invalid basic string") || begins("invalid literal string") {
        (SyntaxErrorKind::Value, "the quote at the end of a text is missing".to_owned())
    } else if begins("missing escaped value") {
        (SyntaxErrorKind::Value, "write `\\\\` for one backslash".to_owned())
    } else if begins("string values must be quoted") {
        // It may also be a secret with a wrong name.
        (SyntaxErrorKind::Value, "write it in quotes".to_owned())
    } else {
        let message = error.message().replace(", expected nothing", "").replace('\n', "; ");
        (SyntaxErrorKind::Value, format!("this is not TOML: {message}"))
    };
    SyntaxError { at, message, kind }
}

/// A duplicate key or table.
fn duplicate(text: &str, begin: usize, key: &str, line: &str) -> String {
    let is_table = line.trim_start().starts_with('[');
    let is_same = |other: &str| match is_table {
        true => other.trim() == line.trim(),
        false => other.split_once('=').is_some_and(|(name, _)| name.trim() == key),
    };
    let name = shown(if is_table { line.trim() } else { key });
    let before: Vec<&str> = text[..begin].lines().collect();
    // A key belongs to the table above it.
    let is_header = |other: &&str| !is_table && other.trim_start().starts_with('[');
    let table = before.iter().rposition(is_header).unwrap_or(0);
    match before.iter().enumerate().skip(table).find(|(_, other)| is_same(other)) {
        Some((first, _)) => format!("`{name}` is there twice; the first is in line {}", first + 1),
        None => format!("`{name}` is there twice"),
    }
}
