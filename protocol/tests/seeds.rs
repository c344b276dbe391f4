//! Every seed of the fuzz targets, so that what a fuzzer has found stays mended.

use std::fs;
use std::path::Path;

#[path = "../../fuzz/targets/control.rs"]
mod control;
#[path = "../../fuzz/targets/copy.rs"]
mod copy;
#[path = "../../fuzz/targets/frames.rs"]
mod frames;
#[path = "../../fuzz/targets/legacy_list.rs"]
mod legacy_list;
#[path = "../../fuzz/targets/legacy_request.rs"]
mod legacy_request;
#[path = "../../fuzz/targets/need.rs"]
mod need;
#[path = "../../fuzz/targets/packet.rs"]
mod packet;
#[path = "../../fuzz/targets/raw_part.rs"]
mod raw_part;
#[path = "../../fuzz/targets/registration.rs"]
mod registration;
#[path = "../../fuzz/targets/request.rs"]
mod request;
#[path = "../../fuzz/targets/response.rs"]
mod response;
#[path = "../../fuzz/targets/response_fields.rs"]
mod response_fields;
#[path = "../../fuzz/targets/stream.rs"]
mod stream;
#[path = "../../fuzz/targets/updates.rs"]
mod updates;

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
    check("control", control::run);
    check("copy", copy::run);
    check("frames", frames::run);
    check("legacy_list", legacy_list::run);
    check("legacy_request", legacy_request::run);
    check("need", need::run);
    check("packet", packet::run);
    check("raw_part", raw_part::run);
    check("registration", registration::run);
    check("request", request::run);
    check("response", response::run);
    check("response_fields", response_fields::run);
    check("stream", stream::run);
    check("updates", updates::run);
}
