//! The `nodeconform` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    conformance::main()
}
