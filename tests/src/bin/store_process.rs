//! A service of the `store`, built together with the tests that start it.

use std::process::ExitCode;

fn main() -> ExitCode {
    store::main()
}
