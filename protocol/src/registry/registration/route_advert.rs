//! The statements of a version 2 node about single routes: `params.$.routes`.

use serde_json::value::RawValue;

use crate::json::{is_object, read_member, to_json};

/// The statements of a node about one of its routes. A route that is not stated has the defaults.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RouteAdvert {
    /// Whether gateways answer clients with the route. Otherwise it is internal: only nodes can
    /// call it.
    pub public: bool,
}

/// The route adverts of a node: `[{"at":[0,2],"public":true}]`, where `at` has positions in `urls`.
/// Routes with equal adverts share one object, so that many routes take few bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteAdverts(Vec<(Vec<u16>, RouteAdvert)>);

impl RouteAdverts {
    /// The adverts of all routes, in the order of `urls`.
    pub fn new(adverts: impl IntoIterator<Item = RouteAdvert>) -> Self {
        let mut groups = Self::default();
        // A packet of a registration has no room for as many urls as would overflow.
        for (at, advert) in (0..=u16::MAX).zip(adverts) {
            if advert == RouteAdvert::default() {
                continue;
            }
            match groups.0.iter_mut().find(|(_, known)| *known == advert) {
                Some((positions, _)) => positions.push(at),
                None => groups.0.push((vec![at], advert)),
            }
        }
        groups
    }

    /// Reads the member `routes`. A value that is no list states nothing, so that all routes are
    /// internal: a node that writes the member does not mean all of its routes to be public.
    pub(super) fn parse(text: &RawValue) -> Self {
        let list: Vec<&RawValue> = read_member(Some(text)).unwrap_or_default();
        Self(list.into_iter().filter_map(parse_group).collect())
    }

    pub(super) fn to_json(&self) -> String {
        let groups: Vec<String> = self.0.iter().map(group_to_json).collect();
        format!("[{}]", groups.join(","))
    }

    /// The advert of each of as many urls. If two objects name a position, the first counts.
    pub fn by_position(&self, urls: usize) -> Vec<RouteAdvert> {
        let mut adverts = vec![RouteAdvert::default(); urls];
        for (positions, advert) in self.0.iter().rev() {
            for at in positions {
                if let Some(place) = adverts.get_mut(usize::from(*at)) {
                    *place = *advert;
                }
            }
        }
        adverts
    }
}

#[derive(serde::Deserialize)]
struct RawGroup<'a> {
    #[serde(borrow, default)]
    at: Option<&'a RawValue>,
    #[serde(borrow, default)]
    public: Option<&'a RawValue>,
}

fn read_group(text: &RawValue) -> Option<RawGroup<'_>> {
    serde_json::from_str(text.get()).ok().filter(|_| is_object(text.get()))
}

/// An object without sound positions is of no route. A member of a wrong type counts as absent.
fn parse_group(text: &RawValue) -> Option<(Vec<u16>, RouteAdvert)> {
    let RawGroup { at, public } = read_group(text)?;
    Some((read_member(at)?, RouteAdvert { public: read_member(public).unwrap_or(false) }))
}

fn group_to_json((positions, advert): &(Vec<u16>, RouteAdvert)) -> String {
    let RouteAdvert { public } = advert;
    let public = if *public { r#","public":true"# } else { "" };
    format!(r#"{{"at":{}{public}}}"#, to_json(positions))
}

/// What no peer takes notice of in the member `routes` of a node with as many urls.
pub(super) fn ignored_route_adverts(text: &RawValue, urls: usize) -> Vec<&'static str> {
    let Some(list) = read_member::<Vec<&RawValue>>(Some(text)) else {
        return vec!["$.routes is not a list, so all routes are internal"];
    };
    let mut ignored = Vec::new();
    for group in list {
        let Some(RawGroup { at, public }) = read_group(group) else {
            ignored.push("an item of $.routes is not an object");
            continue;
        };
        match read_member::<Vec<u16>>(at) {
            None => ignored.push("at of an item of $.routes is not a list of positions in urls"),
            Some(positions) if positions.iter().any(|at| usize::from(*at) >= urls) => {
                ignored.push("at of an item of $.routes has a position beyond the end of urls");
            }
            Some(_) => {}
        }
        if public.is_some() && read_member::<bool>(public).is_none() {
            ignored.push("public of an item of $.routes is not true or false, so its routes are internal");
        }
    }
    ignored
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of four routes are public.
    #[track_caller]
    fn check(text: &str, expected: [bool; 4]) {
        let adverts = RouteAdverts::parse(serde_json::from_str(text).unwrap());
        let seen: Vec<bool> = adverts.by_position(4).iter().map(|advert| advert.public).collect();
        assert_eq!(seen, expected, "{text}");
        assert_eq!(RouteAdverts::parse(serde_json::from_str(&adverts.to_json()).unwrap()), adverts);
    }

    #[test]
    fn positions_have_adverts_and_others_the_defaults() {
        let none = [false; 4];
        check("[]", none);
        check(r#"[{"at":[0,2],"public":true}]"#, [true, false, true, false]);
        check(r#"[{"at":[0],"public":true},{"at":[3],"public":true}]"#, [true, false, false, true]);
        check(r#"[{"at":[1],"public":false}]"#, none);
        check(r#"[{"at":[1,4,65535],"public":true,"later":{}}]"#, [false, true, false, false]);
        // The first that names a position counts.
        check(r#"[{"at":[1]},{"at":[0,1],"public":true}]"#, [true, false, false, false]);
    }

    #[test]
    fn what_cannot_be_read_is_internal() {
        for text in [
            "{}",
            "7",
            r#"[7,[],null]"#,
            r#"[{"public":true}]"#,
            r#"[{"at":0,"public":true}]"#,
            r#"[{"at":["0"],"public":true}]"#,
            r#"[{"at":[0,-1],"public":true}]"#,
            r#"[{"at":[0,65536],"public":true}]"#,
            r#"[{"at":[0],"public":1}]"#,
            r#"[{"at":[0],"public":"true"}]"#,
            r#"[{"at":[0],"public":null}]"#,
        ] {
            check(text, [false; 4]);
        }
    }

    #[test]
    fn routes_with_equal_adverts_share_an_object() {
        let [public, internal] = [true, false].map(|public| RouteAdvert { public });
        assert_eq!(RouteAdverts::new([]).to_json(), "[]");
        assert_eq!(RouteAdverts::new([internal, internal]).to_json(), "[]");
        assert_eq!(RouteAdverts::new([public, internal, public]).to_json(), r#"[{"at":[0,2],"public":true}]"#);
        // As many as one registration may have cost little beside their urls.
        assert!(RouteAdverts::new([public; 256]).to_json().len() < 1000);
    }
}
