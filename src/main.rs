//! The one binary: see [`jit_broker::cli`].

fn main() -> std::process::ExitCode {
    jit_broker::cli::main()
}
