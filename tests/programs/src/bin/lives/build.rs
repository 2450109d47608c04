//! `life` as it is built with other options than cargo's.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::way::Program;

/// The path of a program, which is built into `folder` if it is missing there.
///
/// # Errors
/// If the compiler fails, by what it says.
pub(crate) fn build(program: Program, folder: &Path) -> Result<PathBuf, String> {
    let (name, options) = match program {
        Program::Plain => {
            let own = std::env::current_exe().map_err(|error| error.to_string())?;
            return Ok(own.with_file_name("life"));
        }
        Program::Abort => ("life-abort", ["-C", "panic=abort"]),
        Program::Coverage => ("life-coverage", ["-C", "instrument-coverage"]),
        Program::Library => ("liblife.so", ["--crate-type", "cdylib"]),
    };
    let path = folder.join(name);
    if path.exists() {
        return Ok(path);
    }
    let libraries = libraries()?;
    let library = |name: &str| {
        let is_it = |path: &&PathBuf| {
            let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
            file.starts_with(&format!("lib{name}-"))
        };
        libraries.iter().find(is_it).ok_or(format!("cargo has not built the library {name}"))
    };
    let fastmap = library("fastmap")?;
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or("rustc".into()));
    rustc.args(["--edition", "2024", "--crate-name", "life", "--cap-lints", "allow"]).args(options);
    for (name, path) in [("fastmap", fastmap), ("libc", library("libc")?)] {
        rustc.arg("--extern").arg(format!("{name}={}", path.display()));
    }
    let folder = fastmap.parent().unwrap_or(Path::new("."));
    rustc.arg("-L").arg(format!("dependency={}", folder.display())).arg("-o").arg(&path);
    output(rustc.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin/life.rs")))?;
    Ok(path)
}

/// The libraries of this workspace as cargo builds them for its tests.
fn libraries() -> Result<Vec<PathBuf>, String> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    cargo.args(["test", "--workspace", "--test", "lifetime", "--no-run", "--quiet", "--message-format=json"]);
    // What `cargo test` sets for a test. Build scripts look at some of it, and their libraries would be built
    // again.
    for (name, _) in std::env::vars_os() {
        let of_a_test =
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_", "OUT_DIR", "LD_LIBRARY_PATH"];
        if name.to_str().is_some_and(|name| of_a_test.iter().any(|begin| name.starts_with(begin))) {
            cargo.env_remove(name);
        }
    }
    let messages = output(&mut cargo)?;
    // Their paths are strings of these messages.
    let paths = messages.split('"').map(PathBuf::from);
    Ok(paths.filter(|path| path.extension().is_some_and(|extension| extension == "rlib")).collect())
}

fn output(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|error| format!("{}: {error}", command.get_program().display()))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
