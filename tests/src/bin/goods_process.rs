//! The `goods` program, built together with the tests that start it.

use std::process::ExitCode;

fn main() -> ExitCode {
    examples::program::run(examples::goods::TABLES, examples::goods::node)
}
