//! The `headstart` binary: everything lives in the library.

fn main() -> std::process::ExitCode {
    headstart::cli::main()
}
