//! The daemon as a version with another table layout: for tests.

fn main() -> std::process::ExitCode {
    lb_agent::cli::main()
}
