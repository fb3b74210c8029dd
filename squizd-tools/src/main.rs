//! The `squizd` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    squizd_tools::cmd::main()
}
