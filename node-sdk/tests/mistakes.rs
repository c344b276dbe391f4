//! The most common mistakes, and the compiler's messages for them: our words must be among them.
//!
//! Each file of `mistakes` begins with lines `//~ text`: the compiler refuses the file with
//! messages that contain these texts. A line that ends in `//~ here` is the one of the first error.
//! Whole messages are not compared, because the toolchain is any stable one and words them anew.

use std::fs;
use std::path::Path;
use std::process::Command;

#[test]
fn mistakes_are_explained() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let project = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mistakes");
    let programs = project.join("src/bin");
    fs::create_dir_all(&programs).unwrap();
    let manifest = format!(
        "[workspace]\n[package]\nname = \"mistakes\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\
         [dependencies]\nnode-sdk = {{ path = {here:?} }}\nserde = {{ version = \"1\", features = [\"derive\"] }}\n"
    );
    fs::write(project.join("Cargo.toml"), manifest).unwrap();
    // The versions of the workspace, which are already on this machine.
    fs::copy(here.join("../Cargo.lock"), project.join("Cargo.lock")).unwrap();
    let mut mistakes = Vec::new();
    for file in fs::read_dir(here.join("tests/mistakes")).unwrap() {
        let path = file.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let expected: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("//~ ")).map(str::to_owned).collect();
        assert!(!expected.is_empty(), "{}: no expected message", path.display());
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        fs::write(programs.join(path.file_name().unwrap()), &text).unwrap();
        let place = text.lines().position(|line| line.ends_with("//~ here")).map(|line| line + 1);
        mistakes.push((name, expected, place));
    }
    assert!(mistakes.iter().filter(|(_, _, place)| place.is_some()).count() >= 11);
    for (name, expected, place) in mistakes {
        let checked = Command::new(env!("CARGO"))
            .args(["check", "--quiet", "--offline", "--bin", &name])
            .current_dir(&project)
            .env("CARGO_TARGET_DIR", project.join("target"))
            .env_remove("RUSTFLAGS")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&checked.stderr);
        assert!(!checked.status.success(), "{name} compiles");
        if let Some(line) = place {
            let error = said.lines().skip_while(|line| !line.starts_with("error"));
            let at = error.filter_map(|line| line.split_once("--> ")).map(|(_, at)| at).next().unwrap_or_default();
            assert!(at.starts_with(&format!("src/bin/{name}.rs:{line}:")), "{name}: line {line}, not {at}\n{said}");
        }
        for text in expected {
            // The compiler wraps and indents its messages.
            let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(said.contains(&text), "{name} does not say: {text}\n{said}");
        }
    }
}
