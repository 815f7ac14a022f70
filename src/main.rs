//! The `wanigan` command; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    wanigan::cli::main()
}
