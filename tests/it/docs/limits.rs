//! Each row of the tables of limits names the setting or the constants that it is, with their
//! value.

use std::fs;
use std::path::PathBuf;

use super::{CRATES, read, root};

/// The rows of the tables in a section, as cells.
fn rows(document: &str) -> Vec<Vec<String>> {
    let page = read(document);
    let (_, section) = page.split_once("\n## Limits\n").expect("the limits");
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| what |"));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// The file of a module, such as `net/tcp/connect`.
fn file_of(module: &str) -> Option<PathBuf> {
    let (krate, rest) = module.split_once('/').filter(|(krate, _)| CRATES.contains(krate))?;
    let path = root().join(krate).join("src").join(rest);
    let folder = path.join("mod.rs");
    Some(if folder.is_file() { folder } else { path.with_extension("rs") })
}

/// The value of `const NAME: … =`.
fn value_of(code: &str, name: &str) -> Option<String> {
    let (_, after) = code.split_once(&format!("const {name}:"))?;
    let (_, value) = after.split_once('=')?;
    Some(value.split(';').next()?.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// How a table may write a value; nothing for one that is computed.
fn forms(value: &str) -> Vec<String> {
    let number = |text: &str| text.trim().replace('_', "").parse::<u64>().ok();
    let inside = |function: &str| number(value.strip_prefix(function)?.strip_prefix('(')?.strip_suffix(')')?);
    if let Some(seconds) = inside("Duration::from_secs") {
        return vec![format!("{seconds} s")];
    }
    if let Some(millis) = inside("Duration::from_millis") {
        return vec![format!("{millis} ms")];
    }
    if let Some(mib) = value.strip_suffix("<< 20").and_then(number) {
        return vec![format!("{mib} MiB")];
    }
    if let Some(kib) = value.strip_suffix("* 1024").and_then(number) {
        return vec![format!("{kib} KiB")];
    }
    let Some(plain) = number(value) else { return Vec::new() };
    vec![plain.to_string(), grouped(plain), format!("{} KiB", plain / 1024)]
}

#[test]
fn each_limit_names_what_it_is_and_its_value() {
    let settings = fs::read_to_string(root().join("distributor/src/config.rs")).unwrap();
    let builder = fs::read_to_string(root().join("node-sdk/src/node/builder.rs")).unwrap();
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for row in ["docs/PROTOCOL.md", "docs/GATEWAY.md"].into_iter().flat_map(rows) {
        let [what, limit, names] = &row[..] else { panic!("{row:?}") };
        let names: Vec<_> = names.split('`').skip(1).step_by(2).collect();
        if names.is_empty() {
            wrong.push(format!("{what}: no setting and no constant"));
        }
        let mut code = String::new();
        for name in names {
            if let Some(flag) = name.strip_prefix("--") {
                if !settings.contains(&format!("{}:", flag.replace('-', "_"))) {
                    wrong.push(format!("{what}: no setting {name}"));
                }
            } else if let Some(method) = name.strip_prefix("NodeBuilder::") {
                if !builder.contains(&format!("pub fn {method}(")) {
                    wrong.push(format!("{what}: no method {name}"));
                }
            } else if let Some(path) = file_of(name) {
                code = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{what}: {name}: {error}"));
            } else if let Some(value) = value_of(&code, name) {
                let forms = forms(&value);
                checked += usize::from(!forms.is_empty());
                let is_number = limit.contains(|c: char| c.is_ascii_digit());
                if is_number && !forms.is_empty() && !forms.iter().any(|form| limit.contains(form.as_str())) {
                    wrong.push(format!("{what}: {limit}, and {name} is {value}"));
                }
            } else {
                wrong.push(format!("{what}: no constant {name}"));
            }
        }
    }
    assert!(checked > 50, "{checked}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
