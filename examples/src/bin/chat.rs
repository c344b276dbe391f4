//! The service `chat` as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    examples::program::run_node(examples::chat::node())
}
