//! The command-line tool; all of it is in [`lb_agent::ctl`].

fn main() -> std::process::ExitCode {
    lb_agent::ctl::main()
}
