//! One service of the store: `store members`.

use std::process::ExitCode;

fn main() -> ExitCode {
    store::main()
}
