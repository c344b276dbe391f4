//! Reads tables of a configuration file into settings, and collects all mistakes with their
//! positions.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use net::{GivenValue, Setting, SettingPlace, Settings, ValueKind, most_alike};
use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::syntax::{self, SyntaxError, SyntaxErrorKind};
use crate::config::settings::top_level;
use crate::config::settings_error::shown;

/// Settings whose values stay out of logs.
const SECRETS: [&str; 1] = ["cookie_secret"];
/// Maximum lines about one file; further mistakes are counted.
const MAX_LINES: usize = 50;

/// A key of a table with its value.
pub(super) type Entry<'a, 't> = (&'a Spanned<Cow<'t, str>>, &'a Spanned<DeValue<'t>>);

/// A file while it is read.
#[derive(Debug)]
pub(super) struct FileReader<'t> {
    file: &'t Path,
    text: &'t str,
    /// Errors of syntax, in order.
    syntax_errors: Vec<SyntaxError>,
    /// Mistakes, each with its offset.
    mistakes: Vec<(usize, String)>,
    warnings: Vec<(usize, String)>,
    /// The offset of each key's value: `idle_timeout`, `tls.listen`, `route.0.prefix`.
    offsets: HashMap<String, usize>,
    /// Keys without a usable value.
    unusable: Vec<String>,
}

impl<'t> FileReader<'t> {
    pub(super) fn new(file: &'t Path, text: &'t str) -> Self {
        Self {
            file,
            text,
            syntax_errors: Vec::new(),
            mistakes: Vec::new(),
            warnings: Vec::new(),
            offsets: HashMap::new(),
            unusable: Vec::new(),
        }
    }

    /// The table of the whole file: as much of it as is TOML. `None` when it is not known which
    /// table its lines belong to.
    pub(super) fn parse(&mut self) -> Option<DeTable<'t>> {
        let (table, errors) = syntax::parse(self.text);
        self.syntax_errors = errors;
        let is_lost = self.syntax_errors.iter().any(|error| error.kind == SyntaxErrorKind::Header);
        (!is_lost).then_some(table)
    }

    /// The unquoted word that stands where a value should be, if there is one. Its syntax errors
    /// are dropped, because the caller reports the word.
    pub(super) fn bare(&mut self, value: &Spanned<DeValue<'t>>) -> Option<&'t str> {
        let span = value.span();
        let is_inside = |error: &SyntaxError| (span.start..=span.end).contains(&error.at);
        let last = self.syntax_errors.iter().rev().find(|error| is_inside(error))?;
        // A value that begins like a list or a number goes on, as in [::1]:80 and 1,000.
        let is_cut = last.at == span.end && last.kind == SyntaxErrorKind::Structure;
        let line_end = self.text.get(span.end..)?.find(['\n', '#']).map_or(self.text.len(), |more| span.end + more);
        let word = self.text.get(span.start..if is_cut { line_end } else { span.end })?.trim();
        let is_word = !word.is_empty() && !word.starts_with(['"', '\'', '{']) && !word.contains(['\n', '=', '"']);
        if !is_word || value.get_ref().is_array() && !is_cut {
            return None;
        }
        self.syntax_errors.retain(|error| !is_inside(error));
        Some(word.trim_matches(['\u{201c}', '\u{201d}', '\u{2018}', '\u{2019}']))
    }

    /// Whether a value, or a list with all its items, is not TOML. Its syntax errors are reported
    /// elsewhere.
    fn is_broken(&self, value: &Spanned<DeValue<'t>>, kind: Option<SyntaxErrorKind>) -> bool {
        let span = value.span();
        let is_kind = |error: &SyntaxError| kind.is_none_or(|kind| error.kind == kind);
        self.syntax_errors.iter().any(|error| (span.start..=span.end).contains(&error.at) && is_kind(error))
    }

    /// Applies the entries of a table that are settings of `S`, and returns the others: tables, and
    /// unknown keys. `scope` is put before names in [`offsets`](Self::offsets).
    pub(super) fn apply<'a, S: Settings>(
        &mut self,
        scope: &str,
        entries: Vec<Entry<'a, 't>>,
        settings: &mut S,
    ) -> Vec<Entry<'a, 't>> {
        let mut rest = Vec::new();
        for (key, value) in entries {
            let of_file = S::SETTINGS.iter().filter(|setting| setting.place != SettingPlace::CommandLine);
            let setting = of_file.into_iter().find(|setting| setting.name == key.get_ref());
            self.offsets.insert(format!("{scope}{}", key.get_ref()), value.span().start);
            match setting.filter(|setting| !matches!(setting.kind, ValueKind::Table | ValueKind::Tables)) {
                Some(setting) if self.set(setting, value, settings).is_none() => {
                    self.mark_unusable(format!("{scope}{}", setting.name));
                }
                Some(_) => {}
                None => rest.push((key, value)),
            }
        }
        rest
    }

    /// Sets a setting. Returns `None` if there is no usable value; the mistake has then been
    /// recorded.
    fn set<S: Settings>(&mut self, setting: &Setting, value: &Spanned<DeValue<'t>>, settings: &mut S) -> Option<()> {
        let texts = self.texts(setting, value)?;
        let result = match &texts[..] {
            [(_, path)] if setting.kind == ValueKind::Path && !path.is_empty() => {
                let folder = self.file.parent().unwrap_or_else(|| Path::new(""));
                settings.set(setting.name, GivenValue::Text(folder.join(&**path).as_os_str()))
            }
            texts => {
                let items: Vec<&str> = texts.iter().map(|(_, text)| &**text).collect();
                settings.set(setting.name, GivenValue::Items(&items))
            }
        };
        let error = result.err();
        if let Some(error) = &error {
            let item = texts.get(error.item).map_or_else(|| value.span().start, |(at, _)| *at);
            let raw = self.raw(setting, item, value.span().end);
            self.mistake(item, format!("{raw}: {}", error.message));
        }
        error.is_none().then_some(())
    }

    /// A value as texts, each with its offset. Mistakes are collected.
    fn texts<'a>(&mut self, setting: &Setting, value: &'a Spanned<DeValue<'t>>) -> Option<Vec<(usize, Cow<'a, str>)>> {
        let at = value.span().start;
        if let Some(word) = self.bare(value) {
            self.mistake(at, format!("{}: {}", setting.name, how_to_write_word(setting, word)));
            return None;
        }
        let kind = value.get_ref().is_array().then_some(SyntaxErrorKind::Structure);
        // Where there is no value, the parser makes one up.
        if self.is_broken(value, kind) || value.span().is_empty() {
            return None;
        }
        match (setting.kind, value.get_ref()) {
            (ValueKind::Text | ValueKind::Path | ValueKind::List, DeValue::String(text)) => {
                return Some(vec![(at, Cow::Borrowed(&**text))]);
            }
            (ValueKind::Number, DeValue::Integer(number)) => return Some(vec![(at, decimal(number).into())]),
            (ValueKind::Switch | ValueKind::SwitchOrList, DeValue::Boolean(switch)) => {
                return Some(vec![(at, switch.to_string().into())]);
            }
            (ValueKind::List | ValueKind::SwitchOrList, DeValue::Array(items)) => {
                let mut texts = Vec::new();
                for item in items.iter() {
                    if let Some(word) = self.bare(item) {
                        let message = format!("{}: write it in quotes: \"{}\"", setting.name, shown(word));
                        self.mistake(item.span().start, message);
                        continue;
                    }
                    match item.get_ref() {
                        DeValue::String(text) => texts.push((item.span().start, Cow::Borrowed(&**text))),
                        _ => {
                            let raw = self.raw(setting, item.span().start, item.span().end);
                            let example = &setting.example;
                            self.mistake(
                                item.span().start,
                                format!("{raw}: write it in quotes, such as \"{example}\""),
                            );
                        }
                    }
                }
                return (texts.len() == items.len()).then_some(texts);
            }
            _ => {}
        }
        let raw = self.raw(setting, at, value.span().end);
        self.mistake(at, format!("{raw}: {}", how_to_write(setting)));
        None
    }

    /// A setting and its value as the file has them, for people. The value begins at the byte
    /// `from`.
    fn raw(&self, setting: &Setting, from: usize, to: usize) -> String {
        let name = setting.name;
        let value = self.text.get(from..to).and_then(|text| text.lines().next()).unwrap_or_default();
        let value = value.trim_end_matches([',', ' ', ']', '}']);
        match SECRETS.contains(&name) || value.is_empty() {
            true => name.to_owned(),
            false => format!("{name} = {}", shown(value)),
        }
    }

    /// Entries that nothing knows. `names` are those that this table has, and `table` is its name;
    /// `elsewhere` tells of a name where it belongs.
    pub(super) fn unknown<'n>(
        &mut self,
        entries: Vec<Entry<'_, 't>>,
        names: &(impl Iterator<Item = &'n str> + Clone),
        table: &str,
        elsewhere: impl Fn(&str) -> Option<&'static str>,
    ) {
        for (key, _) in entries {
            let name = &**key.get_ref();
            let shown = shown(name);
            let message = match (elsewhere(name), most_alike(name, names.clone())) {
                (Some(owner), _) => format!("`{shown}` is not a key of {table}; it belongs {owner}"),
                (None, Some(meant)) => format!("unknown key `{shown}`; did you mean `{meant}`?"),
                (None, None) => format!("unknown key `{shown}`; {table} has {}", listed(names.clone())),
            };
            self.mistake(key.span().start, message);
        }
    }

    /// Entries of a table of `S` that it does not know.
    pub(super) fn unknown_in<S: Settings>(&mut self, entries: Vec<Entry<'_, 't>>, table: &str) {
        let is_top_level = |name: &str| top_level().any(|setting| setting.name == name);
        let elsewhere = |name: &str| is_top_level(name).then_some("above the first line with a bracket");
        self.unknown(entries, &S::SETTINGS.iter().map(|setting| setting.name), table, elsewhere);
    }

    /// A value that must be a table.
    pub(super) fn table<'a>(
        &mut self,
        name: &str,
        value: &'a Spanned<DeValue<'t>>,
        example: &str,
    ) -> Option<&'a DeTable<'t>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.mistake(value.span().start, format!("{name}: write {example}"));
        }
        table
    }

    /// A value that must be a list.
    pub(super) fn list<'a>(
        &mut self,
        name: &str,
        value: &'a Spanned<DeValue<'t>>,
        example: &str,
    ) -> Option<&'a [Spanned<DeValue<'t>>]> {
        if self.bare(value).is_none() && self.is_broken(value, Some(SyntaxErrorKind::Structure)) {
            return None;
        }
        let list = value.get_ref().as_array();
        if list.is_none() {
            self.mistake(value.span().start, format!("{name}: write {example}"));
        }
        list.map(|list| &list[..])
    }

    /// Adds a mistake at an offset of the file.
    pub(super) fn mistake(&mut self, at: usize, message: impl Into<String>) {
        self.mistakes.push((at, message.into()));
    }

    /// Records that a key has no usable value, so that settings that depend on it are not checked.
    pub(super) fn mark_unusable(&mut self, key: String) {
        self.unusable.push(key);
    }

    /// Whether all of these keys have a usable value, or none.
    pub(super) fn are_usable(&self, keys: &[&str]) -> bool {
        !self.unusable.iter().any(|key| keys.contains(&key.as_str()))
    }

    /// Adds a warning about a setting without effect. `key` is as in [`offsets`](Self::offsets).
    pub(super) fn warning(&mut self, key: &str, message: String) {
        self.warnings.push((self.offset(key).unwrap_or_default(), message));
    }

    /// The offset of a key's value, if the file has it.
    pub(super) fn offset(&self, key: &str) -> Option<usize> {
        self.offsets.get(key).copied()
    }

    /// The line of a byte, from 0.
    pub(super) fn line(&self, at: usize) -> usize {
        self.text.get(..at).unwrap_or(self.text).matches('\n').count()
    }

    /// The lines of mistakes, and those of warnings.
    pub(super) fn finish(mut self) -> (Vec<String>, Vec<String>) {
        let mut lines = Vec::new();
        for SyntaxError { at, message, .. } in std::mem::take(&mut self.syntax_errors) {
            // One slip may break the rest of its line. Further errors of that line help no reader.
            let line = self.line(at);
            if !lines.contains(&line) {
                lines.push(line);
                self.mistakes.push((at, message));
            }
        }
        let (mistakes, warnings) = (std::mem::take(&mut self.mistakes), std::mem::take(&mut self.warnings));
        (self.lines(mistakes), self.lines(warnings))
    }

    fn lines(&self, mut list: Vec<(usize, String)>) -> Vec<String> {
        list.sort();
        list.dedup();
        let more = list.len().saturating_sub(MAX_LINES);
        let file = self.file.display();
        let line = |(at, message): &(usize, String)| {
            let before = self.text.get(..*at).unwrap_or(self.text);
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            format!("{file}:{}:{column}: {message}", self.line(*at) + 1)
        };
        let mut lines: Vec<String> = list.iter().take(MAX_LINES).map(line).collect();
        if more > 0 {
            lines.push(format!("{file}: {more} more mistakes"));
        }
        lines
    }
}

/// The entries of a table.
pub(super) fn entries<'a, 't>(table: &'a DeTable<'t>) -> Vec<Entry<'a, 't>> {
    table.iter().collect()
}

/// Names for people: `a`, `b` and `c`.
fn listed<'n>(names: impl Iterator<Item = &'n str>) -> String {
    let names: Vec<String> = names.map(|name| format!("`{name}`")).collect();
    match &names[..] {
        [] => String::new(),
        [one] => one.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

fn decimal(number: &DeInteger<'_>) -> String {
    i128::from_str_radix(number.as_str(), number.radix())
        .map_or_else(|_| number.to_string(), |number| number.to_string())
}

/// How to write a value that lacks quotes and is not a number.
fn how_to_write_word(setting: &Setting, word: &str) -> String {
    let word = shown(word);
    match setting.kind {
        ValueKind::Number | ValueKind::Switch | ValueKind::SwitchOrList | ValueKind::Table | ValueKind::Tables => {
            how_to_write(setting)
        }
        _ if SECRETS.contains(&setting.name) => "write it in quotes".to_owned(),
        ValueKind::Text | ValueKind::Path => format!("write it in quotes: \"{word}\""),
        ValueKind::List => format!("write a list in quotes: [\"{word}\"]"),
    }
}

/// How to write a value that has the wrong type.
fn how_to_write(setting: &Setting) -> String {
    let example = setting.example();
    match setting.kind {
        ValueKind::Text if setting.unit.contains('|') => {
            let words: Vec<String> = setting.unit.split('|').map(|word| format!("\"{word}\"")).collect();
            format!("write {}", words.join(" or "))
        }
        ValueKind::Text | ValueKind::Path => format!("write it in quotes, such as \"{example}\""),
        ValueKind::Number => format!("write a whole number without quotes, such as {example}"),
        ValueKind::Switch => "write true or false, without quotes".to_owned(),
        ValueKind::SwitchOrList => format!("write true, false, or a list such as [\"{}\"]", setting.example),
        ValueKind::List => format!("write a list such as [\"{}\"]", setting.example),
        ValueKind::Table | ValueKind::Tables => format!("write {}", setting.example),
    }
}
