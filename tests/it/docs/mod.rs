//! The documents are true: the words of problems are listed, and the files and types that documents
//! name exist.

mod code_map;
mod conversations;
mod least_peers;
mod limits;
mod style;

use std::fs;
use std::path::{Path, PathBuf};

/// Where prose and comments wrap.
const MAX_COLUMNS: usize = 100;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The crates whose folders the code map describes.
const CRATES: [&str; 5] = ["protocol", "net", "distributor", "node-sdk", "gateway"];

/// All files of a folder and of those in it, each with whether it has only tests.
fn all_files(folder: &Path, is_test: bool, files: &mut Vec<(PathBuf, bool)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let of_tests = path.ends_with("tests") || path.ends_with("it");
            all_files(&path, is_test || of_tests, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let is_test = is_test || path.ends_with("tests.rs");
            files.push((path, is_test));
        }
    }
}

/// The files of a folder and of those in it, without files of tests.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    all_files(folder, false, &mut files);
    files.into_iter().filter(|(_, is_test)| !is_test).map(|(path, _)| path).collect()
}

/// The files of tests of a crate.
fn test_files(krate: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for folder in ["src", "tests", "it"].map(|folder| root().join(krate).join(folder)) {
        if folder.is_dir() {
            all_files(&folder, !folder.ends_with("src"), &mut files);
        }
    }
    files.into_iter().filter(|(_, is_test)| *is_test).map(|(path, _)| path).collect()
}

/// Without the tests, which stand at its end.
fn code_of(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned()
}

/// All documents but the changelog, which is not rewrapped.
fn documents() -> Vec<String> {
    let mut documents = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "examples/README.md", "js/README.md"]
        .map(str::to_owned)
        .to_vec();
    for folder in ["docs", "docs/guide"] {
        let names = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().file_name());
        let pages = names.map(|name| format!("{folder}/{}", name.to_string_lossy()));
        documents.extend(pages.filter(|page| page.ends_with(".md")));
    }
    documents
}

#[test]
fn prose_wraps_at_100_columns() {
    let mut long = Vec::new();
    for document in documents() {
        let mut is_code = false;
        for (number, line) in read(&document).lines().enumerate() {
            is_code ^= line.starts_with("```");
            if !is_code && !line.starts_with('|') && line.chars().count() > MAX_COLUMNS {
                long.push(format!("{document}:{}", number + 1));
            }
        }
    }
    assert!(long.is_empty(), "longer than {MAX_COLUMNS} columns: {long:?}");
}

/// Folders that hold no text of ours.
const FOREIGN_FOLDERS: [&str; 6] = [".git", "target", "node_modules", "seeds", "corpus", "artifacts"];

/// Whether a line of a file is nothing but a comment.
fn is_comment(path: &Path, line: &str) -> bool {
    let line = line.trim_start();
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("rs" | "js") => line.starts_with("//"),
        Some("toml" | "sh" | "py") => line.starts_with('#'),
        // Scripts, and the justfile.
        None => line.starts_with('#'),
        Some(_) => false,
    }
}

fn find_long_comments(folder: &Path, long: &mut Vec<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if !FOREIGN_FOLDERS.contains(&&*name) {
                find_long_comments(&path, long);
            }
            continue;
        }
        let text = fs::read(&path).unwrap();
        for (number, line) in String::from_utf8_lossy(&text).lines().enumerate() {
            if is_comment(&path, line) && line.chars().count() > MAX_COLUMNS {
                long.push(format!("{}:{}", path.strip_prefix(root()).unwrap().display(), number + 1));
            }
        }
    }
}

#[test]
fn comments_wrap_at_100_columns() {
    let mut long = Vec::new();
    find_long_comments(&root(), &mut long);
    assert!(long.is_empty(), "longer than {MAX_COLUMNS} columns:\n{}", long.join("\n"));
}

#[test]
fn files_that_documents_name_are_there() {
    let crates = ["protocol", "net", "distributor", "node-sdk", "gateway", "tests", "bench", "conformance", "examples"];
    let mut missing = Vec::new();
    for document in &documents() {
        for (number, line) in read(document).lines().enumerate() {
            // In code, or the target of a link.
            for word in line.split(['`', '(', ')', '#', ' ']) {
                let Some((krate, rest)) = word.split_once('/').filter(|(krate, _)| crates.contains(krate)) else {
                    continue;
                };
                // A file, a module, or a module of tests.
                let all = [word.to_owned(), format!("{krate}/src/{rest}"), format!("tests/it/{word}")];
                let is_there = |path: &String| {
                    let path = root().join(path);
                    path.exists() || path.with_extension("rs").exists()
                };
                if !all.iter().any(is_there) {
                    missing.push(format!("{document}:{}: {word}", number + 1));
                }
            }
        }
    }
    assert!(missing.is_empty(), "no such files:\n{}", missing.join("\n"));
}

#[test]
fn the_hosted_workflow_runs_each_step_once() {
    let run = read(".ci/run");
    let steps = run.lines().find_map(|line| line.strip_prefix("steps=(")?.strip_suffix(')')).expect("a list of steps");
    let mut steps: Vec<_> = steps.split(' ').collect();
    let workflow = read(".github/workflows/ci.yml");
    let (_, matrix) = workflow.split_once("        steps:\n").expect("a matrix of steps");
    let lines = matrix.lines().map_while(|line| line.strip_prefix("          - "));
    // Each job installs what it needs first.
    let mut hosted: Vec<_> = lines.flat_map(|line| line.split(' ')).chain(["tools"]).collect();
    assert!(
        workflow.contains("run: sudo env")
            && workflow.contains(" CI=true ADVISORIES=required MACOS=required .ci/run tools ${{ matrix.steps }}")
    );
    steps.sort_unstable();
    hosted.sort_unstable();
    assert_eq!(hosted, steps);
}

#[test]
fn the_glossary_names_types_and_modules_that_are_there() {
    let mut code = String::new();
    for path in CRATES.iter().flat_map(|krate| rust_files(&root().join(krate).join("src"))) {
        code.push_str(&fs::read_to_string(path).unwrap());
    }
    let is_type = |name: &str| {
        ["struct", "enum", "trait", "type"].iter().any(|kind| {
            code.match_indices(&format!("{kind} {name}")).any(|(at, found)| {
                !code[at + found.len()..].starts_with(|next: char| next.is_alphanumeric() || next == '_')
            })
        })
    };
    let mut missing = Vec::new();
    for (number, line) in read("docs/GLOSSARY.md").lines().enumerate() {
        // The words between backquotes.
        for word in line.split('`').skip(1).step_by(2) {
            let is_there = match word.split_once('/') {
                Some((krate, module)) if CRATES.contains(&krate) => {
                    let path = root().join(krate).join("src").join(module);
                    path.is_dir() || path.with_extension("rs").exists()
                }
                _ if word.starts_with(char::is_uppercase) && word.chars().all(char::is_alphanumeric) => is_type(word),
                _ => true,
            };
            if !is_there {
                missing.push(format!("docs/GLOSSARY.md:{}: {word}", number + 1));
            }
        }
    }
    assert!(missing.is_empty(), "no such types or modules:\n{}", missing.join("\n"));
}

#[test]
fn fuzz_targets_are_short_and_known_and_have_seeds() {
    let (manifest, ours, theirs) =
        (read("fuzz/Cargo.toml"), read("gateway/src/fuzzing/tests.rs"), read("protocol/tests/seeds.rs"));
    for path in rust_files(&root().join("fuzz/targets")) {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 30, "{name} has {lines} lines: it is two targets");
        assert!(manifest.contains(&format!("path = \"targets/{name}.rs\"")), "{name} is not a program");
        let is_replayed = |tests: &String| tests.contains(&format!("check(\"{name}\", {name}::run)"));
        assert!([&ours, &theirs].into_iter().any(is_replayed), "the seeds of {name} are in no test");
    }
}

#[test]
fn the_protocol_lists_the_words_of_all_problems() {
    let page = read("docs/PROTOCOL.md");
    let (_, table) = page.split_once("Errors are `application/problem+json`").expect("the table of problems");
    let table = table.split("\n## ").next().unwrap();
    let kinds = read("gateway/src/message/problem_kind.rs");
    let words = kinds.split("Self::known(\"").skip(1).map(|rest| rest.split('"').next().unwrap());
    let words: Vec<_> = words.collect();
    assert!(words.len() > 30, "{words:?}");
    let missing: Vec<_> = words.iter().filter(|word| !table.contains(&format!("`{word}`"))).collect();
    assert!(missing.is_empty(), "docs/PROTOCOL.md does not list {missing:?}");
}
