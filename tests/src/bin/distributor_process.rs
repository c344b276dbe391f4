//! The `distributor` program, built together with the tests that kill it.

use std::process::ExitCode;

fn main() -> ExitCode {
    distributor::main()
}
