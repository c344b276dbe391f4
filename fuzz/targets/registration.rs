//! A registration becomes an entry that every reader understands as the Distributor does.
#![cfg_attr(fuzzing, no_main)]

use protocol::{Node, Packet, RegisterOptions, Registration, RegistrationLimits, RegistryEntry, Version};

pub(crate) fn run(data: &[u8]) {
    let limits = RegistrationLimits { max_urls: 8, max_url_bytes: 40 };
    let Ok(packet) = Packet::parse(data) else { return };
    if let Ok(options) = RegisterOptions::parse(packet.meta, &limits) {
        let interests = options.interests.unwrap_or_default();
        assert!(interests.len() <= limits.max_urls && options.visibility.is_none_or(|all| all.percent <= 100));
    }
    let Ok(registration) = Registration::parse(packet.params, &limits) else { return };
    assert!(registration.port > 0 && registration.urls.len() <= limits.max_urls);
    assert!(registration.urls.iter().all(|url| url.len() <= limits.max_url_bytes));
    let is_version_2 = Registration::version(packet.params) == Version::V2;
    assert_eq!(registration.advert.is_some(), is_version_2);
    let entry = registration.entry("::ffff:10.0.0.1");
    let read = RegistryEntry::parse(&entry).expect("an entry is one");
    assert_eq!(read.host.to_string(), "10.0.0.1");
    assert_eq!(read.registration, registration);
    assert_eq!(read.registration.entry("::ffff:10.0.0.1"), entry);
    let node = Node::from_entry(&entry).expect("an entry is a node");
    assert_eq!((node.name, node.port, node.advert), (registration.name, registration.port, registration.advert));
    assert!(node.routes.iter().all(|route| registration.urls.iter().any(|url| url == route.as_str())));
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));
