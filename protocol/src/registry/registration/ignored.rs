//! Parts of a registration that no peer uses. The registration is accepted, as by all versions; the
//! node and its operators are told.

use std::borrow::Cow;

use serde_json::value::RawValue;

use crate::json::{Members, is_object, read_member};
use crate::registry::registration::READ_WINDOW;
use crate::registry::registration::route_advert::ignored_route_adverts;
use crate::{LEGACY_READ_BYTES, Registration, Route, foreign_prefix};

/// The parts of a registration that are ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IgnoredParts {
    /// The first of them, and why it is ignored.
    pub first: String,
    /// How many there are.
    pub count: usize,
}

impl Registration {
    /// The parts that no peer takes notice of, if there are any: urls that are not routes, or match
    /// only themselves though they look like patterns, and members of `$` of a wrong type.
    pub fn ignored(&self) -> Option<IgnoredParts> {
        let urls = self.urls.iter().filter_map(|url| ignored_url(url));
        let prefixes = self.advert.iter().filter_map(|advert| advert.http.as_ref()).flat_map(|http| &http.prefixes);
        let prefixes = prefixes.filter_map(|prefix| {
            let shown = || prefix.chars().take(60).collect::<String>();
            if !prefix.starts_with('/') {
                return Some(format!("'{0}' in http.prefixes is not a path. Write it like /{0}", shown()));
            }
            foreign_prefix(prefix).map(|why| format!("'{}' in http.prefixes matches only itself: {why}", shown()))
        });
        // An entry has all members.
        let entry = self.entry("");
        let meta = members(&entry).into_iter().find(|(name, _)| name == "$");
        let ignored = meta.map(|(_, value)| ignored_members(value.get(), self.urls.len())).unwrap_or_default();
        let has_window = members(&entry).into_iter().any(|(name, _)| name == READ_WINDOW);
        let window = (has_window && self.read_window.is_none())
            .then(|| format!("{READ_WINDOW} is not a whole number of bytes, {LEGACY_READ_BYTES} or more"));
        let mut all = window.into_iter().chain(ignored.into_iter().map(str::to_owned)).chain(prefixes).chain(urls);
        let first = all.next()?;
        Some(IgnoredParts { first, count: 1 + all.count() })
    }
}

fn ignored_url(url: &str) -> Option<String> {
    match Route::parse(url) {
        Ok(route) => route.foreign_pattern().map(|why| {
            let shown: String = url.chars().take(60).collect();
            format!("'{shown}' matches only itself: {why}")
        }),
        Err(error) => Some(error.to_string()),
    }
}

fn members(text: &str) -> Vec<(Cow<'_, str>, &RawValue)> {
    serde_json::from_str::<Members<'_>>(text).map(|Members(list)| list).unwrap_or_default()
}

/// The members of `$` that count as absent, because they are of a wrong type. The node has this
/// many `urls`.
fn ignored_members(text: &str, urls: usize) -> Vec<&'static str> {
    if !is_object(text) {
        return vec!["$ is not an object, so this is taken for a node of version 1"];
    }
    let is_valid = |value: &RawValue, expected: bool| value.get() == "null" || expected;
    let mut ignored = Vec::new();
    for (name, value) in members(text) {
        let wrong = match name.as_ref() {
            "id" if !is_valid(value, read_member::<String>(Some(value)).is_some()) => "$.id is not a text",
            "weight" if !is_valid(value, read_member::<u64>(Some(value)).is_some()) => "$.weight is not a whole number",
            "draining" if !is_valid(value, read_member::<bool>(Some(value)).is_some()) => {
                "$.draining is not true or false"
            }
            "zone" if !is_valid(value, read_member::<String>(Some(value)).is_some()) => "$.zone is not a text",
            "version" if !is_valid(value, read_member::<String>(Some(value)).is_some()) => "$.version is not a text",
            "routes" => {
                ignored.extend(ignored_route_adverts(value, urls));
                continue;
            }
            "http" if !is_valid(value, is_object(value.get())) => "$.http is not an object, so it has no prefixes",
            "http" => {
                for (name, value) in members(value.get()) {
                    match name.as_ref() {
                        "prefixes" if !is_valid(value, read_member::<Vec<String>>(Some(value)).is_some()) => {
                            ignored.push("$.http.prefixes is not a list of texts");
                        }
                        "strip" if !is_valid(value, read_member::<bool>(Some(value)).is_some()) => {
                            ignored.push("$.http.strip is not true or false");
                        }
                        _sound_or_unknown => {}
                    }
                }
                continue;
            }
            _sound_or_unknown => continue,
        };
        ignored.push(wrong);
    }
    ignored
}

#[cfg(test)]
mod tests {
    use crate::RegistrationLimits;

    use super::*;

    #[test]
    fn a21_what_no_peer_takes_notice_of_is_named() {
        #[track_caller]
        fn check(members: &str, expected: Option<(&str, usize)>) {
            let params = format!(r#"{{"port":1,"name":"n"{members}}}"#);
            let params = serde_json::from_str(&params).unwrap();
            let ignored = Registration::parse(Some(params), &RegistrationLimits::default()).unwrap().ignored();
            let Some((first, count)) = expected else { return assert_eq!(ignored, None, "{members}") };
            let ignored = ignored.unwrap_or_else(|| panic!("{members}"));
            assert!(ignored.first.contains(first) && ignored.count == count, "{members}: {ignored:?}");
        }
        check(r#","urls":["GET/a","POST/a/{id}","EVENT/sold"]"#, None);
        check(r#","urls":["GET/:id"]"#, Some(("'GET/:id' matches only itself: a parameter is written {name}", 1)));
        check(r#","urls":["GET/a","get/x"]"#, Some(("'get/x' is not a route: it does not begin with a method", 1)));
        check(r#","urls":["/x","GET/a/*"]"#, Some(("'/x' is not a route", 2)));
        check(r#","$":{"http":{"prefixes":"/api"}}"#, Some(("$.http.prefixes is not a list of texts", 1)));
        check(r#","$":{"http":{"prefixes":["p","/q"]}}"#, Some(("'p' in http.prefixes is not a path", 1)));
        let matches_itself = "'/api/*' in http.prefixes matches only itself: a prefix has all paths below it";
        check(r#","$":{"http":{"prefixes":["/q","/api/*","/a/{id}"]}}"#, Some((matches_itself, 2)));
        check(r#","$":{"http":true,"weight":"7","zone":1}"#, Some(("$.http is not an object", 3)));
        check(r#","$":{"id":7,"version":[],"draining":"no","http":{"strip":1}}"#, Some(("$.id is not a text", 4)));
        check(r#","$":{"id":"a","weight":7,"zone":null,"http":null,"new":7,"http2":{}}"#, None);
        check(r#","urls":["GET/a"],"$":{"routes":[{"at":[0],"public":true,"new":7}]}"#, None);
        check(r#","$":{"routes":[]}"#, None);
        for no_list in ["null", r#"{"at":[0]}"#] {
            let no_list = format!(r#","$":{{"routes":{no_list}}}"#);
            check(&no_list, Some(("$.routes is not a list, so all routes are internal", 1)));
        }
        check(r#","$":{"routes":[7,{"public":true}]}"#, Some(("an item of $.routes is not an object", 2)));
        let beyond = "at of an item of $.routes has a position beyond the end of urls";
        check(r#","urls":["GET/a"],"$":{"routes":[{"at":[1],"public":1}]}"#, Some((beyond, 2)));
        check(r#","$":7"#, Some(("$ is not an object", 1)));
    }
}
