//! How the texts of a query string are read where the handler's type wants something else, such as
//! a number: a query string has only texts. Pure.

use std::collections::BTreeMap;

use protocol::Members;
use serde_json::value::RawValue;

/// Longer arguments are not read again, because they come from no query string.
const MAX_BYTES: usize = 64 * 1024;
/// Maximum number of times that arguments are read again. Each time, one more member gets another
/// form.
const MAX_REREADS: usize = 16;

/// How the text of one member is read, if not as a text.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ParamForm {
    /// Whether the member is read as the number or boolean that it has in quotes. For a member of a
    /// flattened type this has to be tried, because serde converts nothing there.
    pub(super) is_number: bool,
    /// Whether the member is read as a list with this one item.
    pub(super) is_list: bool,
    /// Whether the member is empty and is read as absent: it is an option whose type has no empty
    /// text.
    pub(super) is_absent: bool,
    /// Whether the member was tried as a number, and has to be a text.
    pub(super) is_text: bool,
}

/// The forms of members, by their names. They are found by trial: after an error, the text that it
/// names is read in another form.
#[derive(Debug, Default)]
pub(super) struct ParamForms {
    by_name: BTreeMap<String, ParamForm>,
    changes: usize,
}

impl ParamForms {
    pub(super) fn of(&self, name: &str) -> ParamForm {
        self.by_name.get(name).copied().unwrap_or_default()
    }

    /// Finds another form for the text that `error` names, among the members of `object`. Returns
    /// `None` when there is none, and otherwise whether the member now counts as absent.
    pub(super) fn change(&mut self, object: &str, error: &serde_json::Error) -> Option<bool> {
        if object.len() > MAX_BYTES || self.changes == MAX_REREADS {
            return None;
        }
        self.changes += 1;
        let Members(members) = serde_json::from_str(object).ok()?;
        let error = error.to_string();
        let (member, error) = match error.strip_prefix("member `").and_then(|rest| rest.split_once("`: ")) {
            Some((name, rest)) => (Some(name), rest),
            None => (None, &*error),
        };
        let texts =
            members.iter().filter(|(name, _)| member.is_none_or(|member| name.escape_debug().eq(member.chars())));
        let texts = texts.flat_map(|(name, value)| texts_in(value).map(move |text| (&**name, text)));
        texts.into_iter().find_map(|(name, text)| {
            let form = self.by_name.get(name).copied().unwrap_or_default();
            let form = form.after(&text, error)?;
            self.by_name.insert(name.to_owned(), form);
            Some(form.is_absent)
        })
    }
}

impl ParamForm {
    /// The form after an error that may be about this text.
    fn after(self, text: &str, error: &str) -> Option<Self> {
        if text.is_empty() {
            let is_about = error.starts_with("invalid type: string \"\",") || error.starts_with("unknown variant ``");
            return (is_about && !self.is_absent).then_some(Self { is_absent: true, ..self });
        }
        if let Some(expected) = error.strip_prefix(&*format!("invalid type: string {text:?}, expected ")) {
            if expected.starts_with("a sequence") {
                return (!self.is_list).then_some(Self { is_list: true, ..self });
            }
            let is_new_form = !self.is_number && !self.is_text && is_number(text);
            return is_new_form.then_some(Self { is_number: true, ..self });
        }
        // Another member has the same text, and is the number.
        let kinds = ["integer", "floating point", "boolean"];
        let is_about = kinds.iter().any(|kind| error.starts_with(&*format!("invalid type: {kind} `{text}`,")));
        (is_about && self.is_number).then_some(Self { is_number: false, is_text: true, ..self })
    }
}

/// Whether a text is a number or a boolean of JSON.
pub(super) fn is_number(text: &str) -> bool {
    matches!(text, "true" | "false") || serde_json::from_str::<serde_json::Number>(text).is_ok()
}

/// The text of a value, or the texts of a list.
fn texts_in(value: &RawValue) -> impl Iterator<Item = String> {
    let one = serde_json::from_str::<String>(value.get()).map(|text| vec![text]);
    one.or_else(|_| serde_json::from_str::<Vec<String>>(value.get())).unwrap_or_default().into_iter()
}
