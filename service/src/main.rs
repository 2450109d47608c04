//! The command `fastmap`: see `fastmap_service::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match fastmap_service::cli::main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fastmap: {error:#}");
            ExitCode::FAILURE
        }
    }
}
