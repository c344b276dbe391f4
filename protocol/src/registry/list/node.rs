//! The entry of a node in a list, and the node that can be called by it.

use std::net::{IpAddr, Ipv6Addr};

use serde::Deserialize;

use crate::{Advert, LEGACY_READ_BYTES, Registration, RegistrationLimits, Route, RouteAdvert, Version};

/// A node as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The name of the node, for people and to tell gateways (`gate`) from services.
    pub name: String,
    /// The host at which the node can be called.
    pub host: IpAddr,
    /// The port at which the node can be called.
    pub port: u16,
    /// The routes that the node offers. Registered urls that are not routes are left out.
    pub routes: Vec<Route>,
    /// What is stated of each of the routes, in their order; `None` if the node cannot say. Empty
    /// if nothing is stated.
    pub route_adverts: Vec<Option<RouteAdvert>>,
    /// The advert of the node, when it speaks version 2.
    pub advert: Option<Advert>,
    /// How many unread bytes the node may have, if it is of version 1.
    pub read_window: usize,
    /// Whether the Distributor has had no sign of life from the node for some time.
    pub suspect: bool,
}

impl Node {
    /// Reads an entry of a list; `None` when no node can be made of it.
    pub fn from_entry(entry: &str) -> Option<Self> {
        let RegistryEntry { registration, host } = RegistryEntry::parse(entry)?;
        let Registration { name, port, urls, advert, read_window, .. } = registration;
        let parsed: Vec<Option<Route>> = urls.iter().map(|url| Route::parse(url).ok()).collect();
        let route_adverts = match advert.as_ref().and_then(|advert| advert.routes.as_ref()) {
            Some(stated) => {
                let of_routes = parsed.iter().zip(stated.by_position(urls.len())).filter(|(route, _)| route.is_some());
                of_routes.map(|(_, advert)| Some(advert)).collect()
            }
            None => Vec::new(),
        };
        let routes = parsed.into_iter().flatten().collect();
        let read_window = read_window.unwrap_or(LEGACY_READ_BYTES);
        Some(Self { name, host, port, routes, route_adverts, advert, read_window, suspect: false })
    }

    /// The routes of the node, each with what it states of them; `None` if the node cannot say.
    pub fn stated_routes(&self) -> impl Iterator<Item = (&Route, Option<&RouteAdvert>)> {
        let adverts = self.route_adverts.iter().map(Option::as_ref).chain(std::iter::repeat(None));
        self.routes.iter().zip(adverts)
    }

    /// The version of the protocol that this node speaks.
    pub fn version(&self) -> Version {
        if self.advert.is_some() { Version::V2 } else { Version::V1 }
    }
}

/// An entry of a list: the registration of a node, and the host that the Distributor saw it come
/// from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryEntry {
    /// What the node registered.
    pub registration: Registration,
    /// The host in canonical form: an IPv4 address is not mapped to IPv6.
    pub host: IpAddr,
}

impl RegistryEntry {
    /// Reads the text of an entry; `None` when it has no host, or is not a sound registration.
    pub fn parse(entry: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct RawHost {
            host: IpAddr,
        }
        // A Distributor has accepted the entry within its limits, which may differ from those of
        // this process.
        let no_limits = RegistrationLimits { max_urls: usize::MAX, max_url_bytes: usize::MAX };
        let registration = Registration::parse(Some(serde_json::from_str(entry).ok()?), &no_limits).ok()?;
        let RawHost { host } = serde_json::from_str(entry).ok()?;
        Some(Self { registration, host: host.to_canonical() })
    }
}

/// The text of an address in lists. Version 1 gateways compare the text, and their Distributor
/// listened on a dual-stack socket.
pub fn host_text(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => format!("::ffff:{v4}"),
        // `Display` of a mapped address is the dotted form already.
        IpAddr::V6(v6) => Ipv6Addr::to_string(&v6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_spelled_as_on_a_dual_stack_socket() {
        for (address, shown) in [
            ("127.0.0.1", "::ffff:127.0.0.1"),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.1"),
            ("::1", "::1"),
            ("2001:db8::7", "2001:db8::7"),
        ] {
            assert_eq!(host_text(address.parse().unwrap()), shown);
        }
    }

    #[test]
    fn adverts_of_routes_follow_the_urls_that_are_routes() {
        #[track_caller]
        fn check(meta: &str, expected: &[(&str, Option<bool>)]) {
            let entry = format!(r#"{{"port":1,"name":"a","urls":["*","GET/a","","GET/b"],"host":"::1"{meta}}}"#);
            let node = Node::from_entry(&entry).unwrap();
            let seen = node.stated_routes().map(|(route, advert)| (route.as_str(), advert.map(|advert| advert.public)));
            assert_eq!(seen.collect::<Vec<_>>(), expected);
        }
        check("", &[("GET/a", None), ("GET/b", None)]);
        check(r#","$":{}"#, &[("GET/a", None), ("GET/b", None)]);
        check(r#","$":{"routes":[]}"#, &[("GET/a", Some(false)), ("GET/b", Some(false))]);
        check(r#","$":{"routes":[{"at":[3,0],"public":true}]}"#, &[("GET/a", Some(false)), ("GET/b", Some(true))]);
        check(r#","$":{"routes":7}"#, &[("GET/a", Some(false)), ("GET/b", Some(false))]);
        // Version 1 has no such member.
        check(r#","routes":[{"at":[1]}]"#, &[("GET/a", None), ("GET/b", None)]);
    }

    #[track_caller]
    fn check(entry: &str, expected: Option<(&str, &str, u16, usize)>) {
        let node = Node::from_entry(entry);
        let seen = node.as_ref().map(|n| (n.name.as_str(), n.host.to_string(), n.port, n.routes.len()));
        assert_eq!(seen, expected.map(|(name, host, port, routes)| (name, host.to_owned(), port, routes)));
    }

    #[test]
    fn nodes_are_made_of_sound_entries_only() {
        check(
            r#"{"port":1,"name":"a","urls":["GET/a","*",""],"host":"::ffff:127.0.0.1","x":1}"#,
            Some(("a", "127.0.0.1", 1, 1)),
        );
        check(r#"{"port":"2","name":"b","host":"::1"}"#, Some(("b", "::1", 2, 0)));
        for strange in
            ["7", "[]", r#"{"port":3,"host":"nowhere"}"#, r#"{"host":"::1"}"#, r#"{"host":"::1","port":70000}"#]
        {
            check(strange, None);
        }
    }
}
