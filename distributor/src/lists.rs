//! The list of nodes as it goes over the wire: encoded once per change, shared by all connections.

use bytes::{Bytes, BytesMut};
use protocol::{Key, REGISTRY_URI, Version, write_list};

use crate::config::{Config, OversizedList};
use crate::registry::Registry;

/// One state of the registry, ready to send to either version.
#[derive(Debug)]
pub(crate) struct Lists {
    pub(crate) rev: u64,
    full: Bytes,
    legacy: Bytes,
}

impl Lists {
    pub(crate) fn encode(registry: &Registry, config: &Config) -> Self {
        let full = encode(registry.entries());
        let legacy = if full.len() <= config.legacy_list_bytes {
            full.clone()
        } else {
            match config.oversized_list {
                OversizedList::Send => full.clone(),
                OversizedList::Truncate => {
                    // Every entry is counted with a comma; the first has none.
                    let frame_bytes = encode(std::iter::empty()).len();
                    let room = (config.legacy_list_bytes + 1).saturating_sub(frame_bytes);
                    encode(registry.entries_within(room).into_iter())
                }
            }
        };
        Self { rev: registry.rev(), full, legacy }
    }

    /// Bytes of the whole list, without encoding it.
    pub(crate) fn bytes(registry: &Registry) -> usize {
        r#"{"uri":"/distributes","method":"GET","key":0,"params":[]}¶"#.len() + registry.list_bytes()
    }

    /// The list for a peer of this version, unasked.
    pub(crate) fn for_version(&self, version: Version) -> Bytes {
        match version {
            Version::V1 => self.legacy.clone(),
            Version::V2 => self.full.clone(),
        }
    }

    /// The list for a peer that asked under a key of its own.
    pub(crate) fn answer(&self, version: Version, key: &Key) -> Bytes {
        let list = self.for_version(version);
        if *key == UNASKED {
            return list;
        }
        let before_key = format!(r#"{{"uri":"{REGISTRY_URI}","method":"GET","key":"#);
        let after_key = before_key.len() + UNASKED.to_string().len();
        let mut out = BytesMut::with_capacity(list.len() + 32);
        out.extend_from_slice(before_key.as_bytes());
        out.extend_from_slice(key.to_string().replace('¶', "\\u00b6").as_bytes());
        out.extend_from_slice(&list[after_key..]);
        out.freeze()
    }
}

/// The key of lists that nobody asked for.
const UNASKED: Key = Key::Number(0);

fn encode<'a>(entries: impl Iterator<Item = &'a str>) -> Bytes {
    let mut out = BytesMut::new();
    write_list(&mut out, &UNASKED, entries);
    out.freeze()
}

#[cfg(test)]
mod tests {
    use protocol::{NodeList, Packet, Registration};

    use super::*;
    use crate::registry::SessionId;

    fn registry(nodes: u64) -> Registry {
        let mut registry = Registry::default();
        for session in 0..nodes {
            let params = format!(r#"{{"port":1,"name":"n{session:04}","urls":["GET/¶"]}}"#);
            let params = serde_json::from_str(&params).unwrap();
            let registration = Registration::parse(Some(params), &Config::default().registration).unwrap();
            registry.register(SessionId(session), &registration, "::1");
        }
        registry
    }

    fn count(list: &Bytes) -> usize {
        let packet = Packet::parse(&list[..list.len() - 2]).unwrap();
        NodeList::parse(packet.params.unwrap()).unwrap().nodes.len()
    }

    #[test]
    fn answers_carry_the_askers_key() {
        let lists = Lists::encode(&registry(2), &Config::default());
        for key in ["0", "7", "\"mine ¶\"", "12345678901234567890123"] {
            let key: Key = serde_json::from_str(key).unwrap();
            let answer = lists.answer(Version::V1, &key);
            let packet = Packet::parse(&answer[..answer.len() - 2]).unwrap();
            assert_eq!((packet.key.unwrap().number(), count(&answer)), (key.number(), 2));
        }
    }

    #[test]
    fn a_list_at_the_limit_is_whole_and_one_byte_beyond_it_is_not() {
        let registry = registry(100);
        let bytes = Lists::encode(&registry, &Config::default()).full.len();
        assert_eq!(Lists::bytes(&registry), bytes);
        for (legacy_list_bytes, nodes) in [(bytes + 1, 100), (bytes, 100), (bytes - 1, 99)] {
            let config = Config { legacy_list_bytes, ..Config::default() };
            let lists = Lists::encode(&registry, &config);
            let legacy = lists.for_version(Version::V1);
            assert!(legacy.len() <= legacy_list_bytes);
            assert_eq!(count(&legacy), nodes);
            assert_eq!(count(&lists.for_version(Version::V2)), 100);
        }
    }

    #[test]
    fn what_old_peers_get_beyond_the_limit_is_a_setting() {
        let registry = registry(10);
        for (oversized_list, nodes) in [(OversizedList::Truncate, 3), (OversizedList::Send, 10)] {
            let config = Config { legacy_list_bytes: 300, oversized_list, ..Config::default() };
            let list = Lists::encode(&registry, &config).for_version(Version::V1);
            assert_eq!(count(&list), nodes, "{oversized_list:?}");
        }
    }
}
