//! The entry of a node as peers of version 1 are shown it. They cannot tell internal routes from
//! others, and a gateway among them would answer clients with all.

use std::borrow::Cow;
use std::collections::HashSet;

use serde_json::value::RawValue;

use super::Registration;
use crate::json::{Members, to_json};
use crate::{EVENT_PREFIX, Route, RouteAdverts};

impl Registration {
    /// The [entry](Self::entry) without internal urls, and without what the node states of its
    /// routes. `None` if the node states nothing, and so has one entry for all.
    pub fn legacy_entry(&self, host: &str) -> Option<String> {
        let public = public_urls(&self.urls, self.advert.as_ref()?.routes.as_ref()?);
        let entry = self.entry(host);
        Some(rewrite(&entry, |name, value| match name {
            "urls" => Some(to_json(&public)),
            "$" => Some(rewrite(value.get(), |name, value| (name != "routes").then(|| value.get().to_owned()))),
            _other => Some(value.get().to_owned()),
        }))
    }
}

/// The urls that may be called for clients. A route that stands twice in the list is internal if
/// one of its places is, and events are for nodes only.
fn public_urls<'u>(urls: &'u [String], stated: &RouteAdverts) -> Vec<&'u String> {
    let adverts = stated.by_position(urls.len());
    let with_advert = |public: bool| urls.iter().zip(&adverts).filter(move |(_, advert)| advert.public == public);
    let internal: HashSet<(Cow<'_, str>, bool)> = with_advert(false).map(|(url, _)| unnamed(url)).collect();
    let public = with_advert(true).map(|(url, _)| url);
    public.filter(|url| !url.starts_with(EVENT_PREFIX) && !internal.contains(&unnamed(url))).collect()
}

/// The url without the names of its parameters, which make no difference, and whether it is a route
/// that has some.
fn unnamed(url: &str) -> (Cow<'_, str>, bool) {
    match if url.contains('{') { Route::parse(url).ok() } else { None } {
        Some(route) => (route.unnamed().into_owned().into(), true),
        None => (Cow::Borrowed(url), false),
    }
}

/// Rewrites an object: `value_of` gives each member another value, or `None` to remove it.
fn rewrite(object: &str, mut value_of: impl FnMut(&str, &RawValue) -> Option<String>) -> String {
    let Members(members) = serde_json::from_str(object).expect("an entry and its $ are objects, as they were read");
    let members = members.iter().filter_map(|(name, value)| {
        let value = value_of(name, value)?;
        Some(format!("{}:{value}", to_json(name)))
    });
    format!("{{{}}}", members.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use crate::RegistrationLimits;

    use super::*;

    #[track_caller]
    fn check(params: &str, expected: Option<&str>) {
        let params = serde_json::from_str(params).unwrap();
        let registration = Registration::parse(Some(params), &RegistrationLimits::default()).unwrap();
        assert_eq!(registration.legacy_entry("::1").as_deref(), expected);
    }

    #[test]
    fn old_peers_are_not_shown_what_is_internal() {
        check(r#"{"port":1,"name":"a","urls":["GET/a"]}"#, None);
        check(r#"{"port":1,"name":"a","urls":["GET/a"],"routes":[]}"#, None);
        check(r#"{"port":1,"name":"a","urls":["GET/a"],"$":{"v":2,"id":"i"}}"#, None);
        check(
            r#"{"port":1,"name":"a","urls":["GET/a","POST/b","EVENT/c"],"$":{"v":2,"routes":[{"at":[0],"public":true}],"id":"i"},"x":"\"y\""}"#,
            Some(r#"{"port":1,"name":"a","urls":["GET/a"],"$":{"v":2,"id":"i"},"x":"\"y\"","host":"::1"}"#),
        );
        check(
            r#"{"$":{"routes":[{"at":[1,0],"public":true}]},"host":"?","port":1,"name":"a","urls":["GET/a","GET/b"]}"#,
            Some(r#"{"$":{},"host":"::1","port":1,"name":"a","urls":["GET/a","GET/b"]}"#),
        );
        check(
            r#"{"port":1,"name":"a","urls":["GET/a"],"$":{"routes":{}}}"#,
            Some(r#"{"port":1,"name":"a","urls":[],"$":{},"host":"::1"}"#),
        );
        // The first and the last are one route, and so are the second and the fourth.
        check(
            r#"{"port":1,"name":"a","urls":["GET/a","GET/b/{x}","*","GET/b/{y}","GET/c","GET/a"],"$":{"routes":[{"at":[0,1,2,4],"public":true}]}}"#,
            Some(r#"{"port":1,"name":"a","urls":["*","GET/c"],"$":{},"host":"::1"}"#),
        );
        // The second is not a route.
        check(
            r#"{"port":1,"name":"a","urls":["GET/a/{x}","GET/a/{}"],"$":{"routes":[{"at":[1],"public":true}]}}"#,
            Some(r#"{"port":1,"name":"a","urls":["GET/a/{}"],"$":{},"host":"::1"}"#),
        );
        // No statement makes an event public.
        check(
            r#"{"port":1,"name":"a","urls":["EVENT/a","GET/a"],"$":{"routes":[{"at":[0,1],"public":true}]}}"#,
            Some(r#"{"port":1,"name":"a","urls":["GET/a"],"$":{},"host":"::1"}"#),
        );
    }
}
