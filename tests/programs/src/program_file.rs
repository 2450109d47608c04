//! A program's file that a test makes.

use std::fs::Permissions;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Makes a program of `content`, which everybody may start: a copy of another program, or a script. A file of that
/// name is replaced.
///
/// Another process writes it. The kernel starts no program that is open for writing anywhere (`ETXTBSY`), and what
/// another thread of the test starts has, until it has become its program, each descriptor that is open here.
///
/// # Panics
/// If it can't be written.
pub fn write_program(path: &Path, mut content: impl Read) {
    // One that still runs can't be written to.
    let _absent = std::fs::remove_file(path);
    let mut writer = Command::new("sh");
    writer.args(["-c", "exec cat >\"$0\""]).arg(path).stdin(Stdio::piped());
    let mut child = writer.spawn().expect("a shell");
    let mut pipe = child.stdin.take().expect("it is piped");
    let copied = std::io::copy(&mut content, &mut pipe);
    drop(pipe);
    let status = child.wait().expect("our own child");
    assert!(status.success() && copied.is_ok(), "{}: {status}, {copied:?}", path.display());
    std::fs::set_permissions(path, Permissions::from_mode(0o755)).expect("it is our own");
}
