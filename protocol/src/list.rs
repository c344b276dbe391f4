//! The list of all nodes, as the Distributor tells it.

use std::net::{IpAddr, Ipv6Addr};

use bytes::{BufMut, BytesMut};
use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::json::is_object;
use crate::{Advert, Key, Registration, RegistrationLimits, Route, Version, seal};

/// The uri of everything between a node and the Distributor.
pub const REGISTRY_URI: &str = "/distributes";

/// A node as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name: for people, and to tell gateways (`gate`) from services.
    pub name: String,
    /// Where it can be called.
    pub host: IpAddr,
    /// Where it can be called.
    pub port: u16,
    /// What it offers. Registered urls that are no routes are left out.
    pub routes: Vec<Route>,
    /// What it shows when it speaks version 2.
    pub advert: Option<Advert>,
}

impl Node {
    /// The version this node speaks.
    pub fn version(&self) -> Version {
        if self.advert.is_some() { Version::V2 } else { Version::V1 }
    }
}

/// The nodes of one list, in order of registration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeList {
    /// Entries that can be used.
    pub nodes: Vec<Node>,
    /// How many entries were left out because no node can be made of them.
    pub skipped: usize,
}

/// A list that is none: the receiver keeps what it has.
#[derive(Debug, Error)]
#[error("params is no list of nodes")]
pub struct ListError(#[source] serde_json::Error);

impl NodeList {
    /// Reads the `params` of a list. One strange entry does not spoil the others.
    ///
    /// # Errors
    /// [`ListError`] when `params` is not an array.
    pub fn parse(params: &RawValue) -> Result<Self, ListError> {
        let entries: Vec<&RawValue> = serde_json::from_str(params.get()).map_err(ListError)?;
        let nodes: Vec<_> = entries.iter().filter_map(|entry| parse_entry(entry)).collect();
        Ok(Self { skipped: entries.len() - nodes.len(), nodes })
    }
}

fn parse_entry(entry: &RawValue) -> Option<Node> {
    #[derive(Deserialize)]
    struct Located {
        host: String,
    }
    if !is_object(entry.get()) {
        return None;
    }
    let Located { host } = serde_json::from_str(entry.get()).ok()?;
    // What one Distributor took, every reader takes: its limits are not ours.
    let no_limits = RegistrationLimits { max_urls: usize::MAX, max_url_bytes: usize::MAX };
    let Registration { name, port, urls, advert, .. } = Registration::parse(Some(entry), &no_limits).ok()?;
    Some(Node {
        name,
        host: host.parse::<IpAddr>().ok()?.to_canonical(),
        port,
        routes: urls.iter().filter_map(|url| Route::parse(url).ok()).collect(),
        advert,
    })
}

/// Writes a list, ready to send. `key` is 0 unless the receiver asked under a key of its own.
pub fn write_list<'a>(out: &mut BytesMut, key: &Key, entries: impl Iterator<Item = &'a str>) {
    let start = out.len();
    out.put_slice(format!(r#"{{"uri":"{REGISTRY_URI}","method":"GET","key":{key},"params":["#).as_bytes());
    for (position, entry) in entries.enumerate() {
        if position > 0 {
            out.put_u8(b',');
        }
        out.put_slice(entry.as_bytes());
    }
    out.put_slice(b"]}");
    seal(out, start);
}

/// Writes what is wrong with a packet, for a peer that has shown `$` or is about to be cut.
///
/// `params` is an empty array, the one form that old readers survive.
pub fn write_refusal(out: &mut BytesMut, key: Option<&Key>, status: u16, reason: &str, message: &str) {
    let start = out.len();
    let key = key.map_or_else(|| "0".to_owned(), Key::to_string);
    let message = serde_json::Value::from(message);
    let text = format!(
        r#"{{"uri":"{REGISTRY_URI}","method":"GET","key":{key},"params":[],"$":{{"s":{status},"r":"{reason}","m":{message}}}}}"#
    );
    out.put_slice(text.as_bytes());
    seal(out, start);
}

/// How lists spell an address: old gateways compare the text, and their Distributor listened on a dual-stack socket.
pub fn shown_host(address: IpAddr) -> String {
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
    fn lists_have_the_bytes_of_the_old_distributor() {
        let entry = r#"{"port":8000,"name":"gate","urls":[],"host":"::ffff:127.0.0.1"}"#;
        for (key, entries, expected) in [
            (Key::Number(0), vec![], r#"{"uri":"/distributes","method":"GET","key":0,"params":[]}¶"#),
            (
                Key::Number(0),
                vec![entry],
                r#"{"uri":"/distributes","method":"GET","key":0,"params":[{"port":8000,"name":"gate","urls":[],"host":"::ffff:127.0.0.1"}]}¶"#,
            ),
            (Key::Number(7), vec!["{}", "{}"], r#"{"uri":"/distributes","method":"GET","key":7,"params":[{},{}]}¶"#),
        ] {
            let mut out = BytesMut::new();
            write_list(&mut out, &key, entries.into_iter());
            assert_eq!(out, expected.as_bytes());
        }
    }

    #[test]
    fn hosts_are_spelled_as_on_a_dual_stack_socket() {
        for (address, shown) in [
            ("127.0.0.1", "::ffff:127.0.0.1"),
            ("::ffff:10.0.0.1", "::ffff:10.0.0.1"),
            ("::1", "::1"),
            ("2001:db8::7", "2001:db8::7"),
        ] {
            assert_eq!(shown_host(address.parse().unwrap()), shown);
        }
    }

    #[track_caller]
    fn check(params: &str, nodes: &[(&str, &str, u16, usize)], skipped: usize) {
        let list = NodeList::parse(serde_json::from_str(params).unwrap()).unwrap();
        let seen: Vec<_> =
            list.nodes.iter().map(|n| (n.name.as_str(), n.host.to_string(), n.port, n.routes.len())).collect();
        let expected: Vec<_> = nodes.iter().map(|n| (n.0, n.1.to_owned(), n.2, n.3)).collect();
        assert_eq!((seen, list.skipped), (expected, skipped));
    }

    #[test]
    fn one_strange_entry_does_not_spoil_the_others() {
        check("[]", &[], 0);
        check(
            r#"[{"port":1,"name":"a","urls":["GET/a","*",""],"host":"::ffff:127.0.0.1","x":1},7,[],
                {"port":"2","name":"b","host":"::1"},{"port":3,"host":"nowhere"},{"host":"::1"},{"port":70000,"host":"::1"}]"#,
            &[("a", "127.0.0.1", 1, 1), ("b", "::1", 2, 0)],
            5,
        );
        assert!(NodeList::parse(serde_json::from_str("{}").unwrap()).is_err());
    }
}
