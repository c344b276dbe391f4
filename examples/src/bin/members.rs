//! The service `members` as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    examples::program::run(examples::members::TABLES, examples::members::node)
}
