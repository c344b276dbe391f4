//! A configuration file is read, or its mistakes are named where they stand.
#![cfg_attr(fuzzing, no_main)]

use gateway::fuzzing::config;

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Err(mistakes) = config(text) else { return };
    let lines: Vec<_> = text.split('\n').collect();
    for mistake in &mistakes {
        assert!(!mistake.contains('\n'), "{mistake:?}");
        let Some((line, rest)) = mistake.strip_prefix("f:").and_then(|rest| rest.split_once(':')) else { continue };
        // The last line may say how many more there are.
        let Ok(line) = line.parse::<usize>() else { continue };
        let (column, message) = rest.split_once(": ").expect("a column");
        let column: usize = column.parse().expect("a number");
        assert!(!message.is_empty() && (1..=lines.len()).contains(&line), "{mistake}");
        assert!((1..=lines[line - 1].chars().count() + 1).contains(&column), "{mistake}");
    }
    // Said again, it is the same.
    assert_eq!(config(text), Err(mistakes));
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|data: &[u8]| run(data));
