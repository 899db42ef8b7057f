//! The plugin that gives the lab's pods their network: see `tulle_lab::primary`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tulle_lab::primary::main()
}
