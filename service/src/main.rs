//! The command `fastmap`: see `fastmap_service::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    // `serve` starts this very program in a jail, to see whether it can get out.
    fastmap_sandbox::jail::probe_if_asked();
    match fastmap_service::cli::main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fastmap: {error:#}");
            ExitCode::FAILURE
        }
    }
}
