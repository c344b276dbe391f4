//! The statements of a version 2 node about itself, for all nodes: the member `$` of its
//! registration.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::json::{is_object, read_member, to_json};
use crate::registry::registration::route_advert::RouteAdverts;
use crate::{HostPort, HostPortError, RegistrationLimits};

/// The statements of a version 2 node about itself, for all nodes: `params.$`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advert {
    /// Instance id, which differs at each start of the process.
    pub id: Option<String>,
    /// The port speaks HTTP instead of packets.
    pub http: Option<HttpAdvert>,
    /// The node's share of the calls among the providers of a route. The default is 100; 0 gets
    /// none.
    pub weight: u16,
    /// Whether the node finishes its calls in flight and wants no new ones.
    pub draining: bool,
    /// Where the node runs, such as a data centre.
    pub zone: Option<String>,
    /// The version of the service.
    pub version: Option<String>,
    /// The address at which other nodes can call this one, if it differs from the address of its
    /// connection and the port that it listens on: behind a NAT, or in a container.
    pub advertise: Option<HostPort>,
    /// What the node states of its routes. `None` from a node that cannot say: all of its routes
    /// are public, as they always were.
    pub routes: Option<RouteAdverts>,
    /// JSON text of anything else that the node's operators want to show.
    pub meta: Option<String>,
}

/// The advert of a node that speaks HTTP: `{"prefixes":["/api"],"strip":true}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpAdvert {
    /// Paths that the node answers, and all paths below them.
    pub prefixes: Vec<String>,
    /// Whether requests are sent without the prefix: `/x` instead of `/api/x`.
    pub strip: bool,
}

impl HttpAdvert {
    /// Reads the member `http`. Whatever its value, the port does not speak packets.
    fn parse(text: &RawValue) -> Self {
        #[derive(Default, serde::Deserialize)]
        #[serde(default)]
        struct RawHttpAdvert<'a> {
            #[serde(borrow)]
            prefixes: Option<&'a RawValue>,
            #[serde(borrow)]
            strip: Option<&'a RawValue>,
        }
        let raw: RawHttpAdvert<'_> = serde_json::from_str(text.get()).unwrap_or_default();
        Self { prefixes: read_member(raw.prefixes).unwrap_or_default(), strip: read_member(raw.strip).unwrap_or(false) }
    }

    /// Whether the prefixes are within the limits for urls of a registration.
    pub(crate) fn is_within(&self, limits: &RegistrationLimits) -> bool {
        let is_short = |prefix: &String| prefix.len() <= limits.max_url_bytes;
        self.prefixes.len() <= limits.max_urls && self.prefixes.iter().all(is_short)
    }

    fn to_json(&self) -> String {
        let prefixes: Vec<_> = self.prefixes.iter().map(to_json).collect();
        let strip = if self.strip { r#","strip":true"# } else { "" };
        format!(r#"{{"prefixes":[{}]{strip}}}"#, prefixes.join(","))
    }
}

impl Advert {
    /// The weight of a node that does not state one.
    pub const DEFAULT_WEIGHT: u16 = 100;
    /// The largest weight. A larger one counts as this, so that a mistake of one node does not
    /// starve all others.
    pub const MAX_WEIGHT: u16 = 1000;

    /// Reads a `$` member; `None` when it is not an object. A member of a wrong type counts as
    /// absent.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        #[derive(serde::Deserialize)]
        struct RawAdvert<'a> {
            #[serde(borrow, default)]
            id: Option<&'a RawValue>,
            #[serde(borrow, default)]
            http: Option<&'a RawValue>,
            #[serde(borrow, default)]
            weight: Option<&'a RawValue>,
            #[serde(borrow, default)]
            draining: Option<&'a RawValue>,
            #[serde(borrow, default)]
            zone: Option<&'a RawValue>,
            #[serde(borrow, default)]
            version: Option<&'a RawValue>,
            #[serde(borrow, default)]
            advertise: Option<&'a RawValue>,
            #[serde(borrow, default, deserialize_with = "even_null")]
            routes: Option<&'a RawValue>,
            #[serde(borrow, default)]
            meta: Option<&'a RawValue>,
        }
        let raw: RawAdvert<'_> = serde_json::from_str(text).ok().filter(|_| is_object(text))?;
        let weight = read_member::<u64>(raw.weight).map(|weight| weight.min(Self::MAX_WEIGHT.into()));
        Some(Self {
            id: read_member(raw.id),
            http: raw.http.map(HttpAdvert::parse),
            weight: weight.and_then(|weight| weight.try_into().ok()).unwrap_or(Self::DEFAULT_WEIGHT),
            draining: read_member(raw.draining).unwrap_or(false),
            zone: read_member(raw.zone),
            version: read_member(raw.version),
            advertise: read_member::<String>(raw.advertise).and_then(|text| text.parse().ok()),
            routes: raw.routes.map(RouteAdverts::parse),
            meta: raw.meta.map(|meta| meta.get().to_owned()),
        })
    }

    /// Checks the member `advertise` of a `$` member. Elsewhere a wrong one counts as absent, but a
    /// node that gives one relies on it.
    pub(crate) fn check_advertise(text: &str) -> Result<(), HostPortError> {
        #[derive(Default, serde::Deserialize)]
        struct RawAdvertise<'a> {
            #[serde(borrow, default)]
            advertise: Option<&'a RawValue>,
        }
        let raw: RawAdvertise<'_> = serde_json::from_str(text).unwrap_or_default();
        let Some(advertise) = raw.advertise else { return Ok(()) };
        read_member::<String>(Some(advertise)).ok_or(HostPortError::Host)?.parse::<HostPort>().map(drop)
    }

    /// The JSON text of the advert, without the members that have their default value.
    pub(crate) fn to_json(&self) -> String {
        let Self { id, http, weight, draining, zone, version, advertise, routes, meta } = self;
        let mut members = vec![r#""v":2"#.to_owned()];
        let texts = [("id", id), ("version", version), ("zone", zone)];
        members.extend(texts.iter().filter_map(|(name, text)| {
            let text = text.as_ref()?;
            Some(format!(r#""{name}":{}"#, to_json(text)))
        }));
        if *weight != Self::DEFAULT_WEIGHT {
            members.push(format!(r#""weight":{weight}"#));
        }
        if *draining {
            members.push(r#""draining":true"#.to_owned());
        }
        if let Some(advertise) = advertise {
            members.push(format!(r#""advertise":"{advertise}""#));
        }
        if let Some(http) = http {
            members.push(format!(r#""http":{}"#, http.to_json()));
        }
        if let Some(routes) = routes {
            members.push(format!(r#""routes":{}"#, routes.to_json()));
        }
        if let Some(meta) = meta {
            members.push(format!(r#""meta":{meta}"#));
        }
        format!("{{{}}}", members.join(","))
    }
}

/// A member that is there, even if it is `null`: in doubt, a route is internal.
fn even_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl Default for Advert {
    fn default() -> Self {
        Self {
            id: None,
            http: None,
            weight: Self::DEFAULT_WEIGHT,
            draining: false,
            zone: None,
            version: None,
            advertise: None,
            routes: None,
            meta: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RouteAdvert;

    #[track_caller]
    fn check(text: &str, expected: Advert) {
        assert_eq!(Advert::parse(text), Some(expected));
    }

    #[test]
    fn absent_members_have_defaults() {
        let usual = Advert::default;
        check("{}", usual());
        check(r#"{"v":2,"new":[]}"#, usual());
        check(
            r#"{"id":"a","weight":50,"draining":true}"#,
            Advert { id: Some("a".into()), weight: 50, draining: true, ..usual() },
        );
        check(r#"{"weight":0}"#, Advert { weight: 0, ..usual() });
        check(r#"{"weight":70000}"#, Advert { weight: 1000, ..usual() });
        check(r#"{"weight":-1,"draining":"no","zone":7,"id":{}}"#, usual());
        let http = |prefixes: &[&str], strip| {
            let prefixes = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
            Advert { http: Some(HttpAdvert { prefixes, strip }), ..usual() }
        };
        check(r#"{"http":{"prefixes":["/api"]}}"#, http(&["/api"], false));
        check(r#"{"http":{"prefixes":["/a","/b"],"strip":true}}"#, http(&["/a", "/b"], true));
        check(r#"{"http":{"prefixes":"/api","strip":1}}"#, http(&[], false));
        check(r#"{"http":true}"#, http(&[], false));
        check(r#"{"http":null}"#, usual());
        let advertise = |text: &str| Advert { advertise: text.parse().ok(), ..usual() };
        check(r#"{"advertise":"shop.example:80"}"#, advertise("shop.example:80"));
        check(r#"{"advertise":"[fd00::1]:80"}"#, advertise("[fd00::1]:80"));
        check(r#"{"advertise":"shop.example"}"#, usual());
        check(r#"{"advertise":80}"#, usual());
        let routes = |public: &[bool]| {
            let adverts = public.iter().map(|public| RouteAdvert { public: *public, ..RouteAdvert::default() });
            Advert { routes: Some(RouteAdverts::new(adverts)), ..usual() }
        };
        check(r#"{"routes":[{"at":[1],"public":true}]}"#, routes(&[false, true]));
        check(r#"{"routes":[]}"#, routes(&[]));
        check(r#"{"routes":{}}"#, routes(&[]));
        check(r#"{"routes":null}"#, routes(&[]));
        assert_eq!(Advert::parse("[]"), None);
        assert_eq!(Advert::parse("7"), None);
    }

    #[test]
    fn what_is_written_is_read() {
        let all = Advert {
            id: Some("0a".into()),
            http: Some(HttpAdvert { prefixes: vec!["/\"a\"".into(), "/b".into()], strip: true }),
            weight: 7,
            draining: true,
            zone: Some("서울 \"1\"".into()),
            version: Some("1.2.3".into()),
            advertise: Some("shop.example:80".parse().unwrap()),
            routes: Some(RouteAdverts::new(
                [true, false, true].map(|public| RouteAdvert { public, ..RouteAdvert::default() }),
            )),
            meta: Some(r#"{"team":["a"]}"#.into()),
        };
        check(&all.to_json(), all.clone());
        check(&Advert::default().to_json(), Advert::default());
    }
}
