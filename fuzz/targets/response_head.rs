//! The head of a server's response means the same however it arrives, and what a client is sent of
//! it reads back.
#![cfg_attr(fuzzing, no_main)]

use gateway::fuzzing::response_head;

pub(crate) fn run(data: &[u8]) {
    for to_head in [false, true] {
        let whole = response_head(data, data.len(), to_head);
        for size in [1, 3] {
            assert_eq!(response_head(data, size, to_head).map_err(drop), whole.clone().map_err(drop), "{size}");
        }
        let Ok(Some((head, rest))) = whole else { continue };
        assert!(data.ends_with(&rest) && (!to_head || head.body == "Empty"));
        let (again, rest) = response_head(&head.passed_on, 7, to_head).expect("it is sound").expect("it is whole");
        assert!(rest.is_empty() && again.first_line == head.first_line && again.body == head.body);
        let hop_by_hop = |name: &[u8]| name.eq_ignore_ascii_case(b"connection");
        assert!(!again.fields.iter().any(|(name, _)| hop_by_hop(name)));
    }
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));
