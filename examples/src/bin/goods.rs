//! The service `goods` as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    examples::program::run(examples::goods::TABLES, examples::goods::node)
}
