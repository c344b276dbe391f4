//! A list of version 1 has of a node the urls that PROTOCOL calls public, in their order, and no
//! others. All else is as in the entry for version 2.
#![cfg_attr(fuzzing, no_main)]

use protocol::{Advert, Key, Packet, Registration, RegistrationLimits, RegistryEntry, write_legacy_list};
use serde_json::value::RawValue;

#[path = "../public_urls.rs"]
mod public_urls;

pub(crate) fn run(data: &[u8]) {
    let Ok(Packet { params: Some(params), .. }) = Packet::parse(data) else { return };
    let Ok(node) = Registration::parse(Some(params), &RegistrationLimits::default()) else { return };
    let (mut out, entry) = (bytes::BytesMut::new(), node.legacy_entry("::1").unwrap_or_else(|| node.entry("::1")));
    write_legacy_list(&mut out, &Key::Number(0), std::iter::once(&*entry));
    let list = Packet::parse(&out[..out.len() - 2]).ok().and_then(|list| list.params).expect("it is sound");
    let list: Vec<&RawValue> = serde_json::from_str(list.get()).expect("it is a list");
    let shown = RegistryEntry::parse(list[0].get()).expect("an entry is one").registration;
    assert_eq!((list.len(), &shown.urls), (1, &public_urls::public_urls(params.get())));
    assert_eq!((&shown.name, shown.port, shown.read_window), (&node.name, node.port, node.read_window));
    let unstated = node.advert.map(|advert| Advert { routes: None, ..advert });
    assert_eq!(shown.advert, unstated);
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));
