//! `tulle-cni`: executed by the container runtime for each pod, see the library.

use std::{
    io::{self, Read, Write},
    process::ExitCode,
};

use tulle_cni_plugin::plugin::{Output, pass_through, run, unreadable};

fn main() -> ExitCode {
    if is_asked_for_version() {
        return print(&Output {
            success: true,
            stdout: format!("tulle-cni {}\n", env!("CARGO_PKG_VERSION")),
        });
    }
    let mut input = Vec::new();
    let output = match io::stdin().take(MAX_INPUT).read_to_end(&mut input) {
        Ok(_) if is_uninstalled() => pass_through::run(|name| std::env::var_os(name), &input),
        Ok(_) => run(|name| std::env::var_os(name), &input),
        Err(error) => unreadable(&error),
    };
    print(&output)
}

/// By a person: runtimes give no arguments.
fn is_asked_for_version() -> bool {
    std::env::args_os()
        .nth(1)
        .is_some_and(|argument| argument == "--version" || argument == "-V")
}

fn is_uninstalled() -> bool {
    std::env::current_exe().is_ok_and(|executable| pass_through::is_marked(&executable))
}

fn print(output: &Output) -> ExitCode {
    let written = io::stdout().write_all(output.stdout.as_bytes());
    match written {
        Ok(()) if output.success => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Far more than any network configuration.
const MAX_INPUT: u64 = 4 << 20;
