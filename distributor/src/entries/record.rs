//! One node: its part in lists, and all else that is known of it.

use protocol::{Registration, Version};

use crate::config::ToldToOldPeers;

/// The number of a connection. It is never used twice, unlike an address and port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SessionId(pub(crate) u64);

/// A node's part in lists, and all else that is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The number of the node in the order of registration. Changes name the node by this number.
    pub(crate) id: u64,
    pub(crate) name: Box<str>,
    /// The remote end of its connection, as lists spell it.
    pub(crate) host: Box<str>,
    /// The host that lists show instead, if the node advertises an address.
    pub(crate) listed_at: Option<Box<str>>,
    pub(crate) port: u16,
    pub(crate) urls: Box<[Box<str>]>,
    /// Prefixes of the paths that it answers, if it speaks HTTP.
    pub(crate) prefixes: Box<[Box<str>]>,
    /// Whether the node takes calls: it does not drain, and its weight is not 0.
    pub(crate) takes_calls: bool,
    pub(crate) instance: Option<Box<str>>,
    pub(crate) version: Version,
    /// The entry of the node in lists: JSON text in which `¶` is escaped, so its length is that on
    /// the wire.
    pub(crate) entry: Box<str>,
    /// The entry without internal urls, if the node states which these are.
    pub(crate) public_entry: Option<Box<str>>,
    pub(crate) is_suspect: bool,
    /// Whether the node has registered here itself. An entry that was only copied from another node
    /// may be false.
    pub(crate) is_confirmed: bool,
}

/// The identity by which two registrations of version 1 are one node.
pub(crate) type NodeIdentity = (Box<str>, u16, Box<str>);

impl Record {
    pub(crate) fn new(id: u64, registration: &Registration, host: &str) -> Self {
        let advert = registration.advert.as_ref();
        let escaped = |entry: String| entry.replace('¶', "\\u00b6").into();
        let prefixes = advert.and_then(|advert| advert.http.as_ref()).map_or(&[][..], |http| &http.prefixes);
        Self {
            id,
            name: registration.name.as_str().into(),
            host: host.into(),
            listed_at: registration.listed_at().map(Box::from),
            port: registration.port,
            urls: registration.urls.iter().map(|url| url.as_str().into()).collect(),
            prefixes: prefixes.iter().map(|prefix| prefix.as_str().into()).collect(),
            takes_calls: advert.is_none_or(|advert| !advert.draining && advert.weight > 0),
            instance: registration.advert.as_ref().and_then(|advert| advert.id.as_deref().map(Box::from)),
            version: if registration.advert.is_some() { Version::V2 } else { Version::V1 },
            entry: escaped(registration.entry(host)),
            public_entry: registration.legacy_entry(host).map(escaped),
            is_suspect: false,
            is_confirmed: true,
        }
    }

    /// Its entry in lists of version 1.
    pub(crate) fn legacy_entry(&self, told: ToldToOldPeers) -> &str {
        match told {
            ToldToOldPeers::Public => self.public_entry.as_ref().unwrap_or(&self.entry),
            ToldToOldPeers::All => &self.entry,
        }
    }

    /// Whether lists show the same of both records.
    pub(crate) fn is_listed_as(&self, other: &Self) -> bool {
        (self.id, &self.entry, self.is_suspect) == (other.id, &other.entry, other.is_suspect)
    }

    /// About how many bytes of memory it takes: the other members repeat what the entry has.
    pub(crate) fn bytes(&self) -> usize {
        let public = self.public_entry.as_ref().map_or(0, |entry| entry.len());
        size_of::<Self>()
            + 2 * self.entry.len()
            + public
            + (self.urls.len() + self.prefixes.len()) * size_of::<Box<str>>()
    }

    /// The identity of a node that registers without an instance.
    pub(crate) fn identity(&self) -> NodeIdentity {
        (self.host.clone(), self.port, self.name.clone())
    }

    /// The address at which it can be called, for people.
    pub(crate) fn address(&self) -> String {
        shown_address(self.listed_at.as_ref().unwrap_or(&self.host), self.port)
    }
}

/// An address for people, from a host as lists spell it.
pub(crate) fn shown_address(host: &str, port: u16) -> String {
    let host = host.strip_prefix("::ffff:").unwrap_or(host);
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
