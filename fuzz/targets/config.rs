//! A configuration file is read, or its mistake is named where it stands.
#![cfg_attr(fuzzing, no_main)]

use gateway::fuzzing::config;

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Err((position, message)) = config(text) else { return };
    assert!(!message.is_empty() && !message.contains('\n'), "{message:?}");
    if let Some((line, column)) = position {
        let lines: Vec<_> = text.split('\n').collect();
        assert!((1..=lines.len()).contains(&line), "line {line}");
        assert!((1..=lines[line - 1].chars().count() + 1).contains(&column), "column {column}");
    }
    // Said again, it is the same.
    assert_eq!(config(text), Err((position, message)));
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));
