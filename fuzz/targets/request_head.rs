//! The head of an HTTP/1 request means the same however it arrives, and the head that a server is
//! sent reads back as the same.
#![cfg_attr(fuzzing, no_main)]

use gateway::fuzzing::request_head;

pub(crate) fn run(data: &[u8]) {
    let whole = request_head(data, data.len());
    for size in [1, 3] {
        assert_eq!(request_head(data, size).map_err(drop), whole.clone().map_err(drop), "{size}");
    }
    let Ok(Some((head, rest))) = whole else { return };
    assert!(data.ends_with(&rest));
    assert!(head.first_line[1].starts_with('/') || head.first_line[1] == "*");
    // A server is told more, which may be too much for a reader with our limits.
    if head.fields.len() > 80 || head.passed_on.len() > 60_000 {
        return;
    }
    let (again, rest) = request_head(&head.passed_on, 7).expect("it is sound").expect("it is whole");
    assert!(rest.is_empty() && again.body == head.body);
    let names_host = !head.first_line[2].is_empty();
    assert!(again.first_line[..2] == head.first_line[..2]);
    assert!(!names_host || again.first_line[2] == head.first_line[2]);
    assert!(!again.fields.iter().any(|(name, _)| name.contains(&b'_')));
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));
