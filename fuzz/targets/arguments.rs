//! Query strings, forms and bodies become one JSON object, with all that they say.
#![cfg_attr(fuzzing, no_main)]

use gateway::fuzzing::{body_params, form_params};
use serde_json::{Map, Value};

pub(crate) fn run(data: &[u8]) {
    let form: Map<String, Value> = serde_json::from_str(&form_params(data)).expect("it is an object");
    let texts: usize = form.values().map(|value| value.as_array().map_or(1, Vec::len)).sum();
    let pairs = data.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()).count();
    assert_eq!(texts, pairs);
    // The order of names and an empty pair mean nothing.
    let mut turned: Vec<&[u8]> = data.split(|byte| *byte == b'&').collect();
    turned.sort_by_key(|pair| std::cmp::Reverse(pair.split(|byte| *byte == b'=').next().map(<[u8]>::to_vec)));
    let again: Map<String, Value> = serde_json::from_str(&form_params(&turned.join(&b'&'))).expect("it is an object");
    assert_eq!(again.keys().collect::<Vec<_>>(), form.keys().collect::<Vec<_>>());
    if let Some(params) = body_params("application/json", data) {
        // Some JSON has no `Value`: half of a character, or a number that is too large.
        let body = if data.is_empty() { b"{}" } else { data };
        assert!(params.starts_with('{'));
        assert_eq!(serde_json::from_str::<Value>(&params).ok(), serde_json::from_slice(body).ok());
    }
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));
