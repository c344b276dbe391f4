//! Every seed of the fuzz targets, so that what a fuzzer has found stays mended.

use std::fs;
use std::path::Path;

#[path = "../../../fuzz/targets/arguments.rs"]
mod arguments;
#[path = "../../../fuzz/targets/body.rs"]
mod body;
#[path = "../../../fuzz/targets/config.rs"]
mod config;
#[path = "../../../fuzz/targets/path.rs"]
mod path;
#[path = "../../../fuzz/targets/proxy_protocol.rs"]
mod proxy_protocol;
#[path = "../../../fuzz/targets/request_head.rs"]
mod request_head;
#[path = "../../../fuzz/targets/response_head.rs"]
mod response_head;

#[track_caller]
fn check(target: &str, run: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
    let seeds = fs::read_dir(folder).expect("a target has seeds").map(|seed| seed.expect("it can be read").path());
    let seeds: Vec<_> = seeds.collect();
    assert!(!seeds.is_empty(), "{target}");
    for seed in seeds {
        // Shown if the target fails.
        eprintln!("{}", seed.display());
        run(&fs::read(seed).expect("it can be read"));
    }
}

#[test]
fn seeds_of_the_fuzz_targets_hold() {
    check("arguments", arguments::run);
    check("body", body::run);
    check("config", config::run);
    check("path", path::run);
    check("proxy_protocol", proxy_protocol::run);
    check("request_head", request_head::run);
    check("response_head", response_head::run);
}
