//! The service `purchases` as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    examples::program::run(examples::purchases::TABLES, examples::purchases::node)
}
