//! The content of a response of version 1. Services differ in where they put it.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::json::{Members, to_json};

/// The data of a response of version 1 that is not a failure.
#[derive(Debug)]
pub struct LegacyResponse<'a> {
    /// All of it, as JSON text: `results` if nothing else is there, `null` if nothing is, and
    /// otherwise an object of all members that are not the response's own.
    pub all: Cow<'a, str>,
    /// The member `results`, which most services put everything into.
    pub results: Option<&'a str>,
}

impl<'a> LegacyResponse<'a> {
    /// Reads the data of a response; `None` for a frame that is not an object.
    pub fn parse(frame: &'a [u8]) -> Option<Self> {
        let Members(members) = serde_json::from_slice(frame).ok()?;
        let is_data = |(name, value): &&(Cow<'_, str>, &RawValue)| match name.as_ref() {
            "key" | "errorcode" | "errorCode" | "$" => false,
            // Some services put their data here. A text is for people.
            "errormessage" | "errorMessage" => !value.get().starts_with('"') && value.get() != "null",
            _data => true,
        };
        let data: Vec<_> = members.iter().filter(is_data).collect();
        let results = data.iter().find(|(name, _)| name == "results").map(|(_, value)| value.get());
        let all = match data[..] {
            [] => Cow::Borrowed("null"),
            [(name, value)] if matches!(name.as_ref(), "results" | "errormessage" | "errorMessage") => {
                Cow::Borrowed(value.get())
            }
            _ => {
                let members = data.iter().map(|(name, value)| format!("{}:{}", to_json(name.as_ref()), value.get()));
                Cow::Owned(format!("{{{}}}", members.collect::<Vec<_>>().join(",")))
            }
        };
        Some(Self { all, results })
    }
}

/// The status and stable word of a failure, by the code that a service gives it. Codes have no
/// common meaning unless they are HTTP's.
pub(super) fn failure(code: &str) -> (u16, Cow<'static, str>) {
    const OTHER: u16 = 500;
    let text = code.trim_matches('"');
    let status = text.parse().ok().filter(|status| (400..600).contains(status)).unwrap_or(OTHER);
    let is_word = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let reason = if is_word { format!("errorcode_{}", text.to_ascii_lowercase()).into() } else { "errorcode".into() };
    (status, reason)
}

/// Whether a code says that the call has failed.
pub(super) fn is_failure(code: Option<&RawValue>) -> bool {
    code.is_some_and(|code| !matches!(code.get(), "0" | "\"0\"" | "null" | "\"\"" | "false"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(frame: &str, all: &str, results: Option<&str>) {
        let response = LegacyResponse::parse(frame.as_bytes()).unwrap();
        assert_eq!((&*response.all, response.results), (all, results), "{frame}");
    }

    #[test]
    fn e8_nothing_of_an_answer_is_lost() {
        check(r#"{"key":1,"errorcode":0,"errormessage":"success","results":[1]}"#, "[1]", Some("[1]"));
        check(r#"{"key":1,"errorcode":0,"errormessage":[{"id":1}]}"#, r#"[{"id":1}]"#, None);
        check(
            r#"{"key":1,"errorcode":0,"errormessage":"","results":[1],"pageInfo":{"n":2}}"#,
            r#"{"results":[1],"pageInfo":{"n":2}}"#,
            Some("[1]"),
        );
        check(
            r#"{"errorcode":0,"errormessage":{"a":1},"results":null,"key":1}"#,
            r#"{"errormessage":{"a":1},"results":null}"#,
            Some("null"),
        );
        check(r#"{"key":1,"userid":3}"#, r#"{"userid":3}"#, None);
        check(r#"{"key":1,"errorCode":0,"errorMessage":"ok"}"#, "null", None);
        check(r#"{"key":1}"#, "null", None);
    }
}
