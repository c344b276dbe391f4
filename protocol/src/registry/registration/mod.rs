//! A registration: a node's statements about itself to the Distributor.
//!
//! It must not decide whether a registration is accepted, beyond its form and limits.

mod advert;
mod ignored;
mod legacy_entry;
mod options;
mod reader;
mod route_advert;
mod socket_advert;
mod wanted_headers;

use std::net::IpAddr;

use bytes::{BufMut, BytesMut};
use serde_json::value::RawValue;
use thiserror::Error;

pub use self::advert::{Advert, HttpAdvert};
pub use self::ignored::IgnoredParts;
pub use self::options::{RegisterOptions, ResumePoint, VisibilityTarget};
use self::reader::{RegistrationReader, check_members};
pub use self::route_advert::{RouteAdvert, RouteAdverts};
pub use self::socket_advert::SocketAdvert;
pub use self::wanted_headers::{WantedHeaders, is_field_name};
use crate::json::{Members, is_object, to_json};
use crate::{AdvertisedError, HostName, HostPort, HostPortError, REGISTRY_URI, Route, Version, host_text, seal};

/// A registration as the Distributor keeps it: parsed leniently, and sent to others exactly as it
/// came.
///
/// Members keep their order, unknown ones included. The position of `host` is remembered too: its
/// value is not the sender's, but the address that the Distributor sees the connection come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The node's name. A name that is not a string stands as its JSON text.
    pub name: String,
    /// The port that the node is called at: the one that it listens on, unless it advertises
    /// another.
    pub port: u16,
    /// The urls that it offers, as it wrote them.
    pub urls: Vec<String>,
    /// The `$` member, which version 2 nodes send.
    pub advert: Option<Advert>,
    /// How many unread bytes a peer of version 1 may have, if it says so: it joins what it reads in
    /// pieces. Otherwise [`LEGACY_READ_BYTES`](crate::LEGACY_READ_BYTES).
    pub read_window: Option<usize>,
    /// The host that lists show, where it is another than that of the connection.
    listed_at: Option<String>,
    before_host: String,
    after_host: String,
}

/// Where lists say that a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListedHost<'a> {
    /// The node is listed at this address.
    Address(IpAddr),
    /// The node is listed at the address of this name, which has to be looked up.
    Name(&'a str),
}

/// Limits of one registration.
#[derive(Clone, Copy, Debug)]
pub struct RegistrationLimits {
    /// Maximum number of urls of a node.
    pub max_urls: usize,
    /// Longest url in bytes.
    pub max_url_bytes: usize,
}

impl Default for RegistrationLimits {
    fn default() -> Self {
        Self { max_urls: 256, max_url_bytes: Route::MAX_BYTES }
    }
}

/// The member of a version 1 peer that says how many unread bytes it may have.
pub(crate) const READ_WINDOW: &str = "readWindow";

/// Why a registration is refused. An earlier registration of the sender stays as it is.
#[derive(Debug, Error)]
pub enum RegistrationError {
    /// `params` is missing or of a wrong type, or a member is of a wrong type.
    #[error("params is not a registration")]
    Shape(#[source] serde_json::Error),
    /// The port is missing, or nothing can listen on it.
    #[error("port is {0}; it must be a number from 1 to 65535")]
    Port(String),
    /// There are more urls than the limit.
    #[error("{count} urls; at most {max} are allowed")]
    TooManyUrls {
        /// The number of urls.
        count: usize,
        /// The limit.
        max: usize,
    },
    /// A url is longer than the limit.
    #[error("a url has {bytes} bytes; at most {max} are allowed")]
    UrlTooLong {
        /// The length of the url.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// There are more interests, or urls that are used, than a registration may have urls, or one
    /// is longer.
    #[error("too many interests, or one is too long; the limits are those of urls")]
    TooManyInterests,
    /// There are more `http.prefixes` than a registration may have urls, or one is longer.
    #[error("too many http.prefixes, or one is too long; the limits are those of urls")]
    TooManyPrefixes,
    /// The advertised address is not an address.
    #[error("others cannot call the advertised address: {0}")]
    Advertise(HostPortError),
    /// The name of a version 2 node has other characters than `A-Z a-z 0-9 . _ -`, or is too long.
    #[error("the name must be 1 to 128 of A-Z a-z 0-9 . _ -")]
    Name,
}

impl RegistrationError {
    /// The stable word that a refusal has for it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Shape(_) => "bad_registration",
            Self::Port(_) => "bad_port",
            Self::TooManyUrls { .. } => "too_many_urls",
            Self::UrlTooLong { .. } => "url_too_long",
            Self::TooManyInterests => "too_many_needs",
            Self::TooManyPrefixes => "too_many_prefixes",
            Self::Advertise(_) => "bad_advertise",
            Self::Name => "bad_name",
        }
    }
}

impl Registration {
    /// Reads the `params` of `POST /distributes`.
    ///
    /// It is lenient towards version 1 nodes. Their port may be a string, urls and name may be
    /// missing, and the name may be any text.
    ///
    /// # Errors
    /// [`RegistrationError`] names the faulty member.
    pub fn parse(params: Option<&RawValue>, limits: &RegistrationLimits) -> Result<Self, RegistrationError> {
        let text = params.map_or("null", RawValue::get);
        let Members(list) = serde_json::from_str(text).map_err(RegistrationError::Shape)?;
        check_members(&list)?;
        let mut reader = RegistrationReader::new(&list, text.len(), limits);
        for (name, value) in &list {
            reader.read(name, value)?;
        }
        reader.finish()
    }

    /// The version that `params` show, even if they are not a sound registration.
    pub fn version(params: Option<&RawValue>) -> Version {
        #[derive(serde::Deserialize)]
        struct RawVersion<'a> {
            #[serde(borrow, default, rename = "$")]
            advert: Option<&'a RawValue>,
        }
        let params = params.map(RawValue::get).filter(|params| is_object(params));
        let shown = params.and_then(|params| serde_json::from_str::<RawVersion<'_>>(params).ok());
        match shown.and_then(|shown| shown.advert).is_some_and(|advert| is_object(advert.get())) {
            true => Version::V2,
            false => Version::V1,
        }
    }

    /// Where lists say that the node is, which the Distributor sees at `seen`.
    ///
    /// # Errors
    /// [`AdvertisedError`] when no other node can call the address that it advertises.
    pub fn listed_host(&self, seen: IpAddr) -> Result<ListedHost<'_>, AdvertisedError> {
        let Some(advertised) = self.advertised() else { return Ok(ListedHost::Address(seen)) };
        advertised.check_advertised(seen)?;
        Ok(match &advertised.host {
            HostName::Ip(ip) => ListedHost::Address(*ip),
            HostName::Name(name) => ListedHost::Name(name),
        })
    }

    /// Shows this host in lists from now on, and not that of the connection.
    pub fn list_at(&mut self, host: IpAddr) {
        self.listed_at = Some(host_text(host));
    }

    /// The host that lists show, where it is another than that of the connection.
    pub fn listed_at(&self) -> Option<&str> {
        self.listed_at.as_deref()
    }

    /// The address that the node advertises, if it does.
    pub fn advertised(&self) -> Option<&HostPort> {
        self.advert.as_ref()?.advertise.as_ref()
    }

    /// The entry of this node in lists, with the `host` of its connection, unless it is
    /// [listed elsewhere](Self::list_at).
    pub fn entry(&self, host: &str) -> String {
        let host = self.listed_at.as_deref().unwrap_or(host);
        let mut entry = String::with_capacity(self.before_host.len() + self.after_host.len() + host.len() + 16);
        entry.push('{');
        for part in [&self.before_host, &format!("\"host\":{}", to_json(host)), &self.after_host] {
            if !part.is_empty() {
                if entry.len() > 1 {
                    entry.push(',');
                }
                entry.push_str(part);
            }
        }
        entry.push('}');
        entry
    }
}

/// Writes the registration of a version 2 node, ready to send.
pub fn write_registration(
    out: &mut BytesMut,
    name: &str,
    port: u16,
    urls: &[Route],
    advert: &Advert,
    options: &RegisterOptions,
) {
    let start = out.len();
    let urls: Vec<_> = urls.iter().map(Route::as_str).collect();
    let text = format!(
        r#"{{"uri":"{REGISTRY_URI}","method":"POST","key":0,"params":{{"port":{port},"name":{},"urls":{},"$":{}}},"$":{}}}"#,
        to_json(name),
        to_json(&urls),
        advert.to_json(),
        options.to_json(),
    );
    out.put_slice(text.as_bytes());
    seal(out, start);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(params: &str) -> Result<Registration, RegistrationError> {
        Registration::parse(Some(serde_json::from_str(params).unwrap()), &RegistrationLimits::default())
    }

    #[track_caller]
    fn check(params: &str, entry: Result<&str, &str>) {
        let seen = parse(params).map(|registration| registration.entry("::1"));
        assert_eq!(seen.as_deref().map_err(RegistrationError::reason), entry);
    }

    #[test]
    fn an_entry_has_the_bytes_of_the_old_distributor() {
        check(
            r#"{"port":9010,"name":"goods","urls":["POST/goods"]}"#,
            Ok(r#"{"port":9010,"name":"goods","urls":["POST/goods"],"host":"::1"}"#),
        );
        check(
            r#"{"name":"a","host":"1.2.3.4","x":{"y": [ 1, null ]},"urls":[],"port":1}"#,
            Ok(r#"{"name":"a","host":"::1","x":{"y":[1,null]},"urls":[],"port":1}"#),
        );
    }

    #[test]
    fn old_nodes_vary() {
        check(r#"{"port":"80"}"#, Ok(r#"{"port":80,"name":"","urls":[],"host":"::1"}"#));
        check(r#"{"port":1,"urls":null}"#, Ok(r#"{"port":1,"urls":[],"name":"","host":"::1"}"#));
        check(r#"{"host":"x","port":1}"#, Ok(r#"{"host":"::1","port":1,"name":"","urls":[]}"#));
        check(
            r#"{"port":1,"name":"한글 \u00b6\n","urls":["*"]}"#,
            Ok(r#"{"port":1,"name":"한글 \u00b6\n","urls":["*"],"host":"::1"}"#),
        );
        check(r#"{"port":1,"name":7,"urls":[]}"#, Ok(r#"{"port":1,"name":7,"urls":[],"host":"::1"}"#));
        assert_eq!(parse(r#"{"port":1,"name":7}"#).unwrap().name, "7");
    }

    #[test]
    fn e6_an_old_peer_says_what_it_can_read() {
        #[track_caller]
        fn check(value: &str, expected: Option<usize>) {
            let registration = parse(&format!(r#"{{"port":1,"readWindow":{value},"urls":[],"name":"gate"}}"#)).unwrap();
            assert_eq!(registration.read_window, expected, "{value}");
            let entry = registration.entry("::1");
            assert!(entry.contains(&format!(r#""readWindow":{value},"#)), "{entry}");
            assert_eq!(registration.ignored().is_some(), expected.is_none(), "{value}");
        }
        check("65536", Some(65_536));
        check("1048576", Some(1 << 20));
        for wrong in ["65535", "0", "-1", "1e6", "70000.5", "null", "\"1048576\"", "[]", "true"] {
            check(wrong, None);
        }
        assert_eq!(parse(r#"{"port":1}"#).unwrap().read_window, None);
    }

    #[test]
    fn rg16_white_space_does_not_make_a_difference() {
        let close = parse(r#"{"port":1,"name":{"a":[1]},"urls":[]}"#).unwrap();
        assert_eq!(parse(r#"{ "port": 1, "name": { "a" : [1] }, "urls": [ ] }"#).unwrap(), close);
        let close = parse(r#"{"port":1,"name":"a","urls":[],"$":{"meta":{"a":[1]}}}"#).unwrap();
        assert_eq!(parse(r#"{"port":1,"name":"a","urls":[],"$": {"meta": {"a" : [1] } } }"#).unwrap(), close);
    }

    #[test]
    fn a3_the_advertised_port_is_listed_wherever_it_stands() {
        for params in [
            r#"{"port":9010,"name":"a","$":{"advertise":"192.0.2.1:80"},"urls":[]}"#,
            r#"{"$":{"advertise":"192.0.2.1:80"},"name":"a","port":9010,"urls":[]}"#,
        ] {
            let mut registration = parse(params).unwrap();
            registration.list_at("192.0.2.1".parse().unwrap());
            let entry = registration.entry("::ffff:10.0.0.1");
            assert!(entry.contains(r#""host":"::ffff:192.0.2.1""#), "{entry}");
            assert!(registration.port == 80 && entry.contains(r#""port":80,"#) && !entry.contains("9010"), "{entry}");
            assert_eq!(
                parse(&entry).unwrap().entry("::ffff:192.0.2.1").len(),
                entry.len(),
                "an entry is read as it is"
            );
        }
        for wrong in ["80", r#""""#, r#""192.0.2.1""#, r#""192.0.2.1:0""#, r#""a b:80""#, "{}"] {
            check(&format!(r#"{{"port":1,"name":"a","$":{{"advertise":{wrong}}}}}"#), Err("bad_advertise"));
        }
        check(
            r#"{"port":1,"name":"a","$":{"advertise":null}}"#,
            Ok(r#"{"port":1,"name":"a","$":{"advertise":null},"urls":[],"host":"::1"}"#),
        );
        // What version 1 sends has no meaning of ours.
        check(
            r#"{"port":1,"advertise":"x","urls":[],"name":"a"}"#,
            Ok(r#"{"port":1,"advertise":"x","urls":[],"name":"a","host":"::1"}"#),
        );
    }

    #[test]
    fn a3_the_advertised_host_is_listed() {
        let (seen, at) = ("10.0.0.1".parse().unwrap(), |text: &str| ListedHost::Address(text.parse().unwrap()));
        for (advertise, expected) in [
            (r#""$":{}"#, Ok(at("10.0.0.1"))),
            (r#""$":{"advertise":"192.0.2.1:80"}"#, Ok(at("192.0.2.1"))),
            (r#""$":{"advertise":"[2001:db8::1]:80"}"#, Ok(at("2001:db8::1"))),
            (r#""$":{"advertise":"shop.example:80"}"#, Ok(ListedHost::Name("shop.example"))),
            (r#""$":{"advertise":"127.0.0.1:80"}"#, Err(AdvertisedError::ThisMachine)),
            (r#""$":{"advertise":"224.0.0.1:80"}"#, Err(AdvertisedError::NoHost)),
        ] {
            let registration = parse(&format!(r#"{{"port":1,"name":"a",{advertise}}}"#)).unwrap();
            assert_eq!(registration.listed_host(seen), expected, "{advertise}");
        }
    }

    #[test]
    fn wrong_members_are_refused_by_name() {
        for port in ["0", "-1", "65536", "\"x\"", "80.5", "1e3", "null", "[]", "\"\"", "1e400", "99999999999999999999"]
        {
            check(&format!(r#"{{"port":{port}}}"#), Err("bad_port"));
        }
        check("{}", Err("bad_port"));
        check("[]", Err("bad_registration"));
        check("null", Err("bad_registration"));
        check("\"text\"", Err("bad_registration"));
        check(r#"{"port":1,"port":2}"#, Err("bad_registration"));
        check(r#"{"port":1,"x":1,"x":2}"#, Err("bad_registration"));
        check(r#"{"port":1,"urls":{}}"#, Err("bad_registration"));
        check(r#"{"port":1,"urls":[1]}"#, Err("bad_registration"));
    }

    #[test]
    fn js3_a_version_2_node_whose_statements_cannot_be_read_is_not_one_of_version_1() {
        // All routes of a version 1 node are public.
        for meta in [
            r#"{"routes":[],"routes":[{"at":[0],"public":true}]}"#,
            r#"{"routes":[],"weight":1,"weight":2}"#,
            r#"{"routes":[],"\ud800":1}"#,
        ] {
            let params = format!(r#"{{"port":1,"name":"a","urls":["GET/a"],"$":{meta}}}"#);
            check(&params, Err("bad_registration"));
            assert_eq!(Registration::version(Some(serde_json::from_str(&params).unwrap())), Version::V2, "{meta}");
        }
        for meta in ["7", "[]", "null", "\"{}\""] {
            let params = format!(r#"{{"port":1,"name":"a","$":{meta}}}"#);
            assert_eq!(Registration::version(Some(serde_json::from_str(&params).unwrap())), Version::V1, "{meta}");
            assert!(parse(&params).unwrap().advert.is_none());
        }
    }

    #[test]
    fn names_of_version_2_nodes_are_plain() {
        let longest = "x".repeat(128);
        for (name, fits) in [("goods-1.a_B", true), (&longest, true), (&format!("{longest}x"), false), ("", false)] {
            assert_eq!(parse(&format!(r#"{{"port":1,"name":"{name}","$":{{}}}}"#)).is_ok(), fits, "{name}");
        }
        check(r#"{"port":1,"name":7,"$":{}}"#, Err("bad_name"));
        for name in ["a b", "한글", r"\u0000", r"\u001b[31m", r"g\u043e\u043eds", r"\ud800"] {
            check(&format!(r#"{{"port":1,"name":"{name}","$":{{}}}}"#), Err("bad_name"));
        }
    }

    #[test]
    fn limits_are_exact() {
        for (urls, expected) in [(255, None), (256, None), (257, Some("too_many_urls"))] {
            let params = format!(r#"{{"port":1,"urls":{}}}"#, to_json(&vec!["GET/x"; urls]));
            assert_eq!(parse(&params).err().map(|e| e.reason()), expected, "{urls}");
        }
        for (bytes, expected) in [(511, None), (512, None), (513, Some("url_too_long"))] {
            let params = format!(r#"{{"port":1,"urls":["{}"]}}"#, "x".repeat(bytes));
            assert_eq!(parse(&params).err().map(|e| e.reason()), expected, "{bytes}");
        }
        for (prefixes, bytes, expected) in
            [(256, 9, None), (257, 9, Some("too_many_prefixes")), (1, 512, None), (1, 513, Some("too_many_prefixes"))]
        {
            let prefixes = to_json(&vec!["x".repeat(bytes); prefixes]);
            let params = format!(r#"{{"port":1,"name":"a","$":{{"http":{{"prefixes":{prefixes}}}}}}}"#);
            assert_eq!(parse(&params).err().map(|e| e.reason()), expected, "{bytes}");
        }
        for (extra, expected) in [(63, None), (64, None), (65, Some("bad_registration"))] {
            let members: String = (0..extra).map(|i| format!(r#","x{i}":0"#)).collect();
            let params = format!(r#"{{"port":1{members}}}"#);
            assert_eq!(parse(&params).err().map(|e| e.reason()), expected, "{extra}");
        }
    }

    #[test]
    fn what_we_write_reads_back() {
        let mut out = BytesMut::new();
        let urls = [Route::parse("GET/상품").unwrap(), Route::parse("GET/a/¶").unwrap()];
        let advert = Advert { id: Some("id-1".to_owned()), ..Advert::default() };
        let options = RegisterOptions { interests: Some(vec!["a".to_owned()]), ..RegisterOptions::default() };
        write_registration(&mut out, "goods", 9010, &urls, &advert, &options);
        let frame = &out[..out.len() - 2];
        let packet = crate::Packet::parse(frame).unwrap();
        let registration = Registration::parse(packet.params, &RegistrationLimits::default()).unwrap();
        assert_eq!((registration.name.as_str(), registration.port), ("goods", 9010));
        assert_eq!(registration.urls, ["GET/상품", "GET/a/¶"]);
        assert_eq!(registration.advert, Some(advert));
        assert_eq!(RegisterOptions::parse(packet.meta, &RegistrationLimits::default()).unwrap(), options);
    }
}
