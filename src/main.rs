//! The binary: it hands the command line to `komainu::cli`.

fn main() -> std::process::ExitCode {
    komainu::cli::run()
}
