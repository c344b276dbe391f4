//! A header of the PROXY protocol is waited for until it is whole, and what follows it does not
//! change what it means.
#![cfg_attr(fuzzing, no_main)]

use gateway::fuzzing::proxy_protocol;

pub(crate) fn run(data: &[u8]) {
    // As it arrives: the first verdict counts.
    let first = (0..=data.len()).find_map(|end| proxy_protocol(&data[..end]).map(|verdict| (end, verdict)));
    match (first, proxy_protocol(data)) {
        (None, whole) => assert_eq!(whole, None),
        (Some((_, Err(()))), whole) => assert_eq!(whole, Some(Err(()))),
        (Some((end, Ok((client, length)))), whole) => {
            assert_eq!(end, length, "it was whole before");
            assert_eq!(whole, Some(Ok((client, length))));
        }
    }
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));
