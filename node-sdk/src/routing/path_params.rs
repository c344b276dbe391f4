//! The parameters of a path, joined with the arguments of a call as JSON text.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use protocol::{Members, Route, Segment, Version};
use serde_json::value::RawValue;

/// The arguments of a call as its handler sees them: with the parameters of the path, which win
/// over members of the same name, and without the `key` that version 1 callers add. Text that is
/// not JSON stays unchanged.
pub(crate) fn of_call<'a>(version: Version, params: Option<&'a str>, route: &Route, captured: &[&str]) -> Cow<'a, str> {
    let enveloped = version == Version::V1;
    let text = params.unwrap_or("null");
    if captured.is_empty() && !(enveloped && text.contains("key")) {
        return Cow::Borrowed(text);
    }
    let object = if text == "null" { "{}" } else { text };
    let Ok(Members(mut members)) = serde_json::from_str(object) else { return Cow::Borrowed(text) };
    let from_path: Vec<_> = names(route).zip(captured.iter().copied()).collect();
    members.retain(|(name, _)| !(enveloped && name == "key") && from_path.iter().all(|(other, _)| name != other));
    Cow::Owned(join(&members, &from_path))
}

/// The names of a route's parameters, in order.
pub(crate) fn names(route: &Route) -> impl Iterator<Item = &str> {
    route.segments().filter_map(|segment| match segment {
        Segment::Parameter(name) => Some(name),
        Segment::Literal(_) => None,
    })
}

/// Adds the decoded parameters of a path to arguments; they win over members of the same name.
/// Arguments that are not an object stay unchanged.
pub(crate) fn merge<'a>(params: &'a str, from_path: impl Iterator<Item = (&'a str, &'a str)>) -> Cow<'a, str> {
    let from_path: Vec<_> = from_path.collect();
    if from_path.is_empty() {
        return Cow::Borrowed(params);
    }
    let text = if params == "null" { "{}" } else { params };
    let Ok(Members(members)) = serde_json::from_str(text) else { return Cow::Borrowed(params) };
    let kept = members.into_iter().filter(|(name, _)| from_path.iter().all(|(other, _)| name != other));
    Cow::Owned(join(&kept.collect::<Vec<_>>(), &from_path))
}

/// An object of members and of the decoded parameters of a path.
fn join(members: &[(Cow<'_, str>, &RawValue)], from_path: &[(&str, &str)]) -> String {
    let members = members.iter().map(|(name, value)| format!("{}:{}", to_json(name), value.get()));
    let from_path = from_path
        .iter()
        .map(|(name, value)| format!("{}:{}", to_json(name), to_json(&percent_decode_str(value).decode_utf8_lossy())));
    format!("{{{}}}", members.chain(from_path).collect::<Vec<_>>().join(","))
}

pub(crate) fn to_json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_sees_the_path_but_no_key_of_old_callers() {
        let route = Route::parse("GET/goods/{id}").unwrap();
        for (packet, captured, expected) in [
            (r#"{"params":{"key":1,"a":2}}"#, vec![], r#"{"a":2}"#),
            (r#"{"params":{"key":1,"a":2},"$":{}}"#, vec![], r#"{"key":1,"a":2}"#),
            (r#"{"params":{"key":1},"key":3}"#, vec!["%37"], r#"{"id":"7"}"#),
            (r#"{"params":{"id":"8","a":1},"$":{}}"#, vec!["7"], r#"{"a":1,"id":"7"}"#),
            (r#"{"params":null,"$":{}}"#, vec!["7"], r#"{"id":"7"}"#),
            (r#"{"key":3}"#, vec!["7"], r#"{"id":"7"}"#),
            (r#"{"params":"key"}"#, vec![], r#""key""#),
        ] {
            let request = protocol::Request::parse(packet.as_bytes()).unwrap();
            assert_eq!(of_call(request.version, request.params, &route, &captured), expected, "{packet}");
        }
    }

    #[test]
    fn a_path_adds_to_the_arguments() {
        for (params, from_path, expected) in [
            ("{}", vec![], "{}"),
            ("{}", vec![("id", "7")], r#"{"id":"7"}"#),
            ("null", vec![("id", "7")], r#"{"id":"7"}"#),
            (r#"{"id":1,"a":[1]}"#, vec![("id", "%ED%95%9C%22"), ("b", "x")], r#"{"a":[1],"id":"한\"","b":"x"}"#),
            ("7", vec![("id", "7")], "7"),
        ] {
            assert_eq!(merge(params, from_path.into_iter()), expected);
        }
    }
}
