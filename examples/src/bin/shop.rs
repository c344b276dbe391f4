//! The `shop` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    examples::shop::main()
}
