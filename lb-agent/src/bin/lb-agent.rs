//! The daemon; all of it is in [`lb_agent::cli`].

fn main() -> std::process::ExitCode {
    lb_agent::cli::main()
}
