//! The `distributor` program, built together with the bench that measures it.

use std::process::ExitCode;

fn main() -> ExitCode {
    distributor::main()
}
