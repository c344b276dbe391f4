//! The code is as ARCHITECTURE and ARROWS say: its folders, which of them are pure, and which
//! import which.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::{CRATES, code_of, read, root, rust_files, test_files};

const MAP: &str = "docs/ARCHITECTURE.md";
const ARROWS: &str = "docs/ARROWS.md";
const FLOWS: &str = "docs/FLOWS.md";

/// The names that a pure module must not use, outside its tests.
const IMPURE: [&str; 20] = [
    "tokio::",
    "tokio_util::",
    "futures::",
    "std::fs",
    "std::env",
    "std::process",
    "std::io::Read",
    "std::io::stdout",
    "std::thread",
    "TcpStream",
    "UdpSocket",
    "Instant::now",
    "SystemTime::now",
    "time_of_day",
    "unique_id",
    "fastrand::",
    "rand::",
    "getrandom",
    "thread_local!",
    "tracing::",
];

/// Maximum lines of a file without its tests: beyond that, it has a second noun.
const MAX_LINES: usize = 450;
/// Maximum lines of a file of tests: beyond that, it has a second subject.
const MAX_TEST_LINES: usize = 700;

/// Modules of a crate, each with those that it imports.
type Arrows = BTreeMap<String, BTreeSet<String>>;

/// The folders that the map names, one for each line that begins with a path, and whether they are
/// pure.
fn mapped() -> Vec<(String, bool)> {
    let text = read(MAP);
    let mut folders = Vec::new();
    let mut all_pure = false;
    for line in text.lines() {
        if line.starts_with("### ") {
            all_pure = line.ends_with("(pure)");
        }
        let Some((folder, rest)) = line.strip_prefix("- `").and_then(|line| line.split_once("/`")) else { continue };
        folders.push((folder.to_owned(), all_pure || rest.starts_with(" (pure)")));
    }
    folders
}

/// The arrows that the page lists: those between crates, under "crates", and those of each crate.
fn listed_arrows() -> BTreeMap<String, Arrows> {
    let text = read(ARROWS);
    let block = text.split("```").nth(1).expect("the arrows");
    let (mut all, mut of) = (BTreeMap::<_, Arrows>::new(), String::new());
    for line in block.lines().skip(1) {
        match line.split_once('→') {
            None => of = line.trim().to_owned(),
            Some((module, imported)) => {
                let imported = imported.split(',').map(|name| name.trim().to_owned()).collect();
                all.entry(of.clone()).or_default().insert(module.trim().to_owned(), imported);
            }
        }
    }
    all
}

/// The first part of a path, such as `io` of `io::budget::Budget`.
fn first_word(path: &str) -> &str {
    path.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

/// The exports of a crate's root, each with its module.
fn exports(lib: &str) -> BTreeMap<String, String> {
    let mut exports = BTreeMap::new();
    for statement in lib.split("pub use ").skip(1) {
        let statement = statement.split(';').next().unwrap();
        let module = first_word(statement.trim_start_matches("self::"));
        for word in statement.split(|c: char| !c.is_alphanumeric() && c != '_') {
            exports.insert(word.to_owned(), module.to_owned());
        }
    }
    exports
}

/// The modules at the root of a crate, each with those that it imports by `crate::…`.
fn arrows_of(krate: &str) -> Arrows {
    let src = root().join(krate).join("src");
    let exports = exports(&fs::read_to_string(src.join("lib.rs")).unwrap());
    let is_module =
        |name: &str| !name.is_empty() && (src.join(name).is_dir() || src.join(name).with_extension("rs").is_file());
    let mut arrows = Arrows::new();
    for path in rust_files(&src) {
        let module = path.strip_prefix(&src).unwrap().iter().next().unwrap().to_str().unwrap();
        let module = module.trim_end_matches(".rs");
        if ["lib", "main"].contains(&module) {
            continue;
        }
        let imported = arrows.entry(module.to_owned()).or_default();
        let code: String = code_of(&path).lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        for (at, found) in code.match_indices("crate::") {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c == '$' || c == '_' || c.is_alphanumeric()) {
                continue;
            }
            let rest = &code[at + found.len()..];
            let names: Vec<_> = match rest.strip_prefix('{') {
                Some(group) => {
                    group.split('}').next().unwrap().split(',').map(|name| first_word(name.trim())).collect()
                }
                None => vec![first_word(rest)],
            };
            for name in names {
                let origin = if is_module(name) { Some(name) } else { exports.get(name).map(String::as_str) };
                imported.extend(origin.filter(|origin| *origin != module && is_module(origin)).map(str::to_owned));
            }
        }
    }
    arrows
}

/// Only folders, and the files that import one.
fn without_leaves(krate: &str, mut arrows: Arrows) -> Arrows {
    let is_folder = |name: &String| root().join(krate).join("src").join(name).is_dir();
    let leaves: BTreeSet<String> = arrows
        .iter()
        .filter(|(name, imported)| !is_folder(name) && !imported.iter().any(is_folder))
        .map(|(name, _)| name.clone())
        .collect();
    arrows.retain(|name, imported| {
        imported.retain(|name| !leaves.contains(name));
        !leaves.contains(name) && !imported.is_empty()
    });
    arrows
}

/// A module that imports itself by way of others, with the way.
fn circle(arrows: &Arrows) -> Option<Vec<String>> {
    fn walk(arrows: &Arrows, way: &mut Vec<String>) -> bool {
        for next in arrows.get(way.last().unwrap()).into_iter().flatten() {
            way.push(next.clone());
            if *next == way[0] || (!way[..way.len() - 1].contains(next) && walk(arrows, way)) {
                return true;
            }
            way.pop();
        }
        false
    }
    arrows.keys().find_map(|start| {
        let mut way = vec![start.clone()];
        walk(arrows, &mut way).then_some(way)
    })
}

/// The crates of this repository that a crate needs when it is not tested.
fn dependencies(krate: &str) -> BTreeSet<String> {
    let manifest = read(&format!("{krate}/Cargo.toml"));
    let (_, needed) = manifest.split_once("[dependencies]").unwrap();
    let needed = needed.split("\n[").next().unwrap();
    let names = needed.lines().filter_map(|line| line.split(['.', ' ', '=']).next());
    names.filter(|name| CRATES.contains(name)).map(str::to_owned).collect()
}

#[track_caller]
fn check_arrows(what: &str, found: &Arrows, listed: Option<&Arrows>) {
    let lines = |arrows: &Arrows| -> Vec<String> {
        arrows
            .iter()
            .map(|(name, to)| format!("{name} → {}", to.iter().cloned().collect::<Vec<_>>().join(", ")))
            .collect()
    };
    let listed = listed.map(lines).unwrap_or_default();
    assert_eq!(lines(found), listed, "the arrows of {what}, as they are and as {ARROWS} has them");
}

#[test]
fn the_code_map_names_all_folders_and_no_others() {
    let mapped: BTreeSet<String> = mapped().into_iter().map(|(folder, _)| folder).collect();
    for folder in &mapped {
        assert!(root().join(folder).is_dir(), "{MAP} names {folder}/, and there is no such folder");
    }
    for krate in CRATES {
        for entry in fs::read_dir(root().join(krate).join("src")).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{krate}/src/{}", entry.file_name().to_string_lossy());
            assert!(!entry.path().is_dir() || mapped.contains(&name), "{MAP} does not name {name}/");
        }
    }
}

/// Whether there is a file at a path that a page names, whole or below the `src` of a crate, with
/// or without `.rs`.
fn exists(path: &str) -> bool {
    let below = CRATES.map(|krate| root().join(krate).join("src").join(path));
    below.into_iter().chain([root().join(path)]).any(|path| path.exists() || path.with_extension("rs").is_file())
}

#[test]
fn the_files_that_the_flows_name_are_there() {
    let text = read(FLOWS);
    let quoted = text.split('`').skip(1).step_by(2);
    let paths: Vec<&str> = quoted.filter(|word| word.contains('/')).collect();
    assert!(paths.len() > 10, "{FLOWS} names only {paths:?}");
    for path in paths {
        assert!(exists(path), "{FLOWS} names {path}, and there is no such file or folder");
    }
}

#[test]
fn what_the_code_map_calls_pure_uses_no_system() {
    let pure: Vec<String> = mapped().into_iter().filter(|(_, is_pure)| *is_pure).map(|(folder, _)| folder).collect();
    assert!(pure.len() > 6, "{pure:?}");
    let mut found = Vec::new();
    for path in pure.iter().flat_map(|folder| rust_files(&root().join(folder))) {
        for (number, line) in code_of(&path).lines().enumerate() {
            let is_comment = line.trim_start().starts_with("//");
            let Some(used) = IMPURE.iter().find(|word| !is_comment && line.contains(**word)) else { continue };
            let path = path.strip_prefix(root()).unwrap().display();
            found.push(format!("{path}:{}: {used}", number + 1));
        }
    }
    assert!(found.is_empty(), "{MAP} calls these pure:\n{}", found.join("\n"));
}

#[test]
fn folders_and_crates_import_what_the_page_says_and_no_circle_is_among_them() {
    let listed = listed_arrows();
    let crates: Arrows = CRATES.iter().map(|krate| ((*krate).to_owned(), dependencies(krate))).collect();
    assert_eq!(circle(&crates), None);
    let crates = crates.into_iter().filter(|(_, needed)| !needed.is_empty()).collect();
    check_arrows("crates", &crates, listed.get("crates"));
    for krate in CRATES {
        let arrows = arrows_of(krate);
        assert_eq!(circle(&arrows), None, "in {krate}");
        check_arrows(krate, &without_leaves(krate, arrows), listed.get(krate));
    }
}

#[test]
fn each_folder_says_what_it_must_not_do() {
    let mut silent = Vec::new();
    for krate in CRATES.into_iter().chain(["bench", "conformance"]) {
        for path in rust_files(&root().join(krate).join("src")) {
            let is_folder = path.ends_with("mod.rs");
            let text = fs::read_to_string(&path).unwrap();
            let head: String = text.lines().take_while(|line| line.starts_with("//!")).collect();
            if is_folder && !head.contains("must not") {
                silent.push(path.strip_prefix(root()).unwrap().display().to_string());
            }
        }
    }
    assert!(silent.is_empty(), "these do not say what they must not do: {silent:?}");
}

#[test]
fn a_folder_of_code_begins_with_mod_rs() {
    let mut beside = Vec::new();
    for krate in CRATES.into_iter().chain(["bench", "conformance", "examples", "tests"]) {
        for path in rust_files(&root().join(krate).join("src")) {
            let folder = path.with_extension("");
            if folder.is_dir() && !rust_files(&folder).is_empty() {
                beside.push(path.strip_prefix(root()).unwrap().display().to_string());
            }
        }
    }
    assert!(beside.is_empty(), "a folder of the same name has more than tests: move these to its mod.rs: {beside:?}");
}

#[test]
fn files_have_one_noun_each() {
    let mut long = Vec::new();
    let mut check = |path: &Path, lines: usize, most: usize| {
        if lines > most {
            long.push(format!("{}: {lines} lines", path.strip_prefix(root()).unwrap().display()));
        }
    };
    for krate in CRATES.into_iter().chain(["node-sdk/macros", "bench", "conformance", "examples", "tests"]) {
        for path in rust_files(&root().join(krate).join("src")) {
            check(&path, code_of(&path).lines().count(), MAX_LINES);
        }
        for path in test_files(krate) {
            check(&path, fs::read_to_string(&path).unwrap().lines().count(), MAX_TEST_LINES);
        }
    }
    let limits = format!("{MAX_LINES} lines without tests, {MAX_TEST_LINES} of tests");
    assert!(long.is_empty(), "longer than {limits}:\n{}", long.join("\n"));
}
