//! Identity of the running program: its build id, else the hash of its content. Host and worker compare
//! theirs before functions are identified across them.

use std::ffi::{CStr, OsStr};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use crate::execution::mappings::objects;
use crate::execution::startable::executable_path;
use crate::model::hex::hexadecimal;

/// The identity of the running executable: `build-id:…` or `sha256:…`, in hexadecimal. Computed once. Linkers
/// write a build id by default on Linux; the hash is for those that don't (musl, `--build-id=none`).
pub fn identity() -> &'static str {
    static IDENTITY: OnceLock<String> = OnceLock::new();
    IDENTITY.get_or_init(|| match objects().first().and_then(|program| program.build_id.clone()) {
        Some(id) => format!("build-id:{}", hexadecimal(&id)),
        None => match own_file().and_then(content_hash) {
            Ok(hash) => format!("sha256:{}", hexadecimal(&hash)),
            // Without /proc the comparison is left to the descriptor's own checks.
            Err(error) => format!("unknown ({error})"),
        },
    })
}

/// The identity of another executable, as its workers will report it.
///
/// # Errors
/// If it can't be read.
#[cfg(feature = "jail")]
pub fn identity_of(program: &fastmap_sandbox::jail::Executable) -> std::io::Result<String> {
    Ok(match &program.elf().build_id {
        Some(id) => format!("build-id:{}", hexadecimal(id)),
        None => format!("sha256:{}", hexadecimal(&content_hash(File::open(program.path())?)?)),
    })
}

/// Opens this executable's file. A jail has no /proc, so the fallback is the path by which the kernel
/// executed the program.
fn own_file() -> std::io::Result<File> {
    File::open(executable_path()).or_else(|error| {
        // SAFETY: AT_EXECFN is the address of a string that lives as long as the process, or 0.
        let name = unsafe {
            let name = libc::getauxval(libc::AT_EXECFN) as *const libc::c_char;
            if name.is_null() {
                return Err(error);
            }
            CStr::from_ptr(name)
        };
        File::open(OsStr::from_bytes(name.to_bytes()))
    })
}

fn content_hash(mut file: File) -> std::io::Result<Vec<u8>> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finalize().to_vec()),
            read => hasher.update(&buffer[..read]),
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn identity_is_a_build_id_or_a_hash() {
        let identity = super::identity();
        assert!(identity.starts_with("build-id:") || identity.starts_with("sha256:"), "{identity}");
        assert_eq!(
            super::own_file().and_then(super::content_hash).expect("this program can be read").len(),
            32
        );
    }
}
