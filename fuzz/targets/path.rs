//! A path has one normal form, which never leaves its root; the form that services see normalises
//! to it again.
#![cfg_attr(fuzzing, no_main)]

use gateway::fuzzing::{normalize, readable_path};

pub(crate) fn run(data: &[u8]) {
    let Ok(path) = std::str::from_utf8(data) else { return };
    let Some(normal) = normalize(path) else { return };
    assert_eq!(normalize(&normal).as_ref(), Some(&normal));
    assert!(normal.starts_with('/') && normal.is_ascii() && !normal.contains("//"));
    assert!(normal.split('/').all(|segment| segment != "." && segment != ".."));
    assert!(!normal.contains(['?', '#', '\\', '"', '<', '>', ' ']));
    assert!(!normal.contains("%2F") && !normal.contains("%5C") && !normal.contains("%00"));
    assert_eq!(normalize(&readable_path(&normal)).as_ref(), Some(&normal));
    // A route of that text, if it can be one, is itself.
    if let Ok(route) = protocol::Route::parse(&format!("GET{normal}")) {
        assert_eq!((route.method(), route.path()), ("GET", &*normal));
    }
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));
