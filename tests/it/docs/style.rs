//! Names and doc comments follow CONTRIBUTING, as far as a program can tell.

use std::path::Path;

use super::{code_of, root, rust_files};

/// The crates whose style is checked.
const CRATES: [&str; 8] =
    ["protocol", "net", "distributor", "node-sdk", "node-sdk/macros", "gateway", "bench", "conformance"];

/// Words that are not the name of a thing.
const NOT_NAMES: [&str; 8] = ["of", "has", "may", "each", "there", "here", "which", "who"];

/// Words for people, where the thing has a name.
const PEOPLE: [&str; 5] = ["whoever", "somebody", "nobody", "everybody", "everyone"];

/// Calls `check` with each line of code and the first line of the docs above it, if it has docs.
fn lines_with_docs(text: &str, mut check: impl FnMut(&str, Option<&str>) -> bool) -> Vec<usize> {
    let (mut wrong, mut docs, mut in_docs) = (Vec::new(), None, false);
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if let Some(doc) = line.strip_prefix("///") {
            if !in_docs {
                docs = Some(doc.trim());
            }
            in_docs = true;
            continue;
        }
        in_docs = false;
        if line.starts_with("#[") && docs.is_some() {
            // The docs of a flag are the words of `--help`.
            docs = docs.filter(|_| !line.starts_with("#[arg"));
            continue;
        }
        if check(line, docs.take()) {
            wrong.push(number + 1);
        }
    }
    wrong
}

/// The lines of all crates for which `check` is true, as it is called by [`lines_with_docs`].
fn find_lines(mut check: impl FnMut(&str, Option<&str>) -> bool) -> Vec<String> {
    let mut wrong = Vec::new();
    for path in CRATES.iter().flat_map(|krate| rust_files(&root().join(krate).join("src"))) {
        let name = path.strip_prefix(root()).unwrap_or_else(|_| Path::new("")).display();
        let lines = lines_with_docs(&code_of(&path), &mut check);
        wrong.extend(lines.into_iter().map(|line| format!("{name}:{line}")));
    }
    wrong
}

#[test]
fn variables_are_named_as_what_they_hold() {
    let wrong = find_lines(|line, _| {
        let variable = line.strip_prefix("let ").map(|rest| rest.strip_prefix("mut ").unwrap_or(rest));
        variable.is_some_and(|rest| NOT_NAMES.contains(&rest.split([' ', ':', ';']).next().unwrap_or_default()))
    });
    assert!(wrong.is_empty(), "these variables are named {NOT_NAMES:?}:\n{}", wrong.join("\n"));
}

/// Whether a line declares a bool: a member, or a function that answers a question.
fn declares_bool(line: &str) -> bool {
    let is_word = |text: &str| text.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_');
    let scope = line.strip_prefix("pub").map(|rest| rest.split_once(") ").map_or(rest, |(_, rest)| rest).trim_start());
    let line = scope.unwrap_or(line);
    match line.trim_start_matches("const ").strip_prefix("fn ") {
        Some(function) => {
            let questions = ["is_", "has_", "are_", "can_", "may_", "must_", "needs_"];
            line.ends_with("-> bool {") && questions.iter().any(|begin| function.starts_with(begin))
        }
        None => line.strip_suffix(": bool,").is_some_and(is_word),
    }
}

#[test]
fn docs_of_bools_begin_with_whether() {
    let is_other = |doc: &str| !doc.starts_with("Whether") && !doc.starts_with("As [`");
    let wrong = find_lines(|line, doc| declares_bool(line) && doc.is_some_and(is_other));
    assert!(wrong.is_empty(), "the docs of these do not begin with \"Whether\":\n{}", wrong.join("\n"));
}

#[test]
fn comments_name_things_and_not_people() {
    let wrong = find_lines(|line, doc| {
        let comment = line.split_once("//").map(|(_, comment)| comment);
        let mut words =
            comment.into_iter().chain(doc).flat_map(|text| text.split(|letter: char| !letter.is_alphabetic()));
        words.any(|word| PEOPLE.iter().any(|person| person.eq_ignore_ascii_case(word)))
    });
    assert!(wrong.is_empty(), "these comments say {PEOPLE:?}:\n{}", wrong.join("\n"));
}
