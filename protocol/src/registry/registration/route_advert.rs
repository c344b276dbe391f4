//! The statements of a version 2 node about single routes: `params.$.routes`.

use serde_json::value::RawValue;

use crate::json::{is_object, read_member, to_json};
use crate::registry::registration::socket_advert::SocketAdvert;
use crate::registry::registration::wanted_headers::WantedHeaders;

/// What a node states of one of its routes. A route of which it states nothing has the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteAdvert {
    /// Whether gateways answer clients with the route. Otherwise it is internal: only nodes can
    /// call it.
    pub public: bool,
    /// The header fields that the route reads of a client's request. If there are any statements
    /// about them, even of none, calls of gateways bring the [request](crate::ClientRequest).
    pub headers: Option<WantedHeaders>,
    /// Maximum bytes of the body of a client's request, if it is not that of the gateway.
    pub max_body: Option<u64>,
    /// Whether calls of gateways bring the body of a client's request as it was sent, and not as
    /// arguments.
    pub raw_body: bool,
    /// Whether the node acknowledges the events of this subscription, if their emitter wants that.
    pub acks: bool,
    /// How gateways hold the sockets of the route, if they do: its calls are events of these.
    pub socket: Option<SocketAdvert>,
    /// Whether gateways send that body in parts, as it arrives, if the route also has `headers`.
    pub upload: bool,
    /// Whether the route may answer with a stream of bytes.
    pub download: bool,
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

    /// Reads the member `routes`. A value that is not a list states nothing, so that all routes are
    /// internal: a node that writes the member does not mean all of its routes to be public.
    pub(super) fn parse(text: &RawValue) -> Self {
        let list: Vec<&RawValue> = read_member(Some(text)).unwrap_or_default();
        Self(list.into_iter().filter_map(parse_group).collect())
    }

    pub(super) fn to_json(&self) -> String {
        let groups: Vec<String> = self.0.iter().map(group_to_json).collect();
        format!("[{}]", groups.join(","))
    }

    /// The advert of each of this many urls. If two objects name a position, the first counts.
    pub fn by_position(&self, urls: usize) -> Vec<RouteAdvert> {
        let mut adverts = vec![RouteAdvert::default(); urls];
        for (positions, advert) in self.0.iter().rev() {
            for at in positions {
                if let Some(entry) = adverts.get_mut(usize::from(*at)) {
                    entry.clone_from(advert);
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
    #[serde(borrow, default)]
    headers: Option<&'a RawValue>,
    #[serde(borrow, default)]
    max_body: Option<&'a RawValue>,
    #[serde(borrow, default)]
    raw: Option<&'a RawValue>,
    #[serde(borrow, default)]
    acks: Option<&'a RawValue>,
    #[serde(borrow, default)]
    socket: Option<&'a RawValue>,
    #[serde(borrow, default)]
    upload: Option<&'a RawValue>,
    #[serde(borrow, default)]
    download: Option<&'a RawValue>,
}

fn read_group(text: &RawValue) -> Option<RawGroup<'_>> {
    serde_json::from_str(text.get()).ok().filter(|_| is_object(text.get()))
}

/// Parses one object of the list. One without sound positions is about no route. A member of a
/// wrong type counts as absent.
fn parse_group(text: &RawValue) -> Option<(Vec<u16>, RouteAdvert)> {
    let RawGroup { at, public, headers, max_body, raw, acks, socket, upload, download } = read_group(text)?;
    let (headers, max_body) = (headers.and_then(WantedHeaders::parse), read_member(max_body));
    let [public, raw_body, acks, upload, download] =
        [public, raw, acks, upload, download].map(|member| read_member(member).unwrap_or(false));
    let socket = socket.and_then(SocketAdvert::parse);
    Some((read_member(at)?, RouteAdvert { public, headers, max_body, raw_body, acks, socket, upload, download }))
}

fn group_to_json((positions, advert): &(Vec<u16>, RouteAdvert)) -> String {
    let RouteAdvert { public, headers, max_body, raw_body, acks, socket, upload, download } = advert;
    let acks = if *acks { r#","acks":true"# } else { "" };
    let raw = if *raw_body { r#","raw":true"# } else { "" };
    let upload = if *upload { r#","upload":true"# } else { "" };
    let download = if *download { r#","download":true"# } else { "" };
    let public = if *public { r#","public":true"# } else { "" };
    let headers = headers.as_ref().map_or_else(String::new, |headers| format!(r#","headers":{}"#, headers.to_json()));
    let max_body = max_body.map_or_else(String::new, |bytes| format!(r#","max_body":{bytes}"#));
    let socket = socket.map_or_else(String::new, |socket| format!(r#","socket":{}"#, to_json(&socket)));
    format!(r#"{{"at":{}{public}{headers}{max_body}{raw}{acks}{socket}{upload}{download}}}"#, to_json(positions))
}

/// The parts of the member `routes` that all peers ignore. The node has this many `urls`.
pub(super) fn ignored_route_adverts(text: &RawValue, urls: usize) -> Vec<&'static str> {
    let Some(list) = read_member::<Vec<&RawValue>>(Some(text)) else {
        return vec!["$.routes is not a list, so all routes are internal"];
    };
    let mut ignored = Vec::new();
    for group in list {
        let Some(RawGroup { at, public, headers, max_body, raw, acks, socket, upload, download }) = read_group(group)
        else {
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
        if raw.is_some() && read_member::<bool>(raw).is_none() {
            ignored.push("raw of an item of $.routes is not true or false, so its routes get no raw bodies");
        }
        if acks.is_some() && read_member::<bool>(acks).is_none() {
            ignored.push("acks of an item of $.routes is not true or false, so its events are not acknowledged");
        }
        if [upload, download].into_iter().any(|member| member.is_some() && read_member::<bool>(member).is_none()) {
            ignored.push("upload or download of an item of $.routes is not true or false, and counts as false");
        }
        if max_body.is_some() && read_member::<u64>(max_body).is_none() {
            ignored.push("max_body of an item of $.routes is not a whole number of bytes");
        }
        if socket.is_some_and(|socket| SocketAdvert::parse(socket).is_none()) {
            ignored.push("socket of an item of $.routes is not as it should be, so its routes have no held sockets");
        }
        match headers.map(WantedHeaders::parse) {
            Some(None) => ignored.push("headers of an item of $.routes is not a list, so its routes get none"),
            Some(Some(wanted))
                if read_member::<Vec<&RawValue>>(headers).is_some_and(|all| all.len() != wanted.len()) =>
            {
                ignored.push(
                    "headers of an item of $.routes has what is not a header name, names one twice, or has too many",
                );
            }
            Some(Some(_)) | None => {}
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
        let [public, internal] = [true, false].map(|public| RouteAdvert { public, ..RouteAdvert::default() });
        let json = |adverts: &[&RouteAdvert]| RouteAdverts::new(adverts.iter().map(|one| (*one).clone())).to_json();
        assert_eq!(json(&[]), "[]");
        assert_eq!(json(&[&internal, &internal]), "[]");
        assert_eq!(json(&[&public, &internal, &public]), r#"[{"at":[0,2],"public":true}]"#);
        let headers = |names: &[&str]| RouteAdvert { headers: Some(WantedHeaders::new(names)), ..public.clone() };
        let (one, other) = (headers(&["cookie", "x-a"]), headers(&["X-A", "Cookie"]));
        assert_eq!(json(&[&one, &other]), r#"[{"at":[0,1],"public":true,"headers":["cookie","x-a"]}]"#);
        // As many as one registration may have cost little beside their urls.
        assert!(json(&[&public; 256]).len() < 1000);
    }

    #[test]
    fn routes_limit_the_bodies_that_they_take() {
        let check = |text: &str, expected: Option<u64>| {
            let adverts = RouteAdverts::parse(serde_json::from_str(text).unwrap());
            assert_eq!(adverts.by_position(1)[0].max_body, expected, "{text}");
            assert_eq!(RouteAdverts::parse(serde_json::from_str(&adverts.to_json()).unwrap()), adverts);
        };
        check(r#"[{"at":[0]}]"#, None);
        check(r#"[{"at":[0],"max_body":0}]"#, Some(0));
        check(r#"[{"at":[0],"public":true,"max_body":5000000,"raw":true}]"#, Some(5_000_000));
        for wrong in ["-1", "1.5", "\"1\"", "null", "[]"] {
            check(&format!(r#"[{{"at":[0],"max_body":{wrong}}}]"#), None);
        }
    }

    #[test]
    fn subscriptions_say_whether_events_are_acknowledged() {
        for (text, expected) in [
            (r#"[{"at":[0]}]"#, false),
            (r#"[{"at":[0],"acks":true}]"#, true),
            (r#"[{"at":[0],"public":true,"raw":true,"acks":true}]"#, true),
            (r#"[{"at":[0],"acks":1}]"#, false),
        ] {
            let adverts = RouteAdverts::parse(serde_json::from_str(text).unwrap());
            assert_eq!(adverts.by_position(1)[0].acks, expected, "{text}");
            assert_eq!(RouteAdverts::parse(serde_json::from_str(&adverts.to_json()).unwrap()), adverts);
        }
    }

    #[test]
    fn routes_say_how_their_sockets_are_held() {
        let check = |text: &str, expected: Option<(u32, bool)>| {
            let adverts = RouteAdverts::parse(serde_json::from_str(text).unwrap());
            let socket = adverts.by_position(1)[0].socket;
            assert_eq!(socket.map(|socket| (socket.resume, socket.drops_oldest)), expected, "{text}");
            assert_eq!(RouteAdverts::parse(serde_json::from_str(&adverts.to_json()).unwrap()), adverts);
        };
        check(r#"[{"at":[0]}]"#, None);
        check(r#"[{"at":[0],"socket":{}}]"#, Some((0, false)));
        check(r#"[{"at":[0],"socket":{"resume":30,"drop":true,"later":1}}]"#, Some((30, true)));
        check(r#"[{"at":[0],"socket":{"resume":4000000}}]"#, Some((SocketAdvert::MAX_RESUME_SECONDS, false)));
        for wrong in ["7", "true", "[]", "null", r#"{"resume":"30"}"#, r#"{"drop":1}"#] {
            check(&format!(r#"[{{"at":[0],"socket":{wrong}}}]"#), None);
        }
    }

    #[test]
    fn routes_say_that_bytes_come_in_parts() {
        let check = |text: &str, expected: (bool, bool)| {
            let adverts = RouteAdverts::parse(serde_json::from_str(text).unwrap());
            let advert = adverts.by_position(1).remove(0);
            assert_eq!((advert.upload, advert.download), expected, "{text}");
            assert_eq!(RouteAdverts::parse(serde_json::from_str(&adverts.to_json()).unwrap()), adverts);
        };
        check(r#"[{"at":[0],"raw":true}]"#, (false, false));
        check(r#"[{"at":[0],"raw":true,"upload":true}]"#, (true, false));
        check(r#"[{"at":[0],"download":true,"upload":false}]"#, (false, true));
        check(r#"[{"at":[0],"upload":1,"download":null}]"#, (false, false));
    }

    #[test]
    fn routes_name_the_headers_that_they_read() {
        let check = |text: &str, expected: Option<&[&str]>| {
            let adverts = RouteAdverts::parse(serde_json::from_str(text).unwrap());
            let advert = adverts.by_position(1).remove(0);
            let seen = advert.headers.as_ref().map(|headers| headers.iter().collect::<Vec<_>>());
            assert_eq!(seen.as_deref(), expected, "{text}");
            assert_eq!(RouteAdverts::parse(serde_json::from_str(&adverts.to_json()).unwrap()), adverts);
        };
        check(r#"[{"at":[0]}]"#, None);
        check(r#"[{"at":[0],"headers":[]}]"#, Some(&[]));
        check(r#"[{"at":[0],"headers":["Cookie","x-a","cookie"]}]"#, Some(&["cookie", "x-a"]));
        check(r#"[{"at":[0],"headers":["a b","",7,null,"x:y","é","x"]}]"#, Some(&["x"]));
        check(r#"[{"at":[0],"headers":"cookie"}]"#, None);
        check(r#"[{"at":[0],"headers":null}]"#, None);
    }
}
